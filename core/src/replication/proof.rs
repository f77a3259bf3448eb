//! Proofs that a replica may answer a read (rule 6), asked for in batches per pair of
//! nodes (rule 16).
//!
//! Reads are numbered by the edge as they arrive. A question covers the reads that
//! arrived before it was put, and no others: one is under way to a peer at a time, and
//! what arrives meanwhile waits for the next. Whoever is asked says how it stands; what
//! follows from that is judged here.
//!
//! - `replica`: the primary's commit index, told under its lease after the reads
//!   arrived. It proves the state of this replica once the replica's log is the
//!   primary's up to there, and once that is applied, which the edge waits for.
//! - `quorum`: the least head that R members of each set, all of one epoch, do not
//!   exceed. Every write that was acknowledged before is at or below it, since it is on
//!   W of them. It proves the state once it is known to be committed.
//!
//! Invariants: an answer counts only in the round that asked for it, and a round only in
//! the epoch in which it began; a learner that is no copy for reads, a damaged or a suspended replica neither
//! asks nor answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::context::Context;
use super::event::Effect;
use super::lease::Holdings;
use super::message::{ReadAsk, Stand};
use super::quorum;
use super::read_lease::{ReadLease, Wanted};
use super::replica::{Part, Pending, Replica};
use crate::ids::{Epoch, Index, Micros, NodeId, PartitionId, Position, ReplicaId};
use crate::record::Member;
use crate::seeded::{Bug, is_seeded};

/// How many proofs of one replica may wait for its log to match. Past it the newest of
/// them covers what comes after.
const MATCHING_MAX: usize = 16;

/// What a proof is to show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ProofLevel {
    /// By the primary's commit index.
    Replica,
    /// By the heads of a read quorum, the primary's or not.
    Quorum,
}

/// Reads that wait for a proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unproved {
    /// Which partition.
    pub partition: PartitionId,
    /// What is to be shown.
    pub level: ProofLevel,
    /// The reads whose numbers are below this have arrived.
    pub before: u64,
}

/// How much was read of a partition at the level `replica`, since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadsArrived {
    /// Which partition.
    pub partition: PartitionId,
    /// The reads whose numbers are below this have arrived.
    pub before: u64,
}

/// What came of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// A state that has applied `index` may be read, as long as the replica is of
    /// `epoch`: see [`Proof::look`].
    Applied {
        /// The epoch of the replica.
        epoch: Epoch,
        /// What the state must have applied.
        index: Index,
    },
    /// Another replica may be able to answer; the primary, where none is named.
    Elsewhere(Option<Member>),
    /// Nothing is proved just now. Ask again.
    NotNow,
}

/// What a [`Proof`] allows at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProofLook {
    /// The state may be read; look again afterwards.
    Read,
    /// The state lags: wait.
    Wait,
    /// The proof says nothing of this replica any more: ask again.
    Void,
}

impl Proof {
    /// Whether the state of a replica that is of `epoch` and has applied `applied` may be
    /// read. Looked at before the state is read and once more after, in the same
    /// generation of the state.
    #[must_use]
    pub fn look(&self, epoch: Epoch, applied: Index) -> ProofLook {
        match *self {
            Self::Applied { epoch: of, index } if of == epoch => {
                if applied < index {
                    ProofLook::Wait
                } else {
                    ProofLook::Read
                }
            }
            Self::Applied { .. } | Self::Elsewhere(_) | Self::NotNow => ProofLook::Void,
        }
    }
}

/// What a question that is under way is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct About {
    pub(super) partition: PartitionId,
    level: ProofLevel,
    round: u64,
}

/// Questions to one peer.
#[derive(Clone, Debug, Default)]
struct Line {
    /// Counts the questions of this process.
    number: u64,
    /// When the one under way was put, and what for.
    under_way: Option<(Micros, Vec<About>)>,
    /// By what they are for: a newer round asks instead of one that it replaced.
    next: BTreeMap<(PartitionId, ProofLevel), u64>,
    /// Of those: for which a lease for reads is wanted too.
    leases: BTreeSet<PartitionId>,
}

/// The questions of this node, by peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    session: u64,
    lines: BTreeMap<NodeId, Line>,
    rounds: u64,
}

