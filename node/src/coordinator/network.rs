//! Raft's messages between coordinators, over gRPC on the peer port.
//!
//! Each message names the Raft id that it is for and the cluster that it belongs
//! to, so that one for an identity that was wiped since is refused, not answered.

use std::sync::Arc;
use std::time::Duration;

use cairn_client::transport::{Channel, Dialer};
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::raft_client::RaftClient;
use cairn_proto::pb::coordinator::v1::raft_request::Kind;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::addresses::Addresses;
use super::group::ClusterId;
use super::raft::{RaftId, RaftNode, TypeConfig};

/// How long replication to a coordinator that cannot be reached pauses: short, so
/// that one that comes back hears of its leader before it stands for election.
const BACKOFF: Duration = Duration::from_millis(200);

/// Calls one coordinator's `Raft` service.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    client: Option<RaftClient<Channel>>,
    address: String,
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The address cannot be one.
    #[error("`{0}` is not an address")]
    Address(String),
    /// The transport's or the other side's refusal.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    /// The answer does not parse.
    #[error("the answer does not parse: {0}")]
    Parse(#[from] serde_json::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Caller {
    pub(super) fn new(dialer: &Dialer, address: &str) -> Self {
        let limit = cairn_proto::limits::COORDINATOR_MESSAGE_BYTES;
        Self {
            client: dialer.lazy(address).ok().map(|channel| {
                RaftClient::new(channel)
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(limit)
            }),
            address: address.to_owned(),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// One call. `to` of 0 is for whoever answers.
    pub(super) async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        cluster_id: String,
        from: RaftId,
        to: RaftId,
        question: &Q,
        within: Duration,
    ) -> Result<A, CallError> {
        let mut client = self
            .client
            .clone()
            .ok_or_else(|| CallError::Address(self.address.clone()))?;
        let request = pb::RaftRequest {
            kind: kind.into(),
            cluster_id,
            format: cairn_proto::FORMAT,
            from,
            to,
            payload: serde_json::to_vec(question)?.into(),
        };
        let reply = tokio::time::timeout(within, client.call(request))
            .await
            .map_err(|_| CallError::Timeout(within))??;
        Ok(serde_json::from_slice(&reply.into_inner().payload)?)
    }
}

/// Makes the connections that Raft asks for.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) from: RaftId,
    pub(super) cluster: ClusterId,
    pub(super) dialer: Dialer,
    pub(super) addresses: Arc<Addresses>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: RaftId, node: &RaftNode) -> Link {
        let address = self.addresses.now(target, node);
        Link {
            from: self.from,
            to: target,
            node: node.clone(),
            cluster: self.cluster.clone(),
            caller: Caller::new(&self.dialer, &address),
            dialer: self.dialer.clone(),
            addresses: Arc::clone(&self.addresses),
        }
    }
}

/// The connection to one identity.
#[derive(Debug)]
pub(super) struct Link {
    from: RaftId,
    to: RaftId,
    /// As the membership had it when the link was made.
    node: RaftNode,
    cluster: ClusterId,
    caller: Caller,
    dialer: Dialer,
    addresses: Arc<Addresses>,
}

type Refused<E> = RPCError<RaftId, RaftNode, RaftError<RaftId, E>>;

impl Link {
    async fn send<Q, A, E>(
        &mut self,
        kind: Kind,
        question: &Q,
        option: &RPCOption,
    ) -> Result<A, Refused<E>>
    where
        Q: Serialize,
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let address = self.addresses.now(self.to, &self.node);
        if self.caller.address() != address {
            self.caller = Caller::new(&self.dialer, &address);
        }
        let answer: Result<Result<A, RaftError<RaftId, E>>, CallError> = self
            .caller
            .call(
                kind,
                self.cluster.get(),
                self.from,
                self.to,
                question,
                option.hard_ttl(),
            )
            .await;
        if answer.is_err() {
            self.addresses.failed(self.to, &self.node, &address);
        }
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(RPCError::RemoteError(RemoteError::new(self.to, error))),
            // Neither a process that is away nor one that is somebody else gets
            // better within a heartbeat.
            Err(error @ (CallError::Status(_) | CallError::Address(_))) => {
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
            Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, RPCError<RaftId, RaftNode, RaftError<RaftId>>> {
        self.send(Kind::Append, &rpc, &option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, Refused<InstallSnapshotError>> {
        self.send(Kind::Snapshot, &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftId>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, RPCError<RaftId, RaftNode, RaftError<RaftId>>> {
        self.send(Kind::Vote, &rpc, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
