//! The writes of the partition on the node that serves it: a stand-in for the node's
//! engine, around the shipped evaluation and table.
//!
//! A write is judged against the head of the log, proposed, and answered once it has
//! committed; a retry once its original has; a refusal that wrote nothing once what it
//! was judged against has, under the lease. Where the node does not lead, the write is
//! turned away at once.
//!
//! An increment may be gathered, to become an entry with others; the engine would let it go at
//! the end of its turn, or after a flush, the world when it likes. What touches its key lets it
//! go first.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::{Index, Mark, Micros, PartitionId, Position};
use cairn_core::kv::request::{WriteOp, WriteOutcome, WriteReply, WriteRequest};
use cairn_core::kv::{Combined, DueKey, Evaluation, Evaluator, Joined, VersionedValue};
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
    /// Of the original at that position.
    Retry(Position),
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
    /// Increments that were gathered before are to be let go by [`Edge::let_go`].
    pub gathers: bool,
}

/// The writes of one process.
#[derive(Debug, Default)]
pub struct Edge {
    evaluator: Option<Evaluator>,
    waiting: VecDeque<Waiting>,
    commit: Index,
    gathered: Vec<(Caller, WriteRequest)>,
}

/// Where a call finds the partition, and when.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Which.
    pub partition: PartitionId,
    /// True time.
    pub now: Micros,
    /// How many sequenced writes the table keeps.
    pub window: u32,
    /// Whether an increment is gathered.
    pub gathers: bool,
}

fn leads(standing: &Standing, clock: Micros) -> bool {
    standing.serving && clock < standing.lease_until
}

