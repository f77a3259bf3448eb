//! Ctrl-C and SIGTERM: what is under way ends, the servers are stopped, their files removed.
//! The second one ends the process at once; the servers end with it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// What a shell reports of a process that SIGINT ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// Somebody wants this to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

/// Listens for the signals, on a thread of its own.
pub(crate) fn listen() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else {
            return;
        };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if REQUESTED.swap(true, Ordering::AcqRel) {
                    std::process::exit(EXIT_CODE.into());
                }
                eprintln!("stopping; once more to stop at once");
            }
        });
    });
}

pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Acquire)
}

/// # Errors
/// [`Stopped`], once somebody wants this to end.
pub(crate) fn check() -> Result<()> {
    if requested() {
        return Err(Stopped.into());
    }
    Ok(())
}
