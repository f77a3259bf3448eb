//! What a node asks of others, and tells them, for the sake of reads and of those who
//! wait for every member.

use std::collections::{BTreeMap, BTreeSet};

use super::super::event::Effect;
use super::super::message::{PeerMessage, ReadAnswer, ReadAsk, Stand};
use super::super::proof::{Proof, ProofLevel, ReadsArrived, Unproved};
use super::NodeCore;
use crate::ids::{Index, Micros, NodeId, PartitionId};

impl NodeCore {
    /// How many replicas a quorum read asks at least: R, where that is above N-W+1.
    pub fn set_read_quorum(&mut self, read_quorum: usize) {
        self.read_quorum = read_quorum;
    }

    /// Asks for proofs that the replicas here may answer reads (rule 6). The questions of
    /// all of them leave together; [`Effect::Proved`] answers each, at once or later.
    pub fn prove(&mut self, now: Micros, reads: &[Unproved], effects: &mut Vec<Effect>) {
        for &Unproved {
            partition,
            level,
            before,
        } in reads
        {
            let proving = self.with(now, effects, partition, |replica, ctx| {
                replica.prove(ctx, level, before);
            });
            if proving.is_none() {
                effects.push(Effect::Proved {
                    partition,
                    level,
                    before,
                    proof: Proof::Elsewhere(None),
                });
            }
        }
        self.put_questions(now, effects);
        self.finish(effects);
    }

    /// Asks for further leases for reads where those that there are end soon and are used, of all
    /// partitions that have the same primary together: so much has been read of each.
    pub fn renew_reads(&mut self, now: Micros, reads: &[ReadsArrived], effects: &mut Vec<Effect>) {
        if reads.is_empty() {
            return;
        }
        let span = self.timing.reads();
        let (soon, past_middle) = (Micros(span.0 / 3), Micros(span.0 / 3 * 2));
        let mut used = Vec::new();
        for of in reads {
            let left = self.with(now, effects, of.partition, |replica, ctx| {
                replica.reads_left(ctx, of.before)
            });
            if let Some((primary, left)) = left.flatten().filter(|(_, left)| *left <= past_middle) {
                used.push((primary, left, of));
            }
        }
        let asked: BTreeSet<NodeId> = used
            .iter()
            .filter(|(_, left, _)| *left <= soon)
            .map(|(primary, ..)| *primary)
            .collect();
        for (_, _, of) in used.iter().filter(|(primary, ..)| asked.contains(primary)) {
            self.with(now, effects, of.partition, |replica, ctx| {
                replica.begin_round(ctx, ProofLevel::Replica, of.before);
            });
        }
        self.put_questions(now, effects);
        self.finish(effects);
    }

    /// Somebody waits until every member of each set in force has flushed the log up to
    /// there: [`Effect::Everywhere`] tells, unless [`Effect::Deposed`] comes before.
    pub fn want_everywhere(
        &mut self,
        now: Micros,
        partition: PartitionId,
        index: Index,
        effects: &mut Vec<Effect>,
    ) {
        self.with(now, effects, partition, |replica, ctx| {
            replica.want_everywhere(ctx, index);
        });
    }

    /// Another node has reads that wait.
    pub(super) fn tell_stands(
        &mut self,
        now: Micros,
        from: NodeId,
        ask: ReadAsk,
        effects: &mut Vec<Effect>,
    ) {
        let (seats, holdings) = (&mut self.seats, &self.holdings);
        let span = self.timing.reads_granted(self.grants.longest());
        // Where none is asked for, none is granted either.
        let grants = self.timing.read_lease_at > 0;
        let stand = |partition: &PartitionId| {
            let replica = seats.get_mut(partition)?.replica.as_mut()?;
            let mut stand = replica.stand(now, holdings)?;
            if grants && stand.leased && ask.leases.binary_search(partition).is_ok() {
                stand.reads_for = replica.grant_reads((now, span), holdings, from);
            }
            Some(stand)
        };
        let stands = ask.partitions.iter().filter_map(stand).collect();
        effects.push(Effect::Send {
            to: from,
            message: PeerMessage::ReadAnswer(ReadAnswer {
                session: ask.session,
                number: ask.number,
                stands,
            }),
        });
    }

    /// Another node answers.
    pub(super) fn take_stands(
        &mut self,
        now: Micros,
        from: NodeId,
        answer: &ReadAnswer,
        effects: &mut Vec<Effect>,
    ) {
        let answered = self.questions.answered(from, answer.session, answer.number);
        let (sent, abouts) = answered.unwrap_or_default();
        let stands: BTreeMap<PartitionId, Stand> = answer
            .stands
            .iter()
            .map(|stand| (stand.partition, *stand))
            .collect();
        for about in abouts {
            let stand = stands.get(&about.partition).copied();
            self.with(now, effects, about.partition, |replica, ctx| {
                replica.take_stand(ctx, (from, sent), about, stand);
            });
        }
        self.put_questions(now, effects);
    }

    pub(super) fn put_questions(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        for (to, ask) in self.questions.due(now) {
            let message = PeerMessage::ReadAsk(ask);
            effects.push(Effect::Send { to, message });
        }
    }
}