impl Edge {
    /// Takes a write.
    ///
    /// # Errors
    /// Where the log or the state cannot be read.
    pub fn submit(&mut self, node: &mut Node, at: At, work: Work) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        if let Work::Write(caller, request) = &work
            && at.gathers
            && matches!(request.op, WriteOp::Increment { .. })
        {
            if standing_of(node, at).is_some() {
                outcome.gathers = true;
                self.gathered.push((*caller, request.clone()));
            } else {
                outcome.tell(Some(*caller), Answer::Refused);
            }
            return Ok(outcome);
        }
        if self.concerns(&work) {
            self.let_gathered_go(node, at, &mut outcome)?;
        }
        self.take(node, at, work, &mut outcome)?;
        self.answer_all(node, at, &mut outcome);
        Ok(outcome)
    }

    /// Lets the increments go that were gathered.
    ///
    /// # Errors
    /// Where the log or the state cannot be read.
    pub fn let_go(&mut self, node: &mut Node, at: At) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        self.let_gathered_go(node, at, &mut outcome)?;
        self.answer_all(node, at, &mut outcome);
        Ok(outcome)
    }

    /// Whether a write must come after what is gathered.
    fn concerns(&self, work: &Work) -> bool {
        let keys: Vec<&Bytes> = match work {
            Work::Write(_, request) => request.op.keys().collect(),
            Work::Expire(due) => due.iter().map(|due| &due.key).collect(),
        };
        let client = match work {
            Work::Write(caller, _) => Some(caller.client),
            Work::Expire(_) => None,
        };
        self.gathered.iter().any(|(caller, request)| {
            Some(caller.client) == client || request.op.keys().any(|key| keys.contains(&key))
        })
    }

    fn let_gathered_go(
        &mut self,
        node: &mut Node,
        at: At,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let (mut combined, mut callers) = (Combined::default(), Vec::new());
        for (caller, request) in std::mem::take(&mut self.gathered) {
            let Some(standing) = standing_of(node, at) else {
                outcome.tell(Some(caller), Answer::Refused);
                continue;
            };
            self.ensure_evaluator(node, &standing, at)?;
            let Some(evaluator) = &self.evaluator else {
                continue;
            };
            let (generation, wall_ms) = (standing.generation, node.wall_ms(at.now));
            let bases = |key: &Bytes| node.value(generation, key).ok();
            let mut joined = evaluator.join(wall_ms, &mut combined, &request, &bases);
            if joined == Joined::Full {
                let full = std::mem::take(&mut combined);
                self.propose_combined(node, at, full, &mut callers, outcome)?;
                if let Some(evaluator) = &self.evaluator {
                    let bases = |key: &Bytes| node.value(generation, key).ok();
                    joined = evaluator.join(wall_ms, &mut combined, &request, &bases);
                }
            }
            match joined {
                Joined::Joined(sum) => callers.push((caller, sum)),
                Joined::Full => return Err("an empty entry is full".into()),
                Joined::NeedBase(keys) => return Err(format!("cannot read {keys:?}")),
                Joined::Apart => {
                    let so_far = std::mem::take(&mut combined);
                    self.propose_combined(node, at, so_far, &mut callers, outcome)?;
                    self.take(node, at, Work::Write(caller, request), outcome)?;
                }
            }
        }
        self.propose_combined(node, at, combined, &mut callers, outcome)
    }

    fn propose_combined(
        &mut self,
        node: &mut Node,
        at: At,
        combined: Combined,
        callers: &mut Vec<(Caller, i64)>,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let callers = std::mem::take(callers);
        let (Some(standing), Some(evaluator)) = (standing_of(node, at), &mut self.evaluator) else {
            let refused = callers.into_iter();
            outcome
                .answers
                .extend(refused.map(|(caller, _)| (caller, Answer::Refused)));
            return Ok(());
        };
        if combined.is_empty() {
            return Ok(());
        }
        let bases = |key: &Bytes| node.value(standing.generation, key).ok();
        let entry = evaluator.conclude_combined(node.wall_ms(at.now), combined, &bases);
        if entry.body.sequenced.len() > 1 {
            outcome.events.push("names combined");
        }
        let clock = node.clock(at.now);
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        let encoded = entry.body.encode();
        match core.propose(clock, at.partition, encoded, &mut outcome.effects) {
            Ok(position) => {
                let mark = appended(&outcome.effects).ok_or("nothing was appended")?;
                evaluator.proposed(position, entry.body.clone());
                if callers.len() > 1 {
                    outcome.events.push("increments combined");
                }
                for (number, (caller, sum)) in callers.into_iter().enumerate() {
                    let reply = WriteReply {
                        outcome: WriteOutcome::Integer(sum),
                        position: entry.version(number, position),
                    };
                    self.wait(position.index, Some(caller), reply, Kind::Entry(mark));
                }
            }
            Err(refusal) => {
                outcome.events.push(event_of(refusal));
                let refused = callers.into_iter();
                outcome
                    .answers
                    .extend(refused.map(|(caller, _)| (caller, Answer::Refused)));
            }
        }
        Ok(())
    }

    /// Judges a write by itself.
    fn take(
        &mut self,
        node: &mut Node,
        at: At,
        work: Work,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let caller = match &work {
            Work::Write(caller, _) => Some(*caller),
            Work::Expire(_) => None,
        };
        let Some(standing) = standing_of(node, at) else {
            outcome.tell(caller, Answer::Refused);
            return Ok(());
        };
        self.ensure_evaluator(node, &standing, at)?;
        let Some(evaluator) = &mut self.evaluator else {
            return Ok(());
        };
        let (generation, wall_ms) = (standing.generation, node.wall_ms(at.now));
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
                let clock = node.clock(at.now);
                let Some(core) = &mut node.core else {
                    return Ok(());
                };
                let encoded = body.encode();
                match core.propose(clock, at.partition, encoded, &mut outcome.effects) {
                    Ok(position) => {
                        if caller.is_none() && !body.writes.is_empty() {
                            outcome.events.push("key expired");
                        }
                        evaluator.proposed(position, body);
                        let mark = appended(&outcome.effects).ok_or("nothing was appended")?;
                        let reply = WriteReply {
                            outcome: of,
                            position,
                        };
                        self.wait(position.index, caller, reply, Kind::Entry(mark));
                    }
                    Err(refusal) => {
                        outcome.events.push(event_of(refusal));
                        outcome.tell(caller, Answer::Refused);
                    }
                }
            }
            Evaluation::Refuse { outcome: of } => {
                let reply = WriteReply {
                    outcome: of,
                    position: head,
                };
                self.wait(head.index, caller, reply, Kind::Refusal);
            }
            Evaluation::Duplicate {
                outcome: of,
                position,
                version,
            } => {
                outcome.events.push("retry answered by the table");
                let reply = WriteReply {
                    outcome: of,
                    position: version,
                };
                self.wait(position.index, caller, reply, Kind::Retry(position));
            }
        }
        Ok(())
    }

    fn answer_all(&mut self, node: &Node, at: At, outcome: &mut Outcome) {
        if let Some(standing) = standing_of(node, at) {
            self.answer(&standing, node.clock(at.now), outcome);
        }
    }

    fn ensure_evaluator(&mut self, node: &Node, standing: &Standing, at: At) -> Result<(), String> {
        let Some(core) = node.core.as_ref().filter(|_| self.evaluator.is_none()) else {
            return Ok(());
        };
        let mut evaluator = Evaluator::new(at.window);
        evaluator.set_counters(Arc::new(tallies::declared()));
        let applied = node.applied(standing.generation)?;
        let log = core.log_after(at.partition, applied);
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

    fn wait(&mut self, index: Index, caller: Option<Caller>, reply: WriteReply, kind: Kind) {
        let last = self.waiting.back().map_or(Index::ZERO, |w| w.index);
        self.waiting.push_back(Waiting {
            index: index.max(last),
            caller,
            reply,
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
                Kind::Entry(_) | Kind::Retry(_) => self.commit,
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
                Kind::Retry(original) => outcome.repeated.push(original),
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
        let Self {
            waiting, gathered, ..
        } = std::mem::take(self);
        let undone = gathered.into_iter();
        let undone = undone.map(|(caller, _)| (caller, Answer::Refused));
        let told = waiting.into_iter().filter_map(|waiting| {
            let answer = match waiting.kind {
                Kind::Entry(_) | Kind::Retry(_) => Answer::Unknown,
                Kind::Refusal => Answer::Refused,
            };
            Some((waiting.caller?, answer))
        });
        told.chain(undone).collect()
    }
}

impl Outcome {
    fn tell(&mut self, caller: Option<Caller>, answer: Answer) {
        self.answers.extend(caller.map(|caller| (caller, answer)));
    }
}

/// How the node's replica stands, where it leads.
fn standing_of(node: &Node, at: At) -> Option<Standing> {
    let standing = node.core.as_ref()?.standing(at.partition)?;
    leads(&standing, node.clock(at.now)).then_some(standing)
}

fn event_of(refusal: ProposeError) -> &'static str {
    match refusal {
        ProposeError::NotPrimary => "",
        ProposeError::DiskFull => "write refused, disk full",
        ProposeError::Overloaded => "write refused, overloaded",
        ProposeError::PushedBack => "write pushed back",
    }
}

/// The entry that was appended last.
fn appended(effects: &[Effect]) -> Option<Mark> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Append(DurableRecord::Entry { entry, .. }) => Some(entry.mark()),
        _ => None,
    })
}

/// The number that a stored value spells.
#[must_use]
pub fn number(stored: &VersionedValue) -> Option<i64> {
    std::str::from_utf8(&stored.value.data).ok()?.parse().ok()
}
