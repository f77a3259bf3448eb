//! Requests of clients, their answers, and the reasons for having none.

use bytes::Bytes;
use cairn_core::counters::Control;
use cairn_core::counters::machine::Learned;
use cairn_core::ids::{Epoch, Index, PartitionId, Position};
use cairn_core::kv::request::{
    Condition, Expiry, RequestError, Sequenced, Value, WriteOp, WriteOutcome, WriteReply,
    WriteRequest,
};
use cairn_core::record::Member;
use tonic::{Code, Status};

use crate::detach::detach;
use crate::limits;
use crate::malformed::{Malformed, bounded, optional};
use crate::map::{partition, position};
use crate::pb::kv::v1 as pb;
use crate::refusal;

/// Refuses an empty key and one that is too long.
///
/// # Errors
/// Names the field `key`.
pub fn check_key(key: &[u8]) -> Result<(), Malformed> {
    if key.is_empty() {
        return Err(Malformed::new("key", "is empty"));
    }
    bounded(key.len(), limits::KEY_BYTES, "key")
}

impl From<Sequenced> for pb::Sequenced {
    fn from(
        Sequenced {
            client,
            sequence,
            known,
        }: Sequenced,
    ) -> Self {
        Self {
            client: Bytes::copy_from_slice(&client.to_be_bytes()),
            sequence,
            known: known.index.0,
            known_epoch: known.epoch.0,
        }
    }
}

impl TryFrom<pb::Sequenced> for Sequenced {
    type Error = Malformed;

    fn try_from(
        pb::Sequenced {
            client,
            sequence,
            known,
            known_epoch,
        }: pb::Sequenced,
    ) -> Result<Self, Malformed> {
        let client: [u8; 16] = client
            .as_ref()
            .try_into()
            .map_err(|_| Malformed::new("client", "is not 16 bytes"))?;
        if sequence == 0 {
            return Err(Malformed::new("sequence", "is 0; the first is 1"));
        }
        Ok(Self {
            client: u128::from_be_bytes(client),
            sequence,
            known: Position {
                epoch: Epoch(known_epoch),
                index: Index(known),
            },
        })
    }
}

pub(crate) fn encode_condition(condition: Condition) -> Option<pb::Condition> {
    use pb::condition::Kind;
    let (kind, version) = match condition {
        Condition::Always => return None,
        Condition::Absent => (Kind::Absent, None),
        Condition::Present => (Kind::Present, None),
        Condition::Version(version) => (Kind::Version, Some(version.into())),
    };
    Some(pb::Condition {
        kind: kind.into(),
        version,
    })
}

pub(crate) fn decode_condition(condition: Option<pb::Condition>) -> Result<Condition, Malformed> {
    use pb::condition::Kind;
    let Some(pb::Condition { kind, version }) = condition else {
        return Ok(Condition::Always);
    };
    let kind = Kind::try_from(kind)
        .map_err(|_| Malformed::new("condition.kind", format!("{kind} is unknown")))?;
    if version.is_some() && kind != Kind::Version {
        return Err(Malformed::new(
            "condition.version",
            "is given, and the kind of the condition is another",
        ));
    }
    Ok(match kind {
        Kind::Always => Condition::Always,
        Kind::Absent => Condition::Absent,
        Kind::Present => Condition::Present,
        Kind::Version => Condition::Version(position(version, "condition.version")?),
    })
}

impl TryFrom<WriteRequest> for pb::call::Request {
    type Error = Malformed;

