//! `GET`, `SET` and their kin.

use bytes::Bytes;
use cairn_core::kv::body::ENTRY_BYTES_MAX;
use cairn_core::kv::request::{BatchAction, BatchOperation, Condition, Expiry, WriteOp};

use super::super::call::{Action, Args, Call, ManyShape, ReadShape, Refusal, WriteShape};
use super::super::words;
use super::arity;
use super::expiry::Unit;

pub(super) fn get(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(Action::Read {
        key: call.args.bytes(1),
        shape: ReadShape::Value,
    })
}

pub(super) fn strlen(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(Action::Read {
        key: call.args.bytes(1),
        shape: ReadShape::Length,
    })
}

pub(super) fn mget(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(Action::ReadMany {
        keys: many_keys(call)?,
        shape: ManyShape::Values,
    })
}

/// All arguments as keys.
pub(super) fn many_keys(call: &Call<'_>) -> Result<Vec<Bytes>, Refusal> {
    let keys = call.args.len() - 1;
    within_keys(call, keys)?;
    Ok((1..=keys).map(|at| call.args.bytes(at)).collect())
}

fn within_keys(call: &Call<'_>, keys: usize) -> Result<(), Refusal> {
    let most = call.shared.config.limits.keys;
    if keys > most {
        return Err(format!("ERR a command may name at most {most} keys").into());
    }
    Ok(())
}

pub(super) fn set(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    let mut condition = Condition::Always;
    let mut unit: Option<(Unit, usize)> = None;
    let mut keep = false;
    let mut previous = false;
    let mut at = 3;
    // Each option excludes the others of its kind, but may be repeated: Redis has it so.
    while at < args.len() {
        if let Some(time) = Unit::option(args, at) {
            let clash = unit.is_some_and(|(before, _)| before != time);
            if keep || clash || at + 1 >= args.len() {
                return Err(words::SYNTAX.into());
            }
            unit = Some((time, at + 1));
            at += 2;
            continue;
        }
        if args.is(at, "NX") && condition != Condition::Present {
            condition = Condition::Absent;
        } else if args.is(at, "XX") && condition != Condition::Absent {
            condition = Condition::Present;
        } else if args.is(at, "GET") {
            previous = true;
        } else if args.is(at, "KEEPTTL") && unit.is_none() {
            keep = true;
        } else {
            return Err(words::SYNTAX.into());
        }
        at += 1;
    }
    let expiry = match unit {
        Some((unit, at)) => unit.expiry(args, at, "set")?,
        None if keep => Expiry::Keep,
        None => Expiry::Never,
    };
    Ok(Action::Write {
        op: WriteOp::Set {
            key: args.bytes(1),
            value: args.bytes(2),
            condition,
            expiry,
            return_previous: previous,
        },
        shape: if previous {
            WriteShape::SetGet
        } else {
            WriteShape::Set
        },
    })
}

pub(super) fn set_nx(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(plain_set(
        call.args,
        2,
        Condition::Absent,
        Expiry::Never,
        WriteShape::Done,
    ))
}

pub(super) fn set_ex(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let expiry = Unit::Seconds.expiry(call.args, 2, "setex")?;
    Ok(plain_set(
        call.args,
        3,
        Condition::Always,
        expiry,
        WriteShape::Set,
    ))
}

pub(super) fn pset_ex(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let expiry = Unit::Millis.expiry(call.args, 2, "psetex")?;
    Ok(plain_set(
        call.args,
        3,
        Condition::Always,
        expiry,
        WriteShape::Set,
    ))
}

pub(super) fn get_set(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(plain_set(
        call.args,
        2,
        Condition::Always,
        Expiry::Never,
        WriteShape::SetGet,
    ))
}

fn plain_set(
    args: Args<'_>,
    value: usize,
    condition: Condition,
    expiry: Expiry,
    shape: WriteShape,
) -> Action {
    Action::Write {
        op: WriteOp::Set {
            key: args.bytes(1),
            value: args.bytes(value),
            condition,
            expiry,
            return_previous: shape == WriteShape::SetGet,
        },
        shape,
    }
}

pub(super) fn incr(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(increment(call.args, 1))
}

pub(super) fn decr(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(increment(call.args, -1))
}

pub(super) fn incr_by(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let delta = call.args.integer(2)?;
    Ok(increment(call.args, delta))
}

pub(super) fn decr_by(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let delta = call
        .args
        .integer(2)?
        .checked_neg()
        .ok_or(Refusal::from(words::DECREMENT_OVERFLOW))?;
    Ok(increment(call.args, delta))
}

fn increment(args: Args<'_>, delta: i64) -> Action {
    Action::Write {
        op: WriteOp::Increment {
            key: args.bytes(1),
            delta,
        },
        shape: WriteShape::Number,
    }
}

/// `MSET`.
pub(super) fn mset(call: &mut Call<'_>) -> Result<Action, Refusal> {
    set_pairs(call, "mset", Condition::Always, WriteShape::Set)
}

/// `MSETNX`.
pub(super) fn mset_nx(call: &mut Call<'_>) -> Result<Action, Refusal> {
    set_pairs(call, "msetnx", Condition::Absent, WriteShape::Done)
}

fn set_pairs(
    call: &Call<'_>,
    name: &str,
    condition: Condition,
    shape: WriteShape,
) -> Result<Action, Refusal> {
    let args = call.args;
    if args.len().is_multiple_of(2) {
        return Err(arity(name));
    }
    let pairs = (1..args.len()).step_by(2);
    within_keys(call, pairs.len())?;
    let operations = pairs.map(|at| BatchOperation {
        key: args.bytes(at),
        condition,
        action: BatchAction::Put {
            value: args.bytes(at + 1),
            expiry: Expiry::Never,
        },
    });
    batch(operations.collect(), shape)
}

/// One entry for all of them, of which there is at least one.
pub(super) fn batch(operations: Vec<BatchOperation>, shape: WriteShape) -> Result<Action, Refusal> {
    let bytes: usize = operations.iter().map(BatchOperation::bytes).sum();
    if bytes > ENTRY_BYTES_MAX {
        let text = format!(
            "ERR keys and values of one command may have at most {ENTRY_BYTES_MAX} bytes together"
        );
        return Err(text.into());
    }
    let op = WriteOp::Batch { operations };
    Ok(Action::Write { op, shape })
}

pub(super) fn append(call: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(splice(call, None, 2))
}

pub(super) fn set_range(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let offset =
        usize::try_from(call.args.integer(2)?).map_err(|_| Refusal::from(words::OFFSET))?;
    Ok(splice(call, Some(offset), 3))
}

fn splice(call: &Call<'_>, offset: Option<usize>, data: usize) -> Action {
    Action::Write {
        op: WriteOp::Splice {
            key: call.args.bytes(1),
            offset,
            data: call.args.bytes(data),
            bytes_max: call.shared.config.limits.value_bytes,
        },
        shape: WriteShape::Number,
    }
}

pub(super) fn get_range(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let (first, last) = (call.args.integer(2)?, call.args.integer(3)?);
    Ok(Action::Read {
        key: call.args.bytes(1),
        shape: ReadShape::Range(first, last),
    })
}
