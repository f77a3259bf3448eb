//! Stages of the hot path alone, in one thread and without a socket or a disk: where the time of
//! a write goes. `make bench-micro`.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cairn_core::ids::{Epoch, Index, MapVersion, Mark, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::kv::evaluate::{Evaluation, Evaluator};
use cairn_core::kv::request::{Condition, Expiry, WriteOp, WriteRequest};
use cairn_core::record::{Configuration, Member, PartitionRecord, ReplicaSet, SlotRange};
use cairn_core::replication::message::PeerMessage;
use cairn_core::replication::{
    DurableRecord, Effect, EntryKind, Event, Generation, LogEntry, NodeCore, Timing,
};
use cairn_node::resp::encode::{Encoder, Protocol};
use cairn_proto::pb::peer::v1 as pb;
use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::sim::{MemDisk, MemStore};
use cairn_storage::wal::{Wal, WalOptions};
use cairn_workload::resp;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use prost::Message;

const P: PartitionId = PartitionId(0);
const VALUE_BYTES: usize = 128;
const BATCH: usize = 32;

fn main() {
    divan::main();
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key:{:012}", number % 100_000))
}

fn value() -> Bytes {
    Bytes::from(vec![0xA5; VALUE_BYTES])
}

/// Commands as they come in one read of a client that pipelines.
fn commands(count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0..count {
        resp::encode(&mut out, &[b"SET", &key(number), &value()]);
        resp::encode(&mut out, &[b"GET", &key(number)]);
    }
    out
}

#[divan::bench(args = [1, 16])]
fn parse_resp(bencher: Bencher<'_, '_>, pairs: u64) {
    let sent = commands(pairs);
    let (found, bytes) = cairn_node::resp::find_commands(&sent);
    assert_eq!((found, bytes), (2 * pairs as usize, sent.len()));
    bencher
        .counter(ItemsCount::new(2 * pairs))
        .counter(BytesCount::new(sent.len()))
        .bench_local(|| cairn_node::resp::find_commands(black_box(&sent)));
}

#[divan::bench]
fn encode_resp_value(bencher: Bencher<'_, '_>) {
    let value = value();
    let mut out = BytesMut::with_capacity(1 << 16);
    bencher.counter(ItemsCount::new(1u32)).bench_local(move || {
        out.clear();
        Encoder::new(&mut out, Protocol::Two).bulk(black_box(&value));
        black_box(&out);
    });
}

fn set(number: u64) -> WriteRequest {
    WriteRequest {
        op: WriteOp::Set {
            key: key(number),
            value: value(),
            condition: Condition::Always,
            expiry: Expiry::Never,
            return_previous: false,
        },
        sequenced: None,
    }
}

fn evaluated(evaluator: &Evaluator, request: &WriteRequest) -> cairn_core::kv::body::EntryBody {
    let missing = |_: &Bytes| Some(None);
    match evaluator.evaluate(1_000, request, &missing) {
        Evaluation::Propose { body, .. } => body,
        other => panic!("a SET is proposed: {other:?}"),
    }
}

#[divan::bench]
fn evaluate_and_encode(bencher: Bencher<'_, '_>) {
    let evaluator = Evaluator::new(65_536);
    let mut number = 0;
    bencher
        .counter(ItemsCount::new(1u32))
        .with_inputs(|| {
            number += 1;
            set(number)
        })
        .bench_local_values(|request| evaluated(&evaluator, &request).encode());
}

/// A primary and two other replicas whose disks and network answer at once.
struct Cores {
    cores: [NodeCore; 3],
    /// By node: how many records its log was given.
    appended: [u64; 3],
    queue: VecDeque<(usize, Event)>,
    committed: Index,
    now: Micros,
}

