//! The `cairn-operator` binary as a process, over an [`ApiServer`].

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::api_server::ApiServer;
use crate::cluster::BOUND;
use crate::{binary, cli, http, ports, waiting};

/// An operator, which runs or does not. Dropping it kills the process.
#[derive(Debug)]
pub struct Operator {
    process: Option<Child>,
    address: SocketAddr,
    directory: TempDir,
}

impl Operator {
    /// One that looks after a namespace; not started yet.
    ///
    /// # Errors
    /// Where its files cannot be written.
    pub fn new(api: &ApiServer) -> Result<Self> {
        let directory = TempDir::with_prefix("cairn-operator-")?;
        let kubeconfig = directory.path().join("kubeconfig");
        fs::write(kubeconfig, api.kubeconfig().to_string())?;
        Ok(Self {
            process: None,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?)),
            directory,
        })
    }

    /// Where it tells its metrics.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the process, and waits until it answers.
    ///
    /// # Errors
    /// Where it runs already, or does not come to answer.
    pub fn start(&mut self, namespace: &str) -> Result<()> {
        ensure!(self.process.is_none(), "the operator runs already");
        let log = self.directory.path().join("log");
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(binary::operator()?);
        command
            .env_clear()
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .args(["--namespace", namespace, "--lease-namespace", namespace])
            .args(["--http-listen", &self.address.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        cli::leashed(&mut command);
        self.process = Some(command.spawn().context("start the operator")?);
        waiting::until("the operator to be ready", BOUND, || {
            let ready = http::get(self.address, "/readyz", None);
            Ok(ready.is_ok_and(|(status, _)| status == 200).then_some(()))
        })
        .with_context(|| self.log())
    }

    /// SIGTERM, after which it gives its lease back and ends.
    ///
    /// # Errors
    /// Where it does not run, or does not end as it should.
    pub fn terminate(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the operator does not run")?;
        let pid = i32::try_from(process.id())?;
        // SAFETY: `kill` takes two integers; the process is our own child and not yet waited
        // for, so that its number belongs to nobody else.
        let asked = unsafe { libc::kill(pid, libc::SIGTERM) };
        let ended = waiting::until("the operator to end", BOUND, || Ok(process.try_wait()?));
        if ended.is_err() {
            process.kill()?;
            process.wait()?;
        }
        let status = ended.with_context(|| self.log())?;
        ensure!(asked == 0 && status.success(), "{status}\n{}", self.log());
        Ok(())
    }

    /// What it said, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
