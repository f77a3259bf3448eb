//! Rules 4 and 17: what is applied was committed before, on this very node, and follows
//! what was applied.

use cairn_core::ids::NodeId;
use cairn_core::replication::{LogEntry, Standing};

use super::{Check, broken};

const NAME: &str = "applied never passes commit (rule 4)";

/// A node is about to apply entries.
///
/// # Errors
/// Where they are not committed.
pub fn applies(node: NodeId, standing: &Standing, entries: &[LogEntry]) -> Check {
    let last = entries.last().map(|entry| entry.position.index);
    if last.is_some_and(|last| last > standing.commit) {
        return Err(broken(
            NAME,
            format!(
                "{node} applies {last:?} and has committed {}",
                standing.commit
            ),
        ));
    }
    Ok(())
}
