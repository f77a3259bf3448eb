//! Commands on keys whatever their type.

use bytes::Bytes;
use cairn_core::kv::request::{BatchAction, BatchOperation, Condition, WriteOp};

use super::super::backend::{Question, ScanQuestion};
use super::super::call::{Action, Call, ManyShape, ReadShape, Refusal, WriteShape};
use super::super::glob::{PATTERN_BYTES_MAX, literal_prefix};
use super::super::words;
use super::strings::{batch, many_keys};
use crate::users::Users;

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

/// How many keys `SCAN` looks at where the client does not say.
const SCAN_COUNT: i64 = 10;

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`, over the slots that this node
/// is primary of. A user sees only what it may read all of: the keys that begin as the
/// pattern does have to be its own.
pub(super) fn scan(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let args = call.args;
    let cursor = std::str::from_utf8(args.get(1))
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .ok_or(Refusal::from("ERR invalid cursor".to_owned()))?;
    let (mut pattern, mut count, mut strings) = (None, SCAN_COUNT, true);
    let mut at = 2;
    while at < args.len() {
        if at + 1 >= args.len() {
            return Err(words::SYNTAX.into());
        }
        if args.is(at, "MATCH") {
            if args.get(at + 1).len() > PATTERN_BYTES_MAX {
                return Err(words::LONG_PATTERN.into());
            }
            pattern = Some(Bytes::copy_from_slice(args.get(at + 1)));
        } else if args.is(at, "COUNT") {
            count = args.integer(at + 1)?;
            if count < 1 {
                return Err(words::SYNTAX.into());
            }
        } else if args.is(at, "TYPE") {
            strings = args.is(at + 1, "string");
        } else {
            return Err(words::SYNTAX.into());
        }
        at += 2;
    }
    let prefix = pattern.as_deref().map_or(&b""[..], literal_prefix);
    let permissions = call.session.caller.permissions();
    if !permissions.is_some_and(|own| own.may_read_prefix(prefix)) {
        Users::note_forbidden(super::super::server::LISTENER);
        return Err(words::NO_KEY_PERMISSION.into());
    }
    if !strings {
        // There are no other types, so that nothing need be looked at.
        let mut reply = call.reply();
        reply.array(2);
        reply.bulk(b"0");
        reply.array(0);
        return Ok(Action::Replied);
    }
    Ok(Action::Ask(Question::Scan(ScanQuestion {
        cursor,
        count: usize::try_from(count).unwrap_or(usize::MAX),
        pattern: pattern.filter(|pattern| pattern != "*"),
    })))
}

/// `KEYS`: a node may hold more keys than it could answer at once.
pub(super) fn keys(_: &mut Call<'_>) -> Result<Action, Refusal> {
    Err(
        "ERR KEYS is not supported: SCAN gives the keys page by page"
            .to_owned()
            .into(),
    )
}
