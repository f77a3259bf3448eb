//! How outcomes and values are told.

use cairn_core::kv::request::{RequestError, Value, WriteOutcome, WriteReply};

use super::backend::{Backend, Found, ReadResult, WriteResult};
use super::call::{ExpiryShape, ManyShape, ReadShape, WriteShape};
use super::commands::wall_millis;
use super::encode::Protocol;
use super::many::Many;
use super::output::Output;
use super::queue::{Due, Reply, Terms};
use super::shared::{Count, Shared};
use super::words;

/// Writes a reply.
pub(crate) fn due<B: Backend>(due: &Due<'_, B>, output: &mut Output, shared: &Shared) {
    let Due { terms, reply } = due;
    let terms = *terms;
    if terms.mute {
        return;
    }
    match reply {
        Reply::Encoded(bytes) => output.raw(bytes),
        Reply::Write(shape, result, _) => write(*shape, result, terms, output, shared),
        Reply::Read(shape, result) => read(*shape, result, terms, output, shared),
        Reply::Found(Ok(found)) => self::found(found, terms.protocol, output),
        Reply::Found(Err(error)) => refuse(error, terms, output, shared),
        Reply::Many(shape, Ok(many)) => values(*shape, many, terms.protocol, output, shared),
        Reply::Many(_, Err(error)) => refuse(error, terms, output, shared),
    }
}

fn found(found: &Found, protocol: Protocol, output: &mut Output) {
    match found {
        Found::Count(keys) => {
            let keys = i64::try_from(*keys).unwrap_or(i64::MAX);
            output.encoder(protocol).integer(keys);
        }
        Found::Page { cursor, keys } => {
            let mut encoder = output.encoder(protocol);
            encoder.array(2);
            encoder.bulk(cursor.to_string().as_bytes());
            encoder.array(keys.len());
            for key in keys {
                output.value(key, protocol);
            }
        }
    }
}

fn refuse(error: &RequestError, terms: Terms, output: &mut Output, shared: &Shared) {
    shared.counts.add(Count::Errors, 1);
    let text = words::of_request(
        error,
        terms.slot,
        &shared.map(),
        shared.facts.node(),
        (shared.side, shared.config.endpoint_type),
    );
    output.encoder(terms.protocol).error(&text);
}

fn write(
    shape: WriteShape,
    result: &WriteResult,
    terms: Terms,
    output: &mut Output,
    shared: &Shared,
) {
    let protocol = terms.protocol;
    let outcome = match result {
        Ok(WriteReply { outcome, .. }) => outcome,
        Err(error) => return refuse(error, terms, output, shared),
    };
    let mut error = |text: &[u8]| {
        shared.counts.add(Count::Errors, 1);
        output.encoder(protocol).error(text);
    };
    match (shape, outcome) {
        (_, WriteOutcome::NotAnInteger) => error(words::NOT_AN_INTEGER),
        (_, WriteOutcome::Overflow) => error(words::OVERFLOW),
        (_, WriteOutcome::TooLong) => error(words::TOO_LONG),
        (WriteShape::Set, WriteOutcome::Set { .. } | WriteOutcome::Batch(_)) => {
            output.encoder(protocol).ok();
        }
        (WriteShape::Set, WriteOutcome::ConditionFailed { .. }) => output.encoder(protocol).null(),
        (
            WriteShape::SetGet,
            WriteOutcome::Set { previous } | WriteOutcome::ConditionFailed { previous, .. },
        ) => match previous {
            Some(value) => output.value(value, protocol),
            None => output.encoder(protocol).null(),
        },
        (WriteShape::Done, WriteOutcome::Set { .. } | WriteOutcome::Batch(_)) => {
            output.encoder(protocol).integer(1);
        }
        (
            WriteShape::Done,
            WriteOutcome::ConditionFailed { .. } | WriteOutcome::BatchRefused { .. },
        ) => output.encoder(protocol).integer(0),
        (WriteShape::Number, WriteOutcome::Integer(number)) => {
            output.encoder(protocol).integer(*number);
        }
        (WriteShape::Number, WriteOutcome::Deleted { .. } | WriteOutcome::Batch(_)) => {
            output.encoder(protocol).integer(deleted(outcome));
        }
        // No command asks for this; a reply that fits nothing would be taken for that
        // of another command.
        _ => error(b"ERR the write was answered with an outcome of another kind"),
    }
}

