//! What a client may ask of one partition, and what it is told.
//!
//! These types stand between the protocols (RESP, gRPC) and the partition: both
//! are translated into them, so that each meaning is decided in one place.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::body::{KIND_COUNTER, StoredValue};
use super::integer;
use super::wire::DecodeError;
use crate::counters::Control;
use crate::counters::machine::Learned;
use crate::ids::{Epoch, Micros, PartitionId, Position};
use crate::record::Member;

/// A native client's name for one of its writes (rule 8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Sequenced {
    /// The client's UUID, drawn when it started.
    pub client: u128,
    /// The write, counted from 1, never reused by this client.
    pub sequence: u64,
    /// A log position of the partition that the client knew before its first try. With
    /// its epoch: after a promotion that lost entries (rule 9) a log goes on from a
    /// lower index than its clients know, and an index alone would claim to know
    /// what has not been written yet.
    pub known: Position,
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key's value has exactly this version.
    Version(Position),
}

/// What becomes of a key's expiry when it is set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Expiry {
    /// The key does not expire.
    #[default]
    Never,
    /// It keeps what it had.
    Keep,
    /// At this time: milliseconds since the Unix epoch, by the primary's clock.
    AtMillis(u64),
}

/// What must hold of a key's expiry for it to be changed, beside that the key exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum ExpiryCondition {
    /// Nothing.
    #[default]
    Always,
    /// The key does not expire.
    Never,
    /// The key expires.
    Expires,
    /// The key expires, and the new time is later.
    Later,
    /// The new time is sooner, which it always is where the key does not expire.
    Sooner,
    /// The key expires, and the new time is sooner.
    ExpiresSooner,
}

/// One operation of a batch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BatchOperation {
    /// The key.
    pub key: Bytes,
    /// When the batch may take effect. It is judged against the state before the batch.
    pub condition: Condition,
    /// What is done.
    pub action: BatchAction,
}

/// What an operation of a batch does to its key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BatchAction {
    /// Sets it.
    Put {
        /// The new value.
        value: Bytes,
        /// Its expiry.
        expiry: Expiry,
    },
    /// Deletes it.
    Delete,
    /// Adds to a decimal integer; a missing key counts as 0.
    Increment {
        /// How much; may be negative.
        delta: i64,
    },
}

impl BatchOperation {
    /// The value that it puts.
    #[must_use]
    pub fn value(&self) -> Option<&Bytes> {
        match &self.action {
            BatchAction::Put { value, .. } => Some(value),
            BatchAction::Delete | BatchAction::Increment { .. } => None,
        }
    }

    /// How many bytes of the client's it carries.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value().map_or(0, Bytes::len)
    }
}

/// How current the answer to a read must be (rule 6).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ReadLevel {
    /// The latest committed value, from the primary under its lease.
    #[default]
    Primary,
    /// The latest committed value, as a read quorum knows it: the primary may be slow or
    /// gone.
    Quorum,
    /// The latest committed value, from a replica that asked the primary how far that is.
    Replica,
    /// What one replica has, however old.
    Any,
}

impl ReadLevel {
    /// Every level.
    pub const ALL: [Self; 4] = [Self::Primary, Self::Quorum, Self::Replica, Self::Any];

    /// As settings and flags spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Quorum => "quorum",
            Self::Replica => "replica",
            Self::Any => "any",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// When a write is acknowledged (rule 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WriteLevel {
    /// Once W members of each set in force have flushed it.
    #[default]
    Quorum,
    /// Once all of them have. It commits with W as ever: one that is not acknowledged in
    /// time has an unknown outcome.
    All,
}

impl WriteLevel {
    /// As flags spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Quorum, Self::All]
            .into_iter()
            .find(|level| level.name() == name)
    }
}

