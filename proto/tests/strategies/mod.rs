//! Values of every type that travels.

mod reads;

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::cluster::report::{
    CopyProgress, FollowerStatus, Heartbeat, HeatReport, KeyHeat, NodeFigures, Order,
    PartitionStatus, ReplicaReport, Role, Wish,
};
use cairn_core::counters::Control;
use cairn_core::hot::PartitionLoad;
use cairn_core::ids::{
    Epoch, Index, MapVersion, Mark, Micros, NodeId, PartitionId, Position, ReplicaId,
};
use cairn_core::kv::request::{
    BatchAction, BatchOperation, Condition, Expiry, ReadLevel, Sequenced, Value, WriteOp,
    WriteOutcome, WriteReply, WriteRequest,
};
use cairn_core::record::{
    Addresses, ClusterMap, ClusterSettings, Configuration, CoordinatorInfo, Member, NodeInfo,
    NodeStanding, OutsideAddresses, PartitionRecord, ReplicaSet, SlotRange,
};
use cairn_core::replication::message::{
    Append, AppendOutcome, AppendReply, Confirm, ConfirmReply, CopyNews, FetchRange, LeaseRenew,
    LeaseReply, Range, SnapshotNews,
};
use cairn_core::replication::{EntryKind, LogEntry, PeerMessage};
use cairn_core::slots::range_of_partition;
use cairn_proto::kv::{Consistency, KvError, ReadRequest};
use cairn_proto::map::{MapDelta, MapUpdate};
use cairn_proto::peer::{Handshake, SnapshotChunk, SnapshotEnd};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample;

pub(crate) fn position() -> BoxedStrategy<Position> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(epoch, index)| Position {
            epoch: Epoch(epoch),
            index: Index(index),
        })
        .boxed()
}

pub(crate) fn mark() -> BoxedStrategy<Mark> {
    (position(), any::<u64>())
        .prop_map(|(position, chain)| Mark { position, chain })
        .boxed()
}

/// Marks of ascending epochs and indexes.
pub(crate) fn lineage() -> BoxedStrategy<Vec<Mark>> {
    vec((1u64..1000, 0u64..1000, any::<u64>()), 0..8)
        .prop_map(|steps| {
            let mut at = Position::ZERO;
            let marks = steps.into_iter().map(|(epoch, index, chain)| {
                at.epoch.0 += epoch;
                at.index.0 += index;
                Mark {
                    position: at,
                    chain,
                }
            });
            marks.collect()
        })
        .boxed()
}

fn partition() -> BoxedStrategy<PartitionId> {
    (0u32..16_384).prop_map(PartitionId).boxed()
}

fn replica() -> BoxedStrategy<ReplicaId> {
    (1..=u64::MAX).prop_map(ReplicaId).boxed()
}

fn node() -> BoxedStrategy<NodeId> {
    (1..=u64::MAX).prop_map(NodeId).boxed()
}

pub(crate) fn member() -> BoxedStrategy<Member> {
    (node(), replica())
        .prop_map(|(node, replica)| Member { node, replica })
        .boxed()
}

pub(crate) fn replica_set() -> BoxedStrategy<ReplicaSet> {
    vec(member(), 1..8)
        .prop_flat_map(|members| {
            let most = u8::try_from(members.len()).expect("few");
            (Just(members), 1..=most).prop_map(|(members, write_quorum)| ReplicaSet {
                members,
                write_quorum,
            })
        })
        .boxed()
}

pub(crate) fn configuration() -> BoxedStrategy<Configuration> {
    let joint = option::of(replica_set());
    let others = (vec(member(), 0..3), vec(member(), 0..3));
    (replica_set(), joint, others)
        .prop_map(|(current, joint, (learners, readers))| Configuration {
            current,
            joint,
            learners,
            readers,
        })
        .boxed()
}

