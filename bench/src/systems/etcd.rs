//! etcd: three members. The server is built from its Go module at the version that
//! `bench/peers/etcd/go.mod` pins, into `target/bench-peers`, once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::server::{Server, version_of, wait_ready};
use super::{Paths, find_program};
use crate::driver::{self, Target};
use crate::ports;

const MEMBERS: usize = 3;

#[derive(Debug)]
pub(crate) struct Etcd {
    pub(super) servers: Vec<Server>,
    endpoints: Vec<String>,
    pub(super) description: String,
}

impl Etcd {
    pub(crate) fn start(paths: &Paths, directory: &Path) -> Result<Self> {
        let program = match &paths.etcd {
            Some(path) => find_program(path)
                .with_context(|| format!("--etcd {} is no program", path.display()))?,
            None => build(&paths.root)?,
        };
        let version = version_of(&program, &["--version"])?;
        ensure!(
            version.contains("3.6."),
            "{}: {version}: etcd 3.6 is what this compares with",
            program.display()
        );
        let members: Vec<(String, u16, u16)> = (1..=MEMBERS)
            .map(|number| Ok((format!("etcd-{number}"), ports::free()?, ports::free()?)))
            .collect::<Result<_>>()?;
        let cluster: Vec<String> = members
            .iter()
            .map(|(name, _, peer)| format!("{name}=http://127.0.0.1:{peer}"))
            .collect();
        let mut servers = Vec::new();
        for (name, client, peer) in &members {
            let (client, peer) = (
                format!("http://127.0.0.1:{client}"),
                format!("http://127.0.0.1:{peer}"),
            );
            let mut command = Command::new(&program);
            command
                .args(["--name", name, "--data-dir"])
                .arg(directory.join(name))
                .args(["--listen-client-urls", &client])
                .args(["--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer])
                .args(["--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &cluster.join(",")])
                .args(["--initial-cluster-state", "new", "--log-level", "warn"])
                // Room for every version that a long run writes: no compaction meanwhile.
                .args(["--quota-backend-bytes", "8589934592"]);
            servers.push(Server::spawn(name, &mut command, directory, None)?);
        }
        let endpoints: Vec<String> = members
            .iter()
            .map(|(_, client, _)| format!("127.0.0.1:{client}"))
            .collect();
        wait_ready("etcd", &mut servers, || {
            driver::is_reached(&target(&endpoints))
        })?;
        Ok(Self {
            servers,
            endpoints,
            description: format!(
                "{}: {MEMBERS} members, writes to the leader, linearizable reads over all \
                 members in turn, no compaction meanwhile",
                version.replace("Version: ", "")
            ),
        })
    }

    pub(super) fn target(&self) -> Target {
        target(&self.endpoints)
    }
}

fn target(endpoints: &[String]) -> Target {
    Target::Etcd {
        endpoints: endpoints.to_vec(),
    }
}

fn build(root: &Path) -> Result<PathBuf> {
    let sources = root.join("bench/peers/etcd");
    let folder = root.join("target/bench-peers");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let program = folder.join("etcd");
    let go = find_program(Path::new("go")).context(
        "go is missing, with which etcd is built from its module: install Go 1.24 or newer, or \
         name an etcd 3.6 by --etcd",
    )?;
    eprintln!("etcd: building (a minute the first time, a look afterwards)");
    let output = Command::new(go)
        .arg("-C")
        .arg(&sources)
        .args(["build", "-ldflags", "-s -w", "-o"])
        .arg(&program)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly -trimpath -buildvcs=false")
        .output()
        .context("run go")?;
    ensure!(
        output.status.success(),
        "go could not build etcd: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(program)
}
