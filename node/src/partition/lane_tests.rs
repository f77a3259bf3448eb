//! What a lane owes to those who write, over a real core of one replica.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::task::Waker;

use cairn_core::cluster::report::Order;
use cairn_core::ids::{MapVersion, NodeId, ReplicaId};
use cairn_core::kv::request::{
    BatchAction, BatchOperation, Condition, Expiry, Sequenced, WriteLevel, WriteOp, WriteRequest,
};
use cairn_core::kv::{EntryBody, Table};
use cairn_core::record::{Configuration, Member, PartitionRecord, ReplicaSet, SlotRange};
use cairn_core::replication::message::{AppendOutcome, AppendReply, PeerMessage};
use cairn_core::replication::{DurableRecord, EntryKind, Event, LogEntry, Timing};

use super::super::reply::ReplyQueue;
use super::*;

const PARTITION: PartitionId = PartitionId(0);
const NODE: NodeId = NodeId(1);
const WINDOW: u32 = 100;
const LEARNER: ReplicaId = ReplicaId(2);
/// More than half of what may be kept for a learner.
static MUCH: LazyLock<String> = LazyLock::new(|| "x".repeat(200 << 10));
/// A far year: nothing here expires by accident.
const WALL_MS: u64 = 1_000_000;

#[derive(Default)]
struct Store {
    values: RefCell<BTreeMap<Bytes, Bytes>>,
    /// What the cache holds of them.
    cached: RefCell<bool>,
}

impl Cache for Store {
    fn get_cached(&self, _: Generation, key: &[u8]) -> Option<Option<Bytes>> {
        self.cached
            .borrow()
            .then(|| self.values.borrow().get(key).cloned())
    }
}

struct Rig {
    core: NodeCore,
    lane: Lane,
    turn: Turn,
    store: Store,
    unflushed: u64,
    flushed: u64,
    unapplied: Vec<LogEntry>,
    queue: ReplyQueue,
    next_token: u64,
}

fn record(epoch: u64, revision: u64, primary: Option<Member>) -> Arc<PartitionRecord> {
    let member = Member {
        node: NODE,
        replica: ReplicaId(1),
    };
    Arc::new(PartitionRecord {
        id: PARTITION,
        slots: SlotRange {
            first: 0,
            last: 16_383,
        },
        epoch: Epoch(epoch),
        revision,
        config: Configuration {
            current: ReplicaSet {
                members: vec![member],
                write_quorum: 1,
            },
            joint: None,
            learners: vec![],
            readers: Vec::new(),
        },
        primary,
        degraded: false,
        changed_at: MapVersion(epoch),
    })
}

const ME: Option<Member> = Some(Member {
    node: NODE,
    replica: ReplicaId(1),
});

impl Rig {
    /// A primary that serves.
    fn serving() -> Self {
        let mut rig = Self::idle();
        rig.step(Event::Record {
            record: record(1, 1, ME),
        });
        rig.flush();
        assert!(rig.lane.serves());
        rig
    }

    fn idle() -> Self {
        let timing = Timing {
            lease: Micros::from_millis(1000),
            lease_longest: Micros::from_millis(1000),
            lease_margin: Some(Micros::from_millis(50)),
            tick: Micros::from_millis(20),
            resend: Micros::from_millis(200),
            stuck: Micros::from_millis(2000),
            window_bytes: 1 << 20,
            log_bytes: 1 << 20,
            keep_bytes: 1 << 18,
            unapplied_bytes: 1 << 20,
            push_back: Micros::from_millis(10_000),
            read_lease_at: 0,
            read_lease_parts: 0,
            read_lease_max: Micros::from_millis(100),
        };
        let mut turn = Turn::new(1000);
        turn.now = Micros::from_millis(10_000);
        turn.wall_ms = WALL_MS;
        Self {
            core: NodeCore::new(NODE, 1, timing, 1, vec![], turn.now),
            lane: Lane::new(PARTITION),
            turn,
            store: Store::default(),
            unflushed: 0,
            flushed: 0,
            unapplied: Vec::new(),
            queue: ReplyQueue::default(),
            next_token: 0,
        }
    }

    fn step(&mut self, event: Event) {
        self.core.step(self.turn.now, event, &mut self.turn.effects);
        self.settle();
    }

