//! Turns operations into results, on the primary: what a write does, given all that
//! stands in the log before it.
//!
//! The evaluator of a partition knows what the log holds past the applied index: the
//! newest value of each key that such an entry writes, and the idempotence table as
//! of the head. Everything else is in the store, whose values the caller brings
//! ([`Bases`]); for a key that no unapplied entry writes, the store's value is the
//! log's.
//!
//! # Invariants
//! - Each outcome is that of running the log's operations one after the other, in
//!   log order.
//! - Nothing is judged by a clock alone: where an expired key counted as absent, the
//!   entry deletes it, so that no later primary, whose clock may be behind, sees it
//!   again (rule 6).
//! - A sequenced write is judged by the table before anything else, and whatever
//!   comes of it, a refusal too, is recorded in the entry that answers it (rule 8).

#[path = "combine.rs"]
mod combine;
#[path = "evaluate_counters.rs"]
mod counters;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

pub(super) use combine::before;
pub use combine::{COMBINED_MAX, Combined, CombinedEntry, Joined};

use super::body::{
    EntryBody, KIND_COUNTER, KIND_STRING, SequencedRecord, StoredValue, VersionedValue,
};
use super::expiry::{DueKey, ExpiryRow, due_second};
use super::integer;
use super::request::{
    BatchAction, BatchOperation, Condition, Expiry, ExpiryCondition, Sequenced, WriteOp,
    WriteOutcome, WriteRequest,
};
use super::table::{Judgement, Table};
use super::wire::DecodeError;
use crate::counters::Declared;
use crate::ids::{Index, Position};
use crate::replication::{EntryKind, LogEntry};
use crate::seeded::{Bug, is_seeded};

/// Gives values of the store, as far as the caller has them at hand.
pub trait Bases {
    /// `None`: not at hand; `Some(None)`: the store has no such key.
    fn base(&self, key: &Bytes) -> Option<Option<VersionedValue>>;
}

impl<F: Fn(&Bytes) -> Option<Option<VersionedValue>>> Bases for F {
    fn base(&self, key: &Bytes) -> Option<Option<VersionedValue>> {
        self(key)
    }
}

/// What is to be done about a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Evaluation {
    /// Propose this entry; when it has committed, answer with the outcome and the
    /// entry's position.
    Propose {
        /// The entry.
        body: EntryBody,
        /// What came of the write.
        outcome: WriteOutcome,
    },
    /// Nothing is to be written. Answer once everything that is in the log now has
    /// committed, under the lease (rule 7).
    Refuse {
        /// What came of the write.
        outcome: WriteOutcome,
    },
    /// A retry. Answer once the original has committed.
    Duplicate {
        /// What came of the original.
        outcome: WriteOutcome,
        /// The original's entry.
        position: Position,
        /// The version that the client is told.
        version: Position,
    },
    /// A retry that the table cannot judge. Nothing is to be done.
    Unjudged,
    /// The values of these keys are wanted first, see [`Bases`].
    NeedBase(Vec<Bytes>),
    /// The key is a striped counter, to which this cannot be done as it is. Nothing is to
    /// be done.
    IsCounter,
    /// The table is wanted first, see [`Evaluator::set_table`].
    NeedTable,
}

/// What the log says of a key past the applied index.
#[derive(Debug)]
struct Pending {
    version: Position,
    value: Option<StoredValue>,
}

/// A live value as it stands at the head of the log.
struct Current {
    version: Position,
    value: StoredValue,
}

/// Evaluates the writes of one partition in one epoch.
#[derive(Debug, Default)]
pub struct Evaluator {
    overlay: BTreeMap<Bytes, Pending>,
    /// Which key was written where, in log order, as far as it is not applied.
    unapplied: VecDeque<(Index, Bytes)>,
    table: Option<Table>,
    window: u32,
    /// Which keys may be striped counters.
    counters: Arc<Declared>,
}

impl Evaluator {
    /// An evaluator of a log that is applied to its head. `window`: how many
    /// sequenced writes are to be remembered.
    #[must_use]
    pub fn new(window: u32) -> Self {
        Self {
            window,
            ..Self::default()
        }
    }

    /// Another window, from the cluster's settings.
    pub fn set_window(&mut self, window: u32) {
        self.window = window;
    }

