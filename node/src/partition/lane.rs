//! The writes of one partition, from submission to answer.
//!
//! A write is held while the primary cannot serve, parked while it waits for values
//! from the store, proposed, and answered once it has committed. A refusal that is
//! no entry waits for what it was judged against, and then for the lease.
//!
//! # Invariants
//! - `waiting` ascends by index: everything in it was judged against the log up to
//!   its index.
//! - The evaluator lives from the first write of a leadership to its end: it knows
//!   every entry past the applied index.
//! - Each submission is answered exactly once.

#[path = "lane_combine.rs"]
mod combine;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::counters::Declared;
use cairn_core::ids::{Epoch, Index, Micros, PartitionId, Position};
use cairn_core::kv::expiry::due_second;
use cairn_core::kv::request::{RequestError, WriteLevel, WriteOutcome, WriteReply};
use cairn_core::kv::{EntryBody, Evaluation, Evaluator, VersionedValue};
use cairn_core::replication::{Effect, Generation, NodeCore, ProposeError, Standing};
use cairn_proto::trace::SpanContext;

use super::admission::{ALL_SHARE, Freed, Place};
use super::board::NEVER;
use super::inbox::{Found, LoadedTable, Submission, Work};
use super::park::Park;
use super::refusals::RefusedWrites;
use super::reply::{ReplyTo, WriteResult};
use super::spent::TurnSamples;
use crate::store::StateReader;
use combine::{Gathering, Join};

/// Values that are at hand without waiting.
pub(super) trait Cache {
    /// See [`StateReader::get_cached`].
    fn get_cached(&self, generation: Generation, key: &[u8]) -> Option<Option<Bytes>>;
}

impl Cache for StateReader {
    fn get_cached(&self, generation: Generation, key: &[u8]) -> Option<Option<Bytes>> {
        Self::get_cached(self, generation, key)
    }
}

/// One turn of the engine's loop: its time, and what it gathers for later.
#[derive(Debug)]
pub(super) struct Turn {
    /// Taken after the inputs of this turn, so that it is later than all of them.
    pub(super) now: Micros,
    pub(super) wall_ms: u64,
    /// The log or the store is too far behind for more writes.
    pub(super) overloaded: bool,
    /// The most writes that wait in one partition.
    pub(super) waiting_max: usize,
    /// Which keys may be striped counters.
    pub(super) counters: Arc<Declared>,
    refused: RefusedWrites,
    pub(super) effects: Vec<Effect>,
    pub(super) answers: Vec<(ReplyTo, WriteResult)>,
    pub(super) freed: Freed,
    pub(super) lookups: Vec<Lookup>,
    pub(super) table_loads: Vec<TableLoad>,
    /// How often a write was held for a replica that catches up.
    pub(super) pushed_back: u64,
    /// Keys that entries delete because their time was past, and for nothing else.
    pub(super) expired: u64,
    /// Partitions with something to answer, or a standing to publish.
    pub(super) touched: Vec<PartitionId>,
    /// Entries that were proposed for requests that are traced.
    pub(super) traced: Vec<((PartitionId, Index), SpanContext)>,
    /// Partitions where increments wait to become an entry.
    pub(super) gathering: Vec<PartitionId>,
    /// Increments that share their entry with others.
    pub(super) combined: u64,
    /// Whom the turn is for, where it is timed.
    pub(super) samples: TurnSamples,
}

/// Values that are to be read.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) partition: PartitionId,
    pub(super) term: u64,
    pub(super) ticket: u64,
    pub(super) generation: Generation,
    pub(super) keys: Vec<Bytes>,
    /// The bytes of the values are not wanted, which may be many and long.
    pub(super) without_data: bool,
}

/// A table that is to be read.
#[derive(Debug)]
pub(super) struct TableLoad {
    pub(super) partition: PartitionId,
    pub(super) term: u64,
    pub(super) generation: Generation,
}

