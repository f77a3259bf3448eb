//! What a checkpoint says of one partition.

use std::sync::Arc;

use cairn_core::ids::{Epoch, PartitionId, ReplicaId};
use cairn_core::replication::{Generation, PartitionMeta};

use super::mark::{put_lineage, put_mark, read_lineage, read_mark};
use super::partition_record::{put_partition_record, read_partition_record};
use super::primitives::{DecodeError, Reader, check_format, put_number};

/// The format of a checkpoint's row.
const FORMAT: u8 = 1;

const HAS_REPLICA: u8 = 1;
const HAS_RECORD: u8 = 2;
const HAS_DELETED: u8 = 4;
const IS_CORRUPT: u8 = 8;
const DROPPED_TAIL: u8 = 16;

/// A partition's metadata, and what must not be forgotten of an earlier recovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointRow {
    /// The metadata.
    pub meta: PartitionMeta,
    /// Damage was found; only a new replica ends it (rule 12).
    pub corrupt: bool,
    /// An uncertain tail was dropped, and nothing was appended since.
    pub dropped_tail: bool,
}

/// Encodes a row.
pub fn put_row(out: &mut Vec<u8>, row: &CheckpointRow) {
    let CheckpointRow {
        meta:
            PartitionMeta {
                partition,
                replica,
                generation,
                promised,
                record,
                deleted_at,
                base,
                lineage,
            },
        corrupt,
        dropped_tail,
    } = row;
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(FORMAT);
    out.push(
        bit(replica.is_some(), HAS_REPLICA)
            | bit(record.is_some(), HAS_RECORD)
            | bit(deleted_at.is_some(), HAS_DELETED)
            | bit(*corrupt, IS_CORRUPT)
            | bit(*dropped_tail, DROPPED_TAIL),
    );
    put_number(out, u64::from(partition.0));
    if let Some(replica) = replica {
        put_number(out, replica.0);
    }
    put_number(out, generation.0);
    put_number(out, promised.0);
    if let Some(record) = record {
        put_partition_record(out, record);
    }
    if let Some((epoch, revision)) = deleted_at {
        put_number(out, epoch.0);
        put_number(out, *revision);
    }
    put_mark(out, *base);
    put_lineage(out, lineage);
}

/// Decodes what [`put_row`] made; nothing may be left over.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_row(bytes: &[u8]) -> Result<CheckpointRow, DecodeError> {
    let mut reader = Reader::new(bytes);
    check_format(
        "a checkpoint's row",
        u32::from(reader.byte()?),
        u32::from(FORMAT),
    )?;
    let flags = reader.byte()?;
    let known = HAS_REPLICA | HAS_RECORD | HAS_DELETED | IS_CORRUPT | DROPPED_TAIL;
    if flags & !known != 0 {
        return Err(DecodeError::Range("a checkpoint row's flags"));
    }
    let partition = PartitionId(reader.small("a partition")?);
    let replica = match flags & HAS_REPLICA {
        0 => None,
        _ => Some(ReplicaId(reader.number()?)),
    };
    let generation = Generation(reader.number()?);
    let promised = Epoch(reader.number()?);
    let record = match flags & HAS_RECORD {
        0 => None,
        _ => Some(Arc::new(read_partition_record(&mut reader)?)),
    };
    let deleted_at = match flags & HAS_DELETED {
        0 => None,
        _ => Some((Epoch(reader.number()?), reader.number()?)),
    };
    let base = read_mark(&mut reader)?;
    let lineage = read_lineage(&mut reader)?;
    reader.end()?;
    Ok(CheckpointRow {
        meta: PartitionMeta {
            partition,
            replica,
            generation,
            promised,
            record,
            deleted_at,
            base,
            lineage,
        },
        corrupt: flags & IS_CORRUPT != 0,
        dropped_tail: flags & DROPPED_TAIL != 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::generators;
    use super::*;

    proptest! {
        #[test]
        fn a_row_comes_back(row in generators::checkpoint_row()) {
            let mut bytes = Vec::new();
            put_row(&mut bytes, &row);
            prop_assert_eq!(decode_row(&bytes), Ok(row));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = vec![FORMAT];
            bytes.extend(&junk);
            let _ = decode_row(&bytes);
            let _ = decode_row(&junk);
        }
    }
}