    /// Which keys may be striped counters, from the cluster's settings.
    pub fn set_counters(&mut self, counters: Arc<Declared>) {
        self.counters = counters;
    }

    /// Takes over entries of the log that the store has not applied, in order.
    ///
    /// # Errors
    /// Where a body cannot be decoded.
    pub fn inherit(&mut self, entries: &[LogEntry]) -> Result<(), DecodeError> {
        for entry in entries {
            if entry.kind == EntryKind::Write {
                let body = EntryBody::decode(entry.body.clone())?;
                self.proposed(entry.position, body);
            }
        }
        Ok(())
    }

    /// Whether sequenced writes can be evaluated.
    #[must_use]
    pub fn has_table(&self) -> bool {
        self.table.is_some()
    }

    /// Gives it the table, as of the applied index at which the store's rows were
    /// read, and every entry of the log past that index.
    ///
    /// # Errors
    /// Where a body cannot be decoded.
    pub fn set_table(&mut self, mut table: Table, log: &[LogEntry]) -> Result<(), DecodeError> {
        if is_seeded(Bug::ForgetTableOnPromotion) {
            table = Table::new();
        }
        for entry in log {
            if entry.kind == EntryKind::Write {
                let body = EntryBody::decode(entry.body.clone())?;
                table.absorb(entry.position, &body);
            }
        }
        self.table = Some(table);
        Ok(())
    }

    /// Takes over an entry that now stands at the head of the log.
    pub fn proposed(&mut self, position: Position, body: EntryBody) {
        if let Some(table) = &mut self.table {
            table.absorb(position, &body);
        }
        for (key, value) in body.writes {
            self.unapplied.push_back((position.index, key.clone()));
            let pending = Pending {
                version: position,
                value,
            };
            self.overlay.insert(key, pending);
        }
    }

    /// The store has applied everything up to here.
    pub fn applied(&mut self, index: Index) {
        while let Some((at, _)) = self.unapplied.front()
            && *at <= index
        {
            let Some((at, key)) = self.unapplied.pop_front() else {
                break;
            };
            if self
                .overlay
                .get(&key)
                .is_some_and(|pending| pending.version.index == at)
            {
                self.overlay.remove(&key);
            }
        }
    }

    /// How many writes of keys are not applied.
    #[must_use]
    pub fn unapplied(&self) -> usize {
        self.unapplied.len()
    }

    /// The last entry that wrote the key, where it is not applied.
    #[must_use]
    pub fn written(&self, key: &Bytes) -> Option<Position> {
        self.overlay.get(key).map(|pending| pending.version)
    }

    /// Whether the log holds an unapplied write of the key: no base is needed.
    #[must_use]
    pub fn covers(&self, key: &Bytes) -> bool {
        self.overlay.contains_key(key)
    }

    /// Evaluates a client's write. Changes nothing: [`Self::proposed`] does, once the
    /// entry has its position.
    #[must_use]
    pub fn evaluate(&self, now_ms: u64, request: &WriteRequest, bases: &impl Bases) -> Evaluation {
        let name = match &request.sequenced {
            None => None,
            Some(name) => match self.table.as_ref().map(|table| table.judge(name)) {
                None => return Evaluation::NeedTable,
                Some(Judgement::Applied {
                    outcome,
                    position,
                    version,
                }) => {
                    return Evaluation::Duplicate {
                        outcome,
                        position,
                        version,
                    };
                }
                Some(Judgement::Unjudged) => return Evaluation::Unjudged,
                Some(Judgement::New) => Some(name),
            },
        };
        let mut view = View::new(self, now_ms, bases);
        let evaluated = match &request.op {
            WriteOp::Set {
                key,
                value,
                condition,
                expiry,
                return_previous,
            } => view.set(key, value, *condition, *expiry, *return_previous),
            WriteOp::Delete { key, condition } => view.delete(key, *condition),
            WriteOp::Increment { key, delta } => view.increment(key, *delta),
            WriteOp::Expire {
                key,
                expiry,
                condition,
                return_value,
            } => view.expire(key, *expiry, *condition, *return_value),
            WriteOp::Splice {
                key,
                offset,
                data,
                bytes_max,
            } => view.splice(key, *offset, data, *bytes_max),
            WriteOp::Establish {
                key,
                condition,
                control,
                expiry,
            } => view.establish(key, control, *condition, *expiry),
            WriteOp::Adopt { key, control } => view.adopt(key, control),
            WriteOp::Seal { key, expires_at } => view.seal(key, *expires_at),
            WriteOp::Conclude {
                key,
                version,
                to,
                previous,
            } => match view.conclude(key, *version, to.as_ref(), previous.as_ref()) {
                // Not remembered.
                Ok((writes, outcome)) if writes.is_empty() => {
                    return Evaluation::Refuse { outcome };
                }
                other => other,
            },
            WriteOp::Batch { operations } => view.batch(operations),
        };
        match evaluated {
            Ok((writes, outcome)) => {
                let unindexed = view.left_behind(&writes);
                self.conclude(name, writes, unindexed, outcome)
            }
            Err(Halt::Missing(keys)) => Evaluation::NeedBase(keys),
            Err(Halt::Counter) => Evaluation::IsCounter,
        }
    }

