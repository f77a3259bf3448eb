//! Processes in namespaces of their own.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::thread;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::process::run;

/// Starts a program as the first process of new PID, mount, network and host name
/// namespaces. When it ends, the kernel kills all others in them before it can be waited for.
///
/// # Errors
/// Where this process may not, or the program cannot be started.
pub fn spawn(mut command: Command) -> Result<Child> {
    // Who makes namespaces is in them from then on: a thread that ends.
    let made = thread::spawn(move || -> Result<Child> {
        let kinds = UnshareFlags::NEWPID
            | UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWUTS;
        // SAFETY: the table of file descriptors, which is what can be misused, stays that of
        // the process.
        unsafe { rustix::thread::unshare_unsafe(kinds) }.context("make namespaces")?;
        command.spawn().context("start a process in new namespaces")
    });
    made.join().expect("the thread does not panic")
}

/// What the first process in them does first: nothing that it mounts is seen outside, and
/// `/proc` shows its own processes.
///
/// # Errors
/// Where it may not mount.
pub fn settle() -> Result<()> {
    run("mount", &["--make-rprivate", "/"])?;
    run("mount", &["-t", "proc", "proc", "/proc"])?;
    run("ip", &["link", "set", "lo", "up"])
}

/// Moves this thread into the network of a process, for good.
///
/// # Errors
/// Where that is gone, or this process may not.
pub fn join_network(pid: u32) -> Result<()> {
    let network = File::open(format!("/proc/{pid}/ns/net"))?;
    rustix::thread::move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .context("move into a network namespace")
}