pub(crate) fn record() -> BoxedStrategy<PartitionRecord> {
    let slots = (0u16..16_384, 0u16..16_384).prop_map(|(a, b)| SlotRange {
        first: a.min(b),
        last: a.max(b),
    });
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    let primary = option::of(member());
    let rest = (configuration(), primary, any::<bool>());
    (partition(), slots, numbers, rest)
        .prop_map(
            |(id, slots, (epoch, revision, changed_at), (config, primary, degraded))| {
                PartitionRecord {
                    id,
                    slots,
                    epoch: Epoch(epoch),
                    revision,
                    config,
                    primary,
                    degraded,
                    changed_at: MapVersion(changed_at),
                }
            },
        )
        .boxed()
}

fn label() -> BoxedStrategy<String> {
    "[a-zA-Z0-9äß.:_-]{1,20}".boxed()
}

fn addresses() -> BoxedStrategy<Addresses> {
    (
        label(),
        label(),
        label(),
        "[a-z0-9.:]{0,10}",
        "[a-z0-9.]{0,10}",
        any::<Option<std::net::IpAddr>>(),
        ("[a-z0-9.:]{0,10}", "[a-z0-9.:]{0,10}"),
    )
        .prop_map(
            |(resp, client, peer, http, resp_hostname, ip, outside)| Addresses {
                resp,
                client,
                peer,
                http,
                resp_hostname,
                ip,
                outside: Box::new(OutsideAddresses {
                    resp: outside.0,
                    client: outside.1,
                }),
            },
        )
        .boxed()
}

pub(crate) fn node_info() -> BoxedStrategy<NodeInfo> {
    let names = (label(), label(), label(), "[a-z]{0,5}");
    let numbers = (any::<u32>(), any::<u64>(), any::<u64>(), any::<bool>());
    (node(), names, addresses(), numbers)
        .prop_map(
            |(
                id,
                (uuid, incarnation, name, zone),
                addresses,
                (weight, features, changed_at, member),
            )| NodeInfo {
                id,
                uuid,
                incarnation,
                name,
                addresses,
                zone,
                weight,
                standing: if member {
                    NodeStanding::Member
                } else {
                    NodeStanding::Gone
                },
                features,
                changed_at: MapVersion(changed_at),
            },
        )
        .boxed()
}

pub(crate) fn settings() -> BoxedStrategy<ClusterSettings> {
    let small = (any::<u8>(), any::<u8>(), any::<u8>());
    let counts = (0u32..=16_384, any::<u32>(), any::<u32>(), any::<u32>());
    let times = (any::<u64>(), any::<u64>(), any::<u64>());
    let reads = (sample::select(ReadLevel::ALL.to_vec()), any::<u8>());
    (small, counts, times, reads)
        .prop_map(|(small, counts, times, reads)| ClusterSettings {
            read_level: reads.0,
            read_quorum: reads.1,
            replace_after_ms: times.1 ^ times.2,
            moves_per_node: reads.1 ^ small.0,
            replication_factor: small.0,
            write_quorum: small.1,
            min_in_sync: small.2,
            partitions: counts.0,
            virtual_nodes: counts.1,
            initial_data_nodes: counts.2,
            idempotence_window: counts.3,
            lease_ms: times.0,
            lease_ms_longest: times.1,
            node_timeout_ms: times.2,
            counters: ["", "views:=16", "a=0,b=64"][usize::from(small.2 % 3)].to_owned(),
        })
        .boxed()
}

pub(crate) fn cluster_map() -> BoxedStrategy<ClusterMap> {
    let table = vec(record(), 0..5).prop_map(|mut records| {
        let count = u32::try_from(records.len()).expect("few");
        for (id, record) in (0..).zip(&mut records) {
            record.id = PartitionId(id);
            record.slots = range_of_partition(id, count);
        }
        records.into_iter().map(Arc::new).collect()
    });
    let nodes = vec(node_info(), 0..4);
    let settings = option::of(settings());
    let coordinators = vec(coordinator(), 0..4);
    (label(), 1..=u64::MAX, settings, nodes, table, coordinators)
        .prop_map(
            |(cluster_id, version, settings, nodes, partitions, coordinators)| ClusterMap {
                cluster_id,
                version: MapVersion(version),
                settings: settings.map(Arc::new),
                nodes: nodes.into_iter().map(|n| (n.id, Arc::new(n))).collect(),
                partitions,
                coordinators,
            },
        )
        .boxed()
}