impl Questions {
    pub(super) fn new(session: u64) -> Self {
        Self {
            session,
            ..Self::default()
        }
    }

    fn fresh_round(&mut self) -> u64 {
        self.rounds += 1;
        self.rounds
    }

    fn put(&mut self, peer: NodeId, about: About, with_lease: bool) {
        let line = self.lines.entry(peer).or_default();
        line.next
            .insert((about.partition, about.level), about.round);
        if with_lease {
            line.leases.insert(about.partition);
        }
    }

    /// The connection is new, or the answer is overdue: it may be lost. Rounds that still
    /// want it ask again.
    pub(super) fn lose(&mut self, lost: impl Fn(NodeId, Micros) -> bool) {
        for (&peer, line) in &mut self.lines {
            if line
                .under_way
                .as_ref()
                .is_some_and(|(at, _)| lost(peer, *at))
            {
                line.under_way = None;
            }
        }
    }

    /// The questions that may be put now: one to a peer.
    pub(super) fn due(&mut self, now: Micros) -> Vec<(NodeId, ReadAsk)> {
        let session = self.session;
        let mut due = Vec::new();
        for (&peer, line) in &mut self.lines {
            if line.under_way.is_some() || line.next.is_empty() {
                continue;
            }
            let next = std::mem::take(&mut line.next);
            let abouts: Vec<About> = next
                .into_iter()
                .map(|((partition, level), round)| About {
                    partition,
                    level,
                    round,
                })
                .collect();
            let mut partitions: Vec<PartitionId> = abouts.iter().map(|a| a.partition).collect();
            partitions.dedup();
            line.number += 1;
            line.under_way = Some((now, abouts));
            let ask = ReadAsk {
                session,
                number: line.number,
                partitions,
                leases: std::mem::take(&mut line.leases).into_iter().collect(),
            };
            due.push((peer, ask));
        }
        due
    }

    /// When the question of that number was put, and what its answer is for.
    pub(super) fn answered(
        &mut self,
        peer: NodeId,
        session: u64,
        number: u64,
    ) -> Option<(Micros, Vec<About>)> {
        let line = self.lines.get_mut(&peer)?;
        let is_of_it = session == self.session && number == line.number;
        is_of_it.then(|| line.under_way.take())?
    }
}

/// One asking of everybody who is to be asked.
#[derive(Clone, Debug)]
struct Round {
    number: u64,
    /// It covers the reads below this number.
    before: u64,
    /// Reads up to here came after it began: they are the next round's.
    next: Option<u64>,
    epoch: Epoch,
    began: Micros,
    asked: Micros,
    members: Vec<Member>,
    /// What they answered; `None` from one that cannot tell.
    answers: BTreeMap<ReplicaId, Option<Stand>>,
    /// Of a quorum: the least head that R of them did not exceed. It covers the reads of
    /// this round for good: from then on it need only be known to be committed.
    bound: Option<Position>,
}

/// A proof that waits for the log to match the primary's.
#[derive(Clone, Debug)]
struct Matching {
    before: u64,
    index: Index,
    since: Micros,
}

/// What one replica is proving.
#[derive(Clone, Debug, Default)]
pub(super) struct Proving {
    rounds: BTreeMap<ProofLevel, Round>,
    matching: VecDeque<Matching>,
    /// The lease for reads that was granted last.
    pub(super) lease: Option<ReadLease>,
    pub(super) wanted: Wanted,
}

impl Proving {
    fn is_idle(&self) -> bool {
        self.rounds.is_empty() && self.matching.is_empty()
    }

    pub(super) fn is_asking(&self, level: ProofLevel) -> bool {
        self.rounds.contains_key(&level)
    }
}