    fn let_go(&mut self) {
        let flushed = self.core.flushed_to(PARTITION);
        let (core, turn) = (&mut self.core, &mut self.turn);
        self.lane.let_go(core, turn, &self.store, flushed);
    }

    /// Does what the engine does at the end of a turn.
    fn settle(&mut self) {
        self.let_go();
        let mut rounds = 0;
        while !self.turn.effects.is_empty() || !self.turn.touched.is_empty() {
            rounds += 1;
            assert!(rounds < 1000, "a turn without an end");
            self.turn.touched.clear();
            for effect in std::mem::take(&mut self.turn.effects) {
                match effect {
                    Effect::Append(record) => {
                        self.unflushed += 1;
                        if let DurableRecord::Entry { entry, .. } = record
                            && entry.kind == EntryKind::Write
                        {
                            EntryBody::decode(entry.body).expect("a body of ours");
                        }
                    }
                    Effect::Apply { entries, .. } => self.unapplied.extend(entries),
                    Effect::Committed { index, .. } => self.lane.committed(index),
                    Effect::Deposed { .. } => {
                        let now = self.turn.now;
                        self.lane.answer_committed(&mut self.turn, now);
                        let moved = RequestError::NotReady {
                            partition: PARTITION,
                        };
                        self.lane.depose(&mut self.turn, &moved);
                    }
                    _ => {}
                }
            }
            if let Some(standing) = self.core.standing(PARTITION) {
                self.lane.set_generation(standing.generation, Index::ZERO);
                let is_primary = standing.primary == ME;
                self.lane.stands(&standing, is_primary);
                self.lane
                    .release_held(&mut self.core, &mut self.turn, &self.store, WINDOW);
            }
            self.let_go();
        }
        let now = self.turn.now;
        self.lane.answer_committed(&mut self.turn, now);
        let mut wakers: Vec<Waker> = Vec::new();
        for (reply, result) in self.turn.answers.drain(..) {
            reply.answer(result, &mut wakers);
        }
    }

    fn tick(&mut self) {
        self.turn.now = self.turn.now.plus(Micros::from_millis(20));
        self.step(Event::Tick);
    }

    /// A learner that has nothing slows the writes.
    fn push_back(&mut self) {
        let mut with_learner = PartitionRecord::clone(&record(1, 2, ME));
        with_learner.config.learners = vec![Member {
            node: NodeId(2),
            replica: LEARNER,
        }];
        self.step(Event::Record {
            record: Arc::new(with_learner),
        });
        self.learner_answers(AppendOutcome::Refused);
        self.submit(set("a", MUCH.as_str()), None);
        self.flush();
        self.tick();
        assert!(self.lane.pushes_back());
    }

    fn catch_up(&mut self) {
        let index = self.core.standing(PARTITION).expect("lives here").head;
        self.learner_answers(AppendOutcome::Matched { index });
        self.tick();
    }

    fn learner_answers(&mut self, outcome: AppendOutcome) {
        self.step(Event::Peer {
            from: NodeId(2),
            message: PeerMessage::AppendReply(AppendReply {
                partition: PARTITION,
                epoch: Epoch(1),
                from: LEARNER,
                session: 1,
                outcome,
            }),
        });
    }

    fn flush(&mut self) {
        self.flushed += std::mem::take(&mut self.unflushed);
        let number = self.flushed;
        self.step(Event::Flushed { number });
    }

    /// Applies to the store, and tells core and lane.
    fn apply(&mut self) {
        let mut last = Index::ZERO;
        for entry in std::mem::take(&mut self.unapplied) {
            last = entry.position.index;
            if entry.kind == EntryKind::Write {
                let body = EntryBody::decode(entry.body).expect("a body of ours");
                let mut values = self.store.values.borrow_mut();
                for (key, value) in body.writes {
                    match value {
                        Some(value) => {
                            let stored = VersionedValue {
                                version: entry.position,
                                value,
                            };
                            values.insert(key, stored.encode());
                        }
                        None => {
                            values.remove(&key);
                        }
                    }
                }
            }
        }
        let generation = self
            .core
            .standing(PARTITION)
            .expect("lives here")
            .generation;
        self.lane.set_applied(generation, last);
        self.step(Event::Applied {
            partition: PARTITION,
            generation,
            index: last,
        });
    }

