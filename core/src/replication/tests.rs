//! Schedules that lost a write, or ended the process, one test each: a single core,
//! driven by hand.

mod copying;
mod pace;
mod read_leases;
mod reads;

use std::sync::Arc;

use bytes::Bytes;

use super::committed::{Committed, CommittedError, Line};
use super::durable::{DurableRecord, Generation, PartitionMeta, RecoveredPartition};
use super::entry::{EntryKind, LogEntry};
use super::event::{Effect, Event};
use super::message::{
    Append, AppendOutcome, AppendReply, Confirm, ConfirmReply, LeaseRenew, LeaseReply, PeerMessage,
};
use super::node::{NodeCore, Timing};
use crate::cluster::report::{Order, ReplicaReport, Wish};
use crate::ids::{
    Epoch, Index, MapVersion, Mark, Micros, NodeId, PartitionId, Position, ReplicaId,
};
use crate::record::{Configuration, Member, PartitionRecord, ReplicaSet, SlotRange};

const P: PartitionId = PartitionId(0);
/// The session of the core under test.
const SESSION: u64 = 100;

pub(super) fn timing() -> Timing {
    Timing {
        lease: Micros::from_millis(400),
        lease_longest: Micros::from_millis(400),
        lease_margin: None,
        tick: Micros::from_millis(20),
        resend: Micros::from_millis(100),
        stuck: Micros::from_millis(1500),
        window_bytes: 1 << 20,
        log_bytes: 1 << 20,
        keep_bytes: 1 << 20,
        unapplied_bytes: 1 << 20,
        push_back: Micros::from_millis(60_000),
        read_lease_at: 1,
        read_lease_parts: 8,
        read_lease_max: Micros::from_millis(100),
    }
}

fn member(n: u64) -> Member {
    Member {
        node: NodeId(n),
        replica: ReplicaId(n),
    }
}

/// A record of replicas 1 to `n` on the nodes of the same numbers.
fn record(epoch: u64, revision: u64, n: u64, w: u8, primary: Option<u64>) -> PartitionRecord {
    PartitionRecord {
        id: P,
        slots: SlotRange {
            first: 0,
            last: 16_383,
        },
        epoch: Epoch(epoch),
        revision,
        config: Configuration {
            current: ReplicaSet {
                members: (1..=n).map(member).collect(),
                write_quorum: w,
            },
            joint: None,
            learners: Vec::new(),
            readers: Vec::new(),
        },
        primary: primary.map(member),
        degraded: false,
        changed_at: MapVersion(1),
    }
}

/// `count` entries of an epoch behind a mark.
fn entries(mut head: Mark, epoch: u64, count: u64, body: &'static str) -> Vec<LogEntry> {
    let body = Bytes::from_static(body.as_bytes());
    let mut log = Vec::new();
    for _ in 0..count {
        let entry = LogEntry::after(head, Epoch(epoch), EntryKind::Write, body.clone());
        head = entry.mark();
        log.push(entry);
    }
    log
}

/// One core, and how many records it has handed to its log.
struct Rig {
    core: NodeCore,
    now: Micros,
    appended: u64,
}

impl Rig {
    /// Node `n`, which recovered a log of which `applied` entries are applied.
    fn recovered(
        n: u64,
        record: PartitionRecord,
        log: Vec<LogEntry>,
        applied: usize,
        dropped_tail: bool,
    ) -> Self {
        let applied = match applied {
            0 => Mark::ZERO,
            count => log[count - 1].mark(),
        };
        let promised = record.epoch;
        let found = RecoveredPartition {
            meta: PartitionMeta {
                partition: P,
                replica: Some(ReplicaId(n)),
                generation: Generation(1),
                promised,
                record: Some(Arc::new(record)),
                deleted_at: None,
                base: Mark::ZERO,
                lineage: Vec::new(),
            },
            entries: log,
            applied,
            corrupt: false,
            dropped_tail,
            missing: None,
        };
        Self::start(n, vec![found])
    }

