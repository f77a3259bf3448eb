//! Commands on keys whatever their type.

use cairn_core::kv::request::{Condition, WriteOp};

use super::super::call::{Action, Call, ExpiryShape, ManyShape, ReadShape, Refusal, WriteShape};
use super::strings::many_keys;

pub(super) fn del(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(Action::Write {
        op: WriteOp::Delete {
            keys: many_keys(call)?,
            condition: Condition::Always,
        },
        shape: WriteShape::Number,
    })
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

pub(super) fn ttl(call: &mut Call<'_>) -> Result<Action, Refusal> {
    expiry(call, ExpiryShape::Seconds)
}

pub(super) fn pttl(call: &mut Call<'_>) -> Result<Action, Refusal> {
    expiry(call, ExpiryShape::Millis)
}

pub(super) fn expire_time(call: &mut Call<'_>) -> Result<Action, Refusal> {
    expiry(call, ExpiryShape::AtSeconds)
}

pub(super) fn pexpire_time(call: &mut Call<'_>) -> Result<Action, Refusal> {
    expiry(call, ExpiryShape::AtMillis)
}

fn expiry(call: &mut Call<'_>, shape: ExpiryShape) -> Result<Action, Refusal> {
    Ok(Action::Read {
        key: call.args.bytes(1),
        shape: ReadShape::Expiry(shape),
    })
}
