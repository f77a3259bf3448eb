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

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::body::{EntryBody, KIND_STRING, SequencedRecord, StoredValue, VersionedValue};
use super::integer;
use super::request::{Condition, Expiry, Sequenced, WriteOp, WriteOutcome, WriteRequest};
use super::table::{Judgement, Table};
use super::wire::DecodeError;
use crate::ids::{Index, Position};
use crate::replication::{EntryKind, LogEntry};

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
    },
    /// A retry that the table cannot judge. Nothing is to be done.
    Unjudged,
    /// The values of these keys are wanted first, see [`Bases`].
    NeedBase(Vec<Bytes>),
    /// The table is wanted first, see [`Evaluator::set_table`].
    NeedTable,
}

/// What the log says of a key past the applied index.
#[derive(Debug)]
struct Pending {
    version: Position,
    value: Option<StoredValue>,
}

/// A key as it stands at the head of the log.
struct Current {
    version: Position,
    value: StoredValue,
    expired: bool,
}

/// Evaluates the writes of one partition in one epoch.
#[derive(Debug, Default)]
pub struct Evaluator {
    overlay: BTreeMap<Bytes, Pending>,
    /// Which key was written where, in log order, as far as it is not applied.
    unapplied: VecDeque<(Index, Bytes)>,
    table: Option<Table>,
    window: u32,
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
                Some(Judgement::Applied { outcome, position }) => {
                    return Evaluation::Duplicate { outcome, position };
                }
                Some(Judgement::Unjudged) => return Evaluation::Unjudged,
                Some(Judgement::New) => Some(name),
            },
        };
        let view = View {
            evaluator: self,
            bases,
            now_ms,
        };
        let evaluated = match &request.op {
            WriteOp::Set {
                key,
                value,
                condition,
                expiry,
                return_previous,
            } => view.set(key, value, *condition, *expiry, *return_previous),
            WriteOp::Delete { keys, condition } => view.delete(keys, *condition),
            WriteOp::Increment { key, delta } => view.increment(key, *delta),
        };
        match evaluated {
            Ok((writes, outcome)) => self.conclude(name, writes, outcome),
            Err(Missing(keys)) => Evaluation::NeedBase(keys),
        }
    }

    /// Evaluates the expiry of a version of a key that a read found past its time.
    /// The outcome says nothing; the key is gone once it is answered.
    #[must_use]
    pub fn expire(
        &self,
        now_ms: u64,
        key: &Bytes,
        version: Position,
        bases: &impl Bases,
    ) -> Evaluation {
        let view = View {
            evaluator: self,
            bases,
            now_ms,
        };
        let gone = match view.current(key) {
            Ok(Some(current)) => current.version == version && current.expired,
            Ok(None) => false,
            Err(Missing(keys)) => return Evaluation::NeedBase(keys),
        };
        let outcome = WriteOutcome::Deleted {
            count: u64::from(gone),
        };
        let writes = if gone {
            vec![(key.clone(), None)]
        } else {
            Vec::new()
        };
        self.conclude(None, writes, outcome)
    }

    fn conclude(
        &self,
        name: Option<&Sequenced>,
        writes: Vec<Write>,
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
        if writes.is_empty() && sequenced.is_empty() {
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
            },
            outcome,
        }
    }
}

type Write = (Bytes, Option<StoredValue>);

/// These keys' values are not at hand.
struct Missing(Vec<Bytes>);

/// The keys of one operation that were looked at.
type Seen<'a> = BTreeSet<&'a Bytes>;

type Evaluated = Result<(Vec<Write>, WriteOutcome), Missing>;

/// The keys as they stand at the head of the log.
struct View<'a, B> {
    evaluator: &'a Evaluator,
    bases: &'a B,
    now_ms: u64,
}