    /// Evaluates the expiry of keys whose time may be past: those that a read met, or
    /// that the expiry index names. Deletes those whose time is past in truth, and the
    /// rows of the index that say nothing any more. The outcome tells how many keys
    /// are deleted; a key whose time was past is gone once it is answered.
    #[must_use]
    pub fn expire(&self, now_ms: u64, due: &[DueKey], bases: &impl Bases) -> Evaluation {
        let view = View::new(self, now_ms, bases);
        let mut missing = Vec::new();
        let mut writes = BTreeMap::new();
        let mut stale = Vec::new();
        for DueKey { key, row } in due {
            let looked = match view.look(key) {
                Ok(looked) => looked,
                Err(keys) => {
                    missing.extend(keys);
                    continue;
                }
            };
            if looked.lapsed {
                writes.insert(key.clone(), None);
            }
            // A row that the value needs stays, or leaves with the value.
            if let Some(second) = *row
                && looked.expires_at.map(due_second) != Some(second)
            {
                stale.push(ExpiryRow {
                    second,
                    key: key.clone(),
                });
            }
        }
        if !missing.is_empty() {
            return Evaluation::NeedBase(missing);
        }
        let outcome = WriteOutcome::Deleted {
            count: writes.len() as u64,
        };
        let writes: Vec<Write> = writes.into_iter().collect();
        let mut unindexed = view.left_behind(&writes);
        unindexed.append(&mut stale);
        self.conclude(None, writes, unindexed, outcome)
    }

    fn conclude(
        &self,
        name: Option<&Sequenced>,
        writes: Vec<Write>,
        unindexed: Vec<ExpiryRow>,
        outcome: WriteOutcome,
    ) -> Evaluation {
        let sequenced: Vec<SequencedRecord> = name
            .map(|name| SequencedRecord {
                client: name.client,
                sequence: name.sequence,
                outcome: outcome.clone(),
            })
            .into_iter()
            .collect();
        if writes.is_empty() && sequenced.is_empty() && unindexed.is_empty() {
            return Evaluation::Refuse { outcome };
        }
        let forgets = match &self.table {
            Some(table) if !sequenced.is_empty() => table.forgets(&sequenced, self.window),
            _ => Vec::new(),
        };
        Evaluation::Propose {
            body: EntryBody {
                writes,
                sequenced,
                forgets,
                unindexed,
            },
            outcome,
        }
    }
}

/// About how many bytes of keys an entry spends on rows of the expiry index that its
/// writes leave behind: it must not grow far beyond what the client sent. The other rows
/// are found when they are due.
const LEFT_BEHIND_BYTES_MAX: usize = 256 * 1024;

type Write = (Bytes, Option<StoredValue>);

/// Why a write cannot be judged.
enum Halt {
    /// These keys' values are not at hand.
    Missing(Vec<Bytes>),
    /// It is for a striped counter, and does not know that.
    Counter,
}

impl From<Vec<Bytes>> for Halt {
    fn from(missing: Vec<Bytes>) -> Self {
        Self::Missing(missing)
    }
}

type Evaluated = Result<(Vec<Write>, WriteOutcome), Halt>;

/// What a look at a key finds.
struct Looked {
    /// What counts: a value whose time is past does not.
    live: Option<Current>,
    /// Whether there is a value whose time is past: the entry must delete it.
    lapsed: bool,
    /// When the value that is there expires, or did.
    expires_at: Option<u64>,
}

