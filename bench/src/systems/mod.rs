//! The systems: each is started on loopback with directories of its own, and stopped by the
//! pids of its processes.

mod cairn;
mod etcd;
mod redis;
mod server;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub(crate) use self::cairn::{Cairn, Spec as CairnSpec};
pub(crate) use self::etcd::Etcd;
pub(crate) use self::redis::Redis;
pub(crate) use self::server::Server;
use crate::driver::{Increments, Level, Target};

/// A kind of system, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Cairn: 3 data nodes, 3 coordinators, RF 3, W 2
    #[value(name = "cairn-3")]
    Cairn3,
    /// Cairn: 5 data nodes, 3 coordinators, RF 3, W 2
    #[value(name = "cairn-5")]
    Cairn5,
    /// etcd: 3 members
    Etcd,
    /// Redis: a primary and 2 replicas, AOF flushed always, WAIT 1 after each write
    Redis,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cairn3 => "cairn-3",
            Self::Cairn5 => "cairn-5",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
        }
    }

    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Etcd | Self::Redis)
    }
}

/// Where programs are, and where files go.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Of this run, removed at its end.
    pub(crate) scratch: PathBuf,
    pub(crate) cairn: PathBuf,
    pub(crate) etcd: Option<PathBuf>,
    pub(crate) redis_server: PathBuf,
}

/// A system that runs.
#[derive(Debug)]
pub(crate) enum System {
    Cairn(Cairn),
    Etcd(Etcd),
    Redis(Redis),
}

impl System {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// Where a program is missing, in words that say how to get it, or it does not come to serve.
    pub(crate) fn start(kind: Kind, paths: &Paths) -> Result<Self> {
        let directory = paths.scratch.join(kind.name());
        let cairn = |data_nodes| {
            Cairn::start(
                &paths.cairn,
                &directory,
                &CairnSpec {
                    data_nodes,
                    ..CairnSpec::default()
                },
            )
        };
        Ok(match kind {
            Kind::Cairn3 => Self::Cairn(cairn(3)?),
            Kind::Cairn5 => Self::Cairn(cairn(5)?),
            Kind::Etcd => Self::Etcd(Etcd::start(paths, &directory)?),
            Kind::Redis => Self::Redis(Redis::start(&paths.redis_server, &directory)?),
        })
    }

    pub(crate) fn servers(&self) -> &[Server] {
        match self {
            Self::Cairn(cairn) => cairn.servers(),
            Self::Etcd(etcd) => &etcd.servers,
            Self::Redis(redis) => &redis.servers,
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.servers().iter().map(Server::pid).collect()
    }

    /// How it is asked, by the protocol of this name.
    pub(crate) fn target(&self, protocol: Protocol, level: Level) -> Target {
        match self {
            Self::Cairn(cairn) => cairn.target(protocol, level, Increments::Owner),
            Self::Etcd(etcd) => etcd.target(),
            Self::Redis(redis) => redis.target(),
        }
    }

    /// What it is, for the report.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::Cairn(cairn) => cairn.description.clone(),
            Self::Etcd(etcd) => etcd.description.clone(),
            Self::Redis(redis) => redis.description.clone(),
        }
    }
}

/// What the driver speaks to a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// The Redis protocol
    Resp,
    /// gRPC
    Grpc,
    /// The Rust client
    Client,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Resp => "resp",
            Self::Grpc => "grpc",
            Self::Client => "client",
        }
    }
}

/// A program by its path, or by its name in `PATH`.
pub(crate) fn find_program(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