impl Turn {
    pub(super) fn new(waiting_max: usize) -> Self {
        Self {
            now: Micros(0),
            wall_ms: 0,
            overloaded: false,
            waiting_max,
            counters: Arc::default(),
            refused: RefusedWrites::new(),
            effects: Vec::new(),
            answers: Vec::new(),
            freed: Freed::default(),
            lookups: Vec::new(),
            table_loads: Vec::new(),
            pushed_back: 0,
            expired: 0,
            touched: Vec::new(),
            traced: Vec::new(),
            gathering: Vec::new(),
            combined: 0,
            samples: TurnSamples::default(),
        }
    }

    pub(super) fn answer(&mut self, reply: ReplyTo, place: Place, result: WriteResult) {
        self.freed.add(place);
        if let Err(error) = &result {
            self.refused.count(error);
        }
        self.answers.push((reply, result));
    }

    fn refuse(&mut self, write: Submission, error: RequestError) {
        self.answer(write.reply, write.place, Err(error));
    }
}

/// A write that cannot be evaluated before the values of these keys are known.
struct Wanting {
    write: Submission,
    keys: Vec<Bytes>,
}

/// An answer that waits for a commit.
#[derive(Debug)]
struct Waiting {
    index: Index,
    arrived: Micros,
    reply: ReplyTo,
    place: Place,
    answer: WriteReply,
    kind: WaitingKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WaitingKind {
    /// An entry: its commit is the answer.
    Entry,
    /// A retry: the commit of the original is.
    Retry,
    /// Nothing was written: a strong read, so that it needs the lease too.
    Refusal,
}

impl Waiting {
    /// What to say where the commit cannot be waited for.
    fn given_up(&self, refusal: RequestError) -> RequestError {
        match self.kind {
            WaitingKind::Entry | WaitingKind::Retry => RequestError::Unknown,
            WaitingKind::Refusal => refusal,
        }
    }

