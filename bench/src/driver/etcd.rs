//! Over etcd's gRPC, as its documentation has its benchmark do it: writes go to the leader,
//! linearizable reads to all members in turn. The few messages of it that are needed stand here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_workload::operation::{Random, Values};
use futures::future::join_all;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Answer, Call, Found, Verb};

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

async fn dial(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(TIMEOUT);
    endpoint
        .connect()
        .await
        .with_context(|| format!("connect to {address}"))
}

async fn unary<Q, R>(channel: &Channel, path: &'static str, request: Q) -> Result<R, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    R: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::default();
    let path = PathAndQuery::from_static(path);
    let reply = grpc.unary(Request::new(request), path, codec).await?;
    Ok(reply.into_inner())
}

/// The members, and which of them leads.
pub(super) struct Members {
    endpoints: Vec<String>,
    leader: usize,
}

impl Members {
    pub(super) async fn open(endpoints: &[String]) -> Result<Self> {
        let mut leader = None;
        for (at, address) in endpoints.iter().enumerate() {
            let channel = dial(address).await?;
            let path = "/etcdserverpb.Maintenance/Status";
            let status: StatusResponse = unary(&channel, path, StatusRequest {}).await?;
            let member = status.header.map_or(0, |header| header.member_id);
            if member != 0 && member == status.leader {
                leader = Some(at);
            }
        }
        Ok(Self {
            endpoints: endpoints.to_vec(),
            leader: leader.context("etcd has no leader")?,
        })
    }

    pub(super) async fn connect(&self, number: usize) -> Result<Connection> {
        let reader = number % self.endpoints.len();
        let leader = dial(&self.endpoints[self.leader]).await?;
        Ok(Connection {
            reader: if reader == self.leader {
                leader.clone()
            } else {
                dial(&self.endpoints[reader]).await?
            },
            leader,
        })
    }
}

pub(super) struct Connection {
    leader: Channel,
    reader: Channel,
}

impl Connection {
    pub(super) async fn exchange(
        &mut self,
        calls: &[Call],
        values: &Values,
        random: &mut Random,
    ) -> Vec<Answer> {
        let calls = calls.iter().map(|call| {
            let key = call.key.to_vec();
            let value = match call.verb {
                Verb::Set => values.cut(random).to_vec(),
                Verb::Get | Verb::Increment => Vec::new(),
            };
            let (verb, leader, reader) = (call.verb, &self.leader, &self.reader);
            async move {
                let outcome = call_one(leader, reader, verb, key, value).await;
                let outcome = outcome.map_err(|status| format!("{:?}", status.code()));
                (Instant::now(), outcome)
            }
        });
        join_all(calls).await
    }
}

async fn call_one(
    leader: &Channel,
    reader: &Channel,
    verb: Verb,
    key: Vec<u8>,
    value: Vec<u8>,
) -> Result<Found, Status> {
    match verb {
        Verb::Get => {
            let path = "/etcdserverpb.KV/Range";
            let reply: RangeResponse = unary(reader, path, RangeRequest { key }).await?;
            Ok(if reply.kvs.is_empty() {
                Found::Missing
            } else {
                Found::Good
            })
        }
        Verb::Set => {
            let path = "/etcdserverpb.KV/Put";
            let _: PutResponse = unary(leader, path, PutRequest { key, value }).await?;
            Ok(Found::Good)
        }
        Verb::Increment => Err(Status::unimplemented("etcd has no increment")),
    }
}