    fn start(n: u64, found: Vec<RecoveredPartition>) -> Self {
        let start = Micros::from_millis(1_000);
        Self {
            core: NodeCore::new(NodeId(n), SESSION, timing(), 10, found, start),
            // Past the lease that a fresh process counts as granted.
            now: start.plus(Micros::from_millis(1_000)),
            appended: 0,
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.step(self.now, event, &mut effects);
        let records = effects.iter().filter(|e| matches!(e, Effect::Append(_)));
        self.appended += records.count() as u64;
        effects
    }

    fn hear(&mut self, from: u64, message: PeerMessage) -> Vec<Effect> {
        let from = NodeId(from);
        self.step(Event::Peer { from, message })
    }

    fn learn(&mut self, record: PartitionRecord) -> Vec<Effect> {
        let record = Arc::new(record);
        self.step(Event::Record { record })
    }

    fn ask(&mut self, round: u64) -> Vec<Effect> {
        let order = Order::Ask {
            partition: P,
            round,
        };
        self.step(Event::Order { order })
    }

    fn fence(&mut self, epoch: u64, round: u64) -> Vec<Effect> {
        let order = Order::Fence {
            partition: P,
            epoch: Epoch(epoch),
            round,
        };
        self.step(Event::Order { order })
    }

    fn flush(&mut self) -> Vec<Effect> {
        let number = self.appended;
        self.step(Event::Flushed { number })
    }

    fn head(&self) -> Index {
        self.core.standing(P).expect("a replica").head
    }

    fn wish(&mut self) -> Wish {
        self.core.statuses(self.now, true)[0].wish
    }
}

fn append(to: u64, epoch: u64, session: u64, previous: Mark, entries: &[LogEntry]) -> Append {
    Append {
        partition: P,
        epoch: Epoch(epoch),
        to: ReplicaId(to),
        from: ReplicaId(1),
        session,
        previous,
        entries: entries.to_vec(),
        commit: Index::ZERO,
    }
}

/// All that was asked for.
fn granted(request: &LeaseRenew) -> LeaseReply {
    LeaseReply {
        giving: 0,
        session: request.session,
        round: request.round,
        version: request.version,
        excluded: Vec::new(),
        span: request.span,
        disk_full: false,
    }
}

fn reports(effects: &[Effect]) -> Vec<&ReplicaReport> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Report(report) => Some(report),
            _ => None,
        })
        .collect()
}

fn replies(effects: &[Effect]) -> Vec<&AppendReply> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Send {
                message: PeerMessage::AppendReply(reply),
                ..
            } => Some(reply),
            _ => None,
        })
        .collect()
}

fn written(effects: &[Effect], is: impl Fn(&DurableRecord) -> bool) -> bool {
    effects
        .iter()
        .any(|e| matches!(e, Effect::Append(record) if is(record)))
}

fn writes_a_barrier(effects: &[Effect]) -> bool {
    written(
        effects,
        |r| matches!(r, DurableRecord::Entry { entry, .. } if entry.kind == EntryKind::Barrier),
    )
}

fn cuts(effects: &[Effect]) -> bool {
    written(effects, |r| matches!(r, DurableRecord::Truncate { .. }))
}

fn discards(effects: &[Effect]) -> bool {
    written(effects, |r| matches!(r, DurableRecord::Installed { .. }))
}

#[test]
fn a_promise_learnt_of_a_peer_is_not_reported_before_it_is_flushed() {
    let mut rig = Rig::recovered(2, record(1, 1, 3, 2, Some(1)), Vec::new(), 0, false);
    let next = Arc::new(record(2, 0, 3, 2, None));
    rig.hear(3, PeerMessage::Record(next));
    assert!(reports(&rig.ask(7)).is_empty());
    let effects = rig.flush();
    let told = reports(&effects);
    assert_eq!((told.len(), told[0].round), (1, 7));
    assert_eq!((told[0].promised, told[0].fenced), (Epoch(2), false));
    // Only an answer to a fence says that it is one.
    let effects = rig.fence(2, 8);
    assert!(reports(&effects)[0].fenced);
}

