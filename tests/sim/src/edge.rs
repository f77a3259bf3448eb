//! The writes of the partition on the node that serves it: a stand-in for the node's
//! engine, around the shipped evaluation and table.
//!
//! A write is judged against the head of the log, proposed, and answered once it has
//! committed; a retry once its original has; a refusal that wrote nothing once what it
//! was judged against has, under the lease. Where the node does not lead, the write is
//! turned away at once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::{Index, Mark, Micros, PartitionId, Position};
use cairn_core::kv::request::{WriteOutcome, WriteReply, WriteRequest};
use cairn_core::kv::{DueKey, Evaluation, Evaluator, VersionedValue};
use cairn_core::replication::{DurableRecord, Effect, ProposeError, Standing};

use crate::node::Node;
use crate::world::tallies;

/// Who waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Which client.
    pub client: usize,
    /// Which of its tries.
    pub attempt: u64,
}

/// What is to be written.
#[derive(Clone, Debug)]
pub enum Work {
    /// A client's write.
    Write(Caller, WriteRequest),
    /// Keys whose time may be past.
    Expire(Vec<DueKey>),
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It was judged.
    Done(WriteReply),
    /// Nothing was done here: try elsewhere, or later.
    Refused,
    /// Nobody knows.
    Unknown,
    /// The table cannot judge the retry; a position that the client may know.
    Unjudged(Position),
    /// The key is a striped counter, and nothing was done.
    IsCounter,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Entry(Mark),
    Retry,
    Refusal,
}

#[derive(Debug)]
struct Waiting {
    index: Index,
    caller: Option<Caller>,
    reply: WriteReply,
    kind: Kind,
}

/// What came of a call to the edge.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What replication wants done.
    pub effects: Vec<Effect>,
    /// Who is to be told what.
    pub answers: Vec<(Caller, Answer)>,
    /// Entries that are acknowledged with it.
    pub acknowledged: Vec<Mark>,
    /// Originals that are acknowledged once more, to a retry.
    pub repeated: Vec<Position>,
    /// What took place, for the coverage.
    pub events: Vec<&'static str>,
}

/// The writes of one process.
#[derive(Debug, Default)]
pub struct Edge {
    evaluator: Option<Evaluator>,
    waiting: VecDeque<Waiting>,
    commit: Index,
}

fn leads(standing: &Standing, clock: Micros) -> bool {
    standing.serving && clock < standing.lease_until
}

