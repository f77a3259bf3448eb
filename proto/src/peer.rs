//! What data nodes say to each other.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::{
    Epoch, Index, MapVersion, Mark, Micros, NodeId, PartitionId, Position, ReplicaId,
};
use cairn_core::record::{Member, PartitionRecord};
use cairn_core::replication::entry::{EntryKind, LogEntry};
use cairn_core::replication::message::{
    Append, AppendOutcome, AppendReply, Confirm, ConfirmReply, FetchRange, LeaseRenew, LeaseReply,
    PeerMessage, Range,
};
use xxhash_rust::xxh3::Xxh3;

use crate::detach::detach;
use crate::limits;
use crate::malformed::{Malformed, bounded, list, name, narrow, required, text};
use crate::map::{lineage, partition};
use crate::pb::peer::v1 as pb;

/// Who is speaking. Opens every exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// The sender's wire format.
    pub format: u32,
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// Its number.
    pub node: NodeId,
    /// Its UUID.
    pub uuid: String,
    /// Its incarnation.
    pub incarnation: String,
    /// Whom it means to speak to; empty where it does not know.
    pub expected_uuid: String,
    /// What it understands.
    pub features: u64,
    /// Drawn when its process started.
    pub session: u64,
}

impl From<Handshake> for pb::Handshake {
    fn from(
        Handshake {
            format,
            cluster_id,
            node,
            uuid,
            incarnation,
            expected_uuid,
            features,
            session,
        }: Handshake,
    ) -> Self {
        Self {
            format,
            cluster_id,
            node: node.0,
            uuid,
            incarnation,
            expected_uuid,
            features,
            session,
        }
    }
}

impl TryFrom<pb::Handshake> for Handshake {
    type Error = Malformed;

    fn try_from(
        pb::Handshake {
            format,
            cluster_id,
            node,
            uuid,
            incarnation,
            expected_uuid,
            features,
            session,
        }: pb::Handshake,
    ) -> Result<Self, Malformed> {
        if node == 0 {
            return Err(Malformed::missing("node"));
        }
        Ok(Self {
            format,
            cluster_id: name(cluster_id, limits::LABEL_BYTES, "cluster_id")?,
            node: NodeId(node),
            uuid: name(uuid, limits::LABEL_BYTES, "uuid")?,
            incarnation: name(incarnation, limits::LABEL_BYTES, "incarnation")?,
            expected_uuid: text(expected_uuid, limits::LABEL_BYTES, "expected_uuid")?,
            features,
            session,
        })
    }
}

impl From<LogEntry> for pb::LogEntry {
    fn from(
        LogEntry {
            position,
            kind,
            body,
            chain,
        }: LogEntry,
    ) -> Self {
        Self {
            epoch: position.epoch.0,
            index: position.index.0,
            kind: kind as u32,
            body,
            chain,
        }
    }
}

impl TryFrom<pb::LogEntry> for LogEntry {
    type Error = Malformed;

    fn try_from(
        pb::LogEntry {
            epoch,
            index,
            kind,
            body,
            chain,
        }: pb::LogEntry,
    ) -> Result<Self, Malformed> {
        let number: u8 = narrow(kind, "kind")?;
        Ok(Self {
            position: Position {
                epoch: Epoch(epoch),
                index: Index(index),
            },
            kind: EntryKind::from_number(number)
                .ok_or_else(|| Malformed::new("kind", format!("{kind} is unknown")))?,
            body,
            chain,
        })
    }
}

impl From<Append> for pb::Append {
    fn from(
        Append {
            partition,
            epoch,
            to,
            from,
            session,
            previous,
            entries,
            commit,
        }: Append,
    ) -> Self {
        Self {
            partition: partition.0,
            epoch: epoch.0,
            to: to.0,
            from: from.0,
            previous_epoch: previous.position.epoch.0,
            previous_index: previous.position.index.0,
            previous_chain: previous.chain,
            entries: entries.into_iter().map(Into::into).collect(),
            commit: commit.0,
            session,
        }
    }
}

impl TryFrom<pb::Append> for Append {
    type Error = Malformed;