#[test]
fn a_report_tells_of_no_promise_beyond_what_is_flushed() {
    let mut rig = Rig::recovered(2, record(1, 1, 3, 2, Some(1)), Vec::new(), 0, false);
    rig.fence(2, 7);
    let number = rig.appended;
    rig.learn(record(3, 0, 3, 2, None));
    let effects = rig.step(Event::Flushed { number });
    let told = reports(&effects);
    assert_eq!((told[0].promised, told[0].fenced), (Epoch(2), true));
    // A fence that a newer promise overtook is none any more.
    rig.flush();
    let effects = rig.fence(2, 9);
    let told = reports(&effects);
    assert_eq!((told[0].promised, told[0].fenced), (Epoch(3), false));
}

#[test]
fn a_primary_that_dropped_a_tail_and_was_only_asked_does_not_rise() {
    let log = entries(Mark::ZERO, 1, 3, "a");
    let mut rig = Rig::recovered(1, record(1, 1, 3, 2, Some(1)), log, 3, true);
    rig.ask(1);
    assert!(!writes_a_barrier(&rig.learn(record(1, 2, 3, 2, Some(1)))));
    rig.flush();
    rig.fence(1, 2);
    assert!(writes_a_barrier(&rig.learn(record(1, 3, 3, 2, Some(1)))));
}

fn confirms(rig: &mut Rig, from: u64) -> Vec<Effect> {
    let reply = ConfirmReply {
        partition: P,
        epoch: Epoch(1),
        from: ReplicaId(from),
        session: SESSION,
        promised: Epoch(1),
        head: Position::ZERO,
    };
    rig.hear(from, PeerMessage::ConfirmReply(reply))
}

#[test]
fn a_primary_that_dropped_a_tail_resumes_only_once_every_other_voter_confirms() {
    // The fourth of the others may hold what this one sent it and then lost: the
    // barrier would take the index of an entry of the same epoch.
    for (dropped_tail, needed) in [(false, 2), (true, 4)] {
        let record = record(1, 1, 5, 3, Some(1));
        let mut rig = Rig::recovered(1, record, Vec::new(), 0, dropped_tail);
        rig.step(Event::Coordinators { reachable: false });
        rig.step(Event::Tick);
        for (count, other) in (1..).zip(2..=5) {
            let resumed = writes_a_barrier(&confirms(&mut rig, other));
            assert_eq!(resumed, count == needed, "{count} of {needed} confirmed");
            if resumed {
                break;
            }
        }
    }
}

#[test]
fn who_confirmed_a_restarted_primary_takes_nothing_that_the_process_before_sent() {
    let mut rig = Rig::recovered(2, record(1, 1, 3, 2, Some(1)), Vec::new(), 0, false);
    let confirm = |session| {
        PeerMessage::Confirm(Confirm {
            partition: P,
            epoch: Epoch(1),
            to: ReplicaId(2),
            session,
        })
    };
    rig.hear(1, confirm(9));
    let lost = entries(Mark::ZERO, 1, 2, "lost");
    let late = append(2, 1, 8, Mark::ZERO, &lost);
    let effects = rig.hear(1, PeerMessage::Append(late));
    assert_eq!(replies(&effects)[0].outcome, AppendOutcome::Refused);
    assert_eq!(rig.head(), Index::ZERO);
    let kept = entries(Mark::ZERO, 1, 1, "kept");
    let effects = rig.hear(1, PeerMessage::Append(append(2, 1, 9, Mark::ZERO, &kept)));
    assert!(replies(&effects).is_empty());
    let effects = rig.flush();
    let reply = replies(&effects)[0];
    assert_eq!(reply.outcome, AppendOutcome::Matched { index: Index(1) });
    assert_eq!(reply.session, 9);
}

#[test]
fn a_primary_that_is_refused_in_its_own_epoch_says_again_who_leads_it() {
    let mut rig = Rig::recovered(1, record(1, 1, 3, 2, None), Vec::new(), 0, false);
    rig.learn(record(2, 0, 3, 2, Some(1)));
    rig.flush();
    let refused = |session| {
        PeerMessage::AppendReply(AppendReply {
            partition: P,
            epoch: Epoch(2),
            from: ReplicaId(2),
            session,
            outcome: AppendOutcome::Refused,
        })
    };
    let asks = |effects: &[Effect]| {
        effects.iter().any(|e| {
            matches!(e, Effect::Send { to: NodeId(2), message: PeerMessage::Confirm(c) }
                if c.session == SESSION)
        })
    };
    assert!(asks(&rig.hear(2, refused(SESSION))));
    assert!(!asks(&rig.hear(2, refused(99))));
}