fn coordinator() -> BoxedStrategy<CoordinatorInfo> {
    (label(), label(), label())
        .prop_map(|(name, peer, client)| CoordinatorInfo { name, peer, client })
        .boxed()
}

pub(crate) fn map_update() -> BoxedStrategy<MapUpdate> {
    (cluster_map(), any::<u64>(), any::<bool>())
        .prop_map(|(map, since, full)| {
            if full {
                return MapUpdate::Full(Arc::new(map));
            }
            MapUpdate::Delta(MapDelta {
                cluster_id: map.cluster_id,
                since: MapVersion(since),
                version: map.version,
                settings: map.settings,
                nodes: map.nodes.into_values().collect(),
                partitions: map.partitions,
                coordinators: map.coordinators,
            })
        })
        .boxed()
}

fn bytes(most: usize) -> BoxedStrategy<Bytes> {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from).boxed()
}

fn append() -> BoxedStrategy<Append> {
    let entries = vec((any::<bool>(), bytes(40), any::<u64>(), any::<u64>()), 0..5);
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let previous = (any::<u64>(), 0..1u64 << 60, any::<u64>(), any::<u64>());
    (partition(), numbers, previous, entries)
        .prop_map(
            |(partition, (epoch, to, from, commit), (at, index, chain, session), entries)| Append {
                partition,
                epoch: Epoch(epoch),
                to: ReplicaId(to),
                from: ReplicaId(from),
                session,
                previous: Mark {
                    position: Position {
                        epoch: Epoch(at),
                        index: Index(index),
                    },
                    chain,
                },
                entries: (index + 1..)
                    .zip(entries)
                    .map(|(index, (write, body, epoch, chain))| LogEntry {
                        position: Position {
                            epoch: Epoch(epoch),
                            index: Index(index),
                        },
                        kind: if write {
                            EntryKind::Write
                        } else {
                            EntryKind::Barrier
                        },
                        body,
                        chain,
                    })
                    .collect(),
                commit: Index(commit),
            },
        )
        .boxed()
}

fn append_reply() -> BoxedStrategy<AppendReply> {
    let outcome = prop_oneof![
        any::<u64>().prop_map(|index| AppendOutcome::Matched {
            index: Index(index)
        }),
        (position(), lineage())
            .prop_map(|(head, lineage)| AppendOutcome::Diverged { head, lineage }),
        Just(AppendOutcome::Refused),
        Just(AppendOutcome::DiskFull),
    ];
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    (partition(), numbers, outcome)
        .prop_map(|(partition, (epoch, from, session), outcome)| AppendReply {
            partition,
            epoch: Epoch(epoch),
            from: ReplicaId(from),
            session,
            outcome,
        })
        .boxed()
}

fn lease_renew() -> BoxedStrategy<LeaseRenew> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let set = option::of(vec((partition(), any::<u64>().prop_map(Epoch)), 0..5));
    let commit = (partition(), any::<u64>(), any::<u64>())
        .prop_map(|(id, epoch, index)| (id, Epoch(epoch), Index(index)));
    (numbers, set, vec(commit, 0..5))
        .prop_map(
            |((session, round, version, span), set, commits)| LeaseRenew {
                session,
                round,
                version,
                span: Micros(span),
                set,
                commits,
            },
        )
        .boxed()
}