fn timing() -> Timing {
    Timing {
        lease: Micros::from_millis(400),
        lease_longest: Micros::from_millis(400),
        lease_margin: None,
        tick: Micros::from_millis(10),
        resend: Micros::from_millis(200),
        stuck: Micros::from_millis(2_000),
        window_bytes: 4 << 20,
        log_bytes: 128 << 20,
        keep_bytes: 32 << 20,
        unapplied_bytes: 64 << 20,
        push_back: Micros::from_millis(60_000),
        read_lease_at: 0,
        read_lease_parts: 8,
        read_lease_max: Micros::from_millis(100),
    }
}

impl Cores {
    fn new() -> Self {
        let start = Micros::from_millis(10_000);
        let node = |id| NodeCore::new(NodeId(id), id, timing(), 100, Vec::new(), start);
        let mut cores = Self {
            cores: [node(1), node(2), node(3)],
            appended: [0; 3],
            queue: VecDeque::new(),
            committed: Index(0),
            // Past the lease that a fresh process counts as granted.
            now: Micros::from_millis(11_000),
        };
        let member = |id| Member {
            node: NodeId(id),
            replica: ReplicaId(id),
        };
        let record = |epoch, revision, primary| {
            Arc::new(PartitionRecord {
                id: P,
                slots: SlotRange {
                    first: 0,
                    last: 16_383,
                },
                epoch: Epoch(epoch),
                revision,
                config: Configuration {
                    current: ReplicaSet {
                        members: vec![member(1), member(2), member(3)],
                        write_quorum: 2,
                    },
                    joint: None,
                    learners: Vec::new(),
                    readers: Vec::new(),
                },
                primary,
                degraded: false,
                changed_at: MapVersion(1),
            })
        };
        for (revision, primary) in [(1, None), (2, Some(member(1)))] {
            for at in 0..3 {
                let record = record(1, revision, primary);
                cores.step(at, Event::Record { record });
            }
            cores.settle();
        }
        for _ in 0..10 {
            cores.tick();
        }
        assert!(
            cores.cores[0].standing(P).is_some_and(|it| it.serving),
            "the primary serves: {:?}",
            cores.cores[0].standing(P)
        );
        cores
    }

    fn tick(&mut self) {
        self.now = Micros(self.now.0 + 10_000);
        for at in 0..3 {
            self.step(at, Event::Tick);
        }
        self.settle();
    }

    fn step(&mut self, at: usize, event: Event) {
        let mut effects = Vec::new();
        self.cores[at].step(self.now, event, &mut effects);
        self.carry_out(at, effects);
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        let mut flush = false;
        for effect in effects {
            match effect {
                Effect::Append(_) => {
                    self.appended[at] += 1;
                    flush = true;
                }
                Effect::ProbeLog => flush = true,
                Effect::Send { to, message } => {
                    let from = NodeId(at as u64 + 1);
                    let event = Event::Peer { from, message };
                    self.queue.push_back((to.0 as usize - 1, event));
                }
                Effect::Apply {
                    partition,
                    generation,
                    entries,
                } => {
                    let index = entries.last().map_or(Index(0), |it| it.position.index);
                    let applied = Event::Applied {
                        partition,
                        generation,
                        index,
                    };
                    self.queue.push_back((at, applied));
                }
                Effect::Committed { index, .. } if at == 0 => self.committed = index,
                _ => {}
            }
        }
        if flush {
            let number = self.appended[at];
            self.queue.push_back((at, Event::Flushed { number }));
        }
    }

    fn settle(&mut self) {
        while let Some((at, event)) = self.queue.pop_front() {
            self.step(at, event);
        }
    }

    /// Proposes the bodies, as many as come while a flush is under way, and sees them committed.
    fn write(&mut self, bodies: Vec<Bytes>) {
        let mut effects = Vec::new();
        let mut last = Index(0);
        for body in bodies {
            let proposed = self.cores[0].propose(self.now, P, body, &mut effects);
            last = proposed.expect("the primary takes it").index;
        }
        self.carry_out(0, effects);
        self.settle();
        // What replicas say together goes out with the next tick.
        if self.committed < last {
            self.tick();
        }
        assert!(self.committed >= last, "{:?} of {last:?}", self.committed);
    }
}