#[test]
fn an_acknowledgement_to_the_process_before_does_not_count() {
    let mut rig = Rig::recovered(1, record(1, 1, 3, 2, None), Vec::new(), 0, false);
    rig.learn(record(2, 0, 3, 2, Some(1)));
    rig.flush();
    let matched = |session| {
        PeerMessage::AppendReply(AppendReply {
            partition: P,
            epoch: Epoch(2),
            from: ReplicaId(2),
            session,
            outcome: AppendOutcome::Matched { index: Index(1) },
        })
    };
    rig.hear(2, matched(99));
    assert!(!rig.core.standing(P).expect("a replica").serving);
    rig.hear(2, matched(SESSION));
    assert!(rig.core.standing(P).expect("a replica").serving);
}

#[test]
fn a_damaged_append_cuts_nothing() {
    let log = entries(Mark::ZERO, 1, 4, "a");
    for damaged in 0..4 {
        for place in 0..3 {
            let record = record(1, 1, 3, 2, Some(1));
            let mut rig = Rig::recovered(2, record, log.clone(), 0, false);
            let mut sent = log.clone();
            match place {
                0 => sent[damaged].chain ^= 0x10,
                1 => sent[damaged].body = Bytes::from_static(b"b"),
                _ => sent[damaged].position.epoch = Epoch(0),
            }
            let effects = rig.hear(1, PeerMessage::Append(append(2, 1, 7, Mark::ZERO, &sent)));
            assert!(effects.is_empty(), "{damaged} {place}: {effects:?}");
            assert_eq!(rig.head(), Index(4));
        }
    }
}

#[test]
fn what_matched_this_primary_is_not_cut_for_its_own_sake() {
    let mut rig = Rig::recovered(2, record(1, 1, 3, 2, Some(1)), Vec::new(), 0, false);
    let first = entries(Mark::ZERO, 1, 2, "a");
    rig.hear(1, PeerMessage::Append(append(2, 1, 7, Mark::ZERO, &first)));
    rig.flush();
    let mut other = append(2, 1, 7, Mark::ZERO, &entries(Mark::ZERO, 1, 1, "b"));
    other.commit = Index(2);
    let effects = rig.hear(1, PeerMessage::Append(other));
    assert!(!cuts(&effects));
    assert_eq!(rig.head(), Index(2));
}

#[test]
fn a_cut_below_what_was_applied_is_damage_unless_the_record_allows_for_a_loss() {
    let applied = entries(Mark::ZERO, 1, 3, "a");
    let other = entries(Mark::ZERO, 2, 1, "b");
    let lossless = record(2, 0, 3, 2, Some(1));
    let w1 = record(2, 0, 3, 1, Some(1));
    let survivors = PartitionRecord {
        degraded: true,
        ..record(2, 0, 2, 2, Some(1))
    };
    for (record_now, discarded) in [(lossless, false), (w1, true), (survivors, true)] {
        let before = record(1, 1, 3, 2, Some(1));
        let mut rig = Rig::recovered(2, before, applied.clone(), 3, false);
        let conflicting = || PeerMessage::Append(append(2, 2, 7, Mark::ZERO, &other));
        // Before the record of the epoch has come it cannot be told which it is.
        let effects = rig.hear(1, conflicting());
        assert!(!discards(&effects) && !cuts(&effects));
        assert_eq!(rig.wish(), Wish::None);
        rig.learn(record_now);
        let effects = rig.hear(1, conflicting());
        assert_eq!(discards(&effects), discarded);
        assert!(!cuts(&effects));
        let wish = if discarded { Wish::None } else { Wish::Replace };
        assert_eq!(rig.wish(), wish);
        rig.flush();
    }
}

