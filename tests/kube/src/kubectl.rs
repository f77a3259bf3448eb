//! `kubectl` as a process.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::images;

/// One that speaks to a cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    /// `program`, speaking to the cluster of `kubeconfig`.
    #[must_use]
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
            namespace: None,
        }
    }

    /// The same, in a namespace.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self.clone()
        }
    }

    /// The kubeconfig, for other clients.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Starts it, for who reads what it prints as it comes.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Child> {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("run kubectl")
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let done = self.outcome(arguments)?;
        ensure!(
            done.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            said(&done)
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Runs it, whatever it ends with.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn outcome(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().context("run kubectl")
    }

    /// Runs the project's plugin, found as people's `kubectl` finds it, and returns what it
    /// printed.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn cairn(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .env("PATH", self.path()?)
            .env("KUBECONFIG", &self.kubeconfig)
            .arg("cairn")
            .stdin(Stdio::null());
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        let done = command.args(words).output().context("run kubectl")?;
        let shown = words.join(" ");
        ensure!(
            done.status.success(),
            "kubectl cairn {shown}: {}",
            said(&done)
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// A `PATH` with this `kubectl` and the project's plugin.
    fn path(&self) -> Result<OsString> {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin");
        let own = self.program.parent().context("a folder")?.to_owned();
        let usual = std::env::var_os("PATH").unwrap_or_default();
        let path = [plugins, own]
            .into_iter()
            .chain(std::env::split_paths(&usual));
        Ok(std::env::join_paths(path)?)
    }

    /// `PATH` and `KUBECONFIG` for a person's own commands in this namespace. `folder` is for
    /// the latter.
    ///
    /// # Errors
    /// Where the kubeconfig cannot be copied and changed.
    pub fn shell(&self, folder: &Path) -> Result<[(&'static str, String); 2]> {
        let own = folder.join("kubeconfig");
        std::fs::copy(&self.kubeconfig, &own).context("the kubeconfig")?;
        let namespace = self.namespace.as_deref().unwrap_or("default");
        let kubectl = Self::new(self.program.clone(), own.clone());
        let namespace = format!("--namespace={namespace}");
        kubectl.run(&["config", "set-context", "--current", &namespace])?;
        let path = self.path()?.to_string_lossy().into_owned();
        Ok([("PATH", path), ("KUBECONFIG", own.display().to_string())])
    }

    /// A field of an object, as JSONPath names it.
    ///
    /// # Errors
    /// Where there is no such object.
    pub fn field(&self, kind: &str, name: &str, path: &str) -> Result<String> {
        let path = format!("jsonpath={{{path}}}");
        self.run(&["get", kind, name, "-o", &path])
    }

    /// Whether a Kubernetes node is ready: `True`, `False`, `Unknown`.
    ///
    /// # Errors
    /// Where there is no such node.
    pub fn readiness(&self, node: &str) -> Result<String> {
        let path = ".status.conditions[?(@.type==\"Ready\")].status";
        self.field("node", node, path)
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// Where it is not within `bound`.
    pub fn await_ready(&self, pod: &str, bound: Duration) -> Result<()> {
        let pod = format!("pod/{pod}");
        let timeout = format!("--timeout={}s", bound.as_secs());
        self.run(&["wait", "--for=condition=Ready", &pod, &timeout])?;
        Ok(())
    }

    /// Runs a command in a pod and returns what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        self.run(&[&["exec", pod, "--"], words].concat())
    }

    /// Applies manifests, in which `@TAG@` stands for the tag of the images.
    ///
    /// # Errors
    /// Where they are refused.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let mut input = child.stdin.take().context("its input")?;
        input.write_all(manifests.replace("@TAG@", images::TAG).as_bytes())?;
        drop(input);
        let done = child.wait_with_output()?;
        ensure!(done.status.success(), "kubectl apply: {}", said(&done));
        Ok(())
    }
}

/// What a program said, on either channel.
#[must_use]
pub fn said(done: &Output) -> String {
    let out = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    format!("{out}{errors}").trim_end().to_owned()
}