fn lease_reply() -> BoxedStrategy<LeaseReply> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let standing = (any::<bool>(), any::<u32>());
    (numbers, standing, vec(partition(), 0..5))
        .prop_map(
            |((session, round, version, span), (disk_full, giving), excluded)| LeaseReply {
                session,
                round,
                version,
                excluded,
                span: Micros(span),
                disk_full,
                giving,
            },
        )
        .boxed()
}

pub(crate) fn peer_message() -> BoxedStrategy<PeerMessage> {
    let numbers = || (partition(), any::<u64>(), any::<u64>(), any::<u64>());
    prop_oneof![
        append().prop_map(PeerMessage::Append),
        append_reply().prop_map(PeerMessage::AppendReply),
        lease_renew().prop_map(PeerMessage::LeaseRenew),
        lease_reply().prop_map(PeerMessage::LeaseReply),
        reads::answer().prop_map(PeerMessage::ReadAnswer),
        reads::ask().prop_map(PeerMessage::ReadAsk),
        numbers().prop_map(|(partition, epoch, _, _)| PeerMessage::Release {
            partition,
            epoch: Epoch(epoch),
        }),
        numbers().prop_map(|(partition, epoch, to, session)| {
            PeerMessage::Confirm(Confirm {
                partition,
                epoch: Epoch(epoch),
                to: ReplicaId(to),
                session,
            })
        }),
        (numbers(), any::<u64>(), position()).prop_map(
            |((partition, epoch, from, session), promised, head)| {
                PeerMessage::ConfirmReply(ConfirmReply {
                    partition,
                    epoch: Epoch(epoch),
                    from: ReplicaId(from),
                    session,
                    promised: Epoch(promised),
                    head,
                })
            }
        ),
        (numbers(), option::of(member())).prop_map(|((partition, epoch, to, after), source)| {
            PeerMessage::NeedSnapshot {
                partition,
                epoch: Epoch(epoch),
                to: ReplicaId(to),
                source,
                after: Index(after),
            }
        }),
        (numbers(), any::<u64>(), any::<bool>()).prop_map(
            |((partition, epoch, from, last), source, begun)| {
                PeerMessage::SnapshotNews(SnapshotNews {
                    partition,
                    epoch: Epoch(epoch),
                    from: ReplicaId(from),
                    source: ReplicaId(source),
                    news: if begun {
                        CopyNews::Begun { last: Index(last) }
                    } else {
                        CopyNews::Failed
                    },
                })
            }
        ),
        (numbers(), 1u64..1000).prop_map(|((partition, epoch, to, chain), more)| {
            PeerMessage::FetchRange(FetchRange {
                partition,
                to: ReplicaId(to),
                after: Mark {
                    position: Position {
                        epoch: Epoch(epoch),
                        index: Index(epoch >> 1),
                    },
                    chain,
                },
                until: Index((epoch >> 1) + more),
            })
        }),
        append().prop_map(|append| {
            PeerMessage::Range(Range {
                partition: append.partition,
                from: append.from,
                after: append.previous,
                entries: append.entries,
            })
        }),
        record().prop_map(|record| PeerMessage::Record(Arc::new(record))),
        any::<u64>().prop_map(|version| PeerMessage::MapVersion(MapVersion(version))),
    ]
    .boxed()
}

pub(crate) fn handshake() -> BoxedStrategy<Handshake> {
    let names = (label(), label(), label(), "[a-z]{0,5}");
    let numbers = (any::<u32>(), any::<u64>(), any::<u64>());
    (names, node(), numbers)
        .prop_map(
            |(
                (cluster_id, uuid, incarnation, expected_uuid),
                node,
                (format, features, session),
            )| {
                Handshake {
                    format,
                    cluster_id,
                    node,
                    uuid,
                    incarnation,
                    expected_uuid,
                    features,
                    session,
                }
            },
        )
        .boxed()
}