/// Node 2 with that log, 10 entries of it applied, which fetches a snapshot.
fn fetching(log: &[LogEntry], degraded: bool) -> (Rig, Generation) {
    let before = PartitionRecord {
        degraded,
        ..record(1, 1, 3, 2, Some(1))
    };
    let mut rig = Rig::recovered(2, before, log.to_vec(), 10, false);
    let effects = rig.hear(
        1,
        PeerMessage::NeedSnapshot {
            partition: P,
            epoch: Epoch(1),
            to: ReplicaId(2),
            source: None,
            after: Index::ZERO,
        },
    );
    let generation = effects
        .iter()
        .find_map(|e| match e {
            Effect::FetchSnapshot { generation, .. } => Some(*generation),
            _ => None,
        })
        .expect("a snapshot is fetched");
    (rig, generation)
}

fn install(rig: &mut Rig, generation: Generation, mark: Mark) {
    let effects = rig.step(Event::SnapshotFetched {
        partition: P,
        generation,
        mark,
        lineage: vec![mark],
    });
    assert!(discards(&effects));
}

/// The same with a snapshot up to `mark` on its way into the log.
fn installing(log: &[LogEntry], mark: Mark, degraded: bool) -> Rig {
    let (mut rig, generation) = fetching(log, degraded);
    install(&mut rig, generation, mark);
    rig
}

#[test]
fn a_head_that_waits_to_be_reported_is_not_told_as_none_while_a_snapshot_is_switched_to() {
    let line = entries(Mark::ZERO, 1, 40, "a");
    let (mut rig, generation) = fetching(&line[..30], false);
    // The report waits for the flush of the promise.
    assert!(reports(&rig.fence(2, 1)).is_empty());
    let promise = rig.appended;
    install(&mut rig, generation, line[39].mark());
    let effects = rig.step(Event::Flushed { number: promise });
    assert!(reports(&effects).is_empty(), "{:?}", reports(&effects));
    let effects = rig.flush();
    assert_eq!(reports(&effects)[0].head, line[39].position);
}

#[test]
fn a_tail_that_is_cut_while_a_snapshot_is_switched_to_stays_cut() {
    let log = entries(Mark::ZERO, 1, 30, "a");
    let mut rig = installing(&log, log[24].mark(), false);
    rig.learn(record(2, 0, 3, 2, Some(1)));
    let other = entries(log[26].mark(), 2, 1, "b");
    let cut = append(2, 2, 7, log[26].mark(), &other);
    assert!(cuts(&rig.hear(1, PeerMessage::Append(cut))));
    let effects = rig.flush();
    let matched = AppendOutcome::Matched { index: Index(28) };
    assert!(replies(&effects).iter().any(|r| r.outcome == matched));
    let effects = rig.fence(2, 1);
    assert_eq!(reports(&effects)[0].head, other[0].position);
}

#[test]
fn a_snapshot_that_is_given_up_before_its_switch_is_flushed_leaves_no_head_behind() {
    let log = entries(Mark::ZERO, 1, 30, "a");
    let foreign = entries(Mark::ZERO, 1, 40, "c");
    let mut rig = installing(&log, foreign[39].mark(), true);
    rig.learn(PartitionRecord {
        degraded: true,
        ..record(2, 0, 3, 2, Some(1))
    });
    let other = entries(Mark::ZERO, 2, 45, "b");
    let conflicting = append(2, 2, 7, Mark::ZERO, &other);
    rig.hear(1, PeerMessage::Append(conflicting));
    rig.flush();
    let effects = rig.fence(2, 1);
    let reported = reports(&effects)[0].head;
    assert_eq!(reported.index, rig.head());
}

