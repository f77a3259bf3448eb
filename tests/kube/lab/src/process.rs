//! Running programs, and ending only what the lab itself started.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long to do nothing between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` finds something.
///
/// # Errors
/// Where nothing came within `bound`, naming what was waited for; and those of `look`.
pub fn until<T>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(started.elapsed() < bound, "waited {bound:?} for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Runs a program and returns what it printed.
///
/// # Errors
/// Where it cannot be run or fails, with what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {shown}"))?;
    ensure!(
        done.status.success(),
        "{shown}: {}: {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a program by its name and arguments.
///
/// # Errors
/// As [`output`].
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    output(Command::new(program).args(arguments)).map(drop)
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// One process for good: a number may be given to another one, but not with the same start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity {
    pid: i32,
    /// In clock ticks since the machine started.
    started: u64,
}

impl Identity {
    /// Of a process that runs.
    ///
    /// # Errors
    /// Where there is none.
    pub fn of(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid)?;
        let started = started(pid)?.with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, started })
    }

    /// Its number.
    #[must_use]
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// Whether it still runs; one that nobody has waited for does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        started(self.pid).is_ok_and(|started| started == Some(self.started))
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// Where it may not be killed or does not go.
    pub fn end(self, bound: Duration) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.pid).context("a process id")?;
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => bail!("kill {}: {error}", self.pid),
        }
        until(&format!("process {} to end", self.pid), bound, || {
            Ok((!self.is_alive()).then_some(()))
        })
    }

    /// From a file that [`Self`] was written to; nothing where there is no file.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => text.trim().parse().map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

impl FromStr for Identity {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (pid, started) = text.split_once(' ').context("a process and its start")?;
        Ok(Self {
            pid: pid.parse()?,
            started: started.parse()?,
        })
    }
}

/// When a process started; nothing where it is gone or waits to be waited for.
fn started(pid: i32) -> Result<Option<u64>> {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return Ok(None);
    };
    // The program's name stands in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(") ").context("a line of /proc/PID/stat")?;
    // The 3rd field comes first here: the state; the 20th are the threads, and the 22nd is
    // the start.
    let fields: Vec<_> = rest.split_whitespace().collect();
    let field = |at: usize| {
        fields
            .get(at - 3)
            .copied()
            .context("fields of /proc/PID/stat")
    };
    // While other threads than the first are still ending, the process has its files open
    // and its locks taken.
    if field(3)? == "Z" && field(20)?.parse::<u32>()? <= 1 {
        return Ok(None);
    }
    Ok(Some(field(22)?.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_not_alive_even_before_it_is_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        until("true to end", Duration::from_secs(10), || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
            Ok(stat.contains(") Z ").then_some(()))
        })
        .unwrap();
        assert!(Identity::of(child.id()).is_err());
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_alive_until_its_last_thread_is_gone() {
        let ends_its_first_thread = "import ctypes, threading, time\n\
             threading.Thread(target=time.sleep, args=[60]).start()\n\
             ctypes.CDLL(None).pthread_exit(None)";
        let mut child = Command::new("python3")
            .args(["-c", ends_its_first_thread])
            .spawn()
            .unwrap();
        let identity = Identity::of(child.id()).unwrap();
        until("its first thread to end", Duration::from_secs(30), || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
            Ok(stat.contains(") Z ").then_some(()))
        })
        .unwrap();
        assert!(identity.is_alive());
        identity.end(Duration::from_secs(30)).unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
    }

    #[test]
    fn another_process_of_the_same_number_is_left_alone() {
        let me = Identity::of(std::process::id()).unwrap();
        let before = Identity {
            started: me.started - 1,
            ..me
        };
        assert!(me.is_alive() && !before.is_alive());
        before.end(Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let me = Identity::of(std::process::id()).unwrap();
        assert_eq!(me.to_string().parse::<Identity>().unwrap(), me);
        assert!("".parse::<Identity>().is_err());
    }

    #[test]
    fn what_a_program_complains_of_is_told() {
        let told = run("sh", &["-c", "echo no luck >&2; exit 3"]).unwrap_err();
        assert!(told.to_string().contains("no luck"), "{told}");
    }
}
