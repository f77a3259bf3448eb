//! When keys expire: the options of `SET` and `GETEX`, and `EXPIRE` and its kin.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_core::kv::request::{Expiry, ExpiryCondition, WriteOp};

use super::super::call::{Action, Args, Call, ExpiryShape, ReadShape, Refusal, WriteShape};
use super::super::words;

/// What a number says of a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    /// How long a key lives, in seconds.
    Seconds,
    /// How long a key lives, in milliseconds.
    Millis,
    /// When it expires, in seconds since the Unix epoch.
    AtSeconds,
    /// When it expires, in milliseconds since the Unix epoch.
    AtMillis,
}

impl Unit {
    /// The option of `SET` or `GETEX` that stands there, if it is one of these.
    pub(super) fn option(args: Args<'_>, at: usize) -> Option<Self> {
        let options = [
            ("EX", Self::Seconds),
            ("PX", Self::Millis),
            ("EXAT", Self::AtSeconds),
            ("PXAT", Self::AtMillis),
        ];
        let found = options.into_iter().find(|(word, _)| args.is(at, word));
        found.map(|(_, unit)| unit)
    }

    /// The expiry that an argument names, which has to lie after the epoch.
    pub(super) fn expiry(
        self,
        args: Args<'_>,
        at: usize,
        command: &str,
    ) -> Result<Expiry, Refusal> {
        let number = args.integer(at)?;
        match self.millis(number).and_then(|ms| u64::try_from(ms).ok()) {
            Some(millis) if number > 0 => Ok(Expiry::AtMillis(millis)),
            _ => Err(invalid(command)),
        }
    }

    /// The time that a number means, in milliseconds since the Unix epoch.
    fn millis(self, number: i64) -> Option<i64> {
        let millis = match self {
            Self::Seconds | Self::AtSeconds => number.checked_mul(1000)?,
            Self::Millis | Self::AtMillis => number,
        };
        match self {
            Self::Seconds | Self::Millis => millis.checked_add(wall_millis()),
            Self::AtSeconds | Self::AtMillis => Some(millis),
        }
    }
}

fn invalid(command: &str) -> Refusal {
    format!("ERR invalid expire time in '{command}' command").into()
}

/// Milliseconds since the Unix epoch. A time to live counts from here, for this node
/// is the primary, by whose clock keys expire.
pub(crate) fn wall_millis() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn expire(call: &mut Call<'_>) -> Result<Action, Refusal> {
    change(call.args, Unit::Seconds, "expire")
}

pub(super) fn pexpire(call: &mut Call<'_>) -> Result<Action, Refusal> {
    change(call.args, Unit::Millis, "pexpire")
}

pub(super) fn expire_at(call: &mut Call<'_>) -> Result<Action, Refusal> {
    change(call.args, Unit::AtSeconds, "expireat")
}

pub(super) fn pexpire_at(call: &mut Call<'_>) -> Result<Action, Refusal> {
    change(call.args, Unit::AtMillis, "pexpireat")
}

fn change(args: Args<'_>, unit: Unit, command: &str) -> Result<Action, Refusal> {
    let condition = condition(args)?;
    let millis = unit
        .millis(args.integer(2)?)
        .ok_or_else(|| invalid(command))?;
    // A time before the epoch has passed like any other.
    let at = u64::try_from(millis).unwrap_or(0);
    Ok(set_expiry(
        args,
        Expiry::AtMillis(at),
        condition,
        WriteShape::Done,
    ))
}

/// `NX`, `XX`, `GT` and `LT` behind the time.
fn condition(args: Args<'_>) -> Result<ExpiryCondition, Refusal> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for at in 3..args.len() {
        let known = [
            ("NX", &mut nx),
            ("XX", &mut xx),
            ("GT", &mut gt),
            ("LT", &mut lt),
        ];
        match known.into_iter().find(|(word, _)| args.is(at, word)) {
            Some((_, flag)) => *flag = true,
            None => {
                let mut text = b"ERR Unsupported option ".to_vec();
                text.extend_from_slice(args.get(at));
                return Err(text.into());
            }
        }
    }
    match (nx, xx, gt, lt) {
        (false, false, false, false) => Ok(ExpiryCondition::Always),
        (true, false, false, false) => Ok(ExpiryCondition::Never),
        (false, true, false, false) => Ok(ExpiryCondition::Expires),
        (false, _, true, false) => Ok(ExpiryCondition::Later),
        (false, false, false, true) => Ok(ExpiryCondition::Sooner),
        (false, true, false, true) => Ok(ExpiryCondition::ExpiresSooner),
        (true, ..) => Err(
            b"ERR NX and XX, GT or LT options at the same time are not compatible"
                .as_slice()
                .into(),
        ),
        (_, _, true, true) => Err(b"ERR GT and LT options at the same time are not compatible"
            .as_slice()
            .into()),
    }
}

fn set_expiry(
    args: Args<'_>,
    expiry: Expiry,
    condition: ExpiryCondition,
    shape: WriteShape,
) -> Action {
    Action::Write {
        op: WriteOp::Expire {
            key: args.bytes(1),
            expiry,
            condition,
            return_value: shape == WriteShape::SetGet,
        },
        shape,
    }
}

pub(super) fn persist(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let condition = ExpiryCondition::Expires;
    Ok(set_expiry(
        call.args,
        Expiry::Never,
        condition,
        WriteShape::Done,
    ))
}

pub(super) fn get_ex(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    let mut unit: Option<(Unit, usize)> = None;
    let mut persist = false;
    let mut at = 2;
    // As with `SET`, an option may be repeated.
    while at < args.len() {
        if let Some(time) = Unit::option(args, at) {
            let clash = unit.is_some_and(|(before, _)| before != time);
            if persist || clash || at + 1 >= args.len() {
                return Err(words::SYNTAX.into());
            }
            unit = Some((time, at + 1));
            at += 2;
        } else if args.is(at, "PERSIST") && unit.is_none() {
            persist = true;
            at += 1;
        } else {
            return Err(words::SYNTAX.into());
        }
    }
    let expiry = match unit {
        Some((unit, at)) => unit.expiry(args, at, "getex")?,
        None if persist => Expiry::Never,
        None => {
            return Ok(Action::Read {
                key: args.bytes(1),
                shape: ReadShape::Value,
            });
        }
    };
    Ok(set_expiry(
        args,
        expiry,
        ExpiryCondition::Always,
        WriteShape::SetGet,
    ))
}

/// A time that has passed deletes the key, and its value is the reply.
pub(super) fn get_del(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let (past, condition) = (Expiry::AtMillis(0), ExpiryCondition::Always);
    Ok(set_expiry(call.args, past, condition, WriteShape::SetGet))
}

pub(super) fn ttl(call: &mut Call<'_>) -> Result<Action, Refusal> {
    tell(call, ExpiryShape::Seconds)
}

pub(super) fn pttl(call: &mut Call<'_>) -> Result<Action, Refusal> {
    tell(call, ExpiryShape::Millis)
}

pub(super) fn expire_time(call: &mut Call<'_>) -> Result<Action, Refusal> {
    tell(call, ExpiryShape::AtSeconds)
}

pub(super) fn pexpire_time(call: &mut Call<'_>) -> Result<Action, Refusal> {
    tell(call, ExpiryShape::AtMillis)
}

fn tell(call: &Call<'_>, shape: ExpiryShape) -> Result<Action, Refusal> {
    Ok(Action::Read {
        key: call.args.bytes(1),
        shape: ReadShape::Expiry(shape),
    })
}
