//! Marks and lineages: inside records, and as values of the store.

use cairn_core::ids::{Epoch, Index, Mark, Position};

use super::primitives::{DecodeError, Reader, check_format, put_number};

/// The format of a mark or a lineage that stands alone as a value in the store.
const FORMAT: u8 = 1;

/// The most marks that a lineage keeps: the newest. A replica that shares none of
/// them with its primary takes a snapshot.
pub const LINEAGE_MAX: usize = 256;

/// The fewest bytes that a mark takes.
const MARK_BYTES_MIN: usize = 10;

pub(super) fn put_position(out: &mut Vec<u8>, position: Position) {
    let Position { epoch, index } = position;
    put_number(out, epoch.0);
    put_number(out, index.0);
}

pub(super) fn read_position(reader: &mut Reader<'_>) -> Result<Position, DecodeError> {
    Ok(Position {
        epoch: Epoch(reader.number()?),
        index: Index(reader.number()?),
    })
}

pub(super) fn put_mark(out: &mut Vec<u8>, mark: Mark) {
    let Mark { position, chain } = mark;
    put_position(out, position);
    out.extend_from_slice(&chain.to_le_bytes());
}

pub(super) fn read_mark(reader: &mut Reader<'_>) -> Result<Mark, DecodeError> {
    Ok(Mark {
        position: read_position(reader)?,
        chain: reader.u64()?,
    })
}

pub(super) fn put_lineage(out: &mut Vec<u8>, lineage: &[Mark]) {
    let newest = &lineage[lineage.len().saturating_sub(LINEAGE_MAX)..];
    put_number(out, newest.len() as u64);
    for mark in newest {
        put_mark(out, *mark);
    }
}

pub(super) fn read_lineage(reader: &mut Reader<'_>) -> Result<Vec<Mark>, DecodeError> {
    let count = reader.count(MARK_BYTES_MIN)?;
    if count > LINEAGE_MAX {
        return Err(DecodeError::Range("a lineage's length"));
    }
    (0..count).map(|_| read_mark(reader)).collect()
}

fn open<'a>(bytes: &'a [u8], what: &'static str) -> Result<Reader<'a>, DecodeError> {
    let mut reader = Reader::new(bytes);
    check_format(what, u32::from(reader.byte()?), u32::from(FORMAT))?;
    Ok(reader)
}

/// Encodes a mark as a value of the store.
#[must_use]
pub fn encode_mark(mark: Mark) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_mark(&mut out, mark);
    out
}

/// Decodes what [`encode_mark`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_mark(bytes: &[u8]) -> Result<Mark, DecodeError> {
    let mut reader = open(bytes, "a mark")?;
    let mark = read_mark(&mut reader)?;
    reader.end()?;
    Ok(mark)
}

/// Encodes a lineage as a value of the store; only its newest [`LINEAGE_MAX`].
#[must_use]
pub fn encode_lineage(lineage: &[Mark]) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_lineage(&mut out, lineage);
    out
}

/// Decodes what [`encode_lineage`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_lineage(bytes: &[u8]) -> Result<Vec<Mark>, DecodeError> {
    let mut reader = open(bytes, "a lineage")?;
    let lineage = read_lineage(&mut reader)?;
    reader.end()?;
    Ok(lineage)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::generators;
    use super::*;

    proptest! {
        #[test]
        fn marks_and_lineages_come_back(mark in generators::mark(), lineage in generators::lineage()) {
            prop_assert_eq!(decode_mark(&encode_mark(mark)), Ok(mark));
            prop_assert_eq!(decode_lineage(&encode_lineage(&lineage)), Ok(lineage));
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_mark(&junk);
            let _ = decode_lineage(&junk);
        }
    }
}
