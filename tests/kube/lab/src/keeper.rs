//! Keeps one lab, from outside its namespaces: the lock, the start, the way to the API
//! server, and what has to be cleaned up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::cgroups;
use crate::component::{end_of, log_ends};
use crate::control_plane::READY;
use crate::forward;
use crate::layout::{self, Layout};
use crate::namespaces;
use crate::process::{Identity, until};

/// How long the kernel may take to end all of a lab's processes.
pub const END: Duration = Duration::from_secs(60);

const LOG: &str = "control-plane";

/// Where the control plane's process is told.
#[must_use]
pub fn process_file(state: &Path) -> PathBuf {
    state.join("process")
}

/// Written once a lab is ready: how many nodes it has, and where its programs are.
#[must_use]
fn ready_file(state: &Path) -> PathBuf {
    state.join("ready")
}

/// The layout of the lab that is ready there; nothing where none is.
///
/// # Errors
/// Where the file is not what [`keep`] writes.
pub fn ready(state: &Path) -> Result<Option<Layout>> {
    let Ok(line) = fs::read_to_string(ready_file(state)) else {
        return Ok(None);
    };
    let (nodes, programs) = line.split_once(' ').context("nodes and programs")?;
    Layout::new(state, Path::new(programs), nodes.parse()?).map(Some)
}

/// Where the logs of a lab that did not start are kept.
#[must_use]
pub fn failed_logs(state: &Path) -> PathBuf {
    state.with_extension("failed-logs")
}

/// The lock of a lab, or who holds it, where that is known.
///
/// # Errors
/// Where the file cannot be used.
pub fn take_lock(state: &Path) -> Result<Result<File, Option<Identity>>> {
    let path = Layout::lock(state);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).read(true).write(true);
    let file = options
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Ok(file)),
        // The holder may be about to write who it is.
        Err(TryLockError::WouldBlock) => Ok(Err(Identity::read(&path).ok().flatten())),
        Err(TryLockError::Error(error)) => Err(error).context("lock the lab"),
    }
}

/// Keeps a lab until its control plane ends, or standard input does where it is `leased`.
/// Says on standard output what is being done, and `ready`.
///
/// # Errors
/// Where it does not start; nothing of it is left then.
pub fn keep(layout: &Layout, leased: bool) -> Result<()> {
    let Ok(mut lock) = take_lock(&layout.state)? else {
        bail!("another process keeps {}", layout.state.display());
    };
    lock.set_len(0)?;
    writeln!(lock, "{}", Identity::of(std::process::id())?)?;
    clean_up(&layout.state)?;
    let ended = start(layout).and_then(|lab| attend(layout, lab, leased));
    clean_up(&layout.state)?;
    ended
}

/// Waits until a lab that was started ends.
fn attend(layout: &Layout, mut lab: Child, leased: bool) -> Result<()> {
    // Waiting for a child would close it, and that is what the control plane ends with.
    let _lifeline = lab.stdin.take();
    match become_ready(layout, &mut lab) {
        Ok(()) => {
            if leased {
                end_with_standard_input(Identity::of(lab.id())?);
            }
            lab.wait().map(drop).context("wait for the control plane")
        }
        Err(error) => {
            lab.kill()?;
            lab.wait()?;
            let kept = failed_logs(&layout.state);
            let _ = fs::remove_dir_all(&kept);
            let _ = fs::rename(layout.state.join("logs"), &kept);
            Err(anyhow!("{error:#}\nall logs are in {}", kept.display()))
        }
    }
}

fn start(layout: &Layout) -> Result<Child> {
    for folder in ["logs", "conf"] {
        fs::create_dir_all(layout.state.join(folder))?;
    }
    cgroups::create(&Layout::cgroup(&layout.state))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("control-plane")
        .args(layout.arguments())
        // It ends with this pipe, that is, with this process.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log_ends(&Layout::log(&layout.state, LOG))?.1);
    let lab = namespaces::spawn(command)?;
    let identity = Identity::of(lab.id())?;
    fs::write(process_file(&layout.state), identity.to_string())?;
    Ok(lab)
}

fn become_ready(layout: &Layout, lab: &mut Child) -> Result<()> {
    let mut is_ready = false;
    for line in BufReader::new(lab.stdout.take().context("its output")?).lines() {
        let line = line?;
        is_ready = line == READY;
        if is_ready {
            break;
        }
        say(&line);
    }
    if !is_ready {
        bail!("{}", end_of(LOG, &Layout::log(&layout.state, LOG)));
    }
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    forward::serve(listener, lab.id());
    let inside = format!("https://{}:{}", layout::control_plane(), layout::API_PORT);
    let text = fs::read_to_string(layout.conf("super-admin"))?;
    let text = text.replace(&inside, &format!("https://127.0.0.1:{port}"));
    fs::write(Layout::kubeconfig(&layout.state), text)?;
    let layout_line = format!("{} {}", layout.nodes, layout.programs.display());
    fs::write(ready_file(&layout.state), layout_line)?;
    say(READY);
    Ok(())
}

/// Tells who waits for the lab, if anybody still does.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn end_with_standard_input(lab: Identity) {
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        // The main thread notices, and cleans up.
        let _ = lab.end(END);
    });
}

/// Removes what a lab left whose processes are gone.
///
/// # Errors
/// Where something stays.
pub fn clean_up(state: &Path) -> Result<()> {
    cgroups::remove(&Layout::cgroup(state))?;
    // A process that is being ended may still write a file meanwhile.
    until("the state folder to go", END, || {
        match fs::remove_dir_all(state) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(None),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", state.display()))
            }
            _ => Ok(Some(())),
        }
    })
}