#[test]
fn the_renewal_of_leases_that_nobody_asks_for_costs_nothing_per_partition() {
    let mut rig = Rig::start(1, Vec::new());
    for n in 0..1_000 {
        let mut record = record(1, 1, 3, 2, Some(1));
        record.id = PartitionId(n);
        rig.learn(record);
    }
    rig.flush();
    for n in 0..1_000 {
        let matched = AppendReply {
            partition: PartitionId(n),
            epoch: Epoch(1),
            from: ReplicaId(2),
            session: SESSION,
            outcome: AppendOutcome::Matched { index: Index(1) },
        };
        rig.hear(2, PeerMessage::AppendReply(matched));
    }
    // Grants whatever is asked for, at once, and returns how many effects there were.
    let round = |rig: &mut Rig| {
        let sent = rig.step(Event::Tick);
        let mut effects = 0;
        for effect in &sent {
            if let Effect::Send {
                to: NodeId(2),
                message: PeerMessage::LeaseRenew(request),
            } = effect
            {
                let granted = PeerMessage::LeaseReply(granted(request));
                effects += 1 + rig.hear(2, granted).len();
            }
        }
        effects
    };
    let told = |rig: &Rig| rig.core.standing(P).expect("a replica").lease_until;
    round(&mut rig);
    rig.now = rig.now.plus(Micros::from_millis(20_000));
    round(&mut rig);
    let mut most = 0;
    for _ in 0..10 {
        rig.now = rig.now.plus(Micros::from_millis(110));
        most = most.max(round(&mut rig));
        assert!(told(&rig) > rig.now);
    }
    assert!((1..=4).contains(&most), "{most} effects in a round");
    // Whoever asks is told at once, without a round, and from then on each time.
    let mut effects = Vec::new();
    assert!(!rig.core.want_lease(rig.now, P, &mut effects));
    assert_eq!(effects, vec![Effect::Standing { partition: P }]);
    rig.now = rig.now.plus(Micros::from_millis(110));
    assert!((2..=5).contains(&round(&mut rig)));
}

#[test]
fn a_watcher_is_given_what_committed_behind_a_position_of_the_logs_own_line() {
    let at = |epoch, index| {
        Some(Position {
            epoch: Epoch(epoch),
            index: Index(index),
        })
    };
    let log = entries(Mark::ZERO, 1, 3, "a");
    let mut rig = Rig::recovered(1, record(1, 1, 1, 1, None), log.clone(), 3, false);
    let read = |rig: &Rig, after, bytes| rig.core.committed_after(P, after, bytes);
    assert_eq!(
        read(&rig, None, 1000),
        Err(CommittedError::NotPrimary),
        "a follower"
    );
    rig.learn(record(2, 1, 1, 1, Some(1)));
    assert_eq!(
        read(&rig, None, 1000),
        Err(CommittedError::NotPrimary),
        "its barrier has not committed"
    );
    rig.flush();
    let indexes = |after, bytes| {
        let committed = read(&rig, after, bytes).expect("it is there");
        let indexes: Vec<u64> = committed
            .entries
            .iter()
            .map(|entry| entry.position.index.0)
            .collect();
        (indexes, Some(committed.position))
    };
    // Three entries of the epoch before, and the barrier.
    assert_eq!(indexes(None, 1000), (vec![], at(2, 4)));
    assert_eq!(indexes(at(0, 0), 1000), (vec![1, 2, 3, 4], at(2, 4)));
    assert_eq!(indexes(at(1, 2), 1000), (vec![3, 4], at(2, 4)));
    assert_eq!(indexes(at(1, 2), 1), (vec![3], at(1, 3)));
    assert_eq!(indexes(at(2, 4), 1000), (vec![], at(2, 4)));
    for lost in [at(1, 4), at(2, 5), at(5, 1)] {
        let refused = read(&rig, lost, 1000);
        assert_eq!(refused, Err(CommittedError::Compacted), "{lost:?}");
    }
    // Written and not committed: not told.
    let mut effects = Vec::new();
    let body = Bytes::from_static(b"b");
    let proposed = rig.core.propose(rig.now, P, body, &mut effects);
    let proposed = proposed.expect("it serves");
    assert_eq!(
        rig.core.committed_after(P, at(2, 4), 1000),
        Ok(Committed {
            entries: Vec::new(),
            position: at(2, 4).expect("given"),
        })
    );
    rig.appended += 1;
    rig.flush();
    let committed = rig.core.committed_after(P, at(2, 4), 1000);
    assert_eq!(committed.expect("there").position, proposed);
}