pub(crate) fn snapshot_chunk() -> BoxedStrategy<SnapshotChunk> {
    prop_oneof![
        (vec(any::<u8>(), 1..100), any::<u64>(), any::<u64>()).prop_map(
            |(rows, expected_bytes, last)| {
                SnapshotChunk::Rows {
                    rows: rows.into(),
                    expected_bytes,
                    last: Index(last),
                }
            }
        ),
        (mark(), lineage(), any::<u64>(), any::<u64>()).prop_map(
            |(mark, lineage, chunks, checksum)| SnapshotChunk::End(SnapshotEnd {
                mark,
                lineage,
                chunks,
                checksum,
            })
        ),
    ]
    .boxed()
}

pub(crate) fn order() -> BoxedStrategy<Order> {
    prop_oneof![
        (partition(), any::<u64>()).prop_map(|(partition, round)| Order::Ask { partition, round }),
        (partition(), any::<u64>(), any::<u64>()).prop_map(|(partition, epoch, round)| {
            Order::Fence {
                partition,
                epoch: Epoch(epoch),
                round,
            }
        }),
        (partition(), any::<u64>(), member()).prop_map(|(partition, epoch, to)| Order::HandOver {
            partition,
            epoch: Epoch(epoch),
            to,
        }),
    ]
    .boxed()
}

pub(crate) fn report() -> BoxedStrategy<ReplicaReport> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (partition(), member(), position(), numbers, flags)
        .prop_map(
            |(
                partition,
                member,
                head,
                (round, promised, commit, lease),
                (whole, head_intact, current, fenced),
            )| {
                ReplicaReport {
                    partition,
                    member,
                    round,
                    fenced,
                    promised: Epoch(promised),
                    head,
                    commit: Index(commit),
                    whole,
                    head_intact,
                    lease_current: current,
                    lease_remaining: Micros(lease),
                }
            },
        )
        .boxed()
}

