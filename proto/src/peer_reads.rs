//! What data nodes ask each other for the sake of reads.

use cairn_core::ids::{Epoch, Index, Micros, Position, ReplicaId};
use cairn_core::replication::message::{ReadAnswer, ReadAsk, Stand};

use crate::limits;
use crate::malformed::{Malformed, bounded, list};
use crate::map::partition;
use crate::pb::peer::v1 as pb;

impl From<ReadAsk> for pb::ReadAsk {
    fn from(
        ReadAsk {
            session,
            number,
            partitions,
            leases,
        }: ReadAsk,
    ) -> Self {
        Self {
            session,
            number,
            partitions: partitions.into_iter().map(|p| p.0).collect(),
            leases: leases.into_iter().map(|p| p.0).collect(),
        }
    }
}

impl TryFrom<pb::ReadAsk> for ReadAsk {
    type Error = Malformed;

    fn try_from(
        pb::ReadAsk {
            session,
            number,
            partitions,
            leases,
        }: pb::ReadAsk,
    ) -> Result<Self, Malformed> {
        bounded(partitions.len(), limits::PARTITIONS, "partitions")?;
        bounded(leases.len(), limits::PARTITIONS, "leases")?;
        let partitions = partitions.into_iter().map(|id| partition(id, "partitions"));
        let leases = leases.into_iter().map(|id| partition(id, "leases"));
        Ok(Self {
            session,
            number,
            partitions: partitions.collect::<Result<_, _>>()?,
            leases: leases.collect::<Result<_, _>>()?,
        })
    }
}

impl From<ReadAnswer> for pb::ReadAnswer {
    fn from(
        ReadAnswer {
            session,
            number,
            stands,
        }: ReadAnswer,
    ) -> Self {
        Self {
            session,
            number,
            stands: stands.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::ReadAnswer> for ReadAnswer {
    type Error = Malformed;

    fn try_from(
        pb::ReadAnswer {
            session,
            number,
            stands,
        }: pb::ReadAnswer,
    ) -> Result<Self, Malformed> {
        Ok(Self {
            session,
            number,
            stands: list(stands, limits::PARTITIONS, "stands")?,
        })
    }
}

impl From<Stand> for pb::Stand {
    fn from(
        Stand {
            partition,
            replica,
            epoch,
            leased,
            head,
            commit,
            reads_for,
        }: Stand,
    ) -> Self {
        Self {
            partition: partition.0,
            replica: replica.0,
            epoch: epoch.0,
            leased,
            head_epoch: head.epoch.0,
            head_index: head.index.0,
            commit_epoch: commit.epoch.0,
            commit_index: commit.index.0,
            reads_for_us: reads_for.0,
        }
    }
}

impl TryFrom<pb::Stand> for Stand {
    type Error = Malformed;

    fn try_from(
        pb::Stand {
            partition: id,
            replica,
            epoch,
            leased,
            head_epoch,
            head_index,
            commit_epoch,
            commit_index,
            reads_for_us,
        }: pb::Stand,
    ) -> Result<Self, Malformed> {
        let position = |epoch, index| Position {
            epoch: Epoch(epoch),
            index: Index(index),
        };
        Ok(Self {
            partition: partition(id, "partition")?,
            replica: ReplicaId(replica),
            epoch: Epoch(epoch),
            leased,
            head: position(head_epoch, head_index),
            commit: position(commit_epoch, commit_index),
            reads_for: Micros(reads_for_us),
        })
    }
}