impl<B: Bases> View<'_, B> {
    /// The key, expired or not; `None` where it does not exist.
    fn current(&self, key: &Bytes) -> Result<Option<Current>, Missing> {
        let (version, value) = match self.evaluator.overlay.get(key) {
            Some(Pending { value: None, .. }) => return Ok(None),
            Some(Pending {
                version,
                value: Some(value),
            }) => (*version, value.clone()),
            None => match self.bases.base(key) {
                None => return Err(Missing(vec![key.clone()])),
                Some(None) => return Ok(None),
                Some(Some(VersionedValue { version, value })) => (version, value),
            },
        };
        Ok(Some(Current {
            version,
            expired: value.expired(self.now_ms),
            value,
        }))
    }

    fn set(
        &self,
        key: &Bytes,
        value: &Bytes,
        condition: Condition,
        expiry: Expiry,
        return_previous: bool,
    ) -> Evaluated {
        let blind = condition == Condition::Always && expiry != Expiry::Keep && !return_previous;
        let stored = if blind { None } else { self.current(key)? };
        let expired = stored.as_ref().is_some_and(|c| c.expired);
        let current = stored.filter(|c| !c.expired);
        let previous = current
            .as_ref()
            .filter(|_| return_previous)
            .map(|c| c.value.data.clone());
        if !holds(condition, current.as_ref()) {
            let outcome = WriteOutcome::ConditionFailed {
                version: current.map(|c| c.version),
                previous,
            };
            return Ok((expiry_writes(key, expired), outcome));
        }
        let expires_at = match expiry {
            Expiry::Never => None,
            Expiry::AtMillis(at) => Some(at),
            Expiry::Keep => current.and_then(|c| c.value.expires_at),
        };
        let new = StoredValue {
            expires_at,
            kind: KIND_STRING,
            data: value.clone(),
        };
        // A value whose time has passed before it was set is a deletion, as in Redis.
        let new = (!new.expired(self.now_ms)).then_some(new);
        Ok((vec![(key.clone(), new)], WriteOutcome::Set { previous }))
    }

    fn delete(&self, keys: &[Bytes], condition: Condition) -> Evaluated {
        let mut missing = Vec::new();
        let mut writes: Vec<Write> = Vec::new();
        let mut count = 0;
        let mut failed = None;
        let mut seen = Seen::default();
        for key in keys {
            if keys.len() > 1 && !seen.insert(key) {
                continue;
            }
            let stored = match self.current(key) {
                Ok(stored) => stored,
                Err(Missing(keys)) => {
                    missing.extend(keys);
                    continue;
                }
            };
            let expired = stored.as_ref().is_some_and(|c| c.expired);
            let current = stored.filter(|c| !c.expired);
            if !holds(condition, current.as_ref()) {
                failed = Some(current.map(|c| c.version));
                writes.extend(expiry_writes(key, expired));
            } else if current.is_some() {
                count += 1;
                writes.push((key.clone(), None));
            } else {
                writes.extend(expiry_writes(key, expired));
            }
        }
        if !missing.is_empty() {
            return Err(Missing(missing));
        }
        let outcome = match (failed, keys) {
            // With several keys, those whose condition failed are not counted.
            (Some(version), [_]) => WriteOutcome::ConditionFailed {
                version,
                previous: None,
            },
            _ => WriteOutcome::Deleted { count },
        };
        Ok((writes, outcome))
    }

    fn increment(&self, key: &Bytes, delta: i64) -> Evaluated {
        let stored = self.current(key)?;
        let expired = stored.as_ref().is_some_and(|c| c.expired);
        let current = stored.filter(|c| !c.expired);
        let before = match &current {
            None => 0,
            Some(current) => match integer::parse(&current.value.data) {
                Some(number) => number,
                None => return Ok((Vec::new(), WriteOutcome::NotAnInteger)),
            },
        };
        let Some(after) = before.checked_add(delta) else {
            return Ok((expiry_writes(key, expired), WriteOutcome::Overflow));
        };
        let new = StoredValue {
            expires_at: current.and_then(|c| c.value.expires_at),
            kind: KIND_STRING,
            data: integer::spell(after),
        };
        Ok((vec![(key.clone(), Some(new))], WriteOutcome::Integer(after)))
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

/// What an entry must write where a key counted as absent because it expired.
fn expiry_writes(key: &Bytes, expired: bool) -> Vec<Write> {
    if expired {
        vec![(key.clone(), None)]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