    /// # Errors
    /// For a write that this protocol has no message for.
    fn try_from(WriteRequest { op, sequenced }: WriteRequest) -> Result<Self, Malformed> {
        let sequenced = sequenced.map(Into::into);
        Ok(match op {
            WriteOp::Set {
                key,
                value,
                condition,
                expiry,
                return_previous,
            } => {
                let (expires_at_ms, keep_expiry) = encode_expiry(expiry);
                Self::Put(pb::PutRequest {
                    key,
                    value,
                    condition: encode_condition(condition),
                    expires_at_ms,
                    keep_expiry,
                    return_previous,
                    sequenced,
                    write_level: 0,
                })
            }
            WriteOp::Delete { key, condition } => Self::Delete(pb::DeleteRequest {
                key,
                condition: encode_condition(condition),
                sequenced,
                write_level: 0,
            }),
            WriteOp::Increment { key, delta } => Self::Increment(pb::IncrementRequest {
                key,
                delta,
                sequenced,
                write_level: 0,
            }),
            WriteOp::Batch { operations } => Self::Batch(pb::BatchRequest {
                operations: operations.into_iter().map(Into::into).collect(),
                sequenced,
                write_level: 0,
            }),
            other @ (WriteOp::Expire { .. }
            | WriteOp::Splice { .. }
            | WriteOp::Establish { .. }
            | WriteOp::Adopt { .. }
            | WriteOp::Seal { .. }
            | WriteOp::Conclude { .. }) => {
                return Err(Malformed::new(
                    "request",
                    format!("has no message: {other:?}"),
                ));
            }
        })
    }
}

/// As a put says it: a time, or that the old one stays.
pub(crate) fn encode_expiry(expiry: Expiry) -> (Option<u64>, bool) {
    match expiry {
        Expiry::Never => (None, false),
        Expiry::Keep => (None, true),
        Expiry::AtMillis(at) => (Some(at), false),
    }
}

pub(crate) fn decode_expiry(
    expires_at_ms: Option<u64>,
    keep_expiry: bool,
) -> Result<Expiry, Malformed> {
    match (expires_at_ms, keep_expiry) {
        (None, false) => Ok(Expiry::Never),
        (None, true) => Ok(Expiry::Keep),
        (Some(at), false) => Ok(Expiry::AtMillis(at)),
        (Some(_), true) => Err(Malformed::new(
            "keep_expiry",
            "is set together with expires_at_ms",
        )),
    }
}

impl TryFrom<pb::PutRequest> for WriteRequest {
    type Error = Malformed;

    fn try_from(
        pb::PutRequest {
            mut key,
            mut value,
            condition,
            expires_at_ms,
            keep_expiry,
            return_previous,
            sequenced,
            // See `LeveledWrite`.
            write_level: _,
        }: pb::PutRequest,
    ) -> Result<Self, Malformed> {
        check_key(&key)?;
        bounded(value.len(), limits::VALUE_BYTES, "value")?;
        // They wait for their commit, and may be the previous value of later writes.
        detach([&mut key, &mut value].into_iter());
        let expiry = decode_expiry(expires_at_ms, keep_expiry)?;
        Ok(Self {
            op: WriteOp::Set {
                key,
                value,
                condition: decode_condition(condition)?,
                expiry,
                return_previous,
            },
            sequenced: optional(sequenced, "sequenced")?,
        })
    }
}

impl TryFrom<pb::DeleteRequest> for WriteRequest {
    type Error = Malformed;

    fn try_from(
        pb::DeleteRequest {
            mut key,
            condition,
            sequenced,
            write_level: _,
        }: pb::DeleteRequest,
    ) -> Result<Self, Malformed> {
        check_key(&key)?;
        detach(std::iter::once(&mut key));
        Ok(Self {
            op: WriteOp::Delete {
                key,
                condition: decode_condition(condition)?,
            },
            sequenced: optional(sequenced, "sequenced")?,
        })
    }
}

impl TryFrom<pb::IncrementRequest> for WriteRequest {
    type Error = Malformed;

    fn try_from(
        pb::IncrementRequest {
            mut key,
            delta,
            sequenced,
            write_level: _,
        }: pb::IncrementRequest,
    ) -> Result<Self, Malformed> {
        check_key(&key)?;
        detach(std::iter::once(&mut key));
        Ok(Self {
            op: WriteOp::Increment { key, delta },
            sequenced: optional(sequenced, "sequenced")?,
        })
    }
}

