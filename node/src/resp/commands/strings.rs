//! `GET`, `SET` and their kin.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cairn_core::kv::request::{Condition, Expiry, WriteOp};

use super::super::call::{Action, Args, Call, ManyShape, ReadShape, Refusal, WriteShape};
use super::super::words;

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
    let most = call.shared.config.limits.keys;
    if keys > most {
        return Err(format!("ERR a command may name at most {most} keys").into());
    }
    Ok((1..=keys).map(|at| call.args.bytes(at)).collect())
}

/// A time to live, or a time, among the options of `SET`.
#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Millis,
    AtSeconds,
    AtMillis,
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
        let time = if args.is(at, "EX") {
            Some(Unit::Seconds)
        } else if args.is(at, "PX") {
            Some(Unit::Millis)
        } else if args.is(at, "EXAT") {
            Some(Unit::AtSeconds)
        } else if args.is(at, "PXAT") {
            Some(Unit::AtMillis)
        } else {
            None
        };
        if let Some(time) = time {
            let clash = unit.is_some_and(|(before, _)| before as u8 != time as u8);
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
        Some((unit, at)) => expiry(args, at, unit, "set")?,
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
        WriteShape::SetNx,
    ))
}

pub(super) fn set_ex(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let expiry = expiry(call.args, 2, Unit::Seconds, "setex")?;
    Ok(plain_set(
        call.args,
        3,
        Condition::Always,
        expiry,
        WriteShape::Set,
    ))
}

pub(super) fn pset_ex(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let expiry = expiry(call.args, 2, Unit::Millis, "psetex")?;
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

fn expiry(args: Args<'_>, at: usize, unit: Unit, command: &str) -> Result<Expiry, Refusal> {
    let number = args.integer(at)?;
    let millis = match unit {
        Unit::Seconds | Unit::AtSeconds => number.checked_mul(1000),
        Unit::Millis | Unit::AtMillis => Some(number),
    };
    let millis = match unit {
        Unit::Seconds | Unit::Millis => millis.and_then(|ttl| ttl.checked_add(wall_millis())),
        Unit::AtSeconds | Unit::AtMillis => millis,
    };
    match millis.and_then(|millis| u64::try_from(millis).ok()) {
        Some(millis) if number > 0 => Ok(Expiry::AtMillis(millis)),
        _ => Err(format!("ERR invalid expire time in '{command}' command").into()),
    }
}

/// Milliseconds since the Unix epoch. A time to live counts from here, for this node
/// is the primary, by whose clock keys expire.
pub(crate) fn wall_millis() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
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
