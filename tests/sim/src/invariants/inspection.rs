//! Rule 2: a primary is named in a fenced epoch once N-W+1 members of each set in force had
//! promised it durably.

use cairn_core::ids::Epoch;
use cairn_core::record::{PartitionRecord, ReplicaSet};

use super::epochs::Epochs;
use super::{Check, broken};

const NAME: &str = "a primary is named after N-W+1 of each set promised (rule 2)";

/// Epochs that were raised without a primary, so that one has to be found.
#[derive(Debug, Default)]
pub struct Inspections {
    open: Option<Epoch>,
}

impl Inspections {
    /// The coordinators have committed a record. Where the configured W is 1, `lossy`, it is
    /// enough that any lease is known to be over (rule 9).
    ///
    /// # Errors
    /// Where too few had promised.
    pub fn decided(&mut self, record: &PartitionRecord, epochs: &Epochs, lossy: bool) -> Check {
        let Some(primary) = record.primary else {
            self.open = Some(record.epoch);
            return Ok(());
        };
        if self.open.take_if(|open| *open == record.epoch).is_none() {
            // Carried over from the epoch before, which it was the primary of.
            return Ok(());
        }
        for set in record.config.sets() {
            let promised = |node| epochs.durable(node) >= record.epoch;
            let have = set.members.iter().filter(|m| promised(m.node)).count();
            let need = needed(set, lossy);
            if have < need {
                return Err(broken(
                    NAME,
                    format!(
                        "{primary:?} is named in {}, which {have} of {set:?} have promised, not {need}",
                        record.epoch
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn needed(set: &ReplicaSet, lossy: bool) -> usize {
    let quorum = match lossy {
        true => set.write_quorum().max(set.lease_quorum()),
        false => set.write_quorum(),
    };
    set.len() + 1 - quorum.min(set.len())
}
