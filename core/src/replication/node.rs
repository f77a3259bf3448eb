//! The door of replication: every replica of one node behind one `step`.

mod back;
mod copies;
mod flushed;
mod reads;
mod standing;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::catch_up;
use super::committed::{Committed, CommittedError};
use super::context::{Changed, Context, Numbers};
use super::durable::{DurableRecord, Generation, PartitionMeta, RecoveredPartition};
use super::event::{DiskRoom, Effect, Event};
use super::lease::{Grants, Holdings};
use super::message::PeerMessage;
use super::pace::Pace;
use super::proof::Questions;
use super::replica::{Part, Replica};
use super::sources::Givers;
use crate::cluster::report::{Order, PartitionStatus};
use crate::ids::{Epoch, Index, Mark, Micros, NodeId, PartitionId, Position, ReplicaId};
use crate::record::{Member, PartitionRecord};
use crate::seeded::{Bug, is_seeded};

/// The timings and bounds of replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a grant lasts.
    pub lease: Micros,
    /// The longest lease that this cluster ever had (rule 5).
    pub lease_longest: Micros,
    /// What a holder subtracts from a grant for drifting clocks, where that is not a
    /// tenth of it: see [`Timing::margin`].
    pub lease_margin: Option<Micros>,
    /// How often a tick comes.
    pub tick: Micros,
    /// When an unanswered append is sent again.
    pub resend: Micros,
    /// When a flush that does not return counts as stuck (rule 1).
    pub stuck: Micros,
    /// The most unacknowledged bytes in flight to one replica of one partition.
    pub window_bytes: usize,
    /// The most log bytes that a node keeps in memory for replicas that lag.
    pub log_bytes: usize,
    /// How much of that may be one partition's for a replica that catches up: writes
    /// are slowed before it is reached (rule 13).
    pub keep_bytes: usize,
    /// The most bytes of entries that the store has not applied, of all partitions of
    /// a node: past it nothing more is proposed.
    pub unapplied_bytes: usize,
    /// For how long writes are slowed for one replica before it is given up.
    pub push_back: Micros,
    /// So many reads of a replica within a lease for reads make it ask for one;
    /// 0 for never.
    pub read_lease_at: u64,
    /// A lease for reads is as long as one of so many parts of a lease; 0 where there is none.
    pub read_lease_parts: u64,
    /// No lease for reads is longer: a write, a hand-over and a start may wait for its end.
    pub read_lease_max: Micros,
}

impl Timing {
    /// What a holder subtracts from a grant of that length: clocks drift in proportion
    /// to it, and so does the margin where none is set. One that is set never takes more
    /// than half of a grant, or a lease that was made shorter would never be held.
    #[must_use]
    pub fn margin(&self, span: Micros) -> Micros {
        match self.lease_margin {
            Some(margin) => margin.min(Micros(span.0 / 2)),
            None => Micros(span.0 / 10),
        }
    }
}

/// How a replica stands, for the read and write paths of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which replica.
    pub replica: ReplicaId,
    /// The promised epoch.
    pub epoch: Epoch,
    /// The prefix of its state.
    pub generation: Generation,
    /// Whether it serves as primary: its barrier has committed, it has not been
    /// fenced, it is not handing over. The lease is a separate question.
    pub serving: bool,
    /// Until when it holds the lease; reads check it before and after (rule 5).
    pub lease_until: Micros,
    /// The commit index.
    pub commit: Index,
    /// The last index on disk or under way to it.
    pub head: Index,
    /// Whether so many replicas lack disk room that data writes cannot commit.
    pub write_blocked_by_disk: bool,
    /// Whether writes are slowed for a replica that catches up (rule 13).
    pub pushing_back: bool,
    /// Whether an acknowledgement needs the lease, as a strong read does (rule 7).
    pub ack_needs_lease: bool,
    /// Who is primary of the epoch, as far as known.
    pub primary: Option<Member>,
    /// Until when a replica that is not primary may answer reads of the level `replica` by
    /// itself, once it has applied the commit index: a lease for reads (rule 6).
    pub reads_until: Micros,
}

