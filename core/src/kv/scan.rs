//! A page of a partition's keys, as asked for and as given.

use bytes::Bytes;

use super::request::Value;
use crate::ids::PartitionId;

/// Which keys of a partition are wanted. A page ends where one of its bounds is
/// reached, a key whose value alone exceeds `bytes` included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanQuery {
    /// Which partition.
    pub partition: PartitionId,
    /// What the keys begin with; empty: all.
    pub prefix: Bytes,
    /// Only keys after this one.
    pub after: Option<Bytes>,
    /// The most keys.
    pub limit: usize,
    /// About how many bytes of keys and values.
    pub bytes: usize,
    /// Whether values are left empty.
    pub keys_only: bool,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The key.
    pub key: Bytes,
    /// The value; its bytes are empty where only keys were asked for.
    pub value: Value,
}

/// Keys in ascending order, as they stood at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanPage {
    /// The keys. There may be none although the scan is not at its end.
    pub rows: Vec<Row>,
    /// The key after which the next page begins; `None`: there is no further key.
    pub next: Option<Bytes>,
}
