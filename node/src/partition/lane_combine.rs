//! Increments of one partition that become one entry.
//!
//! Increments are gathered for the rest of the engine's turn, and then become as few entries as
//! they can. One whose key was written by an entry that is not flushed yet waits for that flush,
//! with all that come meanwhile: the log writes the next entries only then. Where nobody else
//! increments the key nothing is under way, and nobody waits.
//!
//! # Order
//! What a write must come after is let go before it is judged ([`Gathered::concerns`]): what
//! touches the same key, and what the same connection sent before. Whatever else overtakes
//! increments that are gathered is as unanswered as they are, and touches other keys: what
//! comes of all of them is what comes of running them one after the other in the order of the
//! log, in which each connection's writes stand in the order in which they came.

use super::*;
use crate::partition::gather::{Gathered, combinable};
use cairn_core::kv::{Combined, Joined};

/// Increments that are gathered, and those that are being made an entry.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// They came in this turn.
    fresh: Gathered,
    /// They wait for a flush.
    waiting: Gathered,
    /// Up to where the log was flushed when they were looked at last.
    flushed: Index,
    /// Evaluated, to be proposed together: nothing between two calls.
    combined: Combined,
    callers: Vec<(Submission, i64)>,
}

impl Gathering {
    pub(super) fn len(&self) -> usize {
        self.fresh.len() + self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn concerns(&self, write: &Submission) -> bool {
        self.waiting.concerns(write) || self.fresh.concerns(write)
    }

    /// All of them, in order.
    pub(super) fn drain(&mut self) -> Vec<Submission> {
        let waiting = self.waiting.drain();
        waiting.chain(self.fresh.drain()).collect()
    }

    pub(super) fn pop_overdue(&mut self, since: Micros) -> Option<Submission> {
        let waiting = self.waiting.pop_overdue(since);
        waiting.or_else(|| self.fresh.pop_overdue(since))
    }
}

impl Lane {
    /// Whether increments wait to become an entry.
    pub(in super::super) fn gathers(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Takes an increment that is to become an entry with others of this turn, or gives the
    /// write back.
    pub(super) fn gather(&mut self, turn: &mut Turn, write: Submission) -> Option<Submission> {
        if combinable(&write).is_none() || self.park.blocks(&write.work) {
            return Some(write);
        }
        if self.gathering.is_empty() {
            turn.gathering.push(self.partition);
        }
        self.gathering.fresh.push(write);
        None
    }

    /// At the end of a turn: proposes what was gathered, except what waits for a flush.
    /// `flushed`: up to where this node has flushed the log.
    pub(in super::super) fn let_go(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        flushed: Index,
    ) {
        let mut candidates = Vec::new();
        if self.gathering.flushed != flushed {
            self.gathering.flushed = flushed;
            candidates.extend(self.gathering.waiting.drain());
        }
        candidates.extend(self.gathering.fresh.drain());
        let mut going = Vec::with_capacity(candidates.len());
        for write in candidates {
            let under_way = |write: &Submission| {
                let evaluator = self.evaluator.as_ref()?;
                Some(evaluator.written(combinable(write)?)?.index > flushed)
            };
            if self.gathering.waiting.concerns(&write) || under_way(&write) == Some(true) {
                self.gathering.waiting.push(write);
            } else {
                going.push(write);
            }
        }
        self.join_all(core, turn, cache, going);
    }

    /// Proposes all that was gathered: a write that must come after it is here.
    pub(super) fn let_all_go(&mut self, core: &mut NodeCore, turn: &mut Turn, cache: &dyn Cache) {
        let going = self.gathering.drain();
        self.join_all(core, turn, cache, going);
    }

    fn join_all(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        going: Vec<Submission>,
    ) {
        if going.is_empty() {
            return;
        }
        // What is held came later than what was gathered.
        let behind = std::mem::take(&mut self.held);
        for write in going {
            if !self.held.is_empty() {
                self.held.push_back(write);
            } else if self.park.blocks(&write.work) {
                self.park.add(write);
            } else {
                self.evaluate_or_park(core, turn, cache, write);
            }
        }
        self.propose_combined(core, turn, cache);
        if !self.held.is_empty() {
            // They wait together, and in order, until the next tick at most: were they tried
            // again in this turn, what holds them would hold them again, and it had no end.
            let waiting = self.gathering.drain();
            self.held.extend(waiting);
        }
        self.held.extend(behind);
    }

    /// Joins an increment to those before it, or gives the write back: it is to be evaluated by
    /// itself.
    pub(super) fn join(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        write: Submission,
    ) -> Join {
        let Work::Write(request) = &write.work else {
            return Join::Apart(write);
        };
        if combinable(&write).is_none() {
            return Join::Apart(write);
        }
        loop {
            let Some(evaluator) = &mut self.evaluator else {
                return Join::Apart(write);
            };
            let (park, generation) = (&self.park, self.generation);
            let bases = |key: &Bytes| base(park, cache, generation, key);
            let combined = &mut self.gathering.combined;
            match evaluator.join(turn.wall_ms, combined, request, &bases) {
                Joined::Joined(sum) => {
                    self.gathering.callers.push((write, sum));
                    return Join::Joined;
                }
                Joined::NeedBase(keys) => return Join::Wanting(Wanting { write, keys }),
                Joined::Apart => return Join::Apart(write),
                // An empty one is never full.
                Joined::Full => self.propose_combined(core, turn, cache),
            }
        }
    }

    /// Proposes what was joined.
    pub(super) fn propose_combined(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
    ) {
        if self.gathering.combined.is_empty() {
            return;
        }
        let combined = std::mem::take(&mut self.gathering.combined);
        let callers = std::mem::take(&mut self.gathering.callers);
        let Some(evaluator) = &mut self.evaluator else {
            self.held
                .extend(callers.into_iter().map(|(write, _)| write));
            return;
        };
        let (park, generation) = (&self.park, self.generation);
        let bases = |key: &Bytes| base(park, cache, generation, key);
        let entry = evaluator.conclude_combined(turn.wall_ms, combined, &bases);
        let encoded = entry.body.encode();
        let proposed = core.propose(turn.now, self.partition, encoded, &mut turn.effects);
        let position = match proposed {
            Ok(position) => position,
            Err(error) => {
                for (write, _) in callers {
                    self.not_proposed(turn, write, error);
                }
                return;
            }
        };
        if callers.len() > 1 {
            turn.combined += callers.len() as u64;
        }
        self.next_expiry = self.next_expiry.min(soonest_expiry(&entry.body));
        // An entry is followed for one request: the first of them that is traced.
        if let Some(trace) = callers.iter().find_map(|(write, _)| write.reply.trace()) {
            turn.traced.push(((self.partition, position.index), trace));
        }
        let versions: Vec<Position> = (0..callers.len())
            .map(|number| entry.version(number, position))
            .collect();
        evaluator.proposed(position, entry.body);
        self.head = position;
        for ((write, sum), version) in callers.into_iter().zip(versions) {
            let answer = WriteReply {
                outcome: WriteOutcome::Integer(sum),
                position: version,
            };
            self.wait(
                core,
                turn,
                write,
                (position.index, answer),
                WaitingKind::Entry,
            );
        }
    }
}

/// What came of joining a write to those before it.
pub(super) enum Join {
    Joined,
    Apart(Submission),
    Wanting(Wanting),
}