fn partition_status() -> BoxedStrategy<PartitionStatus> {
    let role = prop::sample::select(vec![
        Role::Replica,
        Role::Learner,
        Role::Rising,
        Role::Primary,
        Role::Suspended,
    ]);
    let wish = prop::sample::select(vec![
        Wish::None,
        Wish::Promote,
        Wish::HandedOver,
        Wish::Replace,
    ]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let follower = (replica(), any::<u64>(), flags).prop_map(
        |(replica, matched, (caught_up, answering, hopeless))| FollowerStatus {
            replica,
            matched: Index(matched),
            caught_up,
            answering,
            hopeless,
        },
    );
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    let copying =
        (any::<u64>(), any::<u64>()).prop_map(|(received_bytes, expected_bytes)| CopyProgress {
            received_bytes,
            expected_bytes,
        });
    let sizes = (option::of(any::<u64>()), option::of(copying));
    let roles = (role, wish);
    let ids = (partition(), replica());
    (ids, roles, position(), numbers, vec(follower, 0..4), sizes)
        .prop_map(
            |(ids, (role, wish), head, (epoch, commit, applied), followers, (bytes, copying))| {
                let (partition, replica) = ids;
                PartitionStatus {
                    partition,
                    replica,
                    epoch: Epoch(epoch),
                    role,
                    head,
                    commit: Index(commit),
                    applied: Index(applied),
                    wish,
                    followers,
                    bytes,
                    copying,
                }
            },
        )
        .boxed()
}

fn heat() -> BoxedStrategy<HeatReport> {
    let rates = || (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let load = (partition(), rates(), any::<u64>()).prop_map(|(partition, (a, b, c, d), e)| {
        let load = PartitionLoad {
            reads_per_second: a,
            replica_reads_per_second: b,
            writes_per_second: c,
            bytes_per_second: d,
            processor_micros_per_second: e,
        };
        (partition, load)
    });
    let name = option::of(vec(any::<u8>(), 0..20));
    let key = (partition(), any::<u64>(), name, rates()).prop_map(
        |(partition, hash, name, (a, b, c, d))| KeyHeat {
            partition,
            hash,
            name,
            reads_per_second: a,
            writes_per_second: b,
            bytes_per_second: c,
            hot_for_ms: d,
        },
    );
    (vec(load, 0..4), vec(key, 0..4))
        .prop_map(|(partitions, keys)| HeatReport { partitions, keys })
        .boxed()
}

pub(crate) fn heartbeat() -> BoxedStrategy<Heartbeat> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let peers = || vec(any::<u64>().prop_map(NodeId), 0..4);
    let unreachable = (peers(), peers());
    let partitions = vec(partition_status(), 0..4);
    let rates = (any::<u64>(), any::<u64>(), any::<u64>());
    let figures = (any::<u64>(), any::<u64>(), rates).prop_map(
        |(disk_total_bytes, disk_free_bytes, (reads, writes, bytes))| NodeFigures {
            disk_total_bytes,
            disk_free_bytes,
            reads_per_second: reads,
            writes_per_second: writes,
            bytes_per_second: bytes,
        },
    );
    let told = (option::of(figures), option::of(heat()), partitions);
    (node(), numbers, flags, unreachable, told)
        .prop_map(
            |(
                node,
                (session, sequence, map_version),
                (disk_full, draining, full),
                (unreachable, silent_client_ports),
                (figures, heat, partitions),
            )| {
                Heartbeat {
                    node,
                    session,
                    sequence,
                    map_version: MapVersion(map_version),
                    unreachable,
                    silent_client_ports,
                    disk_full,
                    draining,
                    figures,
                    heat: heat.map(Box::new),
                    full,
                    partitions,
                }
            },
        )
        .boxed()
}

fn condition() -> BoxedStrategy<Condition> {
    prop_oneof![
        Just(Condition::Always),
        Just(Condition::Absent),
        Just(Condition::Present),
        position().prop_map(Condition::Version),
    ]
    .boxed()
}

fn key() -> BoxedStrategy<Bytes> {
    vec(any::<u8>(), 1..40).prop_map(Bytes::from).boxed()
}

fn expiry() -> BoxedStrategy<Expiry> {
    prop_oneof![
        Just(Expiry::Never),
        Just(Expiry::Keep),
        any::<u64>().prop_map(Expiry::AtMillis),
    ]
    .boxed()
}

fn batch_operation() -> BoxedStrategy<BatchOperation> {
    let action = prop_oneof![
        (bytes(40), expiry()).prop_map(|(value, expiry)| BatchAction::Put { value, expiry }),
        Just(BatchAction::Delete),
        any::<i64>().prop_map(|delta| BatchAction::Increment { delta }),
    ];
    (key(), condition(), action)
        .prop_map(|(key, condition, action)| BatchOperation {
            key,
            condition,
            action,
        })
        .boxed()
}

pub(crate) fn write_request() -> BoxedStrategy<WriteRequest> {
    let op = prop_oneof![
        (key(), bytes(40), condition(), expiry(), any::<bool>()).prop_map(
            |(key, value, condition, expiry, return_previous)| WriteOp::Set {
                key,
                value,
                condition,
                expiry,
                return_previous,
            }
        ),
        (key(), condition()).prop_map(|(key, condition)| WriteOp::Delete { key, condition }),
        (key(), any::<i64>()).prop_map(|(key, delta)| WriteOp::Increment { key, delta }),
        vec(batch_operation(), 1..5).prop_map(|operations| WriteOp::Batch { operations }),
    ];
    let sequenced =
        (any::<u128>(), 1..=u64::MAX, position()).prop_map(|(client, sequence, known)| Sequenced {
            client,
            sequence,
            known,
        });
    (op, option::of(sequenced))
        .prop_map(|(op, sequenced)| WriteRequest { op, sequenced })
        .boxed()
}

pub(crate) fn read_request() -> BoxedStrategy<ReadRequest> {
    let consistency = prop::sample::select(vec![
        Consistency::Default,
        Consistency::Primary,
        Consistency::Quorum,
        Consistency::Replica,
        Consistency::Any,
    ]);
    (key(), consistency)
        .prop_map(|(key, consistency)| ReadRequest { key, consistency })
        .boxed()
}

pub(crate) fn value() -> BoxedStrategy<Value> {
    (bytes(40), position(), option::of(any::<u64>()))
        .prop_map(|(data, version, expires_at)| Value {
            counter: (version.index.0 % 3 == 0).then(|| {
                Box::new(Control {
                    edition: version.epoch.0,
                    stripes: 1 + (version.index.0 % 64) as u16,
                    base: -5,
                    total: version.epoch.0 as i64,
                    counted_at_ms: version.index.0,
                })
            }),
            ..Value::string(data, version, expires_at)
        })
        .boxed()
}

fn reply(outcome: impl Strategy<Value = WriteOutcome> + 'static) -> BoxedStrategy<WriteReply> {
    (outcome, position())
        .prop_map(|(outcome, position)| WriteReply { outcome, position })
        .boxed()
}

pub(crate) fn put_reply() -> BoxedStrategy<WriteReply> {
    let previous = || option::of(bytes(10));
    reply(prop_oneof![
        previous().prop_map(|previous| WriteOutcome::Set { previous }),
        (option::of(position()), previous()).prop_map(|(version, previous)| {
            WriteOutcome::ConditionFailed { version, previous }
        }),
    ])
    .boxed()
}

pub(crate) fn delete_reply() -> BoxedStrategy<WriteReply> {
    reply(prop_oneof![
        (0u64..=1).prop_map(|count| WriteOutcome::Deleted { count }),
        option::of(position()).prop_map(|version| WriteOutcome::ConditionFailed {
            version,
            previous: None,
        }),
    ])
    .boxed()
}

pub(crate) fn increment_reply() -> BoxedStrategy<WriteReply> {
    reply(prop_oneof![
        any::<i64>().prop_map(WriteOutcome::Integer),
        Just(WriteOutcome::NotAnInteger),
        Just(WriteOutcome::Overflow),
    ])
    .boxed()
}

pub(crate) fn batch_reply() -> BoxedStrategy<WriteReply> {
    let done = prop_oneof![
        Just(WriteOutcome::Set { previous: None }),
        (0u64..=1).prop_map(|count| WriteOutcome::Deleted { count }),
        any::<i64>().prop_map(WriteOutcome::Integer),
    ];
    let why = prop_oneof![
        option::of(position()).prop_map(|version| WriteOutcome::ConditionFailed {
            version,
            previous: None,
        }),
        Just(WriteOutcome::NotAnInteger),
        Just(WriteOutcome::Overflow),
    ];
    reply(prop_oneof![
        vec(done, 0..5).prop_map(WriteOutcome::Batch),
        (0usize..100, why).prop_map(|(at, why)| WriteOutcome::BatchRefused {
            at,
            why: Box::new(why),
        }),
    ])
}

pub(crate) fn kv_error() -> BoxedStrategy<KvError> {
    prop_oneof![
        (partition(), any::<u64>(), option::of(member()), label()).prop_map(
            |(partition, epoch, primary, address)| KvError::Moved {
                partition,
                epoch: Epoch(epoch),
                primary,
                address,
            }
        ),
        partition().prop_map(|partition| KvError::NotReady { partition }),
        Just(KvError::Unknown),
        position().prop_map(|position| KvError::Unjudged { position }),
        Just(KvError::DiskFull),
        Just(KvError::Overloaded),
        any::<u32>().prop_map(|wait_ms| KvError::Limited { wait_ms }),
        Just(KvError::CrossPartition),
        Just(KvError::NoMap),
        (label(), label()).prop_map(|(field, problem)| KvError::Invalid { field, problem }),
        label().prop_map(|what| KvError::Unsupported { what }),
        label().prop_map(|what| KvError::PermissionDenied { what }),
    ]
    .boxed()
}