/// How many keys are gone.
fn deleted(outcome: &WriteOutcome) -> i64 {
    match outcome {
        WriteOutcome::Deleted { count } => i64::try_from(*count).unwrap_or(i64::MAX),
        WriteOutcome::Batch(outcomes) => outcomes.iter().map(deleted).sum(),
        _ => 0,
    }
}

/// Writes the reply to a read of one key.
pub(crate) fn read(
    shape: ReadShape,
    result: &ReadResult,
    terms: Terms,
    output: &mut Output,
    shared: &Shared,
) {
    let protocol = terms.protocol;
    let value = match result {
        Ok(value) => value.as_ref(),
        Err(error) => return refuse(error, terms, output, shared),
    };
    shared.counts.add(
        if value.is_some() {
            Count::Hits
        } else {
            Count::Misses
        },
        1,
    );
    match shape {
        ReadShape::Value => match value {
            Some(value) => output.value(&value.data, protocol),
            None => output.encoder(protocol).null(),
        },
        ReadShape::Length => {
            let length = value.map_or(0, |value| value.data.len());
            output.encoder(protocol).integer(length as i64);
        }
        ReadShape::Range(first, last) => {
            let data = value.map_or(&[][..], |value| &value.data);
            output
                .encoder(protocol)
                .bulk(&data[range(first, last, data.len())]);
        }
        ReadShape::Exists => output.encoder(protocol).integer(i64::from(value.is_some())),
        ReadShape::Type => {
            output
                .encoder(protocol)
                .simple(if value.is_some() { "string" } else { "none" });
        }
        ReadShape::Expiry(shape) => {
            let number = expiry(shape, value, wall_millis());
            output.encoder(protocol).integer(number);
        }
    }
}

/// The bytes that `GETRANGE` means of so many.
fn range(first: i64, last: i64, length: usize) -> std::ops::Range<usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    // Redis looks at this before it counts from the end.
    if first < 0 && last < 0 && first > last {
        return 0..0;
    }
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
    let (first, end) = (place(first), place(last).min(length - 1) + 1);
    if first >= end {
        return 0..0;
    }
    first as usize..end as usize
}

/// What `TTL` and its kin answer: -2 for no key, -1 for no expiry.
fn expiry(shape: ExpiryShape, value: Option<&Value>, now: i64) -> i64 {
    let Some(value) = value else {
        return -2;
    };
    let Some(at) = value.expires_at else {
        return -1;
    };
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    let left = at.saturating_sub(now).max(0);
    let seconds = |millis: i64| millis.saturating_add(500) / 1000;
    match shape {
        ExpiryShape::Seconds => seconds(left),
        ExpiryShape::Millis => left,
        ExpiryShape::AtSeconds => seconds(at),
        ExpiryShape::AtMillis => at,
    }
}

fn values<B: Backend>(
    shape: ManyShape,
    many: &Many<B>,
    protocol: Protocol,
    output: &mut Output,
    shared: &Shared,
) {
    let values = many.values();
    let hits = values.iter().flatten().count();
    shared.counts.add(Count::Hits, hits as u64);
    shared
        .counts
        .add(Count::Misses, (values.len() - hits) as u64);
    match shape {
        ManyShape::Count => output.encoder(protocol).integer(hits as i64),
        ManyShape::Values if many.is_too_long() => {
            shared.counts.add(Count::Errors, 1);
            output.encoder(protocol).error(words::REPLY_TOO_LONG);
        }
        ManyShape::Values => {
            output.encoder(protocol).array(values.len());
            for value in values {
                match value {
                    Some(value) => output.value(value, protocol),
                    None => output.encoder(protocol).null(),
                }
            }
        }
    }
}