/// What all three replicas decide about a write, from the proposal to the commit.
#[divan::bench(args = [1, 32])]
fn propose_to_commit(bencher: Bencher<'_, '_>, batch: u64) {
    let mut cores = Cores::new();
    let evaluator = Evaluator::new(65_536);
    let body = evaluated(&evaluator, &set(1)).encode();
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(|| vec![body.clone(); batch as usize])
        .bench_local_values(|bodies| {
            cores.write(bodies);
            // Leases go on.
            if cores.committed.0 % 1_024 < batch {
                cores.tick();
            }
        });
}

fn entries(count: usize) -> Vec<LogEntry> {
    let body = evaluated(&Evaluator::new(65_536), &set(1)).encode();
    let mut head = Mark::ZERO;
    (0..count)
        .map(|_| {
            let entry = LogEntry::after(head, Epoch(1), EntryKind::Write, body.clone());
            head = entry.mark();
            entry
        })
        .collect()
}

/// A batch of records into the log of a disk in memory: encoding and checksums.
#[divan::bench(args = [1, 32, 256])]
fn append_to_log(bencher: Bencher<'_, '_>, batch: usize) {
    let open = || {
        let mut state = 7u64;
        let random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state
        };
        let (disk, store) = (MemDisk::new(), MemStore::new());
        let options = WalOptions::default();
        let opened = Wal::open(
            disk,
            LogIdentity::default(),
            options,
            &store,
            Box::new(random),
        );
        let (mut wal, _) = opened.expect("an empty log opens");
        let create = DurableRecord::Create {
            partition: P,
            replica: ReplicaId(1),
            generation: Generation(1),
        };
        wal.append(&[create]).expect("room in memory");
        wal
    };
    let records: Vec<DurableRecord> = entries(batch)
        .into_iter()
        .map(|entry| DurableRecord::Entry {
            partition: P,
            entry,
        })
        .collect();
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(open)
        .bench_local_refs(|wal| wal.append(&records).expect("room in memory"));
}

/// What a replica decodes of a primary: a message of the peer stream with a batch of entries.
#[divan::bench(args = [1, 32])]
fn decode_append(bencher: Bencher<'_, '_>, batch: usize) {
    let mut cores = Cores::new();
    let body = evaluated(&Evaluator::new(65_536), &set(1)).encode();
    let mut effects = Vec::new();
    for _ in 0..batch {
        let proposed = cores.cores[0].propose(cores.now, P, body.clone(), &mut effects);
        proposed.expect("the primary takes it");
    }
    cores.carry_out(0, effects);
    let number = cores.appended[0];
    let mut sent = Vec::new();
    cores.cores[0].step(cores.now, Event::Flushed { number }, &mut sent);
    let append = sent.into_iter().find_map(|effect| match effect {
        Effect::Send { message, .. } if matches!(message, PeerMessage::Append(_)) => Some(message),
        _ => None,
    });
    let append = append.expect("the primary sends what it has flushed");
    let encoded = Bytes::from(pb::Message::from(append).encode_to_vec());
    bencher
        .counter(ItemsCount::new(batch))
        .counter(BytesCount::new(encoded.len()))
        .bench_local(|| {
            let message = pb::Message::decode(black_box(encoded.clone())).expect("a message");
            PeerMessage::try_from(message).expect("a strict one")
        });
}

/// As many decisions as the batches above have entries, for comparing.
#[divan::bench]
fn slot_of_a_key(bencher: Bencher<'_, '_>) {
    let keys: Vec<Bytes> = (0..BATCH as u64).map(key).collect();
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        keys.iter()
            .map(|key| u32::from(cairn_core::slots::slot(black_box(key))))
            .sum::<u32>()
    });
}
