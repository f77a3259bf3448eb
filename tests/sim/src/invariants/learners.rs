//! Rule 11: a learner never counts. Whoever votes came to by a joint configuration that was
//! left forwards, and nobody serves who does not vote.

use cairn_core::ids::NodeId;
use cairn_core::record::{Configuration, PartitionRecord};
use cairn_core::replication::Standing;

use super::{Check, broken};

const NAME: &str = "a learner never counts (rule 11)";

/// The coordinators have committed a record after that one.
///
/// # Errors
/// Where a replica votes alone that was no member before, or that only was to be one.
pub fn decided(before: Option<&PartitionRecord>, record: &PartitionRecord) -> Check {
    let Some(before) = before.filter(|before| before.config != record.config) else {
        return Ok(());
    };
    let current = &record.config.current;
    // Left forwards, which the invariant on joint configurations judges.
    let forwards = before.config.joint.as_ref() == Some(current);
    let members = &before.config.current.members;
    let new = current.members.iter().find(|m| !members.contains(m));
    match new.filter(|_| !forwards) {
        None => Ok(()),
        Some(new) => Err(broken(
            NAME,
            format!(
                "{new:?} counts in {}, after {:?}",
                record.epoch, before.config
            ),
        )),
    }
}

/// A node begins to serve in an epoch of that configuration.
///
/// # Errors
/// Where its replica has no vote.
pub fn serves(node: NodeId, standing: &Standing, configuration: &Configuration) -> Check {
    if configuration.is_voter(standing.replica) {
        return Ok(());
    }
    Err(broken(
        NAME,
        format!(
            "{node} serves in {} by {}, which has no vote",
            standing.epoch, standing.replica
        ),
    ))
}