/// Why a proposal was not taken. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node has no serving primary of the partition.
    #[error("not the serving primary of the partition")]
    NotPrimary,
    /// Too few replicas have room.
    #[error("too few replicas have disk room for the write")]
    DiskFull,
    /// Too much waits for replicas or for the store.
    #[error("too much of the log waits to be acknowledged or applied")]
    Overloaded,
    /// A replica that catches up would be left behind: try again at the next tick.
    #[error("writes are slowed for a replica that catches up")]
    PushedBack,
}

/// Every replica of one node.
#[derive(Clone, Debug)]
pub struct NodeCore {
    node: NodeId,
    session: u64,
    timing: Timing,
    seats: BTreeMap<PartitionId, Seat>,
    holdings: Holdings,
    grants: Grants,
    questions: Questions,
    givers: Givers,
    pace: Pace,
    /// How many snapshots this node gives.
    giving: u32,
    read_quorum: usize,
    numbers: Numbers,
    changed: Changed,
    disk: DiskRoom,
    /// Bytes of every log that the store has not applied.
    unapplied: usize,
    coordinators: Option<bool>,
    reads_unknown_until: Micros,
    reported: BTreeMap<PartitionId, PartitionStatus>,
    next_housekeeping: Micros,
}

/// The place of a partition on this node, with or without a replica.
#[derive(Clone, Debug, Default)]
struct Seat {
    replica: Option<Replica>,
    /// What a deleted replica, or a promise without one, leaves behind.
    promised: Epoch,
    deleted_at: Option<(Epoch, u64)>,
    /// The state of deleted replicas, and the number of the record that deletes each: until
    /// that is flushed a restart finds the replica again, which without its state would
    /// pass for a damaged one.
    dropping: VecDeque<(u64, Generation)>,
}

/// How often logs are trimmed and reclaimable indexes told.
const HOUSEKEEPING: Micros = Micros::from_millis(500);

impl NodeCore {
    /// Starts from what recovery found.
    ///
    /// `session` is drawn by the edge for this start of the process. `next_generation`
    /// is above every generation that the node ever used. Until `lease_longest` has
    /// passed since `now`, every partition counts as granted (rule 5).
    #[must_use]
    pub fn new(
        node: NodeId,
        session: u64,
        timing: Timing,
        next_generation: u64,
        recovered: Vec<RecoveredPartition>,
        now: Micros,
    ) -> Self {
        let seats: BTreeMap<PartitionId, Seat> = recovered
            .into_iter()
            .map(|found| {
                let seat = (
                    found.meta.partition,
                    found.meta.promised,
                    found.meta.deleted_at,
                );
                let replica = Replica::recover(node, found);
                (
                    seat.0,
                    Seat {
                        replica,
                        promised: seat.1,
                        deleted_at: seat.2,
                        dropping: VecDeque::new(),
                    },
                )
            })
            .collect();
        let unapplied = unapplied_of(&seats);
        let longest = timing.lease_longest.max(timing.lease);
        Self {
            node,
            session,
            timing,
            seats,
            holdings: Holdings::new(session),
            grants: Grants::new(now, longest),
            questions: Questions::new(session),
            givers: Givers::default(),
            pace: Pace::default(),
            giving: 0,
            read_quorum: 0,
            numbers: Numbers::new(next_generation, now),
            changed: Changed::default(),
            disk: DiskRoom::Ample,
            unapplied,
            coordinators: None,
            reads_unknown_until: now.plus(timing.part_of(longest)),
            reported: BTreeMap::new(),
            next_housekeeping: Micros(0),
        }
    }

