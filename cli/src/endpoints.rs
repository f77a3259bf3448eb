//! Where the cluster is: what the commands are told, or else the cluster of
//! `cairn dev` on this machine.

use std::future::Future;
use std::time::Duration;

use cairn_client::admin::Admin;
use cairn_client::transport::Dialer;
use cairn_client::{Client, Options, WriteLevel};
use cairn_core::record::NodeStanding;

use crate::dev::layout::{self, Recorded, Role};
use crate::failure::{Failure, Kind};
use cairn_workload::resp::Auth;

/// Addresses of nodes, and how long a command may take.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    given: Vec<String>,
    dialer: Dialer,
    /// The credential, for the Redis protocol.
    auth: Option<Auth>,
    timeout: Duration,
}

impl Endpoints {
    pub(crate) fn new(
        given: Vec<String>,
        dialer: Dialer,
        auth: Option<Auth>,
        timeout: Duration,
    ) -> Self {
        Self {
            given: given.into_iter().filter(|one| !one.is_empty()).collect(),
            dialer,
            auth,
            timeout,
        }
    }

    /// The addresses that were given.
    pub(crate) fn given(&self) -> &[String] {
        &self.given
    }

    /// How connections are made.
    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The same credential and bounds for a cluster at these addresses.
    pub(crate) fn at(&self, addresses: Vec<String>) -> Self {
        Self {
            given: addresses,
            ..self.clone()
        }
    }

    /// What to log in with over the Redis protocol.
    pub(crate) fn auth(&self) -> Option<&Auth> {
        self.auth.as_ref()
    }

    /// Whether the cluster speaks TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.dialer.tls.is_some()
    }

    /// How long a command may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// gRPC addresses for clients.
    pub(crate) fn addresses(&self) -> Vec<String> {
        if self.given.is_empty() {
            dev_addresses()
        } else {
            self.given.clone()
        }
    }

    /// The Rust client.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        self.client_at(None).await
    }

    /// The Rust client, whose writes are acknowledged at that level.
    pub(crate) async fn client_at(&self, level: Option<WriteLevel>) -> Result<Client, Failure> {
        let options = Options {
            deadline: self.timeout,
            dialer: self.dialer.clone(),
            write_level: level.unwrap_or_default(),
            ..Options::default()
        };
        Client::connect(self.addresses(), options)
            .await
            .map_err(|error| self.explain(Failure::from(error)))
    }

    /// The coordinators.
    pub(crate) fn admin(&self) -> Admin {
        Admin::new(self.addresses(), self.dialer.clone()).deadline(self.timeout)
    }

    /// Where data nodes speak the Redis protocol, by the map.
    pub(crate) fn resp_addresses(&self) -> Result<Vec<String>, Failure> {
        let map = block_on(async { Ok(self.client().await?.map()) })?;
        let addresses: Vec<_> = map
            .nodes
            .values()
            .filter(|node| node.standing == NodeStanding::Member)
            .map(|node| node.addresses.resp.clone())
            .filter(|address| !address.is_empty())
            .collect();
        if addresses.is_empty() {
            return Err(Failure::unavailable("the map lists no data node yet"));
        }
        Ok(addresses)
    }

    /// Adds where the addresses came from, for someone who gave none.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        if self.given.is_empty() {
            failure.with_remedy(
                "No --endpoints, CAIRN_ENDPOINTS or configuration file names the cluster, so that the \
                 one of `cairn dev` was looked for on this machine",
            )
        } else {
            failure
        }
    }
}

/// The coordinators of the development cluster: as its `dev.json` says, else as one
/// with default ports has them.
fn dev_addresses() -> Vec<String> {
    let recorded = layout::directory(None)
        .ok()
        .and_then(|directory| Recorded::load(&directory).ok().flatten());
    let nodes = match recorded {
        Some(recorded) => recorded.nodes(),
        None => Recorded::usual().nodes(),
    };
    nodes
        .into_iter()
        .filter(|node| node.role == Role::Coordinator)
        .map(|node| format!("127.0.0.1:{}", node.client))
        .collect()
}

/// Runs a command's calls to their end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Other, format!("start the runtime: {error}")))?;
    runtime.block_on(future)
}