/// One write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WriteOp {
    /// Sets a key.
    Set {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// When it may.
        condition: Condition,
        /// Its expiry.
        expiry: Expiry,
        /// Whether the old value is wanted in the answer.
        return_previous: bool,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: Bytes,
        /// When it may.
        condition: Condition,
    },
    /// Adds to a decimal integer; a missing key counts as 0.
    Increment {
        /// The key.
        key: Bytes,
        /// How much; may be negative.
        delta: i64,
    },
    /// Changes when a key expires; a time that has passed deletes it.
    Expire {
        /// The key.
        key: Bytes,
        /// The new expiry.
        expiry: Expiry,
        /// When it may, beside that the key exists.
        condition: ExpiryCondition,
        /// Whether the value is wanted in the answer.
        return_value: bool,
    },
    /// Writes into a value, whose expiry stays; a missing key counts as an empty value.
    Splice {
        /// The key.
        key: Bytes,
        /// Where; zeros fill what is missing before it. `None`: at the end.
        offset: Option<usize>,
        /// What.
        data: Bytes,
        /// The most bytes that the value may then have.
        bytes_max: usize,
    },
    /// Begins an edition of a striped counter, or tells what it came to: makes the key a
    /// value of kind [`super::body::KIND_COUNTER`]. Not for clients.
    Establish {
        /// The counter's key.
        key: Bytes,
        /// When it may.
        condition: Condition,
        /// The encoded [`crate::counters::Control`].
        control: Bytes,
        /// Its expiry.
        expiry: Expiry,
    },
    /// Begins an edition of a striped counter at the number that the key holds when this is
    /// judged, however often it is added to meanwhile. Refused where the key holds none, or one
    /// that expires. Not for clients.
    Adopt {
        /// The counter's key.
        key: Bytes,
        /// The encoded [`crate::counters::Control`], whose sums are replaced.
        control: Bytes,
    },
    /// Seals a stripe of a counter, after which it takes no addition; a missing key counts
    /// as 0. Not for clients.
    Seal {
        /// The stripe's key.
        key: Bytes,
        /// When the seal goes: milliseconds since the Unix epoch.
        expires_at: u64,
    },
    /// Ends a striped counter, all of whose stripes are sealed. Where the key has another
    /// version by now it is refused, and the refusal is not remembered: whoever ends it tries
    /// again under the same name. Not for clients.
    Conclude {
        /// The counter's key.
        key: Bytes,
        /// The version that it must have.
        version: Position,
        /// The value that follows, and when it expires; `None`: the key is deleted.
        to: Option<(Bytes, Option<u64>)>,
        /// What the counter was, where the answer is to tell.
        previous: Option<Bytes>,
    },
    /// Several operations on keys of one partition, all or nothing, as one entry. Each
    /// sees what those before it did.
    Batch {
        /// The operations, in order.
        operations: Vec<BatchOperation>,
    },
}

impl WriteOp {
    /// The keys that it touches, each as often as it is named.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let (one, several): (_, &[BatchOperation]) = match self {
            Self::Set { key, .. }
            | Self::Delete { key, .. }
            | Self::Increment { key, .. }
            | Self::Expire { key, .. }
            | Self::Splice { key, .. }
            | Self::Establish { key, .. }
            | Self::Adopt { key, .. }
            | Self::Seal { key, .. }
            | Self::Conclude { key, .. } => (Some(key), &[]),
            Self::Batch { operations } => (None, operations),
        };
        one.into_iter().chain(several.iter().map(|o| &o.key))
    }

    /// The values that it brings.
    pub fn values(&self) -> impl Iterator<Item = &Bytes> {
        let (one, several): (_, &[BatchOperation]) = match self {
            Self::Set { value, .. } => (Some(value), &[]),
            Self::Splice { data, .. } => (Some(data), &[]),
            Self::Establish { control, .. } | Self::Adopt { control, .. } => (Some(control), &[]),
            Self::Conclude { to, .. } => (to.as_ref().map(|(value, _)| value), &[]),
            Self::Delete { .. }
            | Self::Increment { .. }
            | Self::Expire { .. }
            | Self::Seal { .. } => (None, &[]),
            Self::Batch { operations } => (None, operations),
        };
        one.into_iter()
            .chain(several.iter().filter_map(BatchOperation::value))
    }

    /// The keys whose old data it needs to see, beside version and expiry.
    pub fn keys_with_data(&self) -> impl Iterator<Item = &Bytes> {
        let (one, several): (Option<&Bytes>, &[BatchOperation]) = match self {
            Self::Set {
                key,
                return_previous: true,
                ..
            }
            | Self::Increment { key, .. }
            | Self::Expire { key, .. }
            | Self::Splice { key, .. }
            | Self::Adopt { key, .. }
            | Self::Seal { key, .. } => (Some(key), &[]),
            Self::Set { .. }
            | Self::Delete { .. }
            | Self::Establish { .. }
            | Self::Conclude { .. } => (None, &[]),
            Self::Batch { operations } => (None, operations),
        };
        let increments = several
            .iter()
            .filter(|operation| matches!(operation.action, BatchAction::Increment { .. }))
            .map(|operation| &operation.key);
        one.into_iter().chain(increments)
    }

    /// Roughly how many bytes it keeps in memory while it waits.
    #[must_use]
    pub fn weight(&self) -> usize {
        const EACH: usize = 128;
        match self {
            Self::Set { key, value, .. } => EACH + key.len() + value.len(),
            Self::Splice {
                key,
                offset,
                data,
                bytes_max,
            } => EACH + key.len() + data.len() + offset.unwrap_or(0).min(*bytes_max),
            Self::Establish { key, control, .. } | Self::Adopt { key, control } => {
                EACH + key.len() + control.len()
            }
            Self::Conclude { key, to, .. } => {
                EACH + key.len() + to.as_ref().map_or(0, |(value, _)| value.len())
            }
            Self::Delete { key, .. }
            | Self::Increment { key, .. }
            | Self::Expire { key, .. }
            | Self::Seal { key, .. } => EACH + key.len(),
            Self::Batch { operations } => operations.iter().map(|o| EACH + o.bytes()).sum(),
        }
    }
}