    /// Whether every member must have flushed what it waits for: a refusal wrote nothing.
    fn is_for_all(&self) -> bool {
        self.place.level == WriteLevel::All && self.kind != WaitingKind::Refusal
    }
}

/// The writes of one partition.
#[derive(Debug)]
pub(super) struct Lane {
    partition: PartitionId,
    /// Counts the evaluators: what was asked for one means nothing to the next.
    term: u64,
    evaluator: Option<Evaluator>,
    loading_table: bool,
    generation: Generation,
    epoch: Epoch,
    is_primary: bool,
    serving: bool,
    /// Writes are slowed for a replica that catches up (rule 13).
    pushes_back: bool,
    /// Where W is 1, an acknowledgement needs the lease (rule 7).
    ack_needs_lease: bool,
    lease_until: Micros,
    head: Position,
    commit: Index,
    applied: Index,
    /// Every member has flushed up to here, as far as somebody waited for it.
    everywhere: Index,
    held: VecDeque<Submission>,
    tableless: VecDeque<Submission>,
    park: Park,
    gathering: Gathering,
    waiting: VecDeque<Waiting>,
    /// Committed, and the lease is awaited.
    leaseless: VecDeque<Waiting>,
    /// The soonest second that entries since the last [`Self::take_next_expiry`] gave the
    /// expiry index.
    next_expiry: u64,
    /// Committed, and the flush of every member is awaited.
    incomplete: VecDeque<Waiting>,
}

/// The keys whose values a write wants to see.
struct Wanted {
    /// With their data.
    whole: Vec<Bytes>,
    /// Whose version and expiry are enough: the values of many keys would take much
    /// memory for nothing.
    bare: Vec<Bytes>,
}

impl Wanted {
    fn new(work: &Work, keys: Vec<Bytes>) -> Self {
        let (whole, bare) = match work {
            Work::Expire(_) => (Vec::new(), keys),
            Work::Write(request) => {
                let needed: BTreeSet<&Bytes> = request.op.keys_with_data().collect();
                keys.into_iter().partition(|key| needed.contains(key))
            }
        };
        Self { whole, bare }
    }
}

impl Lane {
    pub(super) fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            term: 0,
            evaluator: None,
            loading_table: false,
            generation: Generation(0),
            epoch: Epoch::ZERO,
            is_primary: false,
            serving: false,
            pushes_back: false,
            ack_needs_lease: false,
            lease_until: Micros(0),
            head: Position::ZERO,
            commit: Index::ZERO,
            applied: Index::ZERO,
            everywhere: Index::ZERO,
            held: VecDeque::new(),
            tableless: VecDeque::new(),
            park: Park::default(),
            gathering: Gathering::default(),
            waiting: VecDeque::new(),
            leaseless: VecDeque::new(),
            next_expiry: NEVER,
            incomplete: VecDeque::new(),
        }
    }

    /// How many writes it has not answered.
    pub(super) fn unanswered(&self) -> usize {
        self.held.len()
            + self.tableless.len()
            + self.park.len()
            + self.gathering.len()
            + self.waiting.len()
            + self.leaseless.len()
            + self.incomplete.len()
    }

    /// Whether another write may wait here. Those that have committed, and wait for
    /// members that may be away, take no place from those that need not wait for them.
    fn has_place(&self, level: WriteLevel, max: usize) -> bool {
        let incomplete = self.incomplete.len();
        self.unanswered() - incomplete < max
            && (level == WriteLevel::Quorum || incomplete < max / ALL_SHARE)
    }

    /// The applied index of a generation of the state.
    pub(super) fn set_applied(&mut self, generation: Generation, index: Index) {
        if generation == self.generation {
            self.applied = self.applied.max(index);
            if let Some(evaluator) = &mut self.evaluator {
                evaluator.applied(self.applied);
            }
        }
    }

    pub(super) fn applied(&self) -> Index {
        self.applied
    }

    /// Another generation of the state, which begins at `applied`.
    pub(super) fn set_generation(&mut self, generation: Generation, applied: Index) {
        if generation != self.generation {
            self.generation = generation;
            self.applied = applied;
        }
    }

    /// Which keys may be striped counters.
    pub(super) fn set_counters(&mut self, counters: &Arc<Declared>) {
        if let Some(evaluator) = &mut self.evaluator {
            evaluator.set_counters(Arc::clone(counters));
        }
    }

    pub(super) fn set_window(&mut self, window: u32) {
        if let Some(evaluator) = &mut self.evaluator {
            evaluator.set_window(window);
        }
    }

    /// Everything up to here is committed.
    pub(super) fn committed(&mut self, index: Index) {
        self.commit = self.commit.max(index);
    }

    /// Every member has flushed up to here.
    pub(super) fn everywhere(&mut self, index: Index) {
        self.everywhere = self.everywhere.max(index);
    }

    /// The replica's standing changed. Whether it began or ceased to serve.
    pub(super) fn stands(&mut self, standing: &Standing, is_primary: bool) -> bool {
        let before = self.serving;
        self.is_primary = is_primary;
        self.epoch = standing.epoch;
        self.serving = standing.serving;
        self.pushes_back = standing.pushing_back;
        self.ack_needs_lease = standing.ack_needs_lease;
        self.lease_until = standing.lease_until;
        self.head = Position {
            epoch: standing.epoch,
            index: standing.head,
        };
        before != self.serving
    }

    /// To be told to the board, once it has a head that covers what was proposed.
    pub(super) fn take_next_expiry(&mut self) -> u64 {
        std::mem::replace(&mut self.next_expiry, NEVER)
    }

    /// Whether it serves as primary; the lease is a separate question.
    pub(super) fn serves(&self) -> bool {
        self.serving
    }

    /// Whether writes are slowed for a replica that catches up.
    pub(super) fn pushes_back(&self) -> bool {
        self.pushes_back
    }

    fn leads(&self, now: Micros) -> bool {
        self.serving && now < self.lease_until
    }

    /// Whether it was told of a lease that lasts until then, if it serves at all.
    pub(super) fn leads_until(&self, then: Micros) -> bool {
        !self.serving || then < self.lease_until
    }

    /// Whether this replica is named primary of its epoch, serving or not.
    pub(super) fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// Whether writes wait for the primary to serve.
    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Tries what was held, once the primary serves.
    pub(super) fn release_held(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        window: u32,
    ) {
        if !self.leads(turn.now) {
            return;
        }
        for write in std::mem::take(&mut self.held) {
            self.submit(core, turn, cache, window, write);
        }
    }

    /// Answers everything that is held: the primary is elsewhere.
    pub(super) fn turn_away(&mut self, turn: &mut Turn, error: &RequestError) {
        for write in std::mem::take(&mut self.held) {
            turn.refuse(write, error.clone());
        }
    }

    /// The leadership ended: whatever was proposed has an unknown outcome, and
    /// nothing else was done.
    pub(super) fn depose(&mut self, turn: &mut Turn, moved: &RequestError) {
        self.term += 1;
        self.evaluator = None;
        self.loading_table = false;
        self.serving = false;
        self.is_primary = false;
        // The next log may be another one: indexes of this one say nothing of it.
        self.commit = Index::ZERO;
        self.everywhere = Index::ZERO;
        let waiting = std::mem::take(&mut self.waiting);
        let leaseless = std::mem::take(&mut self.leaseless);
        let incomplete = std::mem::take(&mut self.incomplete);
        for waiting in incomplete.into_iter().chain(leaseless).chain(waiting) {
            let error = waiting.given_up(moved.clone());
            turn.answer(waiting.reply, waiting.place, Err(error));
        }
        let tableless = std::mem::take(&mut self.tableless);
        let gathered = self.gathering.drain();
        let undone = self.park.drain().into_iter().chain(tableless);
        for write in undone.chain(gathered) {
            turn.refuse(write, moved.clone());
        }
        self.turn_away(turn, moved);
    }

    /// Takes a write.
    pub(super) fn submit(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        window: u32,
        write: Submission,
    ) {
        if turn.overloaded || !self.has_place(write.place.level, turn.waiting_max) {
            turn.refuse(write, RequestError::Overloaded);
            return;
        }
        // What is held goes first, so that a connection's writes stay in order.
        if !self.leads(turn.now) || !self.held.is_empty() {
            self.held.push_back(write);
            return;
        }
        if let Err(error) = self.ensure_evaluator(core, window, &turn.counters) {
            tracing::error!(partition = %self.partition, %error, "cannot read the log of a partition");
            turn.refuse(
                write,
                RequestError::NotReady {
                    partition: self.partition,
                },
            );
            return;
        }
        let Some(write) = self.gather(turn, write) else {
            return;
        };
        if self.gathering.concerns(&write) {
            self.let_all_go(core, turn, cache);
            if !self.held.is_empty() {
                self.held.push_back(write);
                return;
            }
        }
        if self.park.blocks(&write.work) {
            self.park.add(write);
            return;
        }
        self.evaluate_or_park(core, turn, cache, write);
        self.propose_combined(core, turn, cache);
    }

    /// Evaluates a write that no other stands before, or has it wait for values.
    fn evaluate_or_park(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        write: Submission,
    ) {
        if let Some(Wanting { write, keys }) = self.evaluate(core, turn, cache, write) {
            let wanted = Wanted::new(&write.work, keys);
            self.park.add(write);
            self.look_up(turn, wanted);
        }
    }

    fn ensure_evaluator(
        &mut self,
        core: &NodeCore,
        window: u32,
        counters: &Arc<Declared>,
    ) -> Result<(), cairn_core::kv::DecodeError> {
        if self.evaluator.is_none() {
            let mut evaluator = Evaluator::new(window);
            evaluator.set_counters(Arc::clone(counters));
            evaluator.inherit(&core.log_after(self.partition, self.applied))?;
            self.evaluator = Some(evaluator);
        }
        Ok(())
    }

    /// Asks for values, each for the write that stands first in its key's line.
    fn look_up(&mut self, turn: &mut Turn, wanted: Wanted) {
        let Wanted { whole, bare } = wanted;
        for (keys, without_data) in [(whole, false), (bare, true)] {
            if keys.is_empty() {
                continue;
            }
            let (ticket, keys) = self.park.want(keys);
            if !keys.is_empty() {
                turn.lookups.push(Lookup {
                    partition: self.partition,
                    term: self.term,
                    ticket,
                    generation: self.generation,
                    keys,
                    without_data,
                });
            }
        }
    }

    /// Values came. `None`: the store cannot be read.
    pub(super) fn found(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        (term, ticket): (u64, u64),
        found: Option<Found>,
    ) {
        if term != self.term {
            return;
        }
        let Some(found) = found else {
            for write in self.park.drain() {
                let partition = self.partition;
                turn.refuse(write, RequestError::NotReady { partition });
            }
            return;
        };
        let mut tries: Vec<u64> = found
            .into_iter()
            .filter_map(|(key, value)| self.park.found(ticket, &key, value))
            .collect();
        while let Some(id) = tries.pop() {
            if !self.park.is_first(id) {
                continue;
            }
            let Some(write) = self.park.lend(id) else {
                // It was given up; those behind it go on.
                tries.extend(self.park.leave(id));
                continue;
            };
            match self.evaluate(core, turn, cache, write) {
                None => tries.extend(self.park.leave(id)),
                Some(Wanting { write, keys }) => {
                    let wanted = Wanted::new(&write.work, keys);
                    self.park.give_back(id, write);
                    self.look_up(turn, wanted);
                }
            }
        }
        self.propose_combined(core, turn, cache);
    }

    /// The table came. `None`: the store cannot be read.
    pub(super) fn table_loaded(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        window: u32,
        term: u64,
        loaded: Option<LoadedTable>,
    ) {
        if term != self.term {
            return;
        }
        self.loading_table = false;
        let set = loaded.map(|loaded| self.set_table(core, loaded));
        match set {
            Some(true) => {
                for write in std::mem::take(&mut self.tableless) {
                    self.submit(core, turn, cache, window, write);
                }
            }
            // The log no longer reaches back to where the table was read.
            Some(false) => self.load_table(turn),
            None => {
                for write in std::mem::take(&mut self.tableless) {
                    let partition = self.partition;
                    turn.refuse(write, RequestError::NotReady { partition });
                }
            }
        }
    }

    fn set_table(&mut self, core: &NodeCore, loaded: LoadedTable) -> bool {
        let Some(evaluator) = &mut self.evaluator else {
            return true;
        };
        let log = core.log_after(self.partition, loaded.applied);
        let joins = match log.first() {
            Some(first) => first.position.index == loaded.applied.next(),
            None => self.head.index <= loaded.applied,
        };
        joins && evaluator.set_table(loaded.table, &log).is_ok()
    }

    fn load_table(&mut self, turn: &mut Turn) {
        if !std::mem::replace(&mut self.loading_table, true) {
            turn.table_loads.push(TableLoad {
                partition: self.partition,
                term: self.term,
                generation: self.generation,
            });
        }
    }

    /// Evaluates a write that nothing stands before, and carries out what comes of
    /// it, or joins it to what [`Self::propose_combined`] then proposes. Gives it back with
    /// the keys whose values are wanted first.
    fn evaluate(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        cache: &dyn Cache,
        write: Submission,
    ) -> Option<Wanting> {
        if turn.overloaded {
            turn.refuse(write, RequestError::Overloaded);
            return None;
        }
        let write = match self.join(core, turn, cache, write) {
            Join::Joined => return None,
            Join::Wanting(wanting) => return Some(wanting),
            Join::Apart(write) => write,
        };
        self.propose_combined(core, turn, cache);
        let Some(evaluator) = &mut self.evaluator else {
            self.held.push_back(write);
            return None;
        };
        let (park, generation) = (&self.park, self.generation);
        let bases = |key: &Bytes| base(park, cache, generation, key);
        let evaluation = match &write.work {
            Work::Write(request) => evaluator.evaluate(turn.wall_ms, request, &bases),
            Work::Expire(due) => evaluator.expire(turn.wall_ms, due, &bases),
        };
        match evaluation {
            Evaluation::NeedBase(keys) => return Some(Wanting { write, keys }),
            Evaluation::NeedTable => {
                self.tableless.push_back(write);
                self.load_table(turn);
            }
            Evaluation::IsCounter => turn.refuse(write, RequestError::IsCounter),
            Evaluation::Unjudged => {
                let position = self.committed_position();
                turn.refuse(write, RequestError::Unjudged { position });
            }
            Evaluation::Propose { body, outcome } => {
                let encoded = body.encode();
                let proposed = core.propose(turn.now, self.partition, encoded, &mut turn.effects);
                match proposed {
                    Ok(position) => {
                        if matches!(write.work, Work::Expire(_)) {
                            turn.expired += body.writes.len() as u64;
                        }
                        self.next_expiry = self.next_expiry.min(soonest_expiry(&body));
                        if let Some(trace) = write.reply.trace() {
                            let entry = (self.partition, position.index);
                            turn.traced.push((entry, trace));
                        }
                        evaluator.proposed(position, body);
                        self.head = position;
                        let answer = WriteReply { outcome, position };
                        let awaited = (position.index, answer);
                        self.wait(core, turn, write, awaited, WaitingKind::Entry);
                    }
                    Err(error) => self.not_proposed(turn, write, error),
                }
            }
            Evaluation::Refuse { outcome } => {
                turn.touched.push(self.partition);
                let position = self.head;
                let awaited = (position.index, WriteReply { outcome, position });
                self.wait(core, turn, write, awaited, WaitingKind::Refusal);
            }
            Evaluation::Duplicate {
                outcome,
                position,
                version,
            } => {
                let answer = WriteReply {
                    outcome,
                    position: version,
                };
                if position.index <= self.commit && write.place.level == WriteLevel::Quorum {
                    turn.answer(write.reply, write.place, Ok(answer));
                } else {
                    turn.touched.push(self.partition);
                    let awaited = (position.index, answer);
                    self.wait(core, turn, write, awaited, WaitingKind::Retry);
                }
            }
        }
        None
    }

    /// The log did not take the entry of a write.
    fn not_proposed(&mut self, turn: &mut Turn, write: Submission, error: ProposeError) {
        match error {
            // The standing changed in this very turn; its end tells how.
            ProposeError::NotPrimary => self.held.push_back(write),
            ProposeError::DiskFull => turn.refuse(write, RequestError::DiskFull),
            ProposeError::Overloaded => {
                // What else waits for this turn is not evaluated in vain.
                turn.overloaded = true;
                turn.refuse(write, RequestError::Overloaded);
            }
            // Tried again at the next tick, and those behind it after it.
            ProposeError::PushedBack => {
                turn.pushed_back += 1;
                self.held.push_back(write);
            }
        }
    }

    fn committed_position(&self) -> Position {
        // A serving primary's barrier has committed, so that its last committed
        // entry is of its own epoch.
        Position {
            epoch: self.epoch,
            index: self.commit,
        }
    }

    /// Queues an answer until an index has committed. A retry's original may lie before what
    /// waits already: it waits for the head with the others, so that the queue stays in order.
    fn wait(
        &mut self,
        core: &mut NodeCore,
        turn: &mut Turn,
        write: Submission,
        (index, answer): (Index, WriteReply),
        kind: WaitingKind,
    ) {
        let waiting = Waiting {
            index: self.head.index.max(index),
            arrived: write.arrived,
            reply: write.reply,
            place: write.place,
            answer,
            kind,
        };
        if waiting.is_for_all() {
            core.want_everywhere(turn.now, self.partition, waiting.index, &mut turn.effects);
        }
        self.waiting.push_back(waiting);
    }

    /// Answers what has committed. `now` is taken after everything of this turn, so
    /// that a lease that lapsed during the turn has lapsed (rule 5). How long the
    /// first of them waited.
    pub(super) fn answer_committed(&mut self, turn: &mut Turn, now: Micros) -> Option<Micros> {
        let leads = self.leads(now);
        let mut longest = None;
        if leads {
            for waiting in std::mem::take(&mut self.leaseless) {
                self.answer_complete(turn, waiting);
            }
        }
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.index <= self.commit)
        {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            longest.get_or_insert_with(|| now.minus(waiting.arrived));
            let needs_lease = match waiting.kind {
                WaitingKind::Refusal => true,
                WaitingKind::Entry | WaitingKind::Retry => self.ack_needs_lease,
            };
            if needs_lease && !leads {
                self.leaseless.push_back(waiting);
            } else {
                self.answer_complete(turn, waiting);
            }
        }
        while let Some(waiting) = self.incomplete.front()
            && waiting.index <= self.everywhere
        {
            if let Some(waiting) = self.incomplete.pop_front() {
                turn.answer(waiting.reply, waiting.place, Ok(waiting.answer));
            }
        }
        longest
    }

    /// Answers what has committed, unless it is to be everywhere first.
    fn answer_complete(&mut self, turn: &mut Turn, waiting: Waiting) {
        if waiting.is_for_all() && waiting.index > self.everywhere {
            self.incomplete.push_back(waiting);
        } else {
            turn.answer(waiting.reply, waiting.place, Ok(waiting.answer));
        }
    }

    /// Gives up what has waited since before `since`.
    pub(super) fn expire(&mut self, turn: &mut Turn, since: Micros) {
        let partition = self.partition;
        let not_ready = RequestError::NotReady { partition };
        for queue in [&mut self.waiting, &mut self.leaseless, &mut self.incomplete] {
            while queue.front().is_some_and(|waiting| waiting.arrived < since) {
                let Some(waiting) = queue.pop_front() else {
                    break;
                };
                let error = waiting.given_up(not_ready.clone());
                turn.answer(waiting.reply, waiting.place, Err(error));
            }
        }
        let slowed = self.serving && self.pushes_back;
        for queue in [&mut self.held, &mut self.tableless] {
            while queue.front().is_some_and(|write| write.arrived < since) {
                let Some(write) = queue.pop_front() else {
                    break;
                };
                turn.refuse(
                    write,
                    if slowed {
                        RequestError::Overloaded
                    } else {
                        not_ready.clone()
                    },
                );
            }
        }
        while let Some(write) = self.gathering.pop_overdue(since) {
            turn.refuse(write, not_ready.clone());
        }
        for id in self.park.overdue(since) {
            if let Some(write) = self.park.give_up(id) {
                turn.refuse(write, not_ready.clone());
            }
        }
    }
}

/// The value of a key, where it is at hand.
fn base(
    park: &Park,
    cache: &dyn Cache,
    generation: Generation,
    key: &Bytes,
) -> Option<Option<VersionedValue>> {
    park.base(key)
        .or_else(|| decode_cached(cache.get_cached(generation, key)?))
}

/// The soonest second that an entry gives the expiry index; [`NEVER`] where it gives none.
fn soonest_expiry(body: &EntryBody) -> u64 {
    let expiries = body.writes.iter();
    let expiries = expiries.filter_map(|(_, value)| value.as_ref()?.expires_at);
    expiries.map(due_second).min().unwrap_or(NEVER)
}

/// A damaged value is left to the lookup, which reports it.
fn decode_cached(stored: Option<Bytes>) -> Option<Option<VersionedValue>> {
    match stored {
        None => Some(None),
        Some(bytes) => VersionedValue::decode(bytes).ok().map(Some),
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