/// What a read may return.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Consistency {
    /// The cluster's default.
    #[default]
    Default,
    /// The latest committed value, from the primary under its lease.
    Primary,
    /// As rule 6 defines it.
    Quorum,
    /// As rule 6 defines it.
    Replica,
    /// As rule 6 defines it.
    Any,
}

impl From<Consistency> for pb::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Default => Self::Default,
            Consistency::Primary => Self::Primary,
            Consistency::Quorum => Self::Quorum,
            Consistency::Replica => Self::Replica,
            Consistency::Any => Self::Any,
        }
    }
}

/// One read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    /// The key.
    pub key: Bytes,
    /// How current the answer must be.
    pub consistency: Consistency,
}

impl From<ReadRequest> for pb::GetRequest {
    fn from(ReadRequest { key, consistency }: ReadRequest) -> Self {
        Self {
            key,
            consistency: pb::Consistency::from(consistency).into(),
        }
    }
}

impl TryFrom<pb::GetRequest> for ReadRequest {
    type Error = Malformed;

    fn try_from(pb::GetRequest { key, consistency }: pb::GetRequest) -> Result<Self, Malformed> {
        check_key(&key)?;
        let consistency = match pb::Consistency::try_from(consistency) {
            Ok(pb::Consistency::Default) => Consistency::Default,
            Ok(pb::Consistency::Primary) => Consistency::Primary,
            Ok(pb::Consistency::Quorum) => Consistency::Quorum,
            Ok(pb::Consistency::Replica) => Consistency::Replica,
            Ok(pb::Consistency::Any) => Consistency::Any,
            Err(_) => {
                return Err(Malformed::new(
                    "consistency",
                    format!("{consistency} is unknown"),
                ));
            }
        };
        Ok(Self { key, consistency })
    }
}

impl From<Value> for pb::Value {
    fn from(
        Value {
            data,
            version,
            expires_at,
            counter,
        }: Value,
    ) -> Self {
        Self {
            data,
            version: Some(version.into()),
            expires_at_ms: expires_at,
            counter: counter.map(|control| (*control).into()),
        }
    }
}

impl TryFrom<pb::Value> for Value {
    type Error = Malformed;

    fn try_from(
        pb::Value {
            data,
            version,
            expires_at_ms,
            counter,
        }: pb::Value,
    ) -> Result<Self, Malformed> {
        bounded(data.len(), limits::VALUE_BYTES, "data")?;
        Ok(Self {
            data,
            version: position(version, "version")?,
            expires_at: expires_at_ms,
            counter: counter.map(Control::try_from).transpose()?.map(Box::new),
        })
    }
}

/// An outcome that does not answer the question: a client used the name of one
/// write again for a write of another kind.
pub(crate) fn mismatched(question: &str, outcome: &WriteOutcome) -> Malformed {
    Malformed::new(
        "sequenced",
        format!("names an earlier write of another kind than {question}: it came to {outcome:?}"),
    )
}

impl TryFrom<WriteReply> for pb::PutReply {
    type Error = Malformed;

    fn try_from(WriteReply { outcome, position }: WriteReply) -> Result<Self, Malformed> {
        let position = Some(position.into());
        match outcome {
            WriteOutcome::Set { previous } => Ok(Self {
                applied: true,
                position,
                previous,
                existing: None,
            }),
            WriteOutcome::ConditionFailed { version, previous } => Ok(Self {
                applied: false,
                position,
                previous,
                existing: version.map(Into::into),
            }),
            other => Err(mismatched("a put", &other)),
        }
    }
}

impl TryFrom<pb::PutReply> for WriteReply {
    type Error = Malformed;

    fn try_from(
        pb::PutReply {
            applied,
            position: at,
            previous,
            existing,
        }: pb::PutReply,
    ) -> Result<Self, Malformed> {
        let outcome = if applied {
            WriteOutcome::Set { previous }
        } else {
            WriteOutcome::ConditionFailed {
                version: existing.map(Into::into),
                previous,
            }
        };
        Ok(Self {
            outcome,
            position: position(at, "position")?,
        })
    }
}

