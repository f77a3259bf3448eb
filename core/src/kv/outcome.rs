//! How what came of a write is kept, for the retries of its client (rule 8).

use bytes::{BufMut, BytesMut};

use super::request::WriteOutcome;
use super::wire::{
    DecodeError, Reader, put_bytes, put_number, put_position, read_position, unzigzag, zigzag,
};

const SET: u8 = 0;
const SET_PREVIOUS: u8 = 1;
const CONDITION_FAILED: u8 = 2;
const DELETED: u8 = 3;
const INTEGER: u8 = 4;
const NOT_AN_INTEGER: u8 = 5;
const OVERFLOW: u8 = 6;
const TOO_LONG: u8 = 7;
const BATCH: u8 = 8;
const BATCH_REFUSED: u8 = 9;

const FAILED_HAS_VERSION: u8 = 1;
const FAILED_HAS_PREVIOUS: u8 = 2;

/// How much a decoder reserves on the word of a count alone.
const DECODE_CAPACITY_MAX: usize = 1024;

/// Whether the first builds knew this outcome.
pub(super) fn is_plain(outcome: &WriteOutcome) -> bool {
    match outcome {
        WriteOutcome::Set { .. }
        | WriteOutcome::ConditionFailed { .. }
        | WriteOutcome::Deleted { .. }
        | WriteOutcome::Integer(_)
        | WriteOutcome::NotAnInteger
        | WriteOutcome::Overflow => true,
        WriteOutcome::TooLong | WriteOutcome::Batch(_) | WriteOutcome::BatchRefused { .. } => false,
    }
}

/// Roughly how many bytes it takes beyond itself, in memory and on disk.
pub(super) fn weight(outcome: &WriteOutcome) -> usize {
    match outcome {
        WriteOutcome::Set { previous } | WriteOutcome::ConditionFailed { previous, .. } => {
            previous.as_ref().map_or(0, bytes::Bytes::len)
        }
        WriteOutcome::Deleted { .. }
        | WriteOutcome::Integer(_)
        | WriteOutcome::NotAnInteger
        | WriteOutcome::Overflow
        | WriteOutcome::TooLong => 0,
        WriteOutcome::Batch(outcomes) => outcomes
            .iter()
            .map(|outcome| size_of::<WriteOutcome>() + weight(outcome))
            .sum(),
        WriteOutcome::BatchRefused { why, .. } => size_of::<WriteOutcome>() + weight(why),
    }
}

pub(super) fn put_outcome(out: &mut BytesMut, outcome: &WriteOutcome) {
    match outcome {
        WriteOutcome::Set { previous: None } => out.put_u8(SET),
        WriteOutcome::Set {
            previous: Some(previous),
        } => {
            out.put_u8(SET_PREVIOUS);
            put_bytes(out, previous);
        }
        WriteOutcome::ConditionFailed { version, previous } => {
            out.put_u8(CONDITION_FAILED);
            let has_version = version.map_or(0, |_| FAILED_HAS_VERSION);
            let has_previous = previous.as_ref().map_or(0, |_| FAILED_HAS_PREVIOUS);
            out.put_u8(has_version | has_previous);
            if let Some(version) = version {
                put_position(out, *version);
            }
            if let Some(previous) = previous {
                put_bytes(out, previous);
            }
        }
        WriteOutcome::Deleted { count } => {
            out.put_u8(DELETED);
            put_number(out, *count);
        }
        WriteOutcome::Integer(integer) => {
            out.put_u8(INTEGER);
            put_number(out, zigzag(*integer));
        }
        WriteOutcome::NotAnInteger => out.put_u8(NOT_AN_INTEGER),
        WriteOutcome::Overflow => out.put_u8(OVERFLOW),
        WriteOutcome::TooLong => out.put_u8(TOO_LONG),
        WriteOutcome::Batch(outcomes) => {
            out.put_u8(BATCH);
            put_number(out, outcomes.len() as u64);
            for outcome in outcomes {
                put_outcome(out, outcome);
            }
        }
        WriteOutcome::BatchRefused { at, why } => {
            out.put_u8(BATCH_REFUSED);
            put_number(out, *at as u64);
            put_outcome(out, why);
        }
    }
}

pub(super) fn read_outcome(reader: &mut Reader) -> Result<WriteOutcome, DecodeError> {
    let tag = reader.byte()?;
    Ok(match tag {
        TOO_LONG => WriteOutcome::TooLong,
        BATCH => {
            let count = reader.count(1)?;
            let mut outcomes = Vec::with_capacity(count.min(DECODE_CAPACITY_MAX));
            for _ in 0..count {
                let tag = reader.byte()?;
                outcomes.push(read_plain(tag, reader)?);
            }
            WriteOutcome::Batch(outcomes)
        }
        BATCH_REFUSED => WriteOutcome::BatchRefused {
            at: usize::try_from(reader.number()?).map_err(|_| DecodeError::Number)?,
            why: {
                let tag = reader.byte()?;
                Box::new(read_plain(tag, reader)?)
            },
        },
        plain => read_plain(plain, reader)?,
    })
}

/// An outcome of one operation: a batch holds no batches.
fn read_plain(tag: u8, reader: &mut Reader) -> Result<WriteOutcome, DecodeError> {
    Ok(match tag {
        SET => WriteOutcome::Set { previous: None },
        SET_PREVIOUS => WriteOutcome::Set {
            previous: Some(reader.bytes()?),
        },
        CONDITION_FAILED => {
            let flags = reader.byte()?;
            if flags & !(FAILED_HAS_VERSION | FAILED_HAS_PREVIOUS) != 0 {
                return Err(DecodeError::Tag(flags));
            }
            WriteOutcome::ConditionFailed {
                version: match flags & FAILED_HAS_VERSION {
                    0 => None,
                    _ => Some(read_position(reader)?),
                },
                previous: match flags & FAILED_HAS_PREVIOUS {
                    0 => None,
                    _ => Some(reader.bytes()?),
                },
            }
        }
        DELETED => WriteOutcome::Deleted {
            count: reader.number()?,
        },
        INTEGER => WriteOutcome::Integer(unzigzag(reader.number()?)),
        NOT_AN_INTEGER => WriteOutcome::NotAnInteger,
        OVERFLOW => WriteOutcome::Overflow,
        other => return Err(DecodeError::Tag(other)),
    })
}