    /// The timings in force.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Replaces the timings. A longer lease is asked for from now on; this node grants
    /// it once [`Event::LeaseKept`] says that its disk knows of it.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Takes one event and appends what is to be done to `effects`.
    pub fn step(&mut self, now: Micros, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => self.tick(now, effects),
            Event::Flushed { number } => self.flushed(now, number, effects),
            Event::Peer { from, message } => self.peer(now, from, message, effects),
            Event::PeerConnected { peer } => {
                self.holdings.reconnected(peer);
                self.questions.lose(|to, _| to == peer);
                self.each(now, effects, |replica, ctx| {
                    replica.on_peer_connected(ctx, peer)
                });
            }
            Event::Record { record } => self.record(now, record, effects),
            Event::Order { order } => {
                let partition = match order {
                    Order::Ask { partition, .. }
                    | Order::Fence { partition, .. }
                    | Order::HandOver { partition, .. } => partition,
                };
                self.with(now, effects, partition, |replica, ctx| {
                    replica.order(ctx, &order)
                });
            }
            Event::Coordinators { reachable } => self.coordinators = Some(reachable),
            Event::LeaseKept { longest } => self.grants.allow(longest),
            Event::Applied {
                partition,
                generation,
                index,
            } => {
                self.with(now, effects, partition, |replica, ctx| {
                    replica.on_applied(ctx, generation, index);
                });
            }
            Event::SnapshotFetched {
                partition,
                generation,
                mark,
                lineage,
            } => {
                let known = self.with(now, effects, partition, |replica, ctx| {
                    replica.on_snapshot(ctx, generation, mark, lineage);
                });
                if known.is_none() {
                    effects.push(Effect::DropGeneration {
                        partition,
                        generation,
                    });
                }
            }
            Event::SnapshotFailed {
                partition,
                generation,
            } => {
                self.with(now, effects, partition, |replica, ctx| {
                    replica.on_snapshot_failed(ctx, generation);
                });
            }
            Event::SnapshotBegun {
                partition,
                generation,
                last,
            } => {
                self.with(now, effects, partition, |replica, ctx| {
                    replica.on_snapshot_begun(ctx, generation, last);
                });
            }
            Event::SnapshotProgress {
                partition,
                generation,
                progress,
            } => {
                self.with(now, effects, partition, |replica, _| {
                    replica.on_snapshot_progress(generation, progress);
                });
            }
            Event::StateMeasured { sizes } => {
                self.each(now, effects, |replica, _| replica.on_measured(&sizes));
            }
            Event::SnapshotServing {
                partition,
                to,
                from,
            } => {
                self.giving += 1;
                self.with(now, effects, partition, |replica, _| {
                    replica.snapshot_served(to, from);
                });
            }
            Event::SnapshotServed {
                partition,
                to,
                from,
            } => {
                self.giving = self.giving.saturating_sub(1);
                self.with(now, effects, partition, |replica, _| {
                    replica.snapshot_ended(to, from);
                });
            }
            Event::Corrupt { partitions } => {
                for partition in partitions {
                    self.with(now, effects, partition, |replica, ctx| {
                        replica.found_corrupt(ctx)
                    });
                }
            }
            Event::DiskRoom { room } => {
                self.disk = room;
                self.each(now, effects, |replica, ctx| {
                    ctx.standing_changed(replica.partition);
                });
            }
            Event::Drain => {}
        }
        // What waited for the last round of proofs asks at once.
        self.put_questions(now, effects);
        self.finish(effects);
    }

    /// Proposes an entry, as primary. Its position is returned at once;
    /// [`Effect::Committed`] or [`Effect::Deposed`] tells what became of it.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub fn propose(
        &mut self,
        now: Micros,
        partition: PartitionId,
        body: Bytes,
        effects: &mut Vec<Effect>,
    ) -> Result<Position, ProposeError> {
        self.with(now, effects, partition, |replica, ctx| {
            replica.propose(ctx, body)
        })
        .unwrap_or(Err(ProposeError::NotPrimary))
    }

    /// Someone needs the lease on the partition and found it lapsed, as far as
    /// [`Standing`] was told. Where it was renewed since, that is told; else a round goes
    /// to the lease's quorum now (rule 5). For a while from here on each renewal is
    /// told. Whether the lease had lapsed in truth.
    pub fn want_lease(
        &mut self,
        now: Micros,
        partition: PartitionId,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let holds = self.with(now, effects, partition, |replica, ctx| {
            replica.want_lease(ctx)
        });
        let lapsed = holds == Some(false);
        if lapsed {
            self.holdings.hurry(partition);
            self.renew_leases(now, effects);
        }
        self.finish(effects);
        lapsed
    }

    fn is_full(&self) -> bool {
        self.disk != DiskRoom::Ample
    }

    /// The partitions that have a replica here.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.seats
            .iter()
            .filter(|(_, s)| s.replica.is_some())
            .map(|(p, _)| *p)
    }

    /// The entries past `after` that are in memory: what a newly serving primary's
    /// evaluator must know of the log that the store has not applied.
    #[must_use]
    pub fn log_after(&self, partition: PartitionId, after: Index) -> Vec<super::LogEntry> {
        let Some(replica) = self.seats.get(&partition).and_then(|s| s.replica.as_ref()) else {
            return Vec::new();
        };
        let first = after.next().max(replica.log.base().index().next());
        replica
            .log
            .slice(first, replica.log.head().index(), usize::MAX)
    }

    /// For watchers: the committed entries past `after` (`None`: past what is committed
    /// now) that are in memory, stopping before the bodies exceed `bytes`, at least one
    /// if there is any. As for reads, the lease is a separate question.
    ///
    /// # Errors
    /// See [`CommittedError`].
    pub fn committed_after(
        &self,
        partition: PartitionId,
        after: Option<Position>,
        bytes: usize,
    ) -> Result<Committed, CommittedError> {
        let seat = self.seats.get(&partition);
        let replica = seat.and_then(|s| s.replica.as_ref());
        replica
            .ok_or(CommittedError::NotPrimary)?
            .committed_after(after, bytes)
    }

    /// The last marks of a partition's epochs up to `index`: what a snapshot of the
    /// state at `index` carries.
    #[must_use]
    pub fn lineage_up_to(&self, partition: PartitionId, mark: Mark) -> Vec<Mark> {
        let Some(replica) = self.seats.get(&partition).and_then(|s| s.replica.as_ref()) else {
            return vec![mark];
        };
        let mut lineage: Vec<Mark> = replica
            .log
            .lineage()
            .iter()
            .copied()
            .filter(|m| m.epoch() < mark.epoch())
            .collect();
        lineage.push(mark);
        lineage
    }

    /// For heartbeats: the status of every replica, or of those whose status
    /// changed since the last call.
    pub fn statuses(&mut self, now: Micros, full: bool) -> Vec<PartitionStatus> {
        if full {
            self.reported.clear();
        }
        let mut changed = Vec::new();
        for (&partition, seat) in &self.seats {
            let Some(replica) = &seat.replica else {
                self.reported.remove(&partition);
                continue;
            };
            let status = replica.status(now, &self.holdings, &self.timing, self.coordinators);
            if self.reported.get(&partition) != Some(&status) {
                self.reported.insert(partition, status.clone());
                changed.push(status);
            }
        }
        changed
    }

    /// What a new WAL segment begins with (rule 17). `PartitionMeta::base` is the
    /// mark before the first entry that the log must still hold.
    #[must_use]
    pub fn metas(&self) -> Vec<PartitionMeta> {
        self.seats
            .iter()
            .map(|(&partition, seat)| seat.meta(partition))
            .collect()
    }

    fn context<'a>(
        &'a mut self,
        now: Micros,
        effects: &'a mut Vec<Effect>,
    ) -> (&'a mut BTreeMap<PartitionId, Seat>, Context<'a>) {
        let ctx = Context {
            now,
            session: self.session,
            timing: &self.timing,
            effects,
            numbers: &mut self.numbers,
            holdings: &mut self.holdings,
            grants: &mut self.grants,
            changed: &mut self.changed,
            questions: &mut self.questions,
            givers: &mut self.givers,
            pace: &mut self.pace,
            read_quorum: self.read_quorum,
            disk: self.disk,
            unapplied: self.unapplied,
            coordinators: self.coordinators,
            reads_unknown_until: self.reads_unknown_until,
        };
        (&mut self.seats, ctx)
    }

    fn with<T>(
        &mut self,
        now: Micros,
        effects: &mut Vec<Effect>,
        partition: PartitionId,
        act: impl FnOnce(&mut Replica, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let (seats, mut ctx) = self.context(now, effects);
        let replica = seats.get_mut(&partition)?.replica.as_mut()?;
        let before = replica.unapplied_bytes();
        let result = act(replica, &mut ctx);
        replica.validate();
        let after = replica.unapplied_bytes();
        self.unapplied = (self.unapplied + after).saturating_sub(before);
        Some(result)
    }

    fn each(
        &mut self,
        now: Micros,
        effects: &mut Vec<Effect>,
        mut act: impl FnMut(&mut Replica, &mut Context<'_>),
    ) {
        let (seats, mut ctx) = self.context(now, effects);
        let (mut before, mut after) = (0, 0);
        for replica in seats.values_mut().filter_map(|s| s.replica.as_mut()) {
            before += replica.unapplied_bytes();
            act(replica, &mut ctx);
            replica.validate();
            after += replica.unapplied_bytes();
        }
        self.unapplied = (self.unapplied + after).saturating_sub(before);
    }

    fn finish(&mut self, effects: &mut Vec<Effect>) {
        let mut changed = std::mem::take(&mut self.changed.0);
        changed.sort_unstable();
        changed.dedup();
        for partition in changed.drain(..) {
            effects.push(Effect::Standing { partition });
        }
        self.changed.0 = changed;
    }

    fn flushed(&mut self, now: Micros, number: u64, effects: &mut Vec<Effect>) {
        self.numbers.flushed_to(number, now);
        let mut woken = Vec::new();
        while let Some(&mut (ref mut first, last, partition)) = self.numbers.waiting.front_mut()
            && *first <= number
        {
            woken.push(partition);
            if last > number {
                // A partition that is written to without a pause would never wake if
                // its run had to be flushed to the end.
                *first = number + 1;
                break;
            }
            self.numbers.waiting.pop_front();
        }
        woken.sort_unstable();
        woken.dedup();
        for partition in woken {
            self.drop_deleted(partition, number, effects);
            self.with(now, effects, partition, |replica, ctx| {
                replica.on_flushed(ctx, number)
            });
        }
    }

    fn drop_deleted(&mut self, partition: PartitionId, flushed: u64, effects: &mut Vec<Effect>) {
        let Some(seat) = self.seats.get_mut(&partition) else {
            return;
        };
        while let Some(&(number, generation)) = seat.dropping.front()
            && number <= flushed
        {
            seat.dropping.pop_front();
            effects.push(Effect::DropGeneration {
                partition,
                generation,
            });
        }
    }

    fn peer(&mut self, now: Micros, from: NodeId, message: PeerMessage, effects: &mut Vec<Effect>) {
        match message {
            PeerMessage::Append(append) => {
                self.with(now, effects, append.partition, |r, ctx| {
                    r.on_append(ctx, from, append)
                });
            }
            PeerMessage::AppendReply(reply) => {
                self.with(now, effects, reply.partition, |r, ctx| {
                    r.on_append_reply(ctx, from, reply);
                });
            }
            PeerMessage::LeaseRenew(request) => self.grant(now, from, &request, effects),
            PeerMessage::LeaseReply(reply) => {
                let was_full = self.holdings.disk_full(from);
                let prolonged = self.holdings.answered(from, now, &self.timing, &reply);
                if prolonged || was_full != reply.disk_full {
                    let led: Vec<PartitionId> = self.holdings.partitions_of(from).collect();
                    for partition in led {
                        self.with(now, effects, partition, |replica, ctx| {
                            replica.release_answers(ctx);
                            // A partition that nobody asks costs nothing (rule 16).
                            if replica.lease_is_wanted(now) || was_full != reply.disk_full {
                                ctx.standing_changed(partition);
                            }
                        });
                    }
                }
            }
            PeerMessage::Release { partition, epoch } => {
                self.grants.release(from, partition, epoch);
            }
            PeerMessage::Confirm(confirm) => {
                self.with(now, effects, confirm.partition, |r, ctx| {
                    r.on_confirm(ctx, from, &confirm);
                });
            }
            PeerMessage::ConfirmReply(reply) => {
                self.with(now, effects, reply.partition, |r, ctx| {
                    r.on_confirm_reply(ctx, &reply);
                });
            }
            PeerMessage::FetchRange(request) => {
                self.with(now, effects, request.partition, |r, ctx| {
                    r.on_fetch_range(ctx, from, &request);
                });
            }
            PeerMessage::Range(range) => {
                self.with(now, effects, range.partition, |r, ctx| {
                    r.on_range(ctx, from, range);
                });
            }
            PeerMessage::NeedSnapshot {
                partition,
                epoch,
                to,
                source,
                after,
            } => {
                self.with(now, effects, partition, |r, ctx| {
                    r.on_need_snapshot(ctx, from, (epoch, to), source, after);
                });
            }
            PeerMessage::SnapshotNews(news) => {
                self.with(now, effects, news.partition, |r, ctx| {
                    r.on_snapshot_news(ctx, from, &news);
                });
            }
            PeerMessage::ReadAsk(ask) => self.tell_stands(now, from, ask, effects),
            PeerMessage::ReadAnswer(answer) => self.take_stands(now, from, &answer, effects),
            PeerMessage::Record(record) => self.record(now, record, effects),
            PeerMessage::MapVersion(_) => {}
        }
    }

    fn grant(
        &mut self,
        now: Micros,
        from: NodeId,
        request: &super::message::LeaseRenew,
        effects: &mut Vec<Effect>,
    ) {
        // A node whose disk hangs can acknowledge nothing: it is not one of those whom
        // a primary may count on, nor who keep its successor waiting (rule 1).
        let stuck = self.numbers.stuck(now, self.timing.stuck);
        let seats = &self.seats;
        let promised = |partition: PartitionId| {
            let replica = seats.get(&partition)?.replica.as_ref()?;
            (!replica.corrupt && matches!(replica.part, Part::Follower)).then_some(replica.promised)
        };
        let standing = (self.is_full(), self.giving);
        let reply = (!stuck).then(|| self.grants.renew(from, now, request, promised, standing));
        for &(partition, epoch, commit) in &request.commits {
            self.with(now, effects, partition, |replica, ctx| {
                if replica.promised == epoch && matches!(replica.part, Part::Follower) {
                    replica.learn_commit(ctx, commit);
                    replica.settle_proofs(ctx);
                }
            });
        }
        if let Some(reply) = reply {
            effects.push(Effect::Send {
                to: from,
                message: PeerMessage::LeaseReply(reply),
            });
        }
    }

    /// A committed record: creates, configures or removes the replica here.
    fn record(&mut self, now: Micros, record: Arc<PartitionRecord>, effects: &mut Vec<Effect>) {
        self.take_record(now, record, effects);
        self.unapplied = unapplied_of(&self.seats);
    }

    fn take_record(
        &mut self,
        now: Micros,
        record: Arc<PartitionRecord>,
        effects: &mut Vec<Effect>,
    ) {
        let partition = record.id;
        let node = self.node;
        // Where a damaged replica is replaced on its own seat, the record lists both
        // for a while: the newer one lives here.
        let mine = match &record.config.joint {
            Some(joint) if is_seeded(Bug::DeleteBeforeForward) => {
                joint.members.iter().find(|m| m.node == node).copied()
            }
            _ => record.config.on_node(node),
        };
        let exists = self.seats.contains_key(&partition);
        if mine.is_none() && !exists {
            return;
        }
        self.seats.entry(partition).or_default();
        let (seats, mut ctx) = self.context(now, effects);
        let Some(seat) = seats.get_mut(&partition) else {
            return;
        };
        if let Some(replica) = &mut seat.replica {
            if record.order() <= replica.record.order() {
                replica.relearn_readers(record);
                return;
            }
            if mine.is_some_and(|m| m.replica < replica.me.replica) {
                // The record went back to a damaged replica that this one was to
                // replace. The damaged one is never made again: its number stays
                // absent, and what lives here counts nowhere (rule 12).
                return;
            }
            if mine == Some(replica.me) {
                replica.on_record(&mut ctx, record);
                replica.validate();
                return;
            }
            let generation = replica.remove(&mut ctx);
            seat.promised = seat.promised.max(replica.promised);
            seat.deleted_at = Some(record.order());
            ctx.grants.fence(now, partition);
            ctx.append(DurableRecord::Configure {
                record: record.clone(),
            });
            let number = ctx.append(DurableRecord::Delete {
                partition,
                order: record.order(),
            });
            seat.dropping.push_back((number, generation));
            seat.replica = None;
        } else if seat.deleted_at.is_some_and(|at| record.order() <= at) {
            return;
        }
        let Some(me) = mine else { return };
        let named = record.primary == Some(me);
        let epoch = record.epoch;
        ctx.append(DurableRecord::Configure {
            record: record.clone(),
        });
        let mut replica = Replica::create(&mut ctx, record, me, seat.promised);
        ctx.standing_changed(partition);
        if named && epoch >= replica.promised {
            replica.rise(&mut ctx, epoch);
        } else if epoch > replica.promised {
            replica.promise(&mut ctx, epoch);
        }
        replica.validate();
        seat.replica = Some(replica);
    }

    fn tick(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        let resend = self.timing.resend;
        self.questions.lose(|_, put| now >= put.plus(resend));
        self.pace.fill(now);
        self.each(now, effects, |replica, ctx| {
            match &replica.part {
                Part::Primary(_) => replica.tick_primary(ctx),
                Part::Suspended(_) => replica.tick_suspended(ctx),
                Part::Follower => replica.tick_mending(ctx),
            }
            replica.tick_proofs(ctx);
        });
        self.put_questions(now, effects);
        self.renew_leases(now, effects);
        if !self.seats.is_empty() && self.numbers.probe(now) {
            effects.push(Effect::ProbeLog);
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = now.plus(HOUSEKEEPING);
            self.trim(now, effects);
        }
    }

    fn renew_leases(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        let spacing = Micros(self.timing.tick.0 / 4);
        let seats = &mut self.seats;
        let requests = self
            .holdings
            .due(now, spacing, self.timing.lease, |peer, p| {
                seats.get_mut(&p)?.replica.as_mut()?.commit_to_tell(peer)
            });
        for (to, request) in requests {
            effects.push(Effect::Send {
                to,
                message: PeerMessage::LeaseRenew(request),
            });
        }
    }

    /// Drops log entries from memory where the node holds too many, and tells which
    /// the WAL may reclaim (rule 17).
    fn trim(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        let replicas = self.seats.values_mut().filter_map(|s| s.replica.as_mut());
        catch_up::trim(replicas.collect(), now, &self.holdings, &self.timing);
        for replica in self.seats.values_mut().filter_map(|s| s.replica.as_mut()) {
            let index = replica.reclaimable();
            if index > replica.reclaimable_told {
                replica.reclaimable_told = index;
                effects.push(Effect::Reclaimable {
                    partition: replica.partition,
                    index,
                });
            }
        }
    }
}

fn unapplied_of(seats: &BTreeMap<PartitionId, Seat>) -> usize {
    let replicas = seats.values().filter_map(|s| s.replica.as_ref());
    replicas.map(Replica::unapplied_bytes).sum()
}

impl Seat {
    fn meta(&self, partition: PartitionId) -> PartitionMeta {
        match &self.replica {
            Some(replica) => PartitionMeta {
                partition,
                replica: Some(replica.me.replica),
                generation: replica.generation,
                promised: replica.promised,
                record: Some(replica.record.clone()),
                deleted_at: self.deleted_at,
                base: replica.log.base(),
                lineage: replica.log.lineage().to_vec(),
            },
            None => PartitionMeta {
                partition,
                replica: None,
                generation: Generation(0),
                promised: self.promised,
                record: None,
                deleted_at: self.deleted_at,
                base: Mark::ZERO,
                lineage: Vec::new(),
            },
        }
    }
}