    fn try_from(
        pb::Append {
            partition: id,
            epoch,
            to,
            from,
            previous_epoch,
            previous_index,
            previous_chain,
            entries,
            commit,
            session,
        }: pb::Append,
    ) -> Result<Self, Malformed> {
        let mut entries: Vec<LogEntry> = list(entries, limits::APPEND_ENTRIES, "entries")?;
        let ascending = entries
            .iter()
            .zip(1u64..)
            .all(|(e, n)| Some(e.position.index.0) == previous_index.checked_add(n));
        if !ascending {
            return Err(Malformed::new(
                "entries",
                format!("do not count up from index {previous_index}"),
            ));
        }
        // The log keeps entries for long.
        detach(entries.iter_mut().map(|entry| &mut entry.body));
        Ok(Self {
            partition: partition(id, "partition")?,
            epoch: Epoch(epoch),
            to: ReplicaId(to),
            from: ReplicaId(from),
            session,
            previous: Mark {
                position: Position {
                    epoch: Epoch(previous_epoch),
                    index: Index(previous_index),
                },
                chain: previous_chain,
            },
            entries,
            commit: Index(commit),
        })
    }
}

impl From<FetchRange> for pb::FetchRange {
    fn from(
        FetchRange {
            partition,
            to,
            after,
            until,
        }: FetchRange,
    ) -> Self {
        Self {
            partition: partition.0,
            to: to.0,
            after_epoch: after.position.epoch.0,
            after_index: after.position.index.0,
            after_chain: after.chain,
            until: until.0,
        }
    }
}

impl TryFrom<pb::FetchRange> for FetchRange {
    type Error = Malformed;

    fn try_from(
        pb::FetchRange {
            partition: id,
            to,
            after_epoch,
            after_index,
            after_chain,
            until,
        }: pb::FetchRange,
    ) -> Result<Self, Malformed> {
        if after_index >= until {
            return Err(Malformed::new(
                "until",
                format!("{until} is not past index {after_index}"),
            ));
        }
        Ok(Self {
            partition: partition(id, "partition")?,
            to: ReplicaId(to),
            after: Mark {
                position: Position {
                    epoch: Epoch(after_epoch),
                    index: Index(after_index),
                },
                chain: after_chain,
            },
            until: Index(until),
        })
    }
}