impl Looked {
    fn is_counter(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|current| current.value.kind == KIND_COUNTER)
    }
}

/// The keys as they stand at the head of the log.
struct View<'a, B> {
    evaluator: &'a Evaluator,
    bases: &'a B,
    now_ms: u64,
    /// What the operations of a batch so far came to.
    draft: BTreeMap<Bytes, Option<StoredValue>>,
}

impl<'a, B: Bases> View<'a, B> {
    fn new(evaluator: &'a Evaluator, now_ms: u64, bases: &'a B) -> Self {
        Self {
            evaluator,
            bases,
            now_ms,
            draft: BTreeMap::new(),
        }
    }

    /// The keys that are wanted first, where they are.
    fn look(&self, key: &Bytes) -> Result<Looked, Vec<Bytes>> {
        let found = match self.draft.get(key) {
            // Conditions were judged before there was a draft: its versions say nothing.
            Some(drafted) => drafted.clone().map(|value| (Position::ZERO, value)),
            None => match self.evaluator.overlay.get(key) {
                Some(Pending { version, value }) => value.clone().map(|value| (*version, value)),
                None => match self.bases.base(key) {
                    None => return Err(vec![key.clone()]),
                    Some(base) => base.map(|VersionedValue { version, value }| (version, value)),
                },
            },
        };
        let expires_at = found.as_ref().and_then(|(_, value)| value.expires_at);
        let lapsed = expires_at.is_some_and(|at| at <= self.now_ms);
        let live = found
            .filter(|_| !lapsed)
            .map(|(version, value)| Current { version, value });
        Ok(Looked {
            live,
            lapsed: lapsed && !is_seeded(Bug::ExpireWithoutEntry),
            expires_at,
        })
    }

    fn look_for_string(&self, key: &Bytes) -> Result<Looked, Halt> {
        let looked = self.look(key)?;
        if looked.is_counter() {
            return Err(Halt::Counter);
        }
        Ok(looked)
    }

    /// Whether the key may be a striped counter, so that nothing can be done to it blindly.
    fn may_count(&self, key: &[u8]) -> bool {
        self.evaluator.counters.may_count(key)
    }

