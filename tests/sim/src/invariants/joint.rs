//! Rule 11: a joint configuration is left for the new set once an entry of its epoch, and
//! with it all before that, is flushed on W of both sets.

use cairn_core::record::PartitionRecord;

use super::acknowledged::Acknowledged;
use super::{Check, broken};

const NAME: &str = "joint is left once its barrier is in both sets (rule 11)";

/// The coordinators have committed a record after that one.
///
/// # Errors
/// Where they left a joint configuration too early.
pub fn decided(
    before: Option<&PartitionRecord>,
    record: &PartitionRecord,
    flushed: &Acknowledged,
) -> Check {
    let Some(before) = before.filter(|before| before.epoch < record.epoch) else {
        return Ok(());
    };
    let left = record.config.joint.is_none();
    let forward = before.config.joint.as_ref() == Some(&record.config.current);
    if !left || !forward {
        return Ok(());
    }
    for set in before.config.sets() {
        let have = flushed.holding_epoch(set, before.epoch);
        if have < set.write_quorum() {
            return Err(broken(
                NAME,
                format!(
                    "{} is left for {:?}, and {have} of {set:?} have flushed an entry of it",
                    before.epoch, record.config.current
                ),
            ));
        }
    }
    Ok(())
}
