//! The one encoding of everything that a coordinator stores: a format byte, then
//! JSON. The keys of the keyspace.
//!
//! JSON, because a coordinator writes little, because fields can be added with
//! defaults, and because a person can read a broken disk.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The number of the format. A newer one is refused (rule 18).
pub(super) const FORMAT: u8 = 1;

/// The keys.
pub(super) mod keys {
    /// The number of the format of the whole directory.
    pub(in super::super) const FORMAT: &[u8] = b"m/format";
    /// [`super::super::Identity`].
    pub(in super::super) const IDENTITY: &[u8] = b"m/identity";
    /// Raft's vote.
    pub(in super::super) const VOTE: &[u8] = b"m/vote";
    /// The last log id that was known to be committed; a hint.
    pub(in super::super) const COMMITTED: &[u8] = b"m/committed";
    /// The last log id that was purged.
    pub(in super::super) const PURGED: &[u8] = b"m/purged";
    /// How many flushed batches there were.
    pub(in super::super) const WRITTEN: &[u8] = b"m/written";
    /// The last snapshot.
    pub(in super::super) const SNAPSHOT: &[u8] = b"s/current";
    /// What every log entry's key begins with; the index follows, big-endian.
    pub(in super::super) const LOG: &[u8] = b"l/";

    /// The key of a log entry.
    pub(in super::super) fn entry(index: u64) -> Vec<u8> {
        let mut key = LOG.to_vec();
        key.extend_from_slice(&index.to_be_bytes());
        key
    }
}

/// Why stored bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum DecodeError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Written by a newer build.
    #[error("it has format {0}, and this build understands up to {FORMAT}")]
    Newer(u8),
    /// Damaged, or not what was expected.
    #[error("it does not parse: {0}")]
    Parse(#[from] serde_json::Error),
}

/// Encodes a value.
///
/// # Panics
/// Where a type of Cairn cannot be written as JSON, which its tests rule out.
pub(in super::super) fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value).expect("a stored type does not encode as JSON");
    bytes
}

/// Decodes a value.
pub(in super::super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&FORMAT, json)) => Ok(serde_json::from_slice(json)?),
        Some((&other, _)) => Err(DecodeError::Newer(other)),
    }
}

/// What stands under [`keys::FORMAT`].
pub(super) fn current() -> Vec<u8> {
    vec![FORMAT]
}

/// Checks what stands under [`keys::FORMAT`]; nothing does on a fresh disk.
pub(super) fn check(stored: Option<&[u8]>) -> Result<(), DecodeError> {
    match stored {
        None | Some(&[FORMAT]) => Ok(()),
        Some(bytes) => Err(bytes
            .first()
            .map_or(DecodeError::Empty, |&b| DecodeError::Newer(b))),
    }
}