    fn submit(&mut self, op: WriteOp, sequenced: Option<Sequenced>) -> u64 {
        self.submit_at(WriteLevel::Quorum, op, sequenced)
    }

    fn submit_at(&mut self, level: WriteLevel, op: WriteOp, sequenced: Option<Sequenced>) -> u64 {
        let token = self.next_token;
        let reply = self.queue.reply_to(token);
        self.arrive(reply, level, op, sequenced);
        self.settle();
        token
    }

    /// A write comes, in a turn that goes on.
    fn arrive(
        &mut self,
        reply: ReplyTo,
        level: WriteLevel,
        op: WriteOp,
        sequenced: Option<Sequenced>,
    ) {
        self.next_token += 1;
        let write = Submission {
            partition: PARTITION,
            work: Work::Write(WriteRequest { op, sequenced }),
            reply,
            place: Place { level, bytes: 1 },
            arrived: self.turn.now,
        };
        self.lane
            .submit(&mut self.core, &mut self.turn, &self.store, WINDOW, write);
    }

    /// Answers the lookups that were asked for from the store, one turn later.
    fn look_up(&mut self) {
        for lookup in std::mem::take(&mut self.turn.lookups) {
            let found = lookup
                .keys
                .iter()
                .map(|key| {
                    let stored = self.store.values.borrow().get(key).cloned();
                    let value = stored.map(|s| VersionedValue::decode(s).expect("ours"));
                    (key.clone(), value)
                })
                .collect();
            let ticket = (lookup.term, lookup.ticket);
            self.lane.found(
                &mut self.core,
                &mut self.turn,
                &self.store,
                ticket,
                Some(found),
            );
        }
        self.settle();
    }

    fn load_table(&mut self) {
        for load in std::mem::take(&mut self.turn.table_loads) {
            let loaded = LoadedTable {
                table: Table::new(),
                applied: Index::ZERO,
            };
            self.lane.table_loaded(
                &mut self.core,
                &mut self.turn,
                &self.store,
                WINDOW,
                load.term,
                Some(loaded),
            );
        }
        self.settle();
    }

    fn answers(&mut self) -> BTreeMap<u64, Result<WriteOutcome, RequestError>> {
        let mut context = std::task::Context::from_waker(Waker::noop());
        match self.queue.poll_take(&mut context, 1) {
            std::task::Poll::Pending => BTreeMap::new(),
            std::task::Poll::Ready(answers) => answers
                .into_iter()
                .map(|(token, result)| (token, result.map(|reply| reply.outcome)))
                .collect(),
        }
    }
}

