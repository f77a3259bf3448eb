//! One process of a system.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::find_program;
use crate::cgroup::Group;
use crate::stop;

/// How long a system may take to serve.
const READY: Duration = Duration::from_secs(60);

/// A process. Dropping it kills it, by its pid.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    child: Child,
    /// As it is started, and started again.
    command: Command,
    log: PathBuf,
    // After the child: a group is removed once its process is gone.
    group: Option<Group>,
}

impl Server {
    /// Starts it, in a group of its own where there is one, with its output in a file. Must be
    /// called on the main thread: the kernel kills the process when the thread that started it
    /// ends, however that comes.
    pub(crate) fn spawn(
        name: &str,
        command: &mut Command,
        directory: &Path,
        group: Option<Group>,
    ) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut wrapped = wrap(command, group.as_ref());
        let child = wrapped
            // What ends with its standard input ends when this process does.
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {name}: {:?}", wrapped.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            command: wrapped,
            log,
            group,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Kills it, by its pid.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let name = &self.name;
        self.child.kill().with_context(|| format!("kill {name}"))?;
        self.child.wait().with_context(|| format!("await {name}"))?;
        Ok(())
    }

    /// Starts it again after it was killed, on the main thread as before.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        let name = &self.name;
        let child = self.command.spawn();
        self.child = child.with_context(|| format!("start {name} again"))?;
        Ok(())
    }

    /// Fails where it has ended, with the last of what it said.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        bail!(
            "{} ended ({status}): {}",
            self.name,
            last_lines(&self.log, 5)
        )
    }
}

fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command behind `setpriv`, which has the kernel kill it with its parent, and behind a
/// shell that first joins the group: all of them are one process with one pid.
fn wrap(command: &Command, group: Option<&Group>) -> Command {
    let mut words: Vec<OsString> = Vec::new();
    if let Some(setpriv) = find_program(Path::new("setpriv")) {
        words.push(setpriv.into());
        words.extend(["--pdeathsig", "KILL", "--"].map(OsString::from));
    }
    if let Some(group) = group {
        words.extend(["sh", "-c", "echo $$ >\"$0\" && exec \"$@\""].map(OsString::from));
        words.push(group.procs().into());
    }
    words.push(command.get_program().to_owned());
    words.extend(command.get_args().map(ToOwned::to_owned));
    let mut words = words.into_iter();
    let mut wrapped = Command::new(words.next().unwrap_or_default());
    wrapped.args(words);
    // Nothing of the caller's own settings leaks into a server.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CAIRN_", "ETCD_", "GO"]
            .iter()
            .any(|it| text.starts_with(it))
        {
            wrapped.env_remove(&name);
        }
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// Tries until it holds, as long as every server runs.
pub(super) fn wait_ready(
    what: &str,
    servers: &mut [Server],
    mut is_ready: impl FnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + READY;
    loop {
        stop::check()?;
        for server in servers.iter_mut() {
            server.check()?;
        }
        match is_ready() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what} does not come to serve")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Runs a program that prints its version.
pub(super) fn version_of(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .next()
        .map(|line| line.trim().to_owned())
        .with_context(|| format!("{} prints no version", program.display()))
}