impl Replica {
    /// How this replica stands, for whoever reads: nothing where it counts nowhere.
    pub(super) fn stand(&self, now: Micros, holdings: &Holdings) -> Option<Stand> {
        // What an earlier primary had committed stays so, except where it may be lost (rule
        // 9), or where it is not known whether it may: there only what this epoch's primary
        // has too is known.
        let may_lose = self.may_lose() || self.record.epoch != self.promised;
        let (leased, known) = match &self.part {
            _ if self.corrupt => return None,
            Part::Suspended(_) => return None,
            Part::Primary(leadership) if leadership.serving => {
                (self.lease_until(holdings) > now, self.commit)
            }
            Part::Primary(_) if may_lose => (false, Index::ZERO),
            Part::Follower if may_lose => (false, self.commit.min(self.matched)),
            Part::Primary(_) | Part::Follower => (false, self.commit),
        };
        // While a snapshot's switch is on its way to the disk, what is durable tells less
        // than what was acknowledged.
        let switching = |p: &(u64, Pending)| matches!(p.1, Pending::Installed { .. });
        let head = if self.pending.iter().any(switching) {
            self.durable.position.max(self.log.head().position)
        } else {
            self.durable.position
        };
        Some(Stand {
            partition: self.partition,
            replica: self.me.replica,
            epoch: self.promised,
            leased,
            head,
            commit: self.position_at(known),
            reads_for: Micros(0),
        })
    }

    /// The position of an index of the log, the lowest where that is not known.
    fn position_at(&self, index: Index) -> Position {
        self.log
            .mark_at(index)
            .map_or(Position::ZERO, |mark| mark.position)
    }

    /// Asks for a proof for the reads below `before`.
    pub(super) fn prove(&mut self, ctx: &mut Context<'_>, level: ProofLevel, before: u64) {
        if level == ProofLevel::Replica {
            self.proving.wanted.count(ctx.now, before, ctx.timing);
            if self.reads_until() > ctx.now {
                let (epoch, index) = (self.promised, self.commit);
                return self.proved(ctx, level, before, Proof::Applied { epoch, index });
            }
        }
        if let Some(round) = self.proving.rounds.get_mut(&level) {
            if before > round.before {
                round.next = round.next.max(Some(before));
            }
            return;
        }
        self.begin_round(ctx, level, before);
    }

    /// Asks whoever is to be asked, where no round is under way.
    pub(super) fn begin_round(&mut self, ctx: &mut Context<'_>, level: ProofLevel, before: u64) {
        match self.whom_to_ask(level) {
            Ok(members) => {
                let number = ctx.questions.fresh_round();
                let round = Round {
                    number,
                    before,
                    next: None,
                    epoch: self.promised,
                    began: ctx.now,
                    asked: ctx.now,
                    members,
                    answers: BTreeMap::new(),
                    bound: None,
                };
                self.proving.rounds.insert(level, round);
                self.ask(ctx, level);
            }
            Err(proof) => self.proved(ctx, level, before, proof),
        }
    }

    /// Who is to be asked, or why nobody need be.
    fn whom_to_ask(&self, level: ProofLevel) -> Result<Vec<Member>, Proof> {
        let current = self.record.epoch == self.promised;
        let primary = self.record.primary.filter(|_| current);
        let elsewhere = Proof::Elsewhere(primary);
        let config = &self.record.config;
        // A copy for reads knows what the primary says of itself as well as a member does. It
        // is in no read quorum.
        let reads = level == ProofLevel::Replica && config.is_reader(self.me.replica);
        if self.corrupt || !(config.is_voter(self.me.replica) || reads) {
            return Err(elsewhere);
        }
        match (level, &self.part) {
            (_, Part::Suspended(_)) | (ProofLevel::Replica, Part::Primary(_)) => Err(elsewhere),
            (ProofLevel::Replica, Part::Follower) => match primary {
                Some(primary) if primary != self.me => Ok(vec![primary]),
                _ => Err(elsewhere),
            },
            (ProofLevel::Quorum, Part::Follower | Part::Primary(_)) => {
                if !current {
                    // Which sets are in force, the record of this epoch tells. It is
                    // under way.
                    return Err(Proof::NotNow);
                }
                if quorum::reads_alone(&self.record.config) {
                    return Err(elsewhere);
                }
                let voters = self.record.config.voters();
                Ok(voters.into_iter().filter(|m| *m != self.me).collect())
            }
        }
    }

    fn ask(&mut self, ctx: &mut Context<'_>, level: ProofLevel) {
        let Some(round) = self.proving.rounds.get_mut(&level) else {
            return;
        };
        round.asked = ctx.now;
        let with_lease = level == ProofLevel::Replica && self.proving.wanted.is_much();
        for member in &round.members {
            if !round.answers.contains_key(&member.replica) {
                let about = About {
                    partition: self.partition,
                    level,
                    round: round.number,
                };
                ctx.questions.put(member.node, about, with_lease);
            }
        }
    }

