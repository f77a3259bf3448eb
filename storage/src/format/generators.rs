//! Random values of every format, for the property tests.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, MapVersion, Mark, NodeId, PartitionId, Position, ReplicaId};
use cairn_core::record::{Configuration, Member, PartitionRecord, ReplicaSet, SlotRange};
use cairn_core::replication::{DurableRecord, EntryKind, Generation, LogEntry, PartitionMeta};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::batch::{BODY_BYTES_MAX, BatchHeader, BatchKind};
use super::meta::CheckpointRow;
use super::segment_header::{LogIdentity, Predecessor, SegmentHeader};
use super::snapshot_chunk::SnapshotChunk;

/// Small numbers and the largest ones alike.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX)]
}

pub(super) fn position() -> impl Strategy<Value = Position> {
    (number(), number()).prop_map(|(epoch, index)| Position {
        epoch: Epoch(epoch),
        index: Index(index),
    })
}

pub(super) fn mark() -> impl Strategy<Value = Mark> {
    (position(), any::<u64>()).prop_map(|(position, chain)| Mark { position, chain })
}

pub(super) fn lineage() -> impl Strategy<Value = Vec<Mark>> {
    vec(mark(), 0..8)
}

fn bytes(longest: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..longest).prop_map(Bytes::from)
}

fn partition() -> impl Strategy<Value = PartitionId> {
    any::<u32>().prop_map(PartitionId)
}

fn member() -> impl Strategy<Value = Member> {
    (number(), number()).prop_map(|(node, replica)| Member {
        node: NodeId(node),
        replica: ReplicaId(replica),
    })
}

fn replica_set() -> impl Strategy<Value = ReplicaSet> {
    (vec(member(), 0..8), any::<u8>()).prop_map(|(members, write_quorum)| ReplicaSet {
        members,
        write_quorum,
    })
}

pub(super) fn partition_record() -> impl Strategy<Value = PartitionRecord> {
    (
        (partition(), any::<u16>(), any::<u16>()),
        (number(), number(), number()),
        (
            replica_set(),
            option::of(replica_set()),
            vec(member(), 0..3),
        ),
        option::of(member()),
        any::<bool>(),
    )
        .prop_map(
            |(
                (id, first, last),
                (epoch, revision, changed_at),
                (current, joint, learners),
                primary,
                degraded,
            )| {
                PartitionRecord {
                    id,
                    slots: SlotRange { first, last },
                    epoch: Epoch(epoch),
                    revision,
                    config: Configuration {
                        current,
                        joint,
                        learners,
                        readers: Vec::new(),
                    },
                    primary,
                    degraded,
                    changed_at: MapVersion(changed_at),
                }
            },
        )
}

fn log_entry() -> impl Strategy<Value = LogEntry> {
    (position(), any::<bool>(), bytes(200), any::<u64>()).prop_map(
        |(position, barrier, body, chain)| LogEntry {
            position,
            kind: if barrier {
                EntryKind::Barrier
            } else {
                EntryKind::Write
            },
            body,
            chain,
        },
    )
}

pub(super) fn durable_record() -> impl Strategy<Value = DurableRecord> {
    prop_oneof![
        (partition(), number(), number()).prop_map(|(partition, replica, generation)| {
            DurableRecord::Create {
                partition,
                replica: ReplicaId(replica),
                generation: Generation(generation),
            }
        }),
        (partition(), number(), number()).prop_map(|(partition, epoch, revision)| {
            DurableRecord::Delete {
                partition,
                order: (Epoch(epoch), revision),
            }
        }),
        (partition(), number()).prop_map(|(partition, replica)| DurableRecord::Corrupt {
            partition,
            replica: ReplicaId(replica),
        }),
        (partition(), number()).prop_map(|(partition, epoch)| DurableRecord::Promise {
            partition,
            epoch: Epoch(epoch),
        }),
        partition_record().prop_map(|record| DurableRecord::Configure {
            record: Arc::new(record),
        }),
        (partition(), log_entry())
            .prop_map(|(partition, entry)| DurableRecord::Entry { partition, entry }),
        (partition(), mark()).prop_map(|(partition, to)| DurableRecord::Truncate { partition, to }),
        (partition(), number(), mark(), lineage(), any::<bool>()).prop_map(
            |(partition, generation, mark, lineage, keep_tail)| DurableRecord::Installed {
                partition,
                generation: Generation(generation),
                mark,
                lineage,
                keep_tail,
            }
        ),
    ]
}

pub(super) fn checkpoint_row() -> impl Strategy<Value = CheckpointRow> {
    (
        (partition(), option::of(number()), number(), number()),
        option::of(partition_record()),
        option::of((number(), number())),
        (mark(), lineage()),
        (any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                (partition, replica, generation, promised),
                record,
                deleted_at,
                (base, lineage),
                (corrupt, dropped_tail),
            )| CheckpointRow {
                meta: PartitionMeta {
                    partition,
                    replica: replica.map(ReplicaId),
                    generation: Generation(generation),
                    promised: Epoch(promised),
                    record: record.map(Arc::new),
                    deleted_at: deleted_at.map(|(epoch, revision)| (Epoch(epoch), revision)),
                    base,
                    lineage,
                },
                corrupt,
                dropped_tail,
            },
        )
}

pub(super) fn segment_header() -> impl Strategy<Value = SegmentHeader> {
    (
        ("[a-z0-9-]{0,64}", any::<u128>(), any::<u128>()),
        (number(), any::<u64>()),
        option::of((any::<u64>(), number())),
        (number(), number(), number()),
    )
        .prop_map(
            |(
                (cluster, node, incarnation),
                (number, segment),
                predecessor,
                (batch_sequence, structural, prepared_end),
            )| SegmentHeader {
                identity: LogIdentity {
                    cluster,
                    node,
                    incarnation,
                },
                number,
                segment,
                predecessor: predecessor.map(|(segment, end)| Predecessor { segment, end }),
                batch_sequence,
                structural,
                prepared_end,
            },
        )
}

pub(super) fn batch_header() -> impl Strategy<Value = BatchHeader> {
    (
        prop_oneof![
            Just(BatchKind::Records),
            Just(BatchKind::Checkpoint),
            Just(BatchKind::CheckpointEnd),
            Just(BatchKind::Empty),
            Just(BatchKind::Rows),
        ],
        any::<u64>(),
        (number(), number(), number()),
        (any::<u32>(), 0..=BODY_BYTES_MAX as u32, any::<u32>()),
    )
        .prop_map(
            |(
                kind,
                segment,
                (sequence, known_flushed, structural),
                (frames, body_bytes, body_checksum),
            )| BatchHeader {
                kind,
                segment,
                sequence,
                known_flushed,
                structural,
                frames,
                body_bytes,
                body_checksum,
            },
        )
}

pub(super) fn snapshot_chunk() -> impl Strategy<Value = SnapshotChunk> {
    (number(), vec((bytes(20), bytes(60)), 0..10), any::<bool>())
        .prop_map(|(number, rows, last)| SnapshotChunk { number, rows, last })
}
