//! Batches and their answers.

use cairn_core::kv::request::{
    BatchAction, BatchOperation, WriteOp, WriteOutcome, WriteReply, WriteRequest,
};

use crate::detach::detach;
use crate::kv::{
    check_key, decode_condition, decode_expiry, decode_refusal, encode_condition, encode_expiry,
    encode_refusal, mismatched,
};
use crate::limits;
use crate::malformed::{Malformed, bounded, optional};
use crate::map::position;
use crate::pb::kv::v1 as pb;

/// Refuses a batch without operations, one with too many, and one with too many bytes.
///
/// # Errors
/// Names the field `operations`.
pub fn check_operations(operations: &[BatchOperation]) -> Result<(), Malformed> {
    if operations.is_empty() {
        return Err(Malformed::new("operations", "is empty"));
    }
    if operations.len() > limits::BATCH_OPERATIONS {
        let problem = format!(
            "has {} parts, and {} is the most",
            operations.len(),
            limits::BATCH_OPERATIONS
        );
        return Err(Malformed::new("operations", problem));
    }
    for operation in operations {
        check_key(&operation.key)?;
        let value = operation.value().map_or(0, bytes::Bytes::len);
        bounded(value, limits::VALUE_BYTES, "value")?;
    }
    let bytes = operations.iter().map(BatchOperation::bytes).sum();
    bounded(bytes, limits::BATCH_BYTES, "operations")
}

impl From<BatchOperation> for pb::BatchOperation {
    fn from(
        BatchOperation {
            key,
            condition,
            action,
        }: BatchOperation,
    ) -> Self {
        use pb::batch_operation::Action;
        let action = match action {
            BatchAction::Put { value, expiry } => {
                let (expires_at_ms, keep_expiry) = encode_expiry(expiry);
                Action::Put(pb::BatchPut {
                    value,
                    expires_at_ms,
                    keep_expiry,
                })
            }
            BatchAction::Delete => Action::Delete(pb::BatchDelete {}),
            BatchAction::Increment { delta } => Action::Increment(pb::BatchIncrement { delta }),
        };
        Self {
            key,
            condition: encode_condition(condition),
            action: Some(action),
        }
    }
}

impl TryFrom<pb::BatchOperation> for BatchOperation {
    type Error = Malformed;

    fn try_from(
        pb::BatchOperation {
            key,
            condition,
            action,
        }: pb::BatchOperation,
    ) -> Result<Self, Malformed> {
        use pb::batch_operation::Action;
        let action = match action.ok_or_else(|| Malformed::missing("action"))? {
            Action::Put(pb::BatchPut {
                value,
                expires_at_ms,
                keep_expiry,
            }) => BatchAction::Put {
                value,
                expiry: decode_expiry(expires_at_ms, keep_expiry)?,
            },
            Action::Delete(pb::BatchDelete {}) => BatchAction::Delete,
            Action::Increment(pb::BatchIncrement { delta }) => BatchAction::Increment { delta },
        };
        Ok(Self {
            key,
            condition: decode_condition(condition)?,
            action,
        })
    }
}

impl TryFrom<pb::BatchRequest> for WriteRequest {
    type Error = Malformed;

    fn try_from(
        pb::BatchRequest {
            operations,
            sequenced,
            write_level: _,
        }: pb::BatchRequest,
    ) -> Result<Self, Malformed> {
        let mut operations = operations
            .into_iter()
            .map(BatchOperation::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        check_operations(&operations)?;
        // They wait for their commit, and may be the previous value of later writes.
        detach(operations.iter_mut().flat_map(|operation| {
            let value = match &mut operation.action {
                BatchAction::Put { value, .. } => Some(value),
                BatchAction::Delete | BatchAction::Increment { .. } => None,
            };
            std::iter::once(&mut operation.key).chain(value)
        }));
        Ok(Self {
            op: WriteOp::Batch { operations },
            sequenced: optional(sequenced, "sequenced")?,
        })
    }
}

impl TryFrom<WriteReply> for pb::BatchReply {
    type Error = Malformed;