    fn proved(&self, ctx: &mut Context<'_>, level: ProofLevel, before: u64, proof: Proof) {
        ctx.effects.push(Effect::Proved {
            partition: self.partition,
            level,
            before,
            proof,
        });
    }

    /// Ends a round; what waited for the next one begins it. Without a proof, that is
    /// told later.
    fn end_round(&mut self, ctx: &mut Context<'_>, level: ProofLevel, proof: Option<Proof>) {
        let Some(round) = self.proving.rounds.remove(&level) else {
            return;
        };
        if let Some(proof) = proof {
            self.proved(ctx, level, round.before, proof);
        }
        if let Some(next) = round.next {
            self.prove(ctx, level, next);
        }
    }

    /// A node that was asked answers for its replica, or has none that can tell.
    pub(super) fn take_stand(
        &mut self,
        ctx: &mut Context<'_>,
        (from, sent): (NodeId, Micros),
        about: About,
        stand: Option<Stand>,
    ) {
        let Some(round) = self.proving.rounds.get_mut(&about.level) else {
            return;
        };
        if round.number != about.round {
            return;
        }
        // Where a damaged replica is being replaced on its own node, two are listed
        // there, and the damaged one counts as absent (rule 12).
        for member in round.members.iter().filter(|m| m.node == from) {
            let stand = stand.filter(|s| s.replica == member.replica);
            round.answers.insert(member.replica, stand);
        }
        match about.level {
            ProofLevel::Replica => self.judge_primary(ctx, sent),
            ProofLevel::Quorum => self.judge_quorum(ctx),
        }
    }

    /// `replica`: what the primary said, where it was asked at `sent`.
    fn judge_primary(&mut self, ctx: &mut Context<'_>, sent: Micros) {
        let level = ProofLevel::Replica;
        let Some(round) = self.proving.rounds.get(&level) else {
            return;
        };
        let Some(answer) = round.answers.values().next() else {
            return;
        };
        let told = answer.filter(|stand| stand.leased && stand.epoch == round.epoch);
        let Some(stand) = told else {
            let elsewhere = Proof::Elsewhere(self.record.primary);
            return self.end_round(ctx, level, Some(elsewhere));
        };
        let commit = if is_seeded(Bug::ReplicaReadByOwnCommit) {
            self.commit
        } else {
            stand.commit.index
        };
        let (before, index, epoch) = (round.before, commit, round.epoch);
        self.lease_reads(ctx, sent, stand.reads_for, (epoch, stand.commit.index));
        let matching = &mut self.proving.matching;
        let full = matching.len() >= MATCHING_MAX;
        match matching.back_mut() {
            Some(last) if full => {
                last.before = before;
                last.index = last.index.max(index);
            }
            _ => matching.push_back(Matching {
                before,
                index,
                since: ctx.now,
            }),
        }
        self.end_round(ctx, level, None);
        self.settle_matching(ctx);
    }

    /// The log grew, or more of it is known to be committed.
    pub(super) fn settle_proofs(&mut self, ctx: &mut Context<'_>) {
        if self.proving.is_idle() {
            return;
        }
        self.settle_matching(ctx);
        let quorum = self.proving.rounds.get(&ProofLevel::Quorum);
        if quorum.is_some_and(|round| round.bound.is_some()) {
            self.judge_quorum(ctx);
        }
    }

    /// Tells the proofs up to which the log is the primary's: what lies past that may be
    /// of a line that was lost, whatever its index.
    fn settle_matching(&mut self, ctx: &mut Context<'_>) {
        let epoch = self.promised;
        while let Some(first) = self.proving.matching.front()
            && first.index <= self.matched
        {
            let Matching { before, index, .. } = *first;
            self.proving.matching.pop_front();
            // The next append would tell it too: so the read need not wait for that.
            self.learn_commit(ctx, index);
            let proof = Proof::Applied { epoch, index };
            self.proved(ctx, ProofLevel::Replica, before, proof);
        }
    }

