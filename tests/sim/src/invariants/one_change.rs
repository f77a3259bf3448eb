//! Rule 11: one change at a time per partition. One replica at most is in the making, and
//! from one joint configuration to another there is a plain one between.

use cairn_core::record::{Member, PartitionRecord};

use super::{Check, broken};

const NAME: &str = "one change at a time per partition (rule 11)";

/// The coordinators have committed a record after that one.
///
/// # Errors
/// Where more than one thing changes in it.
pub fn decided(before: Option<&PartitionRecord>, record: &PartitionRecord) -> Check {
    let made: Vec<Member> = record.config.in_the_making().collect();
    if made.len() > 1 {
        return Err(broken(
            NAME,
            format!("{made:?} are made in {}", record.epoch),
        ));
    }
    let joint = |record: &PartitionRecord| record.config.joint.clone();
    match (before.and_then(joint), joint(record)) {
        (Some(before), Some(now)) if before != now => Err(broken(
            NAME,
            format!("{now:?} takes the place of {before:?} in {}", record.epoch),
        )),
        _ => Ok(()),
    }
}