    fn try_from(WriteReply { outcome, position }: WriteReply) -> Result<Self, Malformed> {
        use pb::batch_refused::Reason;
        use pb::batch_reply::Outcome;
        let outcome = match outcome {
            WriteOutcome::Batch(outcomes) => Outcome::Applied(pb::BatchApplied {
                results: outcomes
                    .into_iter()
                    .map(encode_result)
                    .collect::<Result<_, _>>()?,
            }),
            WriteOutcome::BatchRefused { at, why } => {
                let reason = match *why {
                    WriteOutcome::ConditionFailed { version, .. } => {
                        Reason::ConditionFailed(pb::BatchConditionFailed {
                            existing: version.map(Into::into),
                        })
                    }
                    other => match encode_refusal(&other) {
                        Some(refusal) => Reason::Increment(refusal.into()),
                        None => return Err(mismatched("a batch", &other)),
                    },
                };
                Outcome::Refused(pb::BatchRefused {
                    operation: u32::try_from(at).unwrap_or(u32::MAX),
                    reason: Some(reason),
                })
            }
            other => return Err(mismatched("a batch", &other)),
        };
        Ok(Self {
            position: Some(position.into()),
            outcome: Some(outcome),
        })
    }
}

fn encode_result(outcome: WriteOutcome) -> Result<pb::BatchResult, Malformed> {
    use pb::batch_result::Result as Kind;
    let result = match outcome {
        WriteOutcome::Set { .. } => Kind::Put(pb::BatchPutDone {}),
        WriteOutcome::Deleted { count } => Kind::Deleted(count > 0),
        WriteOutcome::Integer(value) => Kind::Value(value),
        other => return Err(mismatched("an operation of a batch", &other)),
    };
    Ok(pb::BatchResult {
        result: Some(result),
    })
}

fn decode_result(pb::BatchResult { result }: pb::BatchResult) -> Result<WriteOutcome, Malformed> {
    use pb::batch_result::Result as Kind;
    Ok(match result.ok_or_else(|| Malformed::missing("result"))? {
        Kind::Put(pb::BatchPutDone {}) => WriteOutcome::Set { previous: None },
        Kind::Deleted(deleted) => WriteOutcome::Deleted {
            count: u64::from(deleted),
        },
        Kind::Value(value) => WriteOutcome::Integer(value),
    })
}

impl TryFrom<pb::BatchReply> for WriteReply {
    type Error = Malformed;

    fn try_from(
        pb::BatchReply {
            position: at,
            outcome,
        }: pb::BatchReply,
    ) -> Result<Self, Malformed> {
        use pb::batch_refused::Reason;
        use pb::batch_reply::Outcome;
        let outcome = match outcome.ok_or_else(|| Malformed::missing("outcome"))? {
            Outcome::Applied(pb::BatchApplied { results }) => WriteOutcome::Batch(
                results
                    .into_iter()
                    .map(decode_result)
                    .collect::<Result<_, _>>()?,
            ),
            Outcome::Refused(pb::BatchRefused { operation, reason }) => {
                let why = match reason.ok_or_else(|| Malformed::missing("refused.reason"))? {
                    Reason::ConditionFailed(pb::BatchConditionFailed { existing }) => {
                        WriteOutcome::ConditionFailed {
                            version: existing.map(Into::into),
                            previous: None,
                        }
                    }
                    Reason::Increment(refusal) => decode_refusal(refusal)?,
                };
                WriteOutcome::BatchRefused {
                    at: usize::try_from(operation)
                        .map_err(|_| Malformed::new("refused.operation", "is too large"))?,
                    why: Box::new(why),
                }
            }
        };
        Ok(Self {
            outcome,
            position: position(at, "position")?,
        })
    }
}
