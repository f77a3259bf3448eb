//! Typed details of a refused call.
//!
//! A [`tonic::Status`] carries a message for people and, in its details, a
//! `google.rpc.Status` with one packed message for programs, as gRPC's error model
//! has it, so that clients in any language can read it.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use crate::pb::coordinator::v1::NotLeader;

/// A message that travels in a status's details.
pub trait Detail: Message + Default {
    /// Its full name, by which a reader finds it.
    const NAME: &'static str;
}

impl Detail for NotLeader {
    const NAME: &'static str = "cairn.coordinator.v1.NotLeader";
}

impl Detail for crate::pb::kv::v1::Error {
    const NAME: &'static str = "cairn.kv.v1.Error";
}

/// The wire form of `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Packed {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The wire form of `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Packed>,
}

/// A status with a typed detail.
#[must_use]
pub fn status<M: Detail>(code: Code, message: impl Into<String>, detail: &M) -> Status {
    let message = message.into();
    let packed = RpcStatus {
        code: code.into(),
        message: message.clone(),
        details: vec![Packed {
            type_url: format!("type.googleapis.com/{}", M::NAME),
            value: detail.encode_to_vec().into(),
        }],
    };
    Status::with_details(code, message, packed.encode_to_vec().into())
}

/// The typed detail of a status, if it carries one of this type.
#[must_use]
pub fn detail<M: Detail>(status: &Status) -> Option<M> {
    let details = status.details();
    if details.is_empty() {
        return None;
    }
    let packed = RpcStatus::decode(details).ok()?;
    packed
        .details
        .iter()
        .find(|d| d.type_url.rsplit('/').next() == Some(M::NAME))
        .and_then(|d| M::decode(d.value.clone()).ok())
}

/// This coordinator does not lead; `leader` does, where one is known.
#[must_use]
pub fn not_leader(leader: NotLeader) -> Status {
    let message = if leader.leader == 0 {
        "this coordinator does not lead and knows no leader; try again shortly".to_owned()
    } else {
        format!(
            "this coordinator does not lead; coordinator {} at {} does",
            leader.leader, leader.peer_address
        )
    };
    status(Code::FailedPrecondition, message, &leader)
}