    /// `quorum`: what all that answered said together, this replica included.
    fn judge_quorum(&mut self, ctx: &mut Context<'_>) {
        let level = ProofLevel::Quorum;
        let Some(own) = self.stand(ctx.now, ctx.holdings) else {
            return self.end_round(ctx, level, Some(Proof::NotNow));
        };
        let Some(round) = self.proving.rounds.get_mut(&level) else {
            return;
        };
        let epoch = round.epoch;
        let everyone = round.answers.len() == round.members.len();
        let stands: Vec<Stand> = round.answers.values().flatten().copied().collect();
        let of_one_epoch =
            |stand: &Stand| stand.epoch == epoch || is_seeded(Bug::QuorumReadOfTwoEpochs);
        if stands.iter().any(|s| s.epoch > epoch && !of_one_epoch(s)) {
            // There is a newer configuration, in which others may have acknowledged.
            return self.end_round(ctx, level, Some(Proof::NotNow));
        }
        let counted = || stands.iter().filter(|s| of_one_epoch(s)).chain([&own]);
        let head_of = |member: &Member| {
            let stand = counted().find(|s| s.replica == member.replica);
            stand.map(|s| s.head)
        };
        let bound = quorum::inspected(&self.record.config, ctx.read_quorum, head_of);
        round.bound = round.bound.into_iter().chain(bound).min();
        let Some(bound) = round.bound else {
            if everyone {
                self.end_round(ctx, level, Some(Proof::NotNow));
            }
            return;
        };
        let known = counted().max_by_key(|s| s.commit).copied().unwrap_or(own);
        if known.commit < bound {
            return;
        }
        if own.commit < bound && matches!(self.part, Part::Follower) && !self.may_lose() {
            // It is committed: as far as this log is the primary's, it may be applied.
            self.learn_commit(ctx, known.commit.index);
        }
        let reached = self.position_at(self.commit);
        let reached = if self.may_lose() { own.commit } else { reached };
        let proof = if reached >= bound {
            Proof::Applied {
                epoch,
                index: reached.index,
            }
        } else {
            let voters = self.record.config.voters();
            Proof::Elsewhere(voters.into_iter().find(|m| m.replica == known.replica))
        };
        self.end_round(ctx, level, Some(proof));
    }

    /// What the proofs rest on is no more: another epoch, another role, no replica.
    pub(super) fn void_proofs(&mut self, ctx: &mut Context<'_>) {
        // Neither a lease for reads, nor how much was read in another role.
        let Proving {
            rounds,
            matching,
            wanted,
            ..
        } = std::mem::take(&mut *self.proving);
        self.proving.wanted = wanted.of_another_role();
        for (level, round) in rounds {
            let before = round.next.unwrap_or(round.before);
            self.proved(ctx, level, before, Proof::NotNow);
        }
        if let Some(last) = matching.back() {
            self.proved(ctx, ProofLevel::Replica, last.before, Proof::NotNow);
        }
    }

    /// Asks again what may be lost, and gives up what takes too long.
    pub(super) fn tick_proofs(&mut self, ctx: &mut Context<'_>) {
        if self.proving.is_idle() {
            return;
        }
        let (now, timing) = (ctx.now, *ctx.timing);
        let late = |since: Micros| now >= since.plus(timing.lease);
        let elsewhere = Proof::Elsewhere(self.record.primary);
        while self.proving.matching.front().is_some_and(|m| late(m.since)) {
            if let Some(matching) = self.proving.matching.pop_front() {
                self.proved(ctx, ProofLevel::Replica, matching.before, elsewhere);
            }
        }
        self.settle_proofs(ctx);
        for level in [ProofLevel::Replica, ProofLevel::Quorum] {
            let Some(round) = self.proving.rounds.get_mut(&level) else {
                continue;
            };
            if late(round.began) {
                let proof = match level {
                    ProofLevel::Replica => elsewhere,
                    ProofLevel::Quorum => Proof::NotNow,
                };
                self.end_round(ctx, level, Some(proof));
            } else if round.bound.is_some() && now >= round.asked.plus(timing.tick) {
                // Somebody may know by now that it is committed.
                round.answers.clear();
                self.ask(ctx, level);
            } else if now >= round.asked.plus(timing.resend) {
                self.ask(ctx, level);
            }
        }
    }
}