#[test]
fn a_watcher_whose_log_is_no_longer_in_memory_is_told_of_which_line_it_was() {
    let log = entries(Mark::ZERO, 1, 3, "a");
    let found = RecoveredPartition {
        meta: PartitionMeta {
            partition: P,
            replica: Some(ReplicaId(1)),
            generation: Generation(1),
            promised: Epoch(1),
            record: Some(Arc::new(record(1, 1, 1, 1, None))),
            deleted_at: None,
            base: log[1].mark(),
            lineage: Vec::new(),
        },
        entries: vec![log[2].clone()],
        applied: log[2].mark(),
        corrupt: false,
        dropped_tail: false,
        missing: None,
    };
    let mut rig = Rig::start(1, vec![found]);
    rig.learn(record(2, 1, 1, 1, Some(1)));
    rig.flush();
    let barrier = rig.core.metas()[0].lineage[1];
    let read = |after| rig.core.committed_after(P, Some(after), 1000);
    assert_eq!(
        read(log[0].position),
        Err(CommittedError::BeforeMemory(Line {
            base: log[1].mark(),
            lineage: vec![log[2].mark(), barrier],
        })),
        "its successor may be on disk"
    );
    let stray = Position {
        epoch: Epoch(1),
        index: Index(9),
    };
    assert_eq!(read(stray), Err(CommittedError::Compacted), "of no line");
    let rest = read(log[1].position).expect("it is there");
    assert_eq!(rest.entries[0], log[2]);
}

#[test]
fn the_state_of_a_deleted_replica_stays_until_its_deletion_is_flushed() {
    let log = entries(Mark::ZERO, 1, 3, "x");
    let mut rig = Rig::recovered(3, record(1, 1, 3, 2, Some(1)), log, 3, false);
    let drops = |effects: &[Effect]| {
        let is = |effect: &&Effect| matches!(effect, Effect::DropGeneration { generation, .. } if *generation == Generation(1));
        effects.iter().filter(is).count()
    };
    // A configuration without it.
    let effects = rig.learn(record(2, 0, 2, 2, Some(1)));
    assert!(written(&effects, |r| matches!(
        r,
        DurableRecord::Delete { .. }
    )));
    let before = rig.appended - 1;
    assert_eq!(drops(&effects), 0);
    let effects = rig.step(Event::Flushed { number: before });
    assert_eq!(drops(&effects), 0, "a restart still finds the replica");
    assert_eq!(drops(&rig.flush()), 1);
    assert_eq!(drops(&rig.flush()), 0);
}

#[test]
fn a_replica_is_away_until_it_keeps_up_with_a_primary_that_reached_this_process() {
    let log = entries(Mark::ZERO, 1, 300, "x");
    let mut rig = Rig::recovered(
        2,
        record(1, 1, 3, 2, Some(1)),
        log[..10].to_vec(),
        10,
        false,
    );
    assert_eq!(rig.core.away(), 1);
    // Reached, and told that it is 290 entries behind.
    let told = |sent: &[LogEntry]| {
        let append = append(2, 1, 7, log[9].mark(), sent);
        let commit = Index(300);
        PeerMessage::Append(Append { commit, ..append })
    };
    rig.hear(1, told(&[]));
    assert_eq!(rig.core.away(), 1);
    rig.hear(1, told(&log[10..100]));
    assert_eq!(rig.core.away(), 0);
}

#[test]
fn a_replica_is_away_that_nobody_leads_and_not_one_that_counts_no_more() {
    let log = entries(Mark::ZERO, 1, 10, "x");
    let named = record(1, 1, 3, 2, Some(1));
    // The primary of before: it waits to be promoted.
    let rig = Rig::recovered(1, named.clone(), log.clone(), 10, false);
    assert_eq!(rig.core.away(), 1);
    let mut rig = Rig::recovered(3, named, log, 10, false);
    assert_eq!(rig.core.away(), 1);
    let mut smaller = record(2, 1, 2, 2, Some(1));
    smaller.config.learners = vec![member(3)];
    rig.learn(smaller);
    assert_eq!(rig.core.away(), 0);
}
