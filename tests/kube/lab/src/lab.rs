//! What the command and the tests do with a lab.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::control::{self, Request};
use crate::keeper::{self, END};
use crate::layout::{Layout, NodeId};
use crate::process::{Identity, until};

/// How long another `up` of the same lab may take.
const OTHER_START: Duration = Duration::from_secs(300);
/// What `build` ends with where no lab can run.
const CANNOT: i32 = 3;

/// Why a lab cannot run on this machine.
#[derive(Debug)]
pub struct NotHere(pub String);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for NotHere {}

/// Builds what a lab runs, unless that was done before, and returns the folder of it.
///
/// # Errors
/// [`NotHere`] where a lab cannot run on this machine; and where the build fails.
pub fn build() -> Result<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/build");
    let done = Command::new(script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {script}"))?;
    let said = String::from_utf8_lossy(&done.stdout).trim_end().to_owned();
    match done.status.code() {
        Some(0) => Ok(PathBuf::from(said)),
        Some(CANNOT) => Err(NotHere(said).into()),
        _ => bail!("{script}: {}: {said}", done.status),
    }
}

/// Whether a lab goes on without whoever started it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lifetime {
    /// It ends with the [`Lab`], or with the process that holds this, however that ends.
    Leased,
    /// It stays until it is ended.
    Detached,
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    layout: Layout,
    /// The lab ends where this does.
    _lease: Option<ChildStdin>,
}

impl Lab {
    /// Starts one, with `program` as the `kube-lab` command, and tells what is being done; or
    /// takes the one that is there already, where that has as many nodes and is to stay.
    ///
    /// # Errors
    /// Where it does not start, with the end of the log of the part that failed; then nothing
    /// of it is left.
    pub fn up(
        program: &Path,
        layout: &Layout,
        lifetime: Lifetime,
        mut tell: impl FnMut(&str),
    ) -> Result<Self> {
        if let Some(nodes) = up_already(&layout.state)? {
            ensure!(
                nodes == layout.nodes && lifetime == Lifetime::Detached,
                "a lab of {nodes} nodes is up in {} already",
                layout.state.display()
            );
            return Self::attach(&layout.state);
        }
        let mut command = Command::new(program);
        command
            .arg("keep")
            .args(layout.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Whoever reads what this process says must not have to wait for the lab's end.
            .stderr(Stdio::null())
            .process_group(0);
        if lifetime == Lifetime::Leased {
            command.arg("--leased").stdin(Stdio::piped());
        }
        let mut keeper = command
            .spawn()
            .with_context(|| format!("run {}", program.display()))?;
        let lease = keeper.stdin.take();
        let output = BufReader::new(keeper.stdout.take().context("its output")?);
        let mut said = Vec::new();
        for line in output.lines() {
            let line = line?;
            if line == crate::control_plane::READY {
                return Ok(Self {
                    _lease: lease,
                    ..Self::attach(&layout.state)?
                });
            }
            tell(&line);
            said.push(line);
        }
        keeper.wait()?;
        bail!("the lab did not start: {}", said.join("\n"))
    }

    /// The lab that is up there.
    ///
    /// # Errors
    /// Where none is.
    pub fn attach(state: &Path) -> Result<Self> {
        let layout = keeper::ready(state)?
            .with_context(|| format!("no lab is up in {}", state.display()))?;
        Ok(Self {
            layout,
            _lease: None,
        })
    }

    /// The names of its nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        NodeId::all(self.layout.nodes).map(NodeId::name).collect()
    }

    /// The kubeconfig of an administrator, for who is on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        Layout::kubeconfig(&self.layout.state)
    }

    /// Where `kubectl` and `helm` are.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.layout.programs
    }

    /// What runs, as a table.
    ///
    /// # Errors
    /// Where the lab does not answer.
    pub fn status(&self) -> Result<String> {
        control::ask(&self.layout.state, &Request::Status)
    }

    /// Cuts a node's power: all that it runs ends at once, and its disk stays.
    ///
    /// # Errors
    /// Where there is no such node.
    pub fn power_off(&self, node: &str) -> Result<String> {
        control::ask(&self.layout.state, &Request::PowerOff(node.to_owned()))
    }

    /// Starts a node with its disk as it was. It is not ready yet.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn power_on(&self, node: &str) -> Result<String> {
        control::ask(&self.layout.state, &Request::PowerOn(node.to_owned()))
    }

    /// Imports an archive of images on every node that is on.
    ///
    /// # Errors
    /// Where a node refuses it.
    pub fn load(&self, archive: &Path) -> Result<String> {
        let archive =
            fs::canonicalize(archive).with_context(|| format!("find {}", archive.display()))?;
        control::ask(&self.layout.state, &Request::Load(archive))
    }

    /// A command that runs on a node, or on `control-plane`: in its namespaces, with its
    /// processes, folders and network.
    ///
    /// # Errors
    /// Where there is no such node, or it is off.
    pub fn on(&self, node: &str, words: &[&str]) -> Result<Command> {
        let lab =
            Identity::read(&keeper::process_file(&self.layout.state))?.context("no lab is up")?;
        let mut command = Command::new("nsenter");
        command.args(enter(&lab.pid().to_string()));
        if node != "control-plane" {
            let pid = control::ask(&self.layout.state, &Request::Pid(node.to_owned()))?;
            command.arg("nsenter").args(enter(pid.trim()));
        }
        command.args(words);
        Ok(command)
    }

    /// A command of this machine that runs in the lab's own network, from where nodes are reached
    /// and pods are not.
    ///
    /// # Errors
    /// Where no lab is up.
    pub fn in_network(&self, words: &[&str]) -> Result<Command> {
        let lab =
            Identity::read(&keeper::process_file(&self.layout.state))?.context("no lab is up")?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &lab.pid().to_string(), "--net"])
            .args(words);
        Ok(command)
    }

    /// Runs `kubectl` with the rights of an administrator.
    ///
    /// # Errors
    /// Where it cannot be run; that it failed is none.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(self.layout.programs.join("kubectl"))
            .env("KUBECONFIG", self.kubeconfig())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("run kubectl")
    }
}

fn enter(pid: &str) -> [&str; 6] {
    ["--target", pid, "--mount", "--pid", "--net", "--uts"]
}

/// How many nodes the lab has that is up there, once it is ready; nothing where none is.
fn up_already(state: &Path) -> Result<Option<u8>> {
    let what = format!(
        "the lab in {} to start, which another command does",
        state.display()
    );
    until(&what, OTHER_START, || {
        // The lock is given back at once: the keeper takes it.
        if keeper::take_lock(state)?.is_ok() {
            return Ok(Some(None));
        }
        Ok(keeper::ready(state)?.map(|layout| Some(layout.nodes)))
    })
}

/// Ends the lab that is up there, if any, and removes what it or one that crashed left.
///
/// # Errors
/// Where something stays.
pub fn down(state: &Path) -> Result<()> {
    if let Err(keeper) = keeper::take_lock(state)? {
        // Without its keeper the lab ends, so this one goes first.
        let keeper = keeper.context("another command uses the lab this very moment")?;
        keeper.end(END)?;
    }
    if let Ok(Some(process)) = Identity::read(&keeper::process_file(state)) {
        process.end(END)?;
    }
    match keeper::take_lock(state)? {
        Ok(_lock) => keeper::clean_up(state),
        Err(_) => bail!("another lab was started in {}", state.display()),
    }
}