/// A write and how it is to be treated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteRequest {
    /// What.
    pub op: WriteOp,
    /// Its name, from a native client.
    pub sequenced: Option<Sequenced>,
}

/// What came of a write that was judged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WriteOutcome {
    /// The key was set, or its expiry was.
    Set {
        /// The value before, where it was asked for and existed.
        previous: Option<Bytes>,
    },
    /// The condition did not hold; nothing was changed.
    ConditionFailed {
        /// The version that the key has, if it exists.
        version: Option<Position>,
        /// The value, where `return_previous` asked for it.
        previous: Option<Bytes>,
    },
    /// So many keys existed and are gone.
    Deleted {
        /// How many.
        count: u64,
    },
    /// The integer after the increment, or the length of the value after a splice.
    Integer(i64),
    /// The value is not a decimal integer of 64 bits; nothing was changed.
    NotAnInteger,
    /// The increment would leave 64 bits; nothing was changed.
    Overflow,
    /// The value would be longer than it may; nothing was changed.
    TooLong,
    /// A batch took effect: what came of each operation, in their order.
    Batch(Vec<WriteOutcome>),
    /// A batch did not take effect; nothing was changed.
    BatchRefused {
        /// The first operation that could not be carried out, counted from 0.
        at: usize,
        /// Why not: a failed condition, or an increment that is none.
        why: Box<WriteOutcome>,
    },
}

/// An answered write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteReply {
    /// What came of it.
    pub outcome: WriteOutcome,
    /// The version that it gave to what it changed, or, for a refusal, the
    /// position that it was judged against. The client may use it as
    /// [`Sequenced::known`] from here on.
    pub position: Position,
}

/// A stored value as a read returns it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// The bytes.
    pub data: Bytes,
    /// Its version.
    pub version: Position,
    /// When it expires: milliseconds since the Unix epoch.
    pub expires_at: Option<u64>,
    /// Of a striped counter: its edition. The bytes then say what the counter was when it was
    /// last added up.
    pub counter: Option<Box<Control>>,
}

impl Value {
    /// A string.
    #[must_use]
    pub fn string(data: Bytes, version: Position, expires_at: Option<u64>) -> Self {
        Self {
            data,
            version,
            expires_at,
            counter: None,
        }
    }

    /// What the store holds, as a read returns it.
    ///
    /// # Errors
    /// Where it is a counter whose edition cannot be decoded.
    pub fn of(version: Position, stored: StoredValue) -> Result<Self, DecodeError> {
        let StoredValue {
            expires_at,
            kind,
            data,
        } = stored;
        if kind != KIND_COUNTER {
            return Ok(Self::string(data, version, expires_at));
        }
        let control = Control::decode(&data)?;
        Ok(Self {
            data: integer::spell(control.total),
            counter: Some(Box::new(control)),
            ..Self::string(data, version, expires_at)
        })
    }
}

/// Why a request was not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// Another node is primary, or none is known. Nothing was done.
    #[error("partition {partition} is served by another node")]
    Moved {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch here.
        epoch: Epoch,
        /// The primary, as far as known.
        primary: Option<Member>,
    },
    /// This is the primary and it cannot serve just now: its barrier has not
    /// committed, or its lease lapsed and was not renewed in time. Nothing was done.
    #[error("the primary of partition {partition} is not ready")]
    NotReady {
        /// Which partition.
        partition: PartitionId,
    },
    /// The write may or may not have happened, and may still.
    #[error("the outcome of the write is unknown")]
    Unknown,
    /// A retry that the idempotence table cannot judge: if this was the write's
    /// first try it was not applied, else its outcome is unknown (rule 8).
    #[error("the idempotence table no longer reaches back to this write")]
    Unjudged {
        /// A committed position that the client may know from here on.
        position: Position,
    },
    /// Too few replicas have disk room. Nothing was done.
    #[error("too few replicas have disk room for a write")]
    DiskFull,
    /// Too much is waiting. Nothing was done.
    #[error("the node has too many writes waiting")]
    Overloaded,
    /// A key is asked for more often than the node allows (`CAIRN_KEY_RATE_MAX`). Nothing was
    /// done.
    #[error("a key is asked for too often; it may be again in {} ms", .wait.0.div_ceil(1_000))]
    Limited {
        /// How long to wait at least.
        wait: Micros,
    },
    /// The keys of one request belong to several partitions.
    #[error("the keys belong to different partitions")]
    CrossPartition,
    /// There is no map yet: the cluster has not been made.
    #[error("the cluster is not ready: no map yet")]
    NoMap,
    /// The key is a striped counter, which this cannot be done to. Nothing was done.
    #[error(
        "the key is a striped counter, which takes additions, reads, SET, DEL and EXPIRE alone"
    )]
    IsCounter,
    /// The key is a striped counter, and the write has a name, which only the partition of a
    /// stripe can judge. Nothing was done.
    #[error("the key is a striped counter: a write with a name goes to one of its stripes")]
    Striped(Learned),
}