impl TryFrom<WriteReply> for pb::DeleteReply {
    type Error = Malformed;

    fn try_from(WriteReply { outcome, position }: WriteReply) -> Result<Self, Malformed> {
        let position = Some(position.into());
        match outcome {
            WriteOutcome::Deleted { count } => Ok(Self {
                deleted: count > 0,
                condition_failed: false,
                position,
                existing: None,
            }),
            WriteOutcome::ConditionFailed { version, .. } => Ok(Self {
                deleted: false,
                condition_failed: true,
                position,
                existing: version.map(Into::into),
            }),
            other => Err(mismatched("a delete", &other)),
        }
    }
}

impl TryFrom<pb::DeleteReply> for WriteReply {
    type Error = Malformed;

    fn try_from(
        pb::DeleteReply {
            deleted,
            condition_failed,
            position: at,
            existing,
        }: pb::DeleteReply,
    ) -> Result<Self, Malformed> {
        let outcome = if condition_failed {
            WriteOutcome::ConditionFailed {
                version: existing.map(Into::into),
                previous: None,
            }
        } else {
            WriteOutcome::Deleted {
                count: u64::from(deleted),
            }
        };
        Ok(Self {
            outcome,
            position: position(at, "position")?,
        })
    }
}

impl TryFrom<WriteReply> for pb::IncrementReply {
    type Error = Malformed;

    fn try_from(WriteReply { outcome, position }: WriteReply) -> Result<Self, Malformed> {
        use pb::increment_reply::Outcome;
        let outcome = match outcome {
            WriteOutcome::Integer(value) => Outcome::Value(value),
            other => match encode_refusal(&other) {
                Some(refusal) => Outcome::Refusal(refusal.into()),
                None => return Err(mismatched("an increment", &other)),
            },
        };
        Ok(Self {
            outcome: Some(outcome),
            position: Some(position.into()),
        })
    }
}

impl TryFrom<pb::IncrementReply> for WriteReply {
    type Error = Malformed;

    fn try_from(
        pb::IncrementReply {
            outcome,
            position: at,
        }: pb::IncrementReply,
    ) -> Result<Self, Malformed> {
        use pb::increment_reply::Outcome;
        let outcome = match outcome.ok_or_else(|| Malformed::missing("outcome"))? {
            Outcome::Value(value) => WriteOutcome::Integer(value),
            Outcome::Refusal(refusal) => decode_refusal(refusal)?,
        };
        Ok(Self {
            outcome,
            position: position(at, "position")?,
        })
    }
}

/// Why an increment is none, where that is what came of it.
pub(crate) fn encode_refusal(outcome: &WriteOutcome) -> Option<pb::increment_reply::Refusal> {
    use pb::increment_reply::Refusal;
    match outcome {
        WriteOutcome::NotAnInteger => Some(Refusal::NotAnInteger),
        WriteOutcome::Overflow => Some(Refusal::Overflow),
        _ => None,
    }
}

pub(crate) fn decode_refusal(refusal: i32) -> Result<WriteOutcome, Malformed> {
    use pb::increment_reply::Refusal;
    match Refusal::try_from(refusal) {
        Ok(Refusal::NotAnInteger) => Ok(WriteOutcome::NotAnInteger),
        Ok(Refusal::Overflow) => Ok(WriteOutcome::Overflow),
        Ok(Refusal::Unspecified) | Err(_) => {
            Err(Malformed::new("refusal", format!("{refusal} is unknown")))
        }
    }
}