fn key(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

fn set(name: &'static str, value: &'static str) -> WriteOp {
    WriteOp::Set {
        key: key(name),
        value: key(value),
        condition: Condition::Always,
        expiry: Expiry::Never,
        return_previous: false,
    }
}

fn increment(name: &'static str) -> WriteOp {
    WriteOp::Increment {
        key: key(name),
        delta: 1,
    }
}

fn delete(name: &'static str) -> WriteOp {
    WriteOp::Delete {
        key: key(name),
        condition: Condition::Always,
    }
}

fn named(sequence: u64) -> Option<Sequenced> {
    Some(Sequenced {
        client: 7,
        sequence,
        known: Position::ZERO,
    })
}

const SET: Result<WriteOutcome, RequestError> = Ok(WriteOutcome::Set { previous: None });
const NOT_READY: Result<WriteOutcome, RequestError> = Err(RequestError::NotReady {
    partition: PARTITION,
});

#[test]
fn a_write_is_answered_when_it_has_committed_and_not_before() {
    let mut rig = Rig::serving();
    let token = rig.submit(set("k", "v"), None);
    assert!(rig.answers().is_empty());
    rig.flush();
    assert_eq!(rig.answers(), BTreeMap::from([(token, SET)]));
}

#[test]
fn writes_are_held_until_the_primary_serves() {
    let mut rig = Rig::idle();
    rig.step(Event::Record {
        record: record(1, 1, ME),
    });
    let first = rig.submit(set("k", "v"), None);
    let second = rig.submit(delete("k"), None);
    rig.flush();
    rig.flush();
    assert_eq!(
        rig.answers(),
        BTreeMap::from([
            (first, SET),
            (second, Ok(WriteOutcome::Deleted { count: 1 }))
        ])
    );
}

#[test]
fn what_is_held_too_long_was_surely_not_done() {
    let mut rig = Rig::idle();
    let token = rig.submit(set("k", "v"), None);
    let now = rig.turn.now;
    rig.lane.expire(&mut rig.turn, now);
    rig.settle();
    assert!(rig.answers().is_empty());
    let later = rig.turn.now.plus(Micros(1));
    rig.lane.expire(&mut rig.turn, later);
    rig.settle();
    assert_eq!(rig.answers(), BTreeMap::from([(token, NOT_READY)]));
}

#[test]
fn a_proposed_write_that_takes_too_long_is_unknown() {
    let mut rig = Rig::serving();
    let token = rig.submit(set("k", "v"), None);
    let later = rig.turn.now.plus(Micros(1));
    rig.lane.expire(&mut rig.turn, later);
    rig.settle();
    assert_eq!(
        rig.answers(),
        BTreeMap::from([(token, Err(RequestError::Unknown))])
    );
    rig.flush();
    assert!(rig.answers().is_empty());
}

#[test]
fn a_refusal_waits_for_what_it_was_judged_against() {
    let mut rig = Rig::serving();
    *rig.store.cached.borrow_mut() = true;
    rig.submit(set("k", "word"), None);
    let refused = rig.submit(increment("k"), None);
    assert!(rig.answers().is_empty());
    rig.flush();
    assert_eq!(
        rig.answers().get(&refused),
        Some(&Ok(WriteOutcome::NotAnInteger))
    );
    // With nothing under way there is nothing to wait for.
    let again = rig.submit(increment("k"), None);
    assert_eq!(
        rig.answers(),
        BTreeMap::from([(again, Ok(WriteOutcome::NotAnInteger))])
    );
}

#[test]
fn a_refusal_needs_the_lease() {
    let mut rig = Rig::serving();
    *rig.store.cached.borrow_mut() = true;
    rig.submit(set("k", "word"), None);
    let only_new = WriteOp::Set {
        key: key("k"),
        value: key("v"),
        condition: Condition::Absent,
        expiry: Expiry::Never,
        return_previous: true,
    };
    let refused = rig.submit(only_new, None);
    rig.lane.lease_until = Micros(0);
    rig.lane.committed(Index(u64::MAX));
    let now = rig.turn.now;
    rig.lane.answer_committed(&mut rig.turn, now);
    assert_eq!(rig.turn.answers.len(), 1);
    assert_eq!(rig.lane.leaseless.len(), 1);
    rig.lane.lease_until = Micros(u64::MAX);
    rig.settle();
    let answers = rig.answers();
    let Some(Ok(WriteOutcome::ConditionFailed { previous, .. })) = answers.get(&refused) else {
        panic!("no refusal: {answers:?}");
    };
    assert_eq!(*previous, Some(key("word")));
}

/// A replica that is new here, primary of two of which one copy is enough.
fn one_of_two() -> Rig {
    let mut rig = Rig::idle();
    let mut two = PartitionRecord::clone(&record(1, 1, ME));
    two.config.current.members.push(Member {
        node: NodeId(2),
        replica: ReplicaId(2),
    });
    rig.step(Event::Record {
        record: Arc::new(two),
    });
    rig.flush();
    assert!(rig.lane.serves());
    rig
}

#[test]
fn where_one_copy_is_enough_an_acknowledgement_needs_the_lease() {
    let mut rig = one_of_two();
    rig.lane.lease_until = Micros(u64::MAX);
    let token = rig.submit(set("k", "v"), None);
    // The other one grants nothing.
    assert_eq!(rig.lane.lease_until, Micros(0));
    rig.lane.committed(Index(u64::MAX));
    rig.settle();
    assert!(rig.answers().is_empty());
    rig.lane.lease_until = Micros(u64::MAX);
    rig.settle();
    assert_eq!(rig.answers(), BTreeMap::from([(token, SET)]));
}

#[test]
fn what_one_leadership_committed_says_nothing_of_the_next() {
    let mut rig = Rig::serving();
    rig.submit(set("k", "v"), None);
    rig.flush();
    assert!(rig.lane.commit > Index::ZERO);
    rig.step(Event::Order {
        order: Order::Fence {
            partition: PARTITION,
            epoch: Epoch(2),
            round: 1,
        },
    });
    assert_eq!(rig.lane.commit, Index::ZERO);
    assert!(!rig.lane.is_primary() && !rig.lane.serves());
}

#[test]
fn values_that_are_not_at_hand_are_looked_up_and_other_keys_go_on() {
    let mut rig = Rig::serving();
    let first = rig.submit(increment("n"), None);
    let behind = rig.submit(increment("n"), None);
    let other = rig.submit(set("k", "v"), None);
    assert_eq!(rig.turn.lookups.len(), 1);
    rig.flush();
    assert_eq!(rig.answers(), BTreeMap::from([(other, SET)]));
    rig.look_up();
    rig.flush();
    assert_eq!(
        rig.answers(),
        BTreeMap::from([
            (first, Ok(WriteOutcome::Integer(1))),
            (behind, Ok(WriteOutcome::Integer(2))),
        ])
    );
    assert!(rig.turn.lookups.is_empty());
}

#[test]
fn values_are_fetched_only_for_writes_that_look_at_them() {
    let mut rig = Rig::serving();
    let operation = |name: &'static str, action| BatchOperation {
        key: key(name),
        condition: Condition::Always,
        action,
    };
    let batch = WriteOp::Batch {
        operations: vec![
            operation("gone", BatchAction::Delete),
            operation("n", BatchAction::Increment { delta: 1 }),
            operation("gone too", BatchAction::Delete),
        ],
    };
    rig.submit(batch, None);
    rig.submit(delete("k"), None);
    let wanted: Vec<_> = rig
        .turn
        .lookups
        .iter()
        .map(|lookup| (lookup.keys.clone(), lookup.without_data))
        .collect();
    assert_eq!(
        wanted,
        [
            (vec![key("n")], false),
            (vec![key("gone"), key("gone too")], true),
            (vec![key("k")], true),
        ]
    );
    rig.look_up();
    rig.flush();
    assert_eq!(rig.answers().len(), 2);
}

