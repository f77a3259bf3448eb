//! Several writes that take effect together or not at all.

use bytes::Bytes;
use cairn_core::ids::Position;
use cairn_core::kv::request::{
    BatchAction, BatchOperation, Condition, Expiry, WriteOutcome, WriteReply,
};

use crate::client::nonsense;
use crate::error::Error;

/// Several writes that take effect together or not at all. Their keys are of one
/// partition, which one `{hash tag}` in all of them sees to.
///
/// Every condition is judged against the state before the batch, and one that does not
/// hold refuses all of it. Each operation sees what those before it did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    operations: Vec<BatchOperation>,
}

impl Batch {
    /// A batch without operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.put_with(key, value, Condition::Always, Expiry::Never)
    }

    /// Sets a key under a condition, with an expiry.
    #[must_use]
    pub fn put_with(
        self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
        expiry: Expiry,
    ) -> Self {
        let value = value.into();
        self.with(key, condition, BatchAction::Put { value, expiry })
    }

    /// Deletes a key, which need not exist.
    #[must_use]
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.delete_if(key, Condition::Always)
    }

    /// Deletes a key under a condition.
    #[must_use]
    pub fn delete_if(self, key: impl Into<Bytes>, condition: Condition) -> Self {
        self.with(key, condition, BatchAction::Delete)
    }

    /// Adds to a decimal integer, a missing one counting as 0.
    #[must_use]
    pub fn increment(self, key: impl Into<Bytes>, delta: i64) -> Self {
        self.increment_if(key, delta, Condition::Always)
    }

    /// Adds to a decimal integer under a condition.
    #[must_use]
    pub fn increment_if(self, key: impl Into<Bytes>, delta: i64, condition: Condition) -> Self {
        self.with(key, condition, BatchAction::Increment { delta })
    }

    fn with(mut self, key: impl Into<Bytes>, condition: Condition, action: BatchAction) -> Self {
        self.operations.push(BatchOperation {
            key: key.into(),
            condition,
            action,
        });
        self
    }

    pub(crate) fn into_operations(self) -> Vec<BatchOperation> {
        self.operations
    }
}

/// What came of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BatchOutcome {
    /// Every operation took effect.
    Applied {
        /// The version of everything that it put.
        version: Position,
        /// One for each operation, in their order.
        results: Vec<BatchResult>,
    },
    /// None did.
    Refused {
        /// The first operation that could not be carried out, counted from 0.
        operation: usize,
        /// Why not.
        reason: BatchRefusal,
    },
}

impl BatchOutcome {
    /// Whether the batch took effect.
    #[must_use]
    pub fn applied(&self) -> bool {
        matches!(self, Self::Applied { .. })
    }
}

/// What came of one operation of a batch that took effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchResult {
    /// The key was set.
    Put,
    /// Whether the key existed and is gone.
    Deleted(bool),
    /// The integer after the increment.
    Integer(i64),
}

/// Why an operation of a batch could not be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchRefusal {
    /// Its condition did not hold.
    ConditionFailed {
        /// The version that the key has, if it exists.
        existing: Option<Position>,
    },
    /// The value is not a decimal integer of 64 bits.
    NotAnInteger,
    /// The increment would leave 64 bits.
    Overflow,
}

impl TryFrom<WriteReply> for BatchOutcome {
    type Error = Error;

    fn try_from(WriteReply { outcome, position }: WriteReply) -> Result<Self, Error> {
        match outcome {
            WriteOutcome::Batch(outcomes) => Ok(Self::Applied {
                version: position,
                results: outcomes.into_iter().map(result).collect::<Result<_, _>>()?,
            }),
            WriteOutcome::BatchRefused { at, why } => Ok(Self::Refused {
                operation: at,
                reason: match *why {
                    WriteOutcome::ConditionFailed { version, .. } => {
                        BatchRefusal::ConditionFailed { existing: version }
                    }
                    WriteOutcome::NotAnInteger => BatchRefusal::NotAnInteger,
                    WriteOutcome::Overflow => BatchRefusal::Overflow,
                    other => return Err(nonsense(&format!("{other:?}"))),
                },
            }),
            other => Err(nonsense(&format!("{other:?}"))),
        }
    }
}

fn result(outcome: WriteOutcome) -> Result<BatchResult, Error> {
    match outcome {
        WriteOutcome::Set { .. } => Ok(BatchResult::Put),
        WriteOutcome::Deleted { count } => Ok(BatchResult::Deleted(count > 0)),
        WriteOutcome::Integer(value) => Ok(BatchResult::Integer(value)),
        other => Err(nonsense(&format!("{other:?}"))),
    }
}