/// Why a request was not answered, as it travels.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KvError {
    /// Another node is primary, or none is known. Nothing was done.
    #[error("partition {partition} is served by another node{}", at_address(.address))]
    Moved {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch where the question was put.
        epoch: Epoch,
        /// The primary, as far as known.
        primary: Option<Member>,
        /// The primary's client address; empty where unknown.
        address: String,
    },
    /// The primary cannot serve just now. Nothing was done.
    #[error("the primary of partition {partition} is not ready; try again shortly")]
    NotReady {
        /// Which partition.
        partition: PartitionId,
    },
    /// The write may or may not have happened, and may still.
    #[error("the outcome of the write is unknown; retry it under the same sequence to learn it")]
    Unknown,
    /// See [`RequestError::Unjudged`].
    #[error("the idempotence table no longer reaches back to this write")]
    Unjudged {
        /// Known to the client from here on.
        position: Position,
    },
    /// Too few replicas have disk room. Nothing was done.
    #[error("too few replicas have disk room for a write; reads go on")]
    DiskFull,
    /// Too much is waiting. Nothing was done.
    #[error("the node has too much waiting; try again more slowly")]
    Overloaded,
    /// A key is asked for more often than the node allows. Nothing was done.
    #[error("the key is asked for too often; try again in {wait_ms} ms")]
    Limited {
        /// How long to wait, at least.
        wait_ms: u32,
    },
    /// The keys of one request belong to several partitions.
    #[error(
        "the keys belong to different partitions, and what is done at once is done in one: keys \
         with the same {{hash tag}} are of the same"
    )]
    CrossPartition,
    /// There is no map yet.
    #[error("the cluster is not ready: no map yet")]
    NoMap,
    /// The request itself is wrong.
    #[error("invalid request: {field} {problem}")]
    Invalid {
        /// What is wrong.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The caller may not do it. Nothing was done.
    #[error("permission denied: this user may not {what}")]
    PermissionDenied {
        /// What it may not do.
        what: String,
    },
    /// The key is a striped counter, which this cannot be done to. Nothing was done.
    #[error("{}", RequestError::IsCounter)]
    IsCounter,
    /// The key is a striped counter: one of its stripes is to be incremented. Nothing was
    /// done.
    #[error("{}", RequestError::Striped(*.0))]
    Striped(Learned),
    /// Understood, and not offered by this server.
    #[error("not supported by this server: {what}")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
}

fn at_address(address: &str) -> String {
    if address.is_empty() {
        String::new()
    } else {
        format!(": {address}")
    }
}

impl KvError {
    /// From the partition's refusal; `address` finds the client address of a primary.
    pub fn from_request(error: RequestError, address: impl FnOnce(Member) -> String) -> Self {
        match error {
            RequestError::Moved {
                partition,
                epoch,
                primary,
            } => Self::Moved {
                partition,
                epoch,
                primary,
                address: primary.map(address).unwrap_or_default(),
            },
            RequestError::NotReady { partition } => Self::NotReady { partition },
            RequestError::Unknown => Self::Unknown,
            RequestError::Unjudged { position } => Self::Unjudged { position },
            RequestError::DiskFull => Self::DiskFull,
            RequestError::Overloaded => Self::Overloaded,
            RequestError::Limited { wait } => Self::Limited {
                wait_ms: u32::try_from(wait.0.div_ceil(1_000)).unwrap_or(u32::MAX),
            },
            RequestError::CrossPartition => Self::CrossPartition,
            RequestError::NoMap => Self::NoMap,
            RequestError::IsCounter => Self::IsCounter,
            RequestError::Striped(learned) => Self::Striped(learned),
        }
    }

    /// gRPC's code for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Moved { .. } | Self::IsCounter | Self::Striped(_) => Code::FailedPrecondition,
            Self::NotReady { .. } | Self::NoMap => Code::Unavailable,
            Self::Unknown => Code::Unknown,
            Self::Unjudged { .. } => Code::Aborted,
            Self::DiskFull | Self::Overloaded | Self::Limited { .. } => Code::ResourceExhausted,
            Self::CrossPartition | Self::Invalid { .. } => Code::InvalidArgument,
            Self::Unsupported { .. } => Code::Unimplemented,
            Self::PermissionDenied { .. } => Code::PermissionDenied,
        }
    }

    /// The typed reason that a status carries, if it is one of ours.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        let detail: pb::Error = refusal::detail(status)?;
        Self::try_from(detail).ok()
    }
}