#[test]
fn what_was_applied_is_looked_up_again() {
    let mut rig = Rig::serving();
    rig.submit(set("n", "41"), None);
    rig.flush();
    rig.apply();
    let token = rig.submit(increment("n"), None);
    rig.look_up();
    rig.flush();
    assert_eq!(
        rig.answers().get(&token),
        Some(&Ok(WriteOutcome::Integer(42)))
    );
}

#[test]
fn a_retry_is_answered_only_once_the_original_has_committed() {
    let mut rig = Rig::serving();
    *rig.store.cached.borrow_mut() = true;
    let first = rig.submit(increment("n"), named(1));
    assert_eq!(rig.turn.table_loads.len(), 1);
    rig.load_table();
    let retry = rig.submit(increment("n"), named(1));
    assert!(rig.answers().is_empty());
    rig.flush();
    let one = Ok(WriteOutcome::Integer(1));
    assert_eq!(
        rig.answers(),
        BTreeMap::from([(first, one.clone()), (retry, one.clone())])
    );
    let late = rig.submit(increment("n"), named(1));
    assert_eq!(rig.answers(), BTreeMap::from([(late, one)]));
}

#[test]
fn a_deposed_primary_says_unknown_of_what_it_proposed_and_no_of_the_rest() {
    let mut rig = Rig::serving();
    rig.submit(set("committed", "v"), None);
    rig.flush();
    assert_eq!(rig.answers().len(), 1);
    let proposed = rig.submit(set("k", "v"), None);
    let parked = rig.submit(increment("n"), None);
    let tableless = rig.submit(increment("n"), named(1));
    rig.step(Event::Order {
        order: Order::Fence {
            partition: PARTITION,
            epoch: Epoch(2),
            round: 1,
        },
    });
    assert_eq!(
        rig.answers(),
        BTreeMap::from([
            (proposed, Err(RequestError::Unknown)),
            (parked, NOT_READY),
            (tableless, NOT_READY),
        ])
    );
    // What was asked for the ended leadership means nothing to the next.
    rig.look_up();
    rig.load_table();
    assert_eq!(rig.lane.unanswered(), 0);
}

