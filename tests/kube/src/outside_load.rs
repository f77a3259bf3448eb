//! Load from outside of Kubernetes: from the lab's own network, from where its nodes are
//! reached and no pod is.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_kube_lab::lab::Lab;
use cairn_process_tests::binary;
use tempfile::TempDir;

use crate::kvcluster::PATIENCE;
use crate::told::{Told, Verdict};
use crate::waiting::until;

/// How clients of a cluster with TLS and users are let in, at first.
#[derive(Clone, Copy, Debug)]
pub struct LetIn<'a> {
    /// By which certificates nodes are known, in PEM.
    pub authorities: &'a str,
    /// Who the Redis clients are.
    pub user: &'a str,
    /// Their password.
    pub password: &'a str,
    /// The token of the others.
    pub token: &'a str,
}

/// Load that runs until it is stopped, or this is dropped.
#[derive(Debug)]
pub struct OutsideLoad {
    process: Child,
    folder: TempDir,
}

impl OutsideLoad {
    /// Starts it, at addresses that are reached from outside (Redis, gRPC), and waits until every
    /// partition acknowledged a write.
    ///
    /// # Errors
    /// Where that does not come.
    pub fn start(
        lab: &Lab,
        addresses: &[(String, String)],
        partitions: u32,
        let_in: LetIn<'_>,
    ) -> Result<Self> {
        let folder = TempDir::new()?;
        let file = |name: &str| folder.path().join(name).display().to_string();
        let program = binary::cairn()?.with_file_name("cairn-load");
        let list = |of: fn(&(String, String)) -> &String| {
            let all: Vec<&str> = addresses.iter().map(|one| of(one).as_str()).collect();
            all.join(",")
        };
        let output = fs::File::create(folder.path().join("output"))?;
        let mut command = lab.in_network(&[&program.display().to_string()])?;
        command
            .env("LOAD_REDIS", list(|(redis, _)| redis))
            .env("LOAD_GRPC", list(|(_, grpc)| grpc))
            .env("LOAD_PARTITIONS", partitions.to_string())
            .env("LOAD_SEED", "11")
            .env("LOAD_ORDERS", folder.path())
            .env("LOAD_AUTHORITIES", file("authorities.pem"))
            .env("LOAD_USER", let_in.user)
            .env("LOAD_PASSWORD_FILE", file("password"))
            .env("LOAD_TOKEN", let_in.token)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        fs::write(folder.path().join("authorities.pem"), let_in.authorities)?;
        fs::write(folder.path().join("password"), let_in.password)?;
        let process = command.spawn().context("start the load outside")?;
        let load = Self { process, folder };
        until("the load outside to run", PATIENCE, || {
            let printed = load.printed()?;
            ensure!(!printed.contains("Error: "), "{printed}");
            Ok(printed.contains("the load runs").then_some(()))
        })?;
        Ok(load)
    }

    /// Gives clients other certificates to know nodes by, or another password.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn give(&self, what: &str, text: &str) -> Result<()> {
        let file = self.folder.path().join(what);
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, file)?)
    }

    /// What happened since the mark before.
    ///
    /// # Errors
    /// Where the load does not answer, or a promise was broken.
    pub fn mark(&self, name: &str) -> Result<Told> {
        fs::write(self.order(&format!("mark-{name}")), "")?;
        let told = until("the load outside to tell", Duration::from_secs(60), || {
            Ok(Told::find(&self.printed()?, name))
        })?;
        println!("outside: {told}");
        ensure!(told.broken.is_empty(), "{name}: {:#?}", told.broken);
        Ok(told)
    }

    /// Ends it and has everything read back.
    ///
    /// # Errors
    /// Where a promise was broken.
    pub fn verify(self) -> Result<Verdict> {
        fs::write(self.order("stop"), "")?;
        let verdict = until("the verdict of the load outside", PATIENCE, || {
            Ok(Verdict::find(&self.printed()?))
        })
        .with_context(|| self.printed().unwrap_or_default())?;
        ensure!(verdict.acknowledged > 0, "nothing was acknowledged");
        ensure!(verdict.broken.is_empty(), "{:#?}", verdict.broken);
        Ok(verdict)
    }

    fn order(&self, name: &str) -> impl AsRef<Path> {
        self.folder.path().join(name)
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn printed(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("output"))?)
    }
}

impl Drop for OutsideLoad {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