impl Edge {
    /// Takes a write.
    ///
    /// # Errors
    /// Where the log or the state cannot be read.
    pub fn submit(
        &mut self,
        node: &mut Node,
        partition: PartitionId,
        now: Micros,
        window: u32,
        work: Work,
    ) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let caller = match &work {
            Work::Write(caller, _) => Some(*caller),
            Work::Expire(_) => None,
        };
        let clock = node.clock(now);
        let standing = node.core.as_ref().and_then(|core| core.standing(partition));
        let Some(standing) = standing.filter(|s| leads(s, clock)) else {
            outcome.tell(caller, Answer::Refused);
            return Ok(outcome);
        };
        self.ensure_evaluator(node, partition, &standing, window)?;
        let Some(evaluator) = &mut self.evaluator else {
            return Ok(outcome);
        };
        let (generation, wall_ms) = (standing.generation, node.wall_ms(now));
        let bases = |key: &Bytes| node.value(generation, key).ok();
        let evaluation = match &work {
            Work::Write(_, request) => evaluator.evaluate(wall_ms, request, &bases),
            Work::Expire(due) => evaluator.expire(wall_ms, due, &bases),
        };
        let head = Position {
            epoch: standing.epoch,
            index: standing.head,
        };
        match evaluation {
            Evaluation::NeedBase(keys) => return Err(format!("cannot read {keys:?}")),
            Evaluation::NeedTable => return Err("the table is missing".into()),
            Evaluation::IsCounter => outcome.tell(caller, Answer::IsCounter),
            Evaluation::Unjudged => {
                outcome.events.push("retry that cannot be judged");
                let known = Position {
                    epoch: standing.epoch,
                    index: standing.commit,
                };
                outcome.tell(caller, Answer::Unjudged(known));
            }
            Evaluation::Propose { body, outcome: of } => {
                let Some(core) = &mut node.core else {
                    return Ok(outcome);
                };
                let encoded = body.encode();
                match core.propose(clock, partition, encoded, &mut outcome.effects) {
                    Ok(position) => {
                        if caller.is_none() && !body.writes.is_empty() {
                            outcome.events.push("key expired");
                        }
                        evaluator.proposed(position, body);
                        let mark = appended(&outcome.effects).ok_or("nothing was appended")?;
                        let kind = Kind::Entry(mark);
                        self.wait(position.index, caller, (position, of), kind);
                    }
                    Err(refusal) => {
                        outcome.events.push(match refusal {
                            ProposeError::NotPrimary => "",
                            ProposeError::DiskFull => "write refused, disk full",
                            ProposeError::Overloaded => "write refused, overloaded",
                            ProposeError::PushedBack => "write pushed back",
                        });
                        outcome.tell(caller, Answer::Refused);
                    }
                }
            }
            Evaluation::Refuse { outcome: of } => {
                self.wait(head.index, caller, (head, of), Kind::Refusal);
            }
            Evaluation::Duplicate {
                outcome: of,
                position,
            } => {
                outcome.events.push("retry answered by the table");
                self.wait(position.index, caller, (position, of), Kind::Retry);
            }
        }
        self.answer(&standing, clock, &mut outcome);
        Ok(outcome)
    }

    fn ensure_evaluator(
        &mut self,
        node: &Node,
        partition: PartitionId,
        standing: &Standing,
        window: u32,
    ) -> Result<(), String> {
        let Some(core) = node.core.as_ref().filter(|_| self.evaluator.is_none()) else {
            return Ok(());
        };
        let mut evaluator = Evaluator::new(window);
        evaluator.set_counters(Arc::new(tallies::declared()));
        let applied = node.applied(standing.generation)?;
        let log = core.log_after(partition, applied);
        let reaches = log.first().map_or(standing.head <= applied, |e| {
            e.position.index == applied.next()
        });
        if !reaches {
            return Err(format!(
                "{}: the log lacks what follows the state at {applied}",
                node.id
            ));
        }
        let table = node.table(standing.generation)?;
        let broken = |error| format!("{}: read the log: {error}", node.id);
        evaluator.inherit(&log).map_err(broken)?;
        evaluator.set_table(table, &log).map_err(broken)?;
        self.evaluator = Some(evaluator);
        Ok(())
    }

    fn wait(
        &mut self,
        index: Index,
        caller: Option<Caller>,
        (position, outcome): (Position, WriteOutcome),
        kind: Kind,
    ) {
        let last = self.waiting.back().map_or(Index::ZERO, |w| w.index);
        self.waiting.push_back(Waiting {
            index: index.max(last),
            caller,
            reply: WriteReply { outcome, position },
            kind,
        });
    }

    /// The store has applied entries.
    pub fn applied(&mut self, index: Index) {
        if let Some(evaluator) = &mut self.evaluator {
            evaluator.applied(index);
        }
    }

    /// Everything up to here may be answered for.
    pub fn committed(&mut self, standing: &Standing, clock: Micros, index: Index) -> Outcome {
        let mut outcome = Outcome::default();
        self.commit = self.commit.max(index);
        self.answer(standing, clock, &mut outcome);
        outcome
    }

    fn answer(&mut self, standing: &Standing, clock: Micros, outcome: &mut Outcome) {
        while let Some(first) = self.waiting.front() {
            // A write is answered once replication said that it may be, which where W is 1
            // is under the lease.
            let commit = match first.kind {
                Kind::Entry(_) | Kind::Retry => self.commit,
                Kind::Refusal => self.commit.max(standing.commit),
            };
            if first.index > commit {
                break;
            }
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            match waiting.kind {
                Kind::Entry(mark) => outcome.acknowledged.push(mark),
                Kind::Retry => outcome.repeated.push(waiting.reply.position),
                Kind::Refusal if leads(standing, clock) => {}
                Kind::Refusal => {
                    outcome.tell(waiting.caller, Answer::Refused);
                    continue;
                }
            }
            outcome.tell(waiting.caller, Answer::Done(waiting.reply));
        }
    }

    /// The leadership ended.
    pub fn depose(&mut self) -> Vec<(Caller, Answer)> {
        let waiting = std::mem::take(self).waiting;
        let told = waiting.into_iter().filter_map(|waiting| {
            let answer = match waiting.kind {
                Kind::Entry(_) | Kind::Retry => Answer::Unknown,
                Kind::Refusal => Answer::Refused,
            };
            Some((waiting.caller?, answer))
        });
        told.collect()
    }
}

impl Outcome {
    fn tell(&mut self, caller: Option<Caller>, answer: Answer) {
        self.answers.extend(caller.map(|caller| (caller, answer)));
    }
}

fn appended(effects: &[Effect]) -> Option<Mark> {
    effects.iter().find_map(|effect| match effect {
        Effect::Append(DurableRecord::Entry { entry, .. }) => Some(entry.mark()),
        _ => None,
    })
}

/// The number that a stored value spells.
#[must_use]
pub fn number(stored: &VersionedValue) -> Option<i64> {
    std::str::from_utf8(&stored.value.data).ok()?.parse().ok()
}
