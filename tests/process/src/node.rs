//! One process of a cluster: started, killed, stopped, wiped, started again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::ClientConfig;

use crate::network::Host;
use crate::power::Power;
use crate::{binary, http, ports, waiting};

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Holds the metadata.
    Coordinator,
    /// Holds data.
    Data,
}

/// Where a node listens; the same over all its lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// RESP; unused by a coordinator.
    pub resp: u16,
    /// gRPC for clients.
    pub client: u16,
    /// gRPC between nodes.
    pub peer: u16,
    /// HTTP.
    pub http: u16,
}

impl Ports {
    /// Free ones.
    ///
    /// # Errors
    /// Where there are none.
    pub fn free() -> Result<Self> {
        Ok(Self {
            resp: ports::free()?,
            client: ports::free()?,
            peer: ports::free()?,
            http: ports::free()?,
        })
    }
}

/// One node. Dropping it kills its process.
#[derive(Debug)]
pub struct Node {
    /// Its role.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Ports,
    /// Its directory.
    pub data: PathBuf,
    /// What it wrote to standard output and error, over all its lives.
    pub log: PathBuf,
    /// Where it runs.
    pub host: Host,
    /// Its power supply, where the shim is loaded.
    pub power: Option<Power>,
    /// How its HTTP port is asked, where it speaks TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// The command that runs the binary as its only child, where one does.
    pub runner: Vec<String>,
    /// What it runs from its next start, where that is not the binary under test.
    pub program: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    process: Option<Child>,
}

impl Node {
    /// A node that was never started.
    #[must_use]
    pub fn new(
        role: Role,
        name: &str,
        ports: Ports,
        directory: &Path,
        environment: BTreeMap<String, String>,
    ) -> Self {
        Self {
            role,
            name: name.to_owned(),
            ports,
            data: directory.join(name),
            log: directory.join(format!("{name}.log")),
            host: Host::local(),
            power: None,
            tls: None,
            runner: Vec::new(),
            program: None,
            environment,
            process: None,
        }
    }

    /// Where Redis clients connect.
    #[must_use]
    pub fn resp(&self) -> String {
        self.listening_at(self.ports.resp)
    }

    /// Where native clients connect.
    #[must_use]
    pub fn client(&self) -> String {
        self.listening_at(self.ports.client)
    }

    /// Where other nodes connect.
    #[must_use]
    pub fn peer(&self) -> String {
        self.listening_at(self.ports.peer)
    }

    fn listening_at(&self, port: u16) -> String {
        format!("{}:{port}", self.host.address)
    }

    /// A node with the same settings, another name, other ports and a log of its own.
    ///
    /// # Errors
    /// Where its log has no folder.
    pub fn twin(&self, name: &str, ports: Ports) -> Result<Self> {
        let directory = self.log.parent().context("a log without a folder")?;
        Ok(self.like(&format!("{}-{name}", self.name), ports, directory))
    }

    /// A node with the same settings below a directory.
    pub(crate) fn like(&self, name: &str, ports: Ports, directory: &Path) -> Self {
        let settings = self.environment.clone();
        let mut node = Self::new(self.role, name, ports, directory, settings);
        node.host = self.host.clone();
        node
    }

    /// Its power supply.
    ///
    /// # Errors
    /// Where the shim is not loaded.
    pub fn power(&self) -> Result<&Power> {
        let power = self.power.as_ref();
        power.with_context(|| format!("{} runs without the shim", self.name))
    }