impl From<Malformed> for KvError {
    fn from(error: Malformed) -> Self {
        Self::Invalid {
            field: error.field().to_owned(),
            problem: error.problem().to_owned(),
        }
    }
}

impl From<KvError> for Status {
    fn from(error: KvError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        refusal::status(code, message, &pb::Error::from(error))
    }
}

impl From<KvError> for pb::Error {
    fn from(error: KvError) -> Self {
        use pb::error::Kind;
        let kind = match error {
            KvError::Moved {
                partition,
                epoch,
                primary,
                address,
            } => Kind::Moved(pb::Moved {
                partition: partition.0,
                epoch: epoch.0,
                primary: primary.map(Into::into),
                address,
            }),
            KvError::NotReady { partition } => Kind::NotReady(pb::NotReady {
                partition: partition.0,
            }),
            KvError::Unknown => Kind::Unknown(pb::Unknown {}),
            KvError::Unjudged { position } => Kind::Unjudged(pb::Unjudged {
                position: Some(position.into()),
            }),
            KvError::DiskFull => Kind::DiskFull(pb::DiskFull {}),
            KvError::Overloaded => Kind::Overloaded(pb::Overloaded {}),
            KvError::Limited { wait_ms } => Kind::Limited(pb::Limited { wait_ms }),
            KvError::CrossPartition => Kind::CrossPartition(pb::CrossPartition {}),
            KvError::NoMap => Kind::NoMap(pb::NoMap {}),
            KvError::IsCounter => Kind::IsCounter(pb::IsCounter {}),
            KvError::Striped(learned) => Kind::Striped(learned.into()),
            KvError::Invalid { field, problem } => Kind::Invalid(pb::Invalid { field, problem }),
            KvError::Unsupported { what } => Kind::Unsupported(pb::Unsupported { what }),
            KvError::PermissionDenied { what } => {
                Kind::PermissionDenied(pb::PermissionDenied { what })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::Error> for KvError {
    type Error = Malformed;

    fn try_from(pb::Error { kind }: pb::Error) -> Result<Self, Malformed> {
        use pb::error::Kind;
        Ok(match kind.ok_or_else(|| Malformed::missing("kind"))? {
            Kind::Moved(pb::Moved {
                partition: id,
                epoch,
                primary,
                address,
            }) => Self::Moved {
                partition: partition(id, "moved.partition")?,
                epoch: Epoch(epoch),
                primary: optional(primary, "moved.primary")?,
                address: crate::malformed::text(address, limits::ADDRESS_BYTES, "moved.address")?,
            },
            Kind::NotReady(pb::NotReady { partition: id }) => Self::NotReady {
                partition: partition(id, "not_ready.partition")?,
            },
            Kind::Unknown(pb::Unknown {}) => Self::Unknown,
            Kind::Unjudged(pb::Unjudged { position: at }) => Self::Unjudged {
                position: position(at, "unjudged.position")?,
            },
            Kind::DiskFull(pb::DiskFull {}) => Self::DiskFull,
            Kind::Overloaded(pb::Overloaded {}) => Self::Overloaded,
            Kind::Limited(pb::Limited { wait_ms }) => Self::Limited { wait_ms },
            Kind::CrossPartition(pb::CrossPartition {}) => Self::CrossPartition,
            Kind::NoMap(pb::NoMap {}) => Self::NoMap,
            Kind::IsCounter(pb::IsCounter {}) => Self::IsCounter,
            Kind::Striped(striped) => Self::Striped(striped.try_into()?),
            Kind::Invalid(pb::Invalid { field, problem }) => Self::Invalid { field, problem },
            Kind::Unsupported(pb::Unsupported { what }) => Self::Unsupported { what },
            Kind::PermissionDenied(pb::PermissionDenied { what }) => {
                Self::PermissionDenied { what }
            }
        })
    }
}
