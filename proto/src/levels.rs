//! The levels of reads and writes, as they travel with requests and replies.

use cairn_core::ids::{Epoch, Index};
use cairn_core::kv::request::{ReadLevel, WriteLevel, WriteRequest};

use crate::kv::Consistency;
use crate::malformed::Malformed;
use crate::pb::kv::v1 as pb;

impl Consistency {
    /// The level that is meant, where the default is that one.
    #[must_use]
    pub fn level(self, default: ReadLevel) -> ReadLevel {
        match self {
            Self::Default => default,
            Self::Primary => ReadLevel::Primary,
            Self::Quorum => ReadLevel::Quorum,
            Self::Replica => ReadLevel::Replica,
            Self::Any => ReadLevel::Any,
        }
    }
}

impl From<ReadLevel> for Consistency {
    fn from(level: ReadLevel) -> Self {
        match level {
            ReadLevel::Primary => Self::Primary,
            ReadLevel::Quorum => Self::Quorum,
            ReadLevel::Replica => Self::Replica,
            ReadLevel::Any => Self::Any,
        }
    }
}

/// How current the state was that a read of the level `any` was answered from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaState {
    /// The replica's epoch.
    pub epoch: Epoch,
    /// The state had applied at least this index of the log.
    pub applied: Index,
    /// The commit index that the replica knew of.
    pub commit: Index,
}

impl ReplicaState {
    /// How many entries that are known to be committed the state may have lacked. There
    /// may be more that the replica had not heard of.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.commit.0.saturating_sub(self.applied.0)
    }
}

impl From<ReplicaState> for pb::ReplicaState {
    fn from(
        ReplicaState {
            epoch,
            applied,
            commit,
        }: ReplicaState,
    ) -> Self {
        Self {
            epoch: epoch.0,
            applied: applied.0,
            commit: commit.0,
        }
    }
}

impl From<pb::ReplicaState> for ReplicaState {
    fn from(
        pb::ReplicaState {
            epoch,
            applied,
            commit,
        }: pb::ReplicaState,
    ) -> Self {
        Self {
            epoch: Epoch(epoch),
            applied: Index(applied),
            commit: Index(commit),
        }
    }
}

/// A write and when it is to be acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeveledWrite {
    /// The write.
    pub request: WriteRequest,
    /// When.
    pub level: WriteLevel,
}

fn encode(level: WriteLevel) -> i32 {
    match level {
        WriteLevel::Quorum => pb::WriteLevel::Quorum,
        WriteLevel::All => pb::WriteLevel::All,
    }
    .into()
}

fn decode(level: i32) -> Result<WriteLevel, Malformed> {
    match pb::WriteLevel::try_from(level) {
        Ok(pb::WriteLevel::Quorum) => Ok(WriteLevel::Quorum),
        Ok(pb::WriteLevel::All) => Ok(WriteLevel::All),
        Err(_) => Err(Malformed::new("write_level", format!("{level} is unknown"))),
    }
}

impl TryFrom<LeveledWrite> for pb::call::Request {
    type Error = Malformed;

    fn try_from(LeveledWrite { request, level }: LeveledWrite) -> Result<Self, Malformed> {
        let mut request = Self::try_from(request)?;
        let write_level = encode(level);
        match &mut request {
            Self::Put(put) => put.write_level = write_level,
            Self::Delete(delete) => delete.write_level = write_level,
            Self::Increment(increment) => increment.write_level = write_level,
            Self::Batch(batch) => batch.write_level = write_level,
            Self::Get(_) => {}
        }
        Ok(request)
    }
}

macro_rules! leveled {
    ($($request:ty),*) => {
        $(impl TryFrom<$request> for LeveledWrite {
            type Error = Malformed;

            fn try_from(request: $request) -> Result<Self, Malformed> {
                Ok(Self {
                    level: decode(request.write_level)?,
                    request: WriteRequest::try_from(request)?,
                })
            }
        })*
    };
}

leveled!(
    pb::PutRequest,
    pb::DeleteRequest,
    pb::IncrementRequest,
    pb::BatchRequest
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_comes_back_and_an_unknown_one_is_refused() {
        for level in [WriteLevel::Quorum, WriteLevel::All] {
            assert_eq!(decode(encode(level)), Ok(level));
        }
        assert_eq!(
            decode(7).map_err(|e| e.field().to_owned()),
            Err("write_level".into())
        );
        for level in ReadLevel::ALL {
            assert_eq!(Consistency::from(level).level(ReadLevel::Primary), level);
            assert_eq!(Consistency::Default.level(level), level);
        }
    }
}