    /// The rows of the expiry index that are of the values which these writes replace
    /// and not of the new ones, as far as the old values are at hand. A blind write
    /// that brings no expiry does not look at the store's value even there: most
    /// partitions have no key that expires, and must not pay for it.
    fn left_behind(&self, writes: &[Write]) -> Vec<ExpiryRow> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for (key, new) in writes {
            if bytes > LEFT_BEHIND_BYTES_MAX {
                break;
            }
            let old = match self.evaluator.overlay.get(key) {
                Some(pending) => pending.value.as_ref().and_then(|value| value.expires_at),
                None if new.as_ref().is_some_and(|value| value.expires_at.is_none()) => None,
                None => self
                    .bases
                    .base(key)
                    .flatten()
                    .and_then(|stored| stored.value.expires_at),
            };
            let needed = new.as_ref().and_then(|value| value.expires_at);
            if let Some(second) = old.map(due_second)
                && needed.map(due_second) != Some(second)
            {
                bytes += key.len();
                rows.push(ExpiryRow {
                    second,
                    key: key.clone(),
                });
            }
        }
        rows
    }

    fn set(
        &self,
        key: &Bytes,
        value: &Bytes,
        condition: Condition,
        expiry: Expiry,
        return_previous: bool,
    ) -> Evaluated {
        let blind = is_blind(condition, expiry) && !return_previous && !self.may_count(key);
        let looked = if blind { None } else { Some(self.look(key)?) };
        if looked.as_ref().is_some_and(Looked::is_counter) {
            return Err(Halt::Counter);
        }
        let lapsed = looked.as_ref().is_some_and(|looked| looked.lapsed);
        let live = looked.and_then(|looked| looked.live);
        let previous = live
            .as_ref()
            .filter(|_| return_previous)
            .map(|current| current.value.data.clone());
        if !holds(condition, live.as_ref()) {
            let outcome = WriteOutcome::ConditionFailed {
                version: live.map(|current| current.version),
                previous,
            };
            return Ok((expiry_writes(key, lapsed), outcome));
        }
        let expires_at = new_expiry(expiry, live.and_then(|current| current.value.expires_at));
        let new = self.timely(StoredValue {
            expires_at,
            kind: KIND_STRING,
            data: value.clone(),
        });
        Ok((vec![(key.clone(), new)], WriteOutcome::Set { previous }))
    }

    /// A value whose time has passed before it was set is a deletion, as in Redis.
    fn timely(&self, value: StoredValue) -> Option<StoredValue> {
        (!value.expired(self.now_ms)).then_some(value)
    }

    fn delete(&self, key: &Bytes, condition: Condition) -> Evaluated {
        let Looked { live, lapsed, .. } = self.look_for_string(key)?;
        if !holds(condition, live.as_ref()) {
            let outcome = WriteOutcome::ConditionFailed {
                version: live.map(|current| current.version),
                previous: None,
            };
            return Ok((expiry_writes(key, lapsed), outcome));
        }
        let count = u64::from(live.is_some());
        let writes = expiry_writes(key, lapsed || live.is_some());
        Ok((writes, WriteOutcome::Deleted { count }))
    }

    fn increment(&self, key: &Bytes, delta: i64) -> Evaluated {
        let Looked { live, lapsed, .. } = self.look_for_string(key)?;
        let before = match &live {
            None => 0,
            Some(current) => match integer::parse(&current.value.data) {
                Some(number) => number,
                None => return Ok((Vec::new(), WriteOutcome::NotAnInteger)),
            },
        };
        let Some(after) = before.checked_add(delta) else {
            return Ok((expiry_writes(key, lapsed), WriteOutcome::Overflow));
        };
        let new = StoredValue {
            expires_at: live.and_then(|current| current.value.expires_at),
            kind: KIND_STRING,
            data: integer::spell(after),
        };
        Ok((vec![(key.clone(), Some(new))], WriteOutcome::Integer(after)))
    }

    fn expire(
        &self,
        key: &Bytes,
        expiry: Expiry,
        condition: ExpiryCondition,
        return_value: bool,
    ) -> Evaluated {
        let Looked { live, lapsed, .. } = self.look_for_string(key)?;
        let Some(Current { version, value }) = live else {
            let outcome = WriteOutcome::ConditionFailed {
                version: None,
                previous: None,
            };
            return Ok((expiry_writes(key, lapsed), outcome));
        };
        let previous = return_value.then(|| value.data.clone());
        let expires_at = new_expiry(expiry, value.expires_at);
        if !may_expire(condition, value.expires_at, expires_at) {
            let outcome = WriteOutcome::ConditionFailed {
                version: Some(version),
                previous,
            };
            return Ok((Vec::new(), outcome));
        }
        let outcome = WriteOutcome::Set { previous };
        if expires_at == value.expires_at {
            return Ok((Vec::new(), outcome));
        }
        let new = self.timely(StoredValue {
            expires_at,
            ..value
        });
        Ok((vec![(key.clone(), new)], outcome))
    }

    fn splice(
        &self,
        key: &Bytes,
        offset: Option<usize>,
        data: &Bytes,
        bytes_max: usize,
    ) -> Evaluated {
        let Looked { live, lapsed, .. } = self.look_for_string(key)?;
        let length = live.as_ref().map_or(0, |current| current.value.data.len());
        if offset.is_some() && data.is_empty() {
            // Redis makes no zeros, and no key, for nothing.
            let outcome = WriteOutcome::Integer(to_integer(length));
            return Ok((expiry_writes(key, lapsed), outcome));
        }
        let begin = offset.unwrap_or(length);
        let end = begin.saturating_add(data.len());
        if end > bytes_max {
            return Ok((expiry_writes(key, lapsed), WriteOutcome::TooLong));
        }
        let new_length = length.max(end);
        let mut spliced = BytesMut::with_capacity(new_length);
        if let Some(current) = &live {
            spliced.extend_from_slice(&current.value.data);
        }
        spliced.resize(new_length, 0);
        spliced[begin..end].copy_from_slice(data);
        let new = StoredValue {
            expires_at: live.and_then(|current| current.value.expires_at),
            kind: KIND_STRING,
            data: spliced.freeze(),
        };
        let outcome = WriteOutcome::Integer(to_integer(new_length));
        Ok((vec![(key.clone(), Some(new))], outcome))
    }

    /// All conditions are judged against the state before the batch; then each
    /// operation sees what those before it did.
    fn batch(&mut self, operations: &[BatchOperation]) -> Evaluated {
        let mut missing = Vec::new();
        let mut lapsed = BTreeMap::new();
        let mut refused = None;
        for (at, operation) in operations.iter().enumerate() {
            let BatchOperation { key, condition, .. } = operation;
            if is_blind_operation(operation) && !self.may_count(key) {
                continue;
            }
            let looked = match self.look(key) {
                Ok(looked) => looked,
                Err(keys) => {
                    missing.extend(keys);
                    continue;
                }
            };
            if looked.is_counter() {
                return Err(Halt::Counter);
            }
            if looked.lapsed {
                lapsed.insert(key.clone(), None);
            }
            if refused.is_none() && !holds(*condition, looked.live.as_ref()) {
                let why = Box::new(WriteOutcome::ConditionFailed {
                    version: looked.live.map(|current| current.version),
                    previous: None,
                });
                refused = Some(WriteOutcome::BatchRefused { at, why });
            }
        }
        if !missing.is_empty() {
            return Err(Halt::Missing(missing));
        }
        let outcome = match refused {
            None => self.draft(operations)?,
            Some(refused) => refused,
        };
        let draft = std::mem::take(&mut self.draft);
        let writes = match outcome {
            WriteOutcome::Batch(_) => draft,
            _ => lapsed,
        };
        Ok((writes.into_iter().collect(), outcome))
    }

    /// Carries out the operations of a batch on the draft, up to the first that cannot
    /// be. Returns what comes of the batch.
    fn draft(&mut self, operations: &[BatchOperation]) -> Result<WriteOutcome, Halt> {
        let mut outcomes = Vec::with_capacity(operations.len());
        for (at, BatchOperation { key, action, .. }) in operations.iter().enumerate() {
            let (writes, outcome) = match action {
                BatchAction::Put { value, expiry } => {
                    self.set(key, value, Condition::Always, *expiry, false)?
                }
                BatchAction::Delete => self.delete(key, Condition::Always)?,
                BatchAction::Increment { delta } => self.increment(key, *delta)?,
            };
            if matches!(outcome, WriteOutcome::NotAnInteger | WriteOutcome::Overflow) {
                let why = Box::new(outcome);
                return Ok(WriteOutcome::BatchRefused { at, why });
            }
            self.draft.extend(writes);
            outcomes.push(outcome);
        }
        Ok(WriteOutcome::Batch(outcomes))
    }
}

