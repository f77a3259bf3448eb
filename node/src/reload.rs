//! Files that are read again when they change.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::tasks::Servers;

/// In which line a TOML file is wrong, from 1.
pub(crate) fn toml_line(text: &str, error: &toml::de::Error) -> Option<usize> {
    let before = text.get(..error.span()?.start)?;
    Some(before.matches('\n').count() + 1)
}

/// Looks at files every `every` among `servers`. `reload` says whether they had changed;
/// where it fails, what was read before is to stay in force: that is warned about once
/// for each reason, and counted in `failed` each time.
pub(crate) fn keep_fresh<E: Display + Send + 'static>(
    servers: &mut Servers,
    what: &'static str,
    every: Duration,
    failed: metrics::Counter,
    reload: impl Fn() -> Result<bool, E> + Send + Sync + 'static,
) {
    let token = servers.token();
    let reload = Arc::new(reload);
    servers.run("reload files", async move {
        let mut clock = interval(every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                _ = clock.tick() => {}
            }
            let again = Arc::clone(&reload);
            match tokio::task::spawn_blocking(move || again()).await {
                Ok(Ok(changed)) => {
                    if changed || !told.is_empty() {
                        tracing::info!(what, "read again");
                        told.clear();
                    }
                }
                Ok(Err(error)) => {
                    failed.increment(1);
                    let error = error.to_string();
                    if error != told {
                        tracing::warn!(
                            what,
                            error,
                            "it changed and cannot be used; what was read before is kept"
                        );
                        told = error;
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    });
}