#[test]
fn a_primary_that_is_named_again_knows_its_unapplied_log() {
    let mut rig = Rig::serving();
    rig.submit(set("n", "5"), None);
    rig.flush();
    // Committed, not applied; then fenced and named again.
    rig.step(Event::Order {
        order: Order::Fence {
            partition: PARTITION,
            epoch: Epoch(2),
            round: 1,
        },
    });
    rig.flush();
    rig.step(Event::Record {
        record: record(2, 2, ME),
    });
    rig.flush();
    assert!(rig.lane.serves());
    let token = rig.submit(increment("n"), None);
    assert!(rig.turn.lookups.is_empty());
    rig.flush();
    assert_eq!(
        rig.answers().get(&token),
        Some(&Ok(WriteOutcome::Integer(6)))
    );
}

#[test]
fn too_many_waiting_writes_are_refused() {
    let mut rig = Rig::serving();
    rig.turn.waiting_max = 2;
    rig.submit(set("a", "v"), None);
    rig.submit(set("b", "v"), None);
    let third = rig.submit(set("c", "v"), None);
    assert_eq!(
        rig.answers(),
        BTreeMap::from([(third, Err(RequestError::Overloaded))])
    );
}

#[test]
fn writes_that_wait_for_a_member_that_is_away_keep_no_other_out() {
    let mut rig = one_of_two();
    rig.turn.waiting_max = 4;
    for name in ["a", "b", "c"] {
        rig.lane.lease_until = Micros(u64::MAX);
        rig.submit_at(WriteLevel::All, set(name, "v"), None);
    }
    // They have committed with one copy, and the other member has none.
    rig.lane.committed(Index(u64::MAX));
    rig.lane.lease_until = Micros(u64::MAX);
    rig.settle();
    assert_eq!(rig.lane.incomplete.len(), 3);
    let more = rig.submit_at(WriteLevel::All, set("d", "v"), None);
    assert_eq!(
        rig.answers(),
        BTreeMap::from([(more, Err(RequestError::Overloaded))])
    );
    for name in ["e", "f", "g", "h"] {
        rig.lane.lease_until = Micros(u64::MAX);
        rig.submit(set(name, "v"), None);
    }
    assert!(rig.answers().is_empty(), "four places are free for them");
    rig.lane.lease_until = Micros(u64::MAX);
    let fifth = rig.submit(set("i", "v"), None);
    let refused = Some(Err(RequestError::Overloaded));
    assert_eq!(rig.answers().remove(&fifth), refused);
    // Who is back lets them all go.
    rig.lane.everywhere(Index(u64::MAX));
    rig.settle();
    assert!(rig.lane.incomplete.is_empty());
}

#[test]
fn a_write_that_is_pushed_back_is_held_and_none_overtakes_it() {
    let mut rig = Rig::serving();
    rig.push_back();
    // It takes all that may be written until the next tick, and more.
    let first = rig.submit(set("b", MUCH.as_str()), None);
    assert_eq!(rig.turn.pushed_back, 0);
    let second = rig.submit(set("c", "v"), None);
    let third = rig.submit(delete("c"), None);
    assert_eq!(
        rig.turn.pushed_back, 1,
        "those behind it are not even tried"
    );
    rig.answers();
    rig.flush();
    assert_eq!(rig.answers(), BTreeMap::from([(first, SET)]));
    assert!(rig.lane.has_held());
    assert_eq!(rig.lane.unanswered(), 2);
    assert_eq!(
        rig.turn.pushed_back, 2,
        "the first is tried again, and it alone"
    );
    // It catches up.
    rig.catch_up();
    rig.flush();
    let told = rig.answers();
    assert_eq!(told.get(&second), Some(&SET));
    // It found what the one before it wrote.
    assert_eq!(
        told.get(&third),
        Some(&Ok(WriteOutcome::Deleted { count: 1 }))
    );
}

#[path = "lane_combine_tests.rs"]
mod combined;
