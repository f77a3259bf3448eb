//! The coordinators' record of a partition, inside log records and checkpoints.

use cairn_core::ids::{Epoch, MapVersion, NodeId, PartitionId, ReplicaId};
use cairn_core::record::{Configuration, Member, PartitionRecord, ReplicaSet, SlotRange};

use super::primitives::{DecodeError, Reader, check_format, put_number};

/// The format of a record.
const FORMAT: u8 = 1;

/// The fewest bytes that a member takes.
const MEMBER_BYTES_MIN: usize = 2;

fn put_member(out: &mut Vec<u8>, member: &Member) {
    let Member { node, replica } = member;
    put_number(out, node.0);
    put_number(out, replica.0);
}

fn read_member(reader: &mut Reader<'_>) -> Result<Member, DecodeError> {
    Ok(Member {
        node: NodeId(reader.number()?),
        replica: ReplicaId(reader.number()?),
    })
}

fn put_members(out: &mut Vec<u8>, members: &[Member]) {
    put_number(out, members.len() as u64);
    for member in members {
        put_member(out, member);
    }
}

fn read_members(reader: &mut Reader<'_>) -> Result<Vec<Member>, DecodeError> {
    let count = reader.count(MEMBER_BYTES_MIN)?;
    (0..count).map(|_| read_member(reader)).collect()
}

fn put_set(out: &mut Vec<u8>, set: &ReplicaSet) {
    let ReplicaSet {
        members,
        write_quorum,
    } = set;
    put_members(out, members);
    out.push(*write_quorum);
}

fn read_set(reader: &mut Reader<'_>) -> Result<ReplicaSet, DecodeError> {
    Ok(ReplicaSet {
        members: read_members(reader)?,
        write_quorum: reader.byte()?,
    })
}

pub(super) fn put_partition_record(out: &mut Vec<u8>, record: &PartitionRecord) {
    let PartitionRecord {
        id,
        slots: SlotRange { first, last },
        epoch,
        revision,
        config:
            Configuration {
                current,
                joint,
                learners,
                readers,
            },
        primary,
        degraded,
        changed_at,
    } = record;
    out.push(FORMAT);
    put_number(out, u64::from(id.0));
    put_number(out, u64::from(*first));
    put_number(out, u64::from(*last));
    put_number(out, epoch.0);
    put_number(out, *revision);
    put_set(out, current);
    out.push(u8::from(joint.is_some()));
    if let Some(joint) = joint {
        put_set(out, joint);
    }
    // What a copy for reads is beyond a learner, the next record that comes tells: so builds
    // that know of no such copies can read what is written here.
    put_number(out, (learners.len() + readers.len()) as u64);
    for member in learners.iter().chain(readers) {
        put_member(out, member);
    }
    out.push(u8::from(primary.is_some()));
    if let Some(primary) = primary {
        put_member(out, primary);
    }
    out.push(u8::from(*degraded));
    put_number(out, changed_at.0);
}

pub(super) fn read_partition_record(
    reader: &mut Reader<'_>,
) -> Result<PartitionRecord, DecodeError> {
    check_format(
        "a partition's record",
        u32::from(reader.byte()?),
        u32::from(FORMAT),
    )?;
    Ok(PartitionRecord {
        id: PartitionId(reader.small("a partition")?),
        slots: SlotRange {
            first: reader.small("a slot")?,
            last: reader.small("a slot")?,
        },
        epoch: Epoch(reader.number()?),
        revision: reader.number()?,
        config: Configuration {
            current: read_set(reader)?,
            joint: match reader.flag("a joint set's presence")? {
                true => Some(read_set(reader)?),
                false => None,
            },
            learners: read_members(reader)?,
            readers: Vec::new(),
        },
        primary: match reader.flag("a primary's presence")? {
            true => Some(read_member(reader)?),
            false => None,
        },
        degraded: reader.flag("degradation")?,
        changed_at: MapVersion(reader.number()?),
    })
}

/// Encodes a record that stands alone.
#[must_use]
pub fn encode_partition_record(record: &PartitionRecord) -> Vec<u8> {
    let mut out = Vec::new();
    put_partition_record(&mut out, record);
    out
}

/// Decodes what [`encode_partition_record`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_partition_record(bytes: &[u8]) -> Result<PartitionRecord, DecodeError> {
    let mut reader = Reader::new(bytes);
    let record = read_partition_record(&mut reader)?;
    reader.end()?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::generators;
    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back(record in generators::partition_record()) {
            let bytes = encode_partition_record(&record);
            prop_assert_eq!(decode_partition_record(&bytes), Ok(record));
        }

        #[test]
        fn a_copy_for_reads_comes_back_as_a_learner(
            mut record in generators::partition_record(),
        ) {
            let whole = record.clone();
            let config = &mut record.config;
            let at = config.learners.len() / 2;
            config.readers = config.learners.split_off(at);
            let bytes = encode_partition_record(&record);
            prop_assert_eq!(decode_partition_record(&bytes), Ok(whole));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = vec![FORMAT];
            bytes.extend(&junk);
            let _ = decode_partition_record(&bytes);
            let _ = decode_partition_record(&junk);
        }
    }
}
