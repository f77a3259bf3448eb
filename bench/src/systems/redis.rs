//! Redis: a primary with two replicas, as durable as Redis 7 can be asked to be by `WAIT`: the
//! log is flushed before each reply, and each write waits for the word of one replica. That word
//! does not wait for the replica's flush.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::find_program;
use super::server::{Server, version_of, wait_ready};
use crate::driver::{Increments, Level, Target};
use crate::ports;

const REPLICAS: usize = 2;
/// How many replicas a write waits for.
const WAIT: u32 = 1;

#[derive(Debug)]
pub(crate) struct Redis {
    pub(super) servers: Vec<Server>,
    primary: String,
    pub(super) description: String,
}

impl Redis {
    pub(crate) fn start(program: &Path, directory: &Path) -> Result<Self> {
        let program = find_program(program).with_context(|| {
            format!(
                "{} is missing: install Redis 7 (Debian: `apt-get install redis-server`; \
                 ci/install-tools does so), or name it by --redis-server",
                program.display()
            )
        })?;
        let version = version_of(&program, &["--version"])?;
        ensure!(
            version.contains("v=7.") || version.contains("v=8."),
            "{}: {version}: Redis 7 or newer is what this compares with",
            program.display()
        );
        let ports: Vec<u16> = (0..=REPLICAS)
            .map(|_| ports::free())
            .collect::<Result<_>>()?;
        let mut servers = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let name = format!("redis-{number}");
            let home = directory.join(&name);
            std::fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
            let mut command = Command::new(&program);
            command
                .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"])
                .arg(&home)
                .args(SETTINGS);
            if number > 0 {
                let primary = ports[0].to_string();
                command.args(["--replicaof", "127.0.0.1", &primary]);
            }
            servers.push(Server::spawn(&name, &mut command, directory, None)?);
        }
        let primary = format!("127.0.0.1:{}", ports[0]);
        wait_ready("Redis", &mut servers, || replicas_are_there(ports[0]))?;
        Ok(Self {
            servers,
            primary,
            description: format!(
                "{}: a primary and {REPLICAS} replicas, appendonly yes, appendfsync always, \
                 WAIT {WAIT} after each write, no snapshots and no rewrites of the log meanwhile; \
                 WAIT does not wait for the replica's flush, and reads of the primary are not \
                 protected by a lease",
                short(&version)
            ),
        })
    }

    pub(super) fn target(&self) -> Target {
        Target::Resp {
            seeds: vec![self.primary.clone()],
            level: Level::Primary,
            wait: WAIT,
            increments: Increments::Owner,
        }
    }
}

/// `Redis 7.0.15` of a line with the build's checksum.
fn short(version: &str) -> String {
    let number = version.split(' ').find_map(|word| word.strip_prefix("v="));
    number.map_or_else(|| version.to_owned(), |number| format!("Redis {number}"))
}

/// Beside durability: nothing in the background that would cost it something while it is
/// measured, and buffers that never cut a replica off.
const SETTINGS: [&str; 25] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--save",
    "",
    "--auto-aof-rewrite-percentage",
    "0",
    "--repl-diskless-sync",
    "yes",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-backlog-size",
    "256mb",
    "--client-output-buffer-limit",
    "replica",
    "0",
    "0",
    "0",
    "--protected-mode",
    "no",
    "--daemonize",
    "no",
    "--loglevel",
    "warning",
];

/// Whether both replicas have caught up and acknowledge.
fn replicas_are_there(port: u16) -> Result<()> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    stream.write_all(b"SET ready yes\r\nWAIT 2 1000\r\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 256];
    while answer.iter().filter(|&&byte| byte == b'\n').count() < 2 {
        let read = stream.read(&mut chunk)?;
        ensure!(read > 0, "Redis closed the connection");
        answer.extend_from_slice(&chunk[..read]);
    }
    ensure!(
        answer.ends_with(b":2\r\n"),
        "WAIT 2 is answered {:?}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}
