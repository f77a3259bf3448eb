//! Commands on keys whatever their type.

use cairn_core::kv::request::{BatchAction, BatchOperation, Condition, WriteOp};

use super::super::call::{Action, Call, ManyShape, ReadShape, Refusal, WriteShape};
use super::strings::{batch, many_keys};

pub(super) fn del(call: &mut Call<'_>) -> Result<Action, Refusal> {
    if call.args.len() == 2 {
        return Ok(Action::Write {
            op: WriteOp::Delete {
                key: call.args.bytes(1),
                condition: Condition::Always,
            },
            shape: WriteShape::Number,
        });
    }
    let operations = many_keys(call)?.into_iter().map(|key| BatchOperation {
        key,
        condition: Condition::Always,
        action: BatchAction::Delete,
    });
    batch(operations.collect(), WriteShape::Number)
}

pub(super) fn exists(call: &mut Call<'_>) -> Result<Action, Refusal> {
    if call.args.len() == 2 {
        return Ok(Action::Read {
            key: call.args.bytes(1),
            shape: ReadShape::Exists,
        });
    }
    Ok(Action::ReadMany {
        keys: many_keys(call)?,
        shape: ManyShape::Count,
    })
}

pub(super) fn type_of(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(Action::Read {
        key: call.args.bytes(1),
        shape: ReadShape::Type,
    })
}
