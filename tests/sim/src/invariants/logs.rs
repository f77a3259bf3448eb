//! Rules 3 and 4: logs match up to the commit index, which never goes back while a process
//! runs, and moves by an entry of the primary's own epoch.

use std::collections::BTreeMap;

use cairn_core::ids::{Index, Mark, NodeId, PartitionId, Position};
use cairn_core::replication::{Generation, NodeCore, Standing};

use super::{Check, broken};

/// Copies of an older epoch's entry prove nothing: a later promotion may choose a log
/// without it. So what commits first in an epoch ends with an entry of that epoch.
const OWN_EPOCH: &str = "an older epoch's entry commits with one of the primary's own (rule 3)";
const NAME: &str = "logs match up to the commit index (rule 4)";

/// The one line of committed entries.
#[derive(Debug, Default)]
pub struct Logs {
    line: BTreeMap<Index, (Mark, NodeId)>,
    seen: BTreeMap<NodeId, (u64, Generation, Index)>,
}

impl Logs {
    /// What was committed at an index, as far as anybody was seen to know it.
    #[must_use]
    pub fn at(&self, index: Index) -> Option<Mark> {
        self.line.get(&index).map(|(mark, _)| *mark)
    }

    /// Somebody holds that entry to be committed.
    ///
    /// # Errors
    /// Where another one was committed there.
    pub fn claim(&mut self, node: NodeId, mark: Mark) -> Check {
        let (known, by) = *self.line.entry(mark.index()).or_insert((mark, node));
        if known == mark {
            return Ok(());
        }
        Err(broken(
            NAME,
            format!("{node} committed {mark:?} where {by} committed {known:?}"),
        ))
    }

    /// A node was stepped: what it committed since the last time is held against the line.
    ///
    /// # Errors
    /// Where it does not belong there, or the commit index went back.
    pub fn check(
        &mut self,
        (node, session): (NodeId, u64),
        core: &NodeCore,
        partition: PartitionId,
        standing: &Standing,
    ) -> Check {
        let now = (session, standing.generation, standing.commit);
        let before = self.seen.insert(node, now);
        let from = match before {
            Some((of, generation, commit)) if (of, generation) == (session, now.1) => {
                if standing.commit < commit {
                    return Err(broken(
                        NAME,
                        format!("{node} went back from {commit} to {}", standing.commit),
                    ));
                }
                commit
            }
            // What is committed at the start was applied, and is held against it too.
            _ => Index(standing.commit.0.saturating_sub(1)),
        };
        if standing.commit == from {
            return Ok(());
        }
        let log = core.log_after(partition, from);
        let last = log.iter().find(|e| e.position.index == standing.commit);
        if let Some(last) = last.map(|entry| entry.position)
            && last.epoch < standing.epoch
            && !self.line.contains_key(&last.index)
        {
            return Err(broken(
                OWN_EPOCH,
                format!(
                    "{node} committed {last} in {}, as the first",
                    standing.epoch
                ),
            ));
        }
        for entry in log {
            if entry.position.index > standing.commit {
                break;
            }
            self.claim(node, entry.mark())?;
        }
        Ok(())
    }

    /// The last index up to which a primary's log holds what the line does. An epoch and an
    /// index are one entry, so that the lineage tells, where the log itself is on the disk
    /// alone too.
    #[must_use]
    pub fn shared_with(
        &self,
        core: &NodeCore,
        partition: PartitionId,
        standing: &Standing,
    ) -> Index {
        let head = Mark {
            position: Position {
                epoch: standing.epoch,
                index: standing.head,
            },
            chain: 0,
        };
        let lineage = core.lineage_up_to(partition, head);
        let holds = |mark: Mark| {
            let last = lineage.iter().find(|last| last.index() >= mark.index());
            last.is_some_and(|last| last.epoch() == mark.epoch())
        };
        let held = self.line.range(..=standing.head).rev();
        held.map(|(_, (mark, _))| *mark)
            .find(|mark| holds(*mark))
            .map_or(Index::ZERO, |mark| mark.index())
    }

    /// Forgets everything past an index, which a promotion lost (rule 9). What the new
    /// primary committed of its own log in its place is the line from now on: an older
    /// primary may have come back with what it had not replicated.
    pub fn cut(
        &mut self,
        to: Index,
        node: NodeId,
        core: &NodeCore,
        partition: PartitionId,
        standing: &Standing,
    ) {
        self.line.split_off(&to.next());
        self.seen.clear();
        let log = core.log_after(partition, to).into_iter();
        for entry in log.take_while(|entry| entry.position.index <= standing.commit) {
            let mark = entry.mark();
            self.line.insert(mark.index(), (mark, node));
        }
    }
}