    /// Sets a variable for the next start.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.environment.insert(name.to_owned(), value.to_string());
    }

    /// The command that starts it. It dies with the thread that spawns it.
    ///
    /// # Errors
    /// Where there is no binary.
    pub fn command(&self) -> Result<Command> {
        let role = match self.role {
            Role::Coordinator => "coordinator",
            Role::Data => "data",
        };
        let mut command = match self.runner.split_first() {
            None => match &self.program {
                Some(program) => Command::new(program),
                None => Command::new(binary::cairn()?),
            },
            Some((runner, words)) => {
                let mut command = Command::new(runner);
                command.args(words);
                command
            }
        };
        // Nothing of the tester's own settings leaks in.
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .env("CAIRN_ROLE", role)
            .env("CAIRN_NAME", &self.name)
            .env("CAIRN_DATA_DIR", &self.data)
            .env("CAIRN_CLIENT_LISTEN", self.client())
            .env("CAIRN_PEER_LISTEN", self.peer())
            .env("CAIRN_HTTP_LISTEN", self.listening_at(self.ports.http))
            .env("RUST_BACKTRACE", "1");
        if self.role == Role::Data {
            command.env("CAIRN_RESP_LISTEN", self.resp());
        }
        command.envs(&self.environment);
        if let Some(power) = &self.power {
            command.envs(power.environment()?);
        }
        command.stdin(Stdio::null());
        // SAFETY: between fork and exec the closure calls `prctl` and `getppid` alone,
        // which are async-signal-safe, and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Ok(command)
    }

    /// Starts the process.
    ///
    /// # Errors
    /// Where it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command()?;
        command.stdout(log.try_clone()?).stderr(log);
        let started = self.host.on(|| Ok(command.spawn()?));
        self.process = Some(started.context("start the cairn binary")?);
        Ok(())
    }

    /// The process's number.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pid(&self) -> Result<i32> {
        let process = self.process.as_ref();
        let process = process.with_context(|| format!("{} does not run", self.name))?;
        let pid = i32::try_from(process.id())?;
        if self.runner.is_empty() {
            return Ok(pid);
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let child = children.split_ascii_whitespace().next();
        // Before it has one, the runner itself is all there is.
        child.map_or(Ok(pid), |child| Ok(child.parse()?))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let pid = self.pid()?;
        // SAFETY: `kill` takes two integers; the process is our own child, or that of its
        // runner, which ends with it: not yet waited for, so that its number belongs to
        // nobody else.
        let result = unsafe { libc::kill(pid, signal) };
        ensure!(
            result == 0,
            "signal {}: {}",
            self.name,
            std::io::Error::last_os_error()
        );
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL)?;
        self.reap()?;
        Ok(())
    }

    /// SIGKILL without waiting, so that several die at once. Follow with [`Self::reap`].
    ///
    /// # Errors
    /// Where it does not run.
    pub fn kill_without_waiting(&self) -> Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn reap(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("it does not run")?;
        Ok(process.wait()?)
    }

    /// SIGSTOP: the process stands still and keeps everything.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// Where it does not end within `bound`.
    pub fn terminate(&mut self, bound: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.await_end(bound)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// Where it does not end within `bound`.
    pub fn await_end(&mut self, bound: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let process = self.process.as_mut().context("it does not run")?;
        let status = waiting::until(&format!("{name} to end"), bound, || Ok(process.try_wait()?))?;
        self.process = None;
        Ok(status)
    }

    /// Whether the process runs; an end that nobody asked for is an error.
    ///
    /// # Errors
    /// Where it ended by itself.
    pub fn check_running(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else {
            return Ok(false);
        };
        match process.try_wait()? {
            None => Ok(true),
            Some(status) => bail!(
                "{} ended by itself (code {:?}, signal {:?}):\n{}",
                self.name,
                status.code(),
                status.signal(),
                self.log_tail(30)
            ),
        }
    }

    /// Whether the process was started and not yet seen to end.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Whether `/readyz` says yes.
    ///
    /// # Errors
    /// Where the process ended by itself.
    pub fn is_ready(&mut self) -> Result<bool> {
        ensure!(self.check_running()?, "{} does not run", self.name);
        Ok(self.http("/readyz").is_ok_and(|(status, _)| status == 200))
    }

    /// Asks the HTTP port.
    ///
    /// # Errors
    /// Where there is no answer.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        let address = SocketAddr::from((self.host.address, self.ports.http));
        http::get(address, path, self.tls.as_ref())
    }

    /// The sum over all labels of a metric; 0 where it was never counted.
    ///
    /// # Errors
    /// Where there is no answer, or the value is no number.
    pub fn metric(&self, name: &str) -> Result<f64> {
        self.metric_with(name, &[])
    }

    /// The same over what carries each of these labels, written `name="value"`.
    ///
    /// # Errors
    /// As [`Self::metric`].
    pub fn metric_with(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (status, text) = self.http("/metrics")?;
        ensure!(status == 200, "{}: /metrics answers {status}", self.name);
        let mut sum = 0.0;
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            // Other metrics may begin with the same words.
            if rest.starts_with([' ', '{'])
                && labels.iter().all(|label| rest.contains(label))
                && let Some((_, value)) = rest.rsplit_once(' ')
            {
                sum += value.parse::<f64>().context("a metric's value")?;
            }
        }
        Ok(sum)
    }

    /// Removes everything on its disk. The process must not run.
    ///
    /// # Errors
    /// Where that fails.
    pub fn wipe(&self) -> Result<()> {
        ensure!(self.process.is_none(), "{} still runs", self.name);
        fs::remove_dir_all(&self.data)?;
        fs::create_dir_all(&self.data)?;
        Ok(())
    }

    /// The whole log.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.process.is_some() {
            // A frozen process dies of SIGKILL too.
            let _ = self.kill();
        }
    }
}