impl From<Range> for pb::Range {
    fn from(
        Range {
            partition,
            from,
            after,
            entries,
        }: Range,
    ) -> Self {
        Self {
            partition: partition.0,
            from: from.0,
            after_epoch: after.position.epoch.0,
            after_index: after.position.index.0,
            after_chain: after.chain,
            entries: entries.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Range> for Range {
    type Error = Malformed;

    fn try_from(
        pb::Range {
            partition: id,
            from,
            after_epoch,
            after_index,
            after_chain,
            entries,
        }: pb::Range,
    ) -> Result<Self, Malformed> {
        Ok(Self {
            partition: partition(id, "partition")?,
            from: ReplicaId(from),
            after: Mark {
                position: Position {
                    epoch: Epoch(after_epoch),
                    index: Index(after_index),
                },
                chain: after_chain,
            },
            entries: list(entries, limits::APPEND_ENTRIES, "entries")?,
        })
    }
}

impl From<AppendReply> for pb::AppendReply {
    fn from(
        AppendReply {
            partition,
            epoch,
            from,
            session,
            outcome,
        }: AppendReply,
    ) -> Self {
        use pb::append_reply::Outcome;
        let outcome = match outcome {
            AppendOutcome::Matched { index } => Outcome::Matched(index.0),
            AppendOutcome::Diverged { head, lineage } => Outcome::Diverged(pb::Diverged {
                head_epoch: head.epoch.0,
                head_index: head.index.0,
                lineage: lineage.into_iter().map(Into::into).collect(),
            }),
            AppendOutcome::Refused => Outcome::Refused(pb::Empty {}),
            AppendOutcome::DiskFull => Outcome::DiskFull(pb::Empty {}),
        };
        Self {
            partition: partition.0,
            epoch: epoch.0,
            from: from.0,
            session,
            outcome: Some(outcome),
        }
    }
}

impl TryFrom<pb::AppendReply> for AppendReply {
    type Error = Malformed;

    fn try_from(
        pb::AppendReply {
            partition: id,
            epoch,
            from,
            session,
            outcome,
        }: pb::AppendReply,
    ) -> Result<Self, Malformed> {
        use pb::append_reply::Outcome;
        let outcome = match outcome.ok_or_else(|| Malformed::missing("outcome"))? {
            Outcome::Matched(index) => AppendOutcome::Matched {
                index: Index(index),
            },
            Outcome::Diverged(pb::Diverged {
                head_epoch,
                head_index,
                lineage: marks,
            }) => AppendOutcome::Diverged {
                head: Position {
                    epoch: Epoch(head_epoch),
                    index: Index(head_index),
                },
                lineage: lineage(marks, "diverged.lineage")?,
            },
            Outcome::Refused(pb::Empty {}) => AppendOutcome::Refused,
            Outcome::DiskFull(pb::Empty {}) => AppendOutcome::DiskFull,
        };
        Ok(Self {
            partition: partition(id, "partition")?,
            epoch: Epoch(epoch),
            from: ReplicaId(from),
            session,
            outcome,
        })
    }
}

impl From<LeaseRenew> for pb::LeaseRenew {
    fn from(
        LeaseRenew {
            session,
            round,
            version,
            span,
            set,
            commits,
        }: LeaseRenew,
    ) -> Self {
        Self {
            session,
            round,
            version,
            span_us: span.0,
            set: set.map(|set| pb::LeaseSet {
                partitions: set
                    .into_iter()
                    .map(|(partition, epoch)| pb::PartitionEpoch {
                        partition: partition.0,
                        epoch: epoch.0,
                    })
                    .collect(),
            }),
            commits: commits
                .into_iter()
                .map(|(partition, epoch, index)| pb::PartitionCommit {
                    partition: partition.0,
                    epoch: epoch.0,
                    index: index.0,
                })
                .collect(),
        }
    }
}

impl TryFrom<pb::LeaseRenew> for LeaseRenew {
    type Error = Malformed;

    fn try_from(
        pb::LeaseRenew {
            session,
            round,
            version,
            span_us,
            set,
            commits,
        }: pb::LeaseRenew,
    ) -> Result<Self, Malformed> {
        let set = match set {
            None => None,
            Some(pb::LeaseSet { partitions }) => {
                bounded(partitions.len(), limits::PARTITIONS, "set.partitions")?;
                let set: Result<Vec<(PartitionId, Epoch)>, Malformed> = partitions
                    .into_iter()
                    .map(|p| Ok((partition(p.partition, "set.partitions")?, Epoch(p.epoch))))
                    .collect();
                Some(set?)
            }
        };
        bounded(commits.len(), limits::PARTITIONS, "commits")?;
        let commits: Result<Vec<(PartitionId, Epoch, Index)>, Malformed> = commits
            .into_iter()
            .map(|c| {
                let id = partition(c.partition, "commits")?;
                Ok((id, Epoch(c.epoch), Index(c.index)))
            })
            .collect();
        Ok(Self {
            session,
            round,
            version,
            span: Micros(span_us),
            set,
            commits: commits?,
        })
    }
}

impl From<LeaseReply> for pb::LeaseReply {
    fn from(
        LeaseReply {
            session,
            round,
            version,
            excluded,
            span,
            disk_full,
            giving,
        }: LeaseReply,
    ) -> Self {
        Self {
            session,
            round,
            version,
            excluded: excluded.into_iter().map(|p| p.0).collect(),
            disk_full,
            span_us: span.0,
            giving,
        }
    }
}

impl TryFrom<pb::LeaseReply> for LeaseReply {
    type Error = Malformed;

    fn try_from(
        pb::LeaseReply {
            session,
            round,
            version,
            excluded,
            disk_full,
            span_us,
            giving,
        }: pb::LeaseReply,
    ) -> Result<Self, Malformed> {
        bounded(excluded.len(), limits::PARTITIONS, "excluded")?;
        let excluded: Result<Vec<PartitionId>, Malformed> = excluded
            .into_iter()
            .map(|p| partition(p, "excluded"))
            .collect();
        Ok(Self {
            session,
            round,
            version,
            excluded: excluded?,
            span: Micros(span_us),
            disk_full,
            giving,
        })
    }
}

impl From<PeerMessage> for pb::Message {
    fn from(message: PeerMessage) -> Self {
        use pb::message::Body;
        let body = match message {
            PeerMessage::Append(append) => Body::Append(append.into()),
            PeerMessage::AppendReply(reply) => Body::AppendReply(reply.into()),
            PeerMessage::LeaseRenew(renew) => Body::LeaseRenew(renew.into()),
            PeerMessage::LeaseReply(reply) => Body::LeaseReply(reply.into()),
            PeerMessage::Release { partition, epoch } => Body::Release(pb::Release {
                partition: partition.0,
                epoch: epoch.0,
            }),
            PeerMessage::Confirm(Confirm {
                partition,
                epoch,
                to,
                session,
            }) => Body::Confirm(pb::Confirm {
                partition: partition.0,
                epoch: epoch.0,
                to: to.0,
                session,
            }),
            PeerMessage::ConfirmReply(ConfirmReply {
                partition,
                epoch,
                from,
                session,
                promised,
                head,
            }) => Body::ConfirmReply(pb::ConfirmReply {
                partition: partition.0,
                epoch: epoch.0,
                from: from.0,
                session,
                promised: promised.0,
                head_epoch: head.epoch.0,
                head_index: head.index.0,
            }),
            PeerMessage::NeedSnapshot {
                partition,
                epoch,
                to,
                source,
                after,
            } => Body::NeedSnapshot(pb::NeedSnapshot {
                partition: partition.0,
                epoch: epoch.0,
                to: to.0,
                source: source.map(Into::into),
                after: after.0,
            }),
            PeerMessage::SnapshotNews(news) => Body::SnapshotNews(news.into()),
            PeerMessage::FetchRange(request) => Body::FetchRange(request.into()),
            PeerMessage::Range(range) => Body::Range(range.into()),
            PeerMessage::ReadAsk(ask) => Body::ReadAsk(ask.into()),
            PeerMessage::ReadAnswer(answer) => Body::ReadAnswer(answer.into()),
            PeerMessage::Record(record) => Body::Record(record.as_ref().into()),
            PeerMessage::MapVersion(version) => Body::MapVersion(version.0),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<pb::Message> for PeerMessage {
    type Error = Malformed;

    fn try_from(pb::Message { body }: pb::Message) -> Result<Self, Malformed> {
        use pb::message::Body;
        Ok(match body {
            None => return Err(Malformed::missing("body")),
            Some(Body::Append(append)) => Self::Append(required(Some(append), "append")?),
            Some(Body::AppendReply(reply)) => {
                Self::AppendReply(required(Some(reply), "append_reply")?)
            }
            Some(Body::LeaseRenew(renew)) => {
                Self::LeaseRenew(required(Some(renew), "lease_renew")?)
            }
            Some(Body::LeaseReply(reply)) => {
                Self::LeaseReply(required(Some(reply), "lease_reply")?)
            }
            Some(Body::Release(pb::Release {
                partition: id,
                epoch,
            })) => Self::Release {
                partition: partition(id, "release.partition")?,
                epoch: Epoch(epoch),
            },
            Some(Body::Confirm(pb::Confirm {
                partition: id,
                epoch,
                to,
                session,
            })) => Self::Confirm(Confirm {
                partition: partition(id, "confirm.partition")?,
                epoch: Epoch(epoch),
                to: ReplicaId(to),
                session,
            }),
            Some(Body::ConfirmReply(pb::ConfirmReply {
                partition: id,
                epoch,
                from,
                session,
                promised,
                head_epoch,
                head_index,
            })) => Self::ConfirmReply(ConfirmReply {
                partition: partition(id, "confirm_reply.partition")?,
                epoch: Epoch(epoch),
                from: ReplicaId(from),
                session,
                promised: Epoch(promised),
                head: Position {
                    epoch: Epoch(head_epoch),
                    index: Index(head_index),
                },
            }),
            Some(Body::NeedSnapshot(pb::NeedSnapshot {
                partition: id,
                epoch,
                to,
                source,
                after,
            })) => Self::NeedSnapshot {
                partition: partition(id, "need_snapshot.partition")?,
                epoch: Epoch(epoch),
                to: ReplicaId(to),
                source: source.map(Member::try_from).transpose()?,
                after: Index(after),
            },
            Some(Body::SnapshotNews(news)) => {
                Self::SnapshotNews(required(Some(news), "snapshot_news")?)
            }
            Some(Body::FetchRange(request)) => {
                Self::FetchRange(required(Some(request), "fetch_range")?)
            }
            Some(Body::Range(range)) => Self::Range(required(Some(range), "range")?),
            Some(Body::ReadAsk(ask)) => Self::ReadAsk(required(Some(ask), "read_ask")?),
            Some(Body::ReadAnswer(answer)) => {
                Self::ReadAnswer(required(Some(answer), "read_answer")?)
            }
            Some(Body::Record(record)) => Self::Record(Arc::new(
                PartitionRecord::try_from(record).map_err(|e| e.within("record"))?,
            )),
            Some(Body::MapVersion(version)) => Self::MapVersion(MapVersion(version)),
        })
    }
}

/// What ends a whole snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotEnd {
    /// The last entry that the copy holds.
    pub mark: Mark,
    /// The last mark of each epoch up to it, oldest first.
    pub lineage: Vec<Mark>,
    /// How many chunks of rows were sent.
    pub chunks: u64,
    /// [`SnapshotSum::finish`] over all chunks in the order sent.
    pub checksum: u64,
}

/// One message of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotChunk {
    /// Rows, in the store's own encoding.
    Rows {
        /// The rows.
        rows: Bytes,
        /// About how many bytes of rows the whole copy has; 0 where nobody can say.
        expected_bytes: u64,
        /// The last index that the copy holds; zero from a build that does not tell.
        last: Index,
    },
    /// The end.
    End(SnapshotEnd),
}

impl From<SnapshotChunk> for pb::SnapshotChunk {
    fn from(chunk: SnapshotChunk) -> Self {
        use pb::snapshot_chunk::Chunk;
        let (mut expected, mut last_index) = (0, Index::ZERO);
        let chunk = match chunk {
            SnapshotChunk::Rows {
                rows,
                expected_bytes,
                last,
            } => {
                expected = expected_bytes;
                last_index = last;
                Chunk::Rows(rows)
            }
            SnapshotChunk::End(SnapshotEnd {
                mark,
                lineage,
                chunks,
                checksum,
            }) => Chunk::End(pb::SnapshotEnd {
                mark: Some(mark.into()),
                lineage: lineage.into_iter().map(Into::into).collect(),
                chunks,
                checksum,
            }),
        };
        Self {
            chunk: Some(chunk),
            expected_bytes: expected,
            last: last_index.0,
        }
    }
}

impl TryFrom<pb::SnapshotChunk> for SnapshotChunk {
    type Error = Malformed;

    fn try_from(
        pb::SnapshotChunk {
            chunk,
            expected_bytes,
            last,
        }: pb::SnapshotChunk,
    ) -> Result<Self, Malformed> {
        use pb::snapshot_chunk::Chunk;
        Ok(match chunk.ok_or_else(|| Malformed::missing("chunk"))? {
            Chunk::Rows(rows) => {
                if rows.is_empty() {
                    return Err(Malformed::new("rows", "is empty"));
                }
                Self::Rows {
                    rows,
                    expected_bytes,
                    last: Index(last),
                }
            }
            Chunk::End(pb::SnapshotEnd {
                mark,
                lineage: marks,
                chunks,
                checksum,
            }) => Self::End(SnapshotEnd {
                mark: mark
                    .map(Mark::from)
                    .ok_or_else(|| Malformed::missing("end.mark"))?,
                lineage: lineage(marks, "end.lineage")?,
                chunks,
                checksum,
            }),
        })
    }
}

/// The checksum of a snapshot: XXH3-64 over the length of each chunk, 64 bits,
/// little-endian, followed by the chunk.
#[derive(Clone)]
pub struct SnapshotSum {
    hash: Xxh3,
    chunks: u64,
}

impl std::fmt::Debug for SnapshotSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSum")
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

impl Default for SnapshotSum {
    fn default() -> Self {
        Self {
            hash: Xxh3::with_seed(0),
            chunks: 0,
        }
    }
}

impl SnapshotSum {
    /// Takes the next chunk.
    pub fn add(&mut self, chunk: &[u8]) {
        self.hash.update(&(chunk.len() as u64).to_le_bytes());
        self.hash.update(chunk);
        self.chunks += 1;
    }

    /// How many chunks it took.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The checksum so far.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.hash.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoded_entry_does_not_keep_its_frame() {
        let frame = Bytes::from(vec![7; 1 << 20]);
        let entry = |index: u64| pb::LogEntry {
            epoch: 1,
            index,
            kind: EntryKind::Write as u32,
            body: frame.slice(100..200),
            chain: index,
        };
        let append = pb::Append {
            session: 1,
            partition: 1,
            epoch: 1,
            to: 1,
            from: 2,
            previous_epoch: 1,
            previous_index: 4,
            previous_chain: 0,
            entries: vec![entry(5), entry(6)],
            commit: 4,
        };
        let append = Append::try_from(append).expect("well formed");
        assert!(append.entries.iter().all(|e| e.body[..] == [7; 100]));
        assert!(frame.is_unique(), "an entry keeps its frame in memory");
    }
}
