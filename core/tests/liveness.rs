//! What replication does about those that are slow, hang or are full: it goes on for
//! the clients, within bounds (rules 1, 10, 13, 15 and 17).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::cluster::report::{FollowerStatus, PartitionStatus, Wish};
use cairn_core::ids::{Epoch, Index, MapVersion, Mark, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::kv::{EntryBody, StoredValue};
use cairn_core::record::{Configuration, Member, PartitionRecord, ReplicaSet, SlotRange};
use cairn_core::replication::message::PeerMessage;
use cairn_core::replication::{
    DiskRoom, Effect, Event, Generation, GiveError, LogEntry, NodeCore, ProposeError,
    SnapshotWanted, Timing,
};

const P: PartitionId = PartitionId(0);
const TICK: Micros = Micros::from_millis(10);

fn timing() -> Timing {
    Timing {
        lease: Micros::from_millis(400),
        lease_longest: Micros::from_millis(400),
        lease_margin: Some(Micros::from_millis(40)),
        tick: TICK,
        resend: Micros::from_millis(100),
        stuck: Micros::from_millis(1_500),
        window_bytes: 1 << 20,
        log_bytes: 50_000,
        keep_bytes: 100_000,
        unapplied_bytes: 1 << 20,
        push_back: Micros::from_millis(10_000),
        read_lease_at: 1,
        read_lease_parts: 8,
        read_lease_max: Micros::from_millis(100),
    }
}

fn member(id: u64) -> Member {
    Member {
        node: NodeId(id),
        replica: ReplicaId(id),
    }
}

fn write(size: usize) -> Bytes {
    let value = StoredValue {
        expires_at: None,
        kind: 0,
        data: Bytes::from(vec![7; size]),
    };
    body(Some(value))
}

fn body(value: Option<StoredValue>) -> Bytes {
    EntryBody {
        writes: vec![(Bytes::from_static(b"key"), value)],
        ..EntryBody::default()
    }
    .encode()
}

struct Machine {
    core: NodeCore,
    appended: u64,
    flushed: u64,
    probed: bool,
    /// Its disk flushes nothing.
    hangs: bool,
    /// Its store applies nothing.
    stalls: bool,
    to_apply: VecDeque<(Generation, Vec<LogEntry>)>,
    applied: Mark,
    /// A snapshot that it wants, and where it was told to fetch it last.
    wants: Option<Generation>,
    fetches: Option<(NodeId, SnapshotWanted)>,
    snapshots: usize,
}

/// Machines that hand each other everything at once, and clients that write.
struct Rig {
    now: Micros,
    machines: BTreeMap<u64, Machine>,
    wire: VecDeque<(NodeId, NodeId, PeerMessage)>,
    /// Nodes that are cut off.
    cut: Vec<u64>,
    revision: u64,
}

impl Rig {
    fn new(nodes: u64, timing: Timing) -> Self {
        let now = Micros::from_millis(10_000);
        let machines = (1..=nodes)
            .map(|id| {
                let core = NodeCore::new(NodeId(id), id, timing, 1, Vec::new(), now);
                let machine = Machine {
                    core,
                    appended: 0,
                    flushed: 0,
                    probed: false,
                    hangs: false,
                    stalls: false,
                    to_apply: VecDeque::new(),
                    applied: Mark::ZERO,
                    wants: None,
                    fetches: None,
                    snapshots: 0,
                };
                (id, machine)
            })
            .collect();
        Self {
            now: now.plus(Micros::from_millis(1_000)),
            machines,
            wire: VecDeque::new(),
            cut: Vec::new(),
            revision: 0,
        }
    }

    /// A primary on n1 over `members`, with `learners`.
    fn configure(&mut self, members: &[u64], write_quorum: u8, learners: &[u64]) {
        self.revision += 1;
        let record = Arc::new(PartitionRecord {
            id: P,
            slots: SlotRange {
                first: 0,
                last: 16_383,
            },
            epoch: Epoch(1),
            revision: self.revision,
            config: Configuration {
                current: ReplicaSet {
                    members: members.iter().copied().map(member).collect(),
                    write_quorum,
                },
                joint: None,
                learners: learners.iter().copied().map(member).collect(),
                readers: Vec::new(),
            },
            primary: Some(member(1)),
            degraded: false,
            changed_at: MapVersion(self.revision),
        });
        for id in 1..=self.machines.len() as u64 {
            let record = record.clone();
            self.step(id, Event::Record { record });
        }
        self.settle();
    }

    fn machine(&mut self, id: u64) -> &mut Machine {
        self.machines.get_mut(&id).expect("a machine")
    }

    fn step(&mut self, id: u64, event: Event) {
        let (now, mut effects) = (self.now, Vec::new());
        self.machine(id).core.step(now, event, &mut effects);
        self.take(id, effects);
    }

    fn take(&mut self, id: u64, effects: Vec<Effect>) {
        for effect in effects {
            let machine = self.machine(id);
            match effect {
                Effect::Append(_) => machine.appended += 1,
                Effect::ProbeLog => machine.probed = true,
                Effect::Apply {
                    generation,
                    entries,
                    ..
                } => machine.to_apply.push_back((generation, entries)),
                Effect::FetchSnapshot {
                    from,
                    wanted,
                    generation,
                } => {
                    machine.wants = Some(generation);
                    machine.fetches = Some((from, wanted));
                    machine.snapshots += 1;
                }
                Effect::Send { to, message }
                    if !self.cut.contains(&id) && !self.cut.contains(&to.0) =>
                {
                    self.wire.push_back((NodeId(id), to, message));
                }
                _ => {}
            }
        }
    }

    fn settle(&mut self) {
        loop {
            let mut busy = false;
            for id in 1..=self.machines.len() as u64 {
                let machine = self.machine(id);
                let due = machine.flushed < machine.appended || machine.probed;
                if due && !machine.hangs {
                    machine.flushed = machine.appended;
                    machine.probed = false;
                    let number = machine.flushed;
                    self.step(id, Event::Flushed { number });
                    busy = true;
                }
                busy |= self.apply(id);
            }
            while let Some((from, to, message)) = self.wire.pop_front() {
                self.step(to.0, Event::Peer { from, message });
                busy = true;
            }
            if !busy {
                return;
            }
        }
    }

    fn apply(&mut self, id: u64) -> bool {
        let machine = self.machine(id);
        if machine.stalls {
            return false;
        }
        let Some((generation, entries)) = machine.to_apply.pop_front() else {
            return false;
        };
        let mark = entries.last().map(LogEntry::mark).expect("entries");
        machine.applied = mark;
        self.step(
            id,
            Event::Applied {
                partition: P,
                generation,
                index: mark.index(),
            },
        );
        true
    }

    fn propose(&mut self, body: Bytes) -> Result<Index, ProposeError> {
        let (now, mut effects) = (self.now, Vec::new());
        let proposed = self.machine(1).core.propose(now, P, body, &mut effects);
        self.take(1, effects);
        proposed.map(|position| position.index)
    }

    /// Time passes by a tick.
    fn tick(&mut self) {
        self.now = self.now.plus(TICK);
        for id in 1..=self.machines.len() as u64 {
            self.step(id, Event::Tick);
        }
        self.settle();
    }

    fn run(&mut self, millis: u64) {
        let until = self.now.plus(Micros::from_millis(millis));
        while self.now < until {
            self.tick();
        }
    }

    /// Clients write 10 KB in each tick as long as they may. How many writes went, and
    /// the longest time in which none did.
    fn write_for(&mut self, millis: u64) -> (usize, Micros) {
        let until = self.now.plus(Micros::from_millis(millis));
        let (mut written, mut longest, mut last) = (0, Micros(0), self.now);
        while self.now < until {
            for _ in 0..10 {
                match self.propose(write(1_000)) {
                    Ok(_) => {
                        written += 1;
                        longest = longest.max(self.now.minus(last));
                        last = self.now;
                    }
                    Err(ProposeError::PushedBack) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            self.tick();
        }
        (written, longest.max(self.now.minus(last)))
    }

    fn status(&mut self, id: u64) -> PartitionStatus {
        let now = self.now;
        let statuses = self.machine(id).core.statuses(now, true);
        statuses.into_iter().next().expect("a replica")
    }

    fn follower(&mut self, id: u64) -> FollowerStatus {
        let status = self.status(1);
        let mut followers = status.followers.into_iter();
        followers
            .find(|f| f.replica == ReplicaId(id))
            .expect("it follows")
    }

    fn pushes_back(&mut self) -> bool {
        let standing = self.machine(1).core.standing(P);
        standing.expect("a replica").pushing_back
    }

    /// Whose state that node was told last to fetch.
    #[track_caller]
    fn source(&mut self, to: u64) -> u64 {
        let (from, wanted) = self.machine(to).fetches.expect("it fetches");
        assert_eq!(wanted.replica.0, from.0);
        from.0
    }

    /// Whether that source gives what was asked for.
    fn gives(&mut self, wanted_by: u64) -> Result<(), GiveError> {
        let (from, wanted) = self.machine(wanted_by).fetches.expect("it fetches");
        let (now, mut effects) = (self.now, Vec::new());
        let core = &mut self.machine(from.0).core;
        let given = core.give_snapshot(now, &wanted, &mut effects);
        self.take(from.0, effects);
        given.map(|_| ())
    }

    /// Nothing comes of the copy that it fetches.
    fn fails(&mut self, to: u64) {
        let generation = self.machine(to).wants.take().expect("it fetches");
        self.machine(to).fetches = None;
        self.step(
            to,
            Event::SnapshotFailed {
                partition: P,
                generation,
            },
        );
        self.settle();
    }

    /// n1 begins to stream a snapshot to `to`: of what it has applied.
    fn serve(&mut self, to: u64) -> Mark {
        let mark = self.machine(1).applied;
        let generation = self.machine(to).wants.expect("it fetches");
        self.step(
            to,
            Event::SnapshotBegun {
                partition: P,
                generation,
                last: mark.index(),
            },
        );
        let (to, from) = (NodeId(to), mark.index());
        self.step(
            1,
            Event::SnapshotServing {
                partition: P,
                to,
                from,
            },
        );
        mark
    }

    /// It has arrived and is durable.
    fn fetched(&mut self, to: u64, mark: Mark) {
        let (partition, from) = (P, mark.index());
        let node = NodeId(to);
        self.step(
            1,
            Event::SnapshotServed {
                partition,
                to: node,
                from,
            },
        );
        // Installing takes its time: long enough for housekeeping to come by.
        self.write_for(1_000);
        let machine = self.machine(to);
        machine.applied = mark;
        machine.to_apply.clear();
        let generation = machine.wants.take().expect("it fetches");
        self.step(
            to,
            Event::SnapshotFetched {
                partition,
                generation,
                mark,
                lineage: vec![mark],
            },
        );
        self.settle();
    }
}

/// A primary alone, with so much behind it that whoever comes needs a snapshot.
fn far_ahead(timing: Timing) -> Rig {
    let mut rig = Rig::new(2, timing);
    rig.configure(&[1], 1, &[]);
    rig.write_for(1_000);
    rig
}

#[test]
fn a_learner_reaches_the_head_of_a_busy_partition_because_writes_are_slowed_for_it() {
    let mut rig = far_ahead(timing());
    rig.configure(&[1], 1, &[2]);
    rig.run(200);
    let mark = rig.serve(2);
    let (written, longest) = rig.write_for(4_000);
    assert!(rig.pushes_back(), "{written} writes went");
    assert!(written < 100, "{written} writes went past the bound");
    assert!(longest < Micros::from_millis(1_000), "none for {longest:?}");
    rig.fetched(2, mark);
    rig.write_for(100);
    let learner = rig.follower(2);
    assert!(learner.caught_up && !learner.hopeless, "{learner:?}");
    assert_eq!(rig.machine(2).snapshots, 1);
    let (written, _) = rig.write_for(1_000);
    assert_eq!(written, 1_000, "nobody is waited for any more");
}

#[test]
fn a_learner_that_cannot_catch_up_is_given_up_and_writes_never_stop() {
    let push_back = Micros::from_millis(2_000);
    let mut rig = far_ahead(Timing {
        push_back,
        ..timing()
    });
    rig.configure(&[1], 1, &[2]);
    rig.run(200);
    rig.serve(2);
    let (_, longest) = rig.write_for(3_000);
    assert!(longest < Micros::from_millis(500), "none for {longest:?}");
    assert!(rig.follower(2).hopeless);
    assert!(!rig.pushes_back());
    let (written, _) = rig.write_for(1_000);
    assert_eq!(written, 1_000);
}

#[test]
fn a_learner_that_needs_snapshot_after_snapshot_is_given_up() {
    let mut rig = far_ahead(timing());
    rig.configure(&[1], 1, &[2]);
    for _ in 0..10 {
        rig.run(1_000);
        if rig.follower(2).hopeless {
            return;
        }
        rig.serve(2);
        let generation = rig.machine(2).wants.take().expect("it fetches");
        rig.run(5_000);
        rig.step(
            2,
            Event::SnapshotFailed {
                partition: P,
                generation,
            },
        );
    }
    panic!("it fetches for ever");
}

/// Three members and a learner that needs a snapshot; n2 gives so many already.
fn learner_of_three(giving: u32) -> Rig {
    let mut rig = Rig::new(4, timing());
    rig.configure(&[1, 2, 3], 2, &[]);
    rig.write_for(1_000);
    for to in 0..u64::from(giving) {
        rig.step(
            2,
            Event::SnapshotServing {
                partition: PartitionId(9),
                to: NodeId(20 + to),
                from: Index(1),
            },
        );
    }
    // Long enough for a round of leases to tell of it.
    rig.run(500);
    rig.configure(&[1, 2, 3], 2, &[4]);
    rig.run(100);
    rig
}

#[test]
fn a_snapshot_comes_from_one_follower_after_the_other_and_from_the_primary_last() {
    let mut rig = learner_of_three(0);
    let mut sources = Vec::new();
    for _ in 0..3 {
        sources.push(rig.source(4));
        assert_eq!(rig.gives(4), Ok(()));
        rig.fails(4);
    }
    assert_eq!(sources, [2, 3, 1]);
    // Then from the beginning, though not at once.
    assert_eq!(rig.machine(4).fetches, None);
    rig.run(2_000);
    assert_eq!(rig.source(4), 2);
    assert!(!rig.follower(4).hopeless, "none of them had begun");
}

#[test]
fn a_snapshot_comes_from_the_follower_that_gives_the_fewest() {
    let mut rig = learner_of_three(1);
    assert_eq!(rig.source(4), 3);
}

#[test]
fn a_snapshot_does_not_come_from_a_follower_that_is_away_or_behind() {
    let mut rig = Rig::new(4, timing());
    rig.configure(&[1, 2, 3], 2, &[]);
    rig.write_for(500);
    rig.cut.push(2);
    rig.write_for(2_000);
    rig.configure(&[1, 2, 3], 2, &[4]);
    rig.run(100);
    assert_eq!(rig.source(4), 3);
    rig.cut.push(3);
    rig.run(2_000);
    rig.fails(4);
    assert_eq!(rig.source(4), 1);
    // n2 is back, and has to be brought up itself.
    rig.cut.clear();
    rig.run(100);
    rig.fails(4);
    rig.run(1_000);
    assert_eq!(rig.source(4), 3);
}

#[test]
fn the_log_is_kept_from_where_the_copy_of_a_follower_ends() {
    let mut rig = learner_of_three(0);
    assert_eq!(rig.gives(4), Ok(()));
    let last = rig.machine(2).applied.index();
    let generation = rig.machine(4).wants.expect("it fetches");
    rig.step(
        4,
        Event::SnapshotBegun {
            partition: P,
            generation,
            last,
        },
    );
    rig.settle();
    let (written, _) = rig.write_for(1_000);
    assert!(written > 50);
    let metas = rig.machine(1).core.metas();
    let base = metas.first().expect("a replica").base.index();
    assert!(base <= last, "{base} is past {last}");
    // The follower's own log is not: the primary sends the rest.
    let mark = rig.machine(2).applied;
    assert!(mark.index() > last);
}

#[test]
fn the_log_is_kept_for_those_who_answer_and_not_for_those_who_do_not() {
    let mut rig = Rig::new(3, timing());
    rig.configure(&[1, 2, 3], 2, &[]);
    rig.run(200);
    let base = |rig: &mut Rig| {
        let metas = rig.machine(1).core.metas();
        metas.first().expect("a replica").base.index()
    };
    // n3 is not heard of for less than it takes to count as silent.
    rig.cut.push(3);
    let begin = rig.status(1).head.index;
    for _ in 0..70 {
        rig.propose(write(1_000)).expect("taken");
        rig.tick();
    }
    assert!(base(&mut rig) <= begin, "dropped up to {}", base(&mut rig));
    rig.cut.clear();
    rig.run(500);
    assert_eq!(rig.machine(3).snapshots, 0);
    assert!(rig.follower(3).caught_up);
    // Now it is away for good.
    rig.cut.push(3);
    rig.run(2_000);
    rig.write_for(2_000);
    rig.run(1_000);
    let held = rig.status(1).head.index.0 - base(&mut rig).0;
    assert!(held < 60, "{held} entries are held for nobody");
}

#[test]
fn a_primary_takes_no_more_while_too_much_waits_for_its_followers() {
    let mut rig = Rig::new(3, timing());
    rig.configure(&[1, 2, 3], 2, &[]);
    rig.run(200);
    for id in [2, 3] {
        rig.machine(id).hangs = true;
    }
    let mut taken = 0;
    while rig.propose(write(10_000)).is_ok() {
        taken += 1;
        rig.settle();
        assert!(taken < 1_000, "it takes whatever comes");
    }
    assert_eq!(rig.propose(write(1)), Err(ProposeError::Overloaded));
    for id in [2, 3] {
        rig.machine(id).hangs = false;
    }
    rig.settle();
    rig.propose(write(1)).expect("there is room again");
}

#[test]
fn a_follower_whose_store_stalls_takes_no_more_until_it_applies() {
    let log_bytes = 1 << 30;
    let mut rig = Rig::new(
        3,
        Timing {
            log_bytes,
            ..timing()
        },
    );
    rig.configure(&[1, 2, 3], 2, &[]);
    rig.run(200);
    rig.machine(3).stalls = true;
    for _ in 0..300 {
        rig.propose(write(10_000)).expect("two suffice");
        rig.tick();
    }
    let head = rig.status(1).head.index;
    let held = rig.status(3).head.index;
    assert!(held.0 < head.0 - 100, "it holds {held} of {head}");
    rig.run(3_500);
    assert!(
        !rig.follower(3).answering,
        "it takes nothing, and counts so"
    );
    rig.machine(3).stalls = false;
    rig.settle();
    rig.run(3_000);
    assert_eq!(rig.status(3).head.index, head);
    assert!(rig.follower(3).answering);
}

#[test]
fn a_follower_whose_disk_hangs_grants_nothing_and_does_not_count_as_answering() {
    let mut rig = Rig::new(2, timing());
    rig.configure(&[1, 2], 2, &[]);
    rig.run(500);
    assert!(rig.follower(2).answering);
    rig.machine(2).hangs = true;
    rig.propose(write(10)).expect("taken");
    rig.run(1_000);
    let now = rig.now;
    let lease = |rig: &mut Rig| rig.machine(1).core.standing(P).expect("here").lease_until;
    assert!(lease(&mut rig) > now, "a flush may take a moment");
    rig.run(2_500);
    let now = rig.now;
    assert!(!rig.follower(2).answering);
    assert!(lease(&mut rig) <= now, "it still grants");
    rig.machine(2).hangs = false;
    rig.run(500);
    assert!(rig.follower(2).answering);
    assert_eq!(rig.status(1).commit, rig.status(1).head.index);
}

#[test]
fn a_disk_that_hangs_is_found_although_nobody_writes() {
    let mut rig = Rig::new(3, timing());
    rig.configure(&[1, 2, 3], 2, &[]);
    rig.run(5_000);
    assert_eq!(rig.status(1).wish, Wish::None);
    rig.machine(1).hangs = true;
    rig.run(3_000);
    assert_eq!(rig.status(1).wish, Wish::Promote);
    rig.machine(1).hangs = false;
    rig.run(100);
    assert_eq!(rig.status(1).wish, Wish::None);
}

#[test]
fn a_follower_without_room_for_long_does_not_count_as_answering() {
    let mut rig = Rig::new(2, timing());
    rig.configure(&[1, 2], 2, &[]);
    rig.run(500);
    let room = DiskRoom::Reserve;
    rig.step(2, Event::DiskRoom { room });
    rig.run(1_000);
    assert_eq!(rig.propose(write(10)), Err(ProposeError::DiskFull));
    assert!(rig.follower(2).answering);
    rig.run(1_500);
    assert!(!rig.follower(2).answering);
    let room = DiskRoom::Ample;
    rig.step(2, Event::DiskRoom { room });
    rig.run(500);
    assert!(rig.follower(2).answering);
    rig.propose(write(10)).expect("there is room");
}

#[test]
fn a_full_disk_can_be_emptied_until_its_reserve_is_spent() {
    let mut rig = Rig::new(3, timing());
    rig.configure(&[1, 2, 3], 2, &[]);
    rig.run(500);
    let full = |rig: &mut Rig, room| {
        for id in 1..=3 {
            rig.step(id, Event::DiskRoom { room });
        }
        rig.run(500);
    };
    full(&mut rig, DiskRoom::Reserve);
    assert_eq!(rig.propose(write(10)), Err(ProposeError::DiskFull));
    let deleted = rig.propose(body(None)).expect("a delete makes room");
    rig.run(500);
    assert_eq!(rig.status(1).commit, deleted);
    assert_eq!(rig.status(3).commit, deleted);
    full(&mut rig, DiskRoom::Spent);
    assert_eq!(rig.propose(body(None)), Err(ProposeError::DiskFull));
}
