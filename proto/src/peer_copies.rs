//! What data nodes tell each other of copies of a replica's state.

use cairn_core::ids::{Epoch, Index, ReplicaId};
use cairn_core::replication::message::{CopyNews, SnapshotNews};

use crate::malformed::Malformed;
use crate::map::partition;
use crate::pb::peer::v1 as pb;
use crate::pb::peer::v1::snapshot_news::News;

impl From<SnapshotNews> for pb::SnapshotNews {
    fn from(
        SnapshotNews {
            partition,
            epoch,
            from,
            source,
            news,
        }: SnapshotNews,
    ) -> Self {
        Self {
            partition: partition.0,
            epoch: epoch.0,
            from: from.0,
            source: source.0,
            news: Some(match news {
                CopyNews::Begun { last } => News::Begun(last.0),
                CopyNews::Failed => News::Failed(true),
            }),
        }
    }
}

impl TryFrom<pb::SnapshotNews> for SnapshotNews {
    type Error = Malformed;

    fn try_from(
        pb::SnapshotNews {
            partition: id,
            epoch,
            from,
            source,
            news,
        }: pb::SnapshotNews,
    ) -> Result<Self, Malformed> {
        Ok(Self {
            partition: partition(id, "snapshot_news.partition")?,
            epoch: Epoch(epoch),
            from: ReplicaId(from),
            source: ReplicaId(source),
            news: match news.ok_or_else(|| Malformed::missing("snapshot_news.news"))? {
                News::Begun(last) => CopyNews::Begun { last: Index(last) },
                News::Failed(_) => CopyNews::Failed,
            },
        })
    }
}
