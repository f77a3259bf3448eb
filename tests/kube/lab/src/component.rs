//! A long-running part of the lab, with its log.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::until;

/// How much of a log's end an error shows.
const TAIL_BYTES: u64 = 3000;

/// One that was started.
#[derive(Debug)]
pub struct Component {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Component {
    /// Starts one, what it says going to the end of `log`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(name: &str, log: &Path, mut command: Command) -> Result<Self> {
        let (out, errors) = log_ends(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            // A Ctrl-C in the terminal is not meant for it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_path_buf(),
            child,
        })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// Where that cannot be found out.
    pub fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| format!("{} ended: {status}", self.name)))
    }

    /// Waits until `look` finds something.
    ///
    /// # Errors
    /// Where nothing comes within `bound` or the component ends, with the end of its log; and
    /// those of `look`.
    pub fn until<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let log = self.log.clone();
        until(what, bound, || {
            if let Some(ended) = self.ended()? {
                bail!("{ended}");
            }
            look()
        })
        .with_context(|| end_of(&self.name, &log))
    }
}

/// Both ends that a program writes its log to.
///
/// # Errors
/// Where the file cannot be opened.
pub fn log_ends(log: &Path) -> Result<(File, File)> {
    let out = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let errors = out.try_clone()?;
    Ok((out, errors))
}

/// The end of a component's log, for an error.
#[must_use]
pub fn end_of(name: &str, log: &Path) -> String {
    let end = read_end(log).unwrap_or_else(|error| format!("(unreadable: {error:#})"));
    format!("{name}, whose log {} ends so:\n{end}\n", log.display())
}

fn read_end(log: &Path) -> Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    // The first line is seldom a whole one.
    let whole = if length > TAIL_BYTES {
        end.split_once('\n').map_or("", |(_, rest)| rest)
    } else {
        &end
    };
    Ok(whole.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_early_is_named_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 10000; echo out of luck; exit 3"]);
        let mut component = Component::start("probe", &log, command).unwrap();
        let told = component
            .until("nothing", Duration::from_secs(20), || Ok(None::<()>))
            .unwrap_err();
        let told = format!("{told:#}");
        assert!(told.contains("probe ended: exit status: 3"), "{told}");
        assert!(told.contains("9999\n10000\nout of luck"), "{told}");
        assert!(!told.contains("\n1\n"), "{told}");
    }
}