/// Whether a set does what it does whatever stood there before.
fn is_blind(condition: Condition, expiry: Expiry) -> bool {
    condition == Condition::Always && expiry != Expiry::Keep
}

fn is_blind_operation(operation: &BatchOperation) -> bool {
    match &operation.action {
        BatchAction::Put { expiry, .. } => is_blind(operation.condition, *expiry),
        BatchAction::Delete | BatchAction::Increment { .. } => false,
    }
}

fn holds(condition: Condition, current: Option<&Current>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => current.is_none(),
        Condition::Present => current.is_some(),
        Condition::Version(version) => current.is_some_and(|c| c.version == version),
    }
}

pub(crate) fn new_expiry(expiry: Expiry, old: Option<u64>) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::Keep => old,
        Expiry::AtMillis(at) => Some(at),
    }
}

/// Whether an expiry may be changed so. To live for ever is to live longest.
pub(crate) fn may_expire(condition: ExpiryCondition, old: Option<u64>, new: Option<u64>) -> bool {
    let time = |expiry: Option<u64>| expiry.map_or(u128::MAX, u128::from);
    let expires = old.is_some();
    let sooner = time(new) < time(old);
    match condition {
        ExpiryCondition::Always => true,
        ExpiryCondition::Never => !expires,
        ExpiryCondition::Expires => expires,
        ExpiryCondition::Later => expires && time(new) > time(old),
        ExpiryCondition::Sooner => sooner,
        ExpiryCondition::ExpiresSooner => expires && sooner,
    }
}

/// What an entry must write where a key counted as absent because it expired.
fn expiry_writes(key: &Bytes, expired: bool) -> Vec<Write> {
    if expired {
        vec![(key.clone(), None)]
    } else {
        Vec::new()
    }
}

fn to_integer(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "evaluate_batch_tests.rs"]
mod batch_tests;
#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
