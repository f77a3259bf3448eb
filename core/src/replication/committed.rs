//! What a watcher is given of a log: committed entries, in order, behind a position
//! that it knows (rule 19).
//!
//! An epoch's entries come from one primary, so that a log that holds an entry of an
//! epoch at some index, or one of that epoch behind it, holds what everybody else of
//! that epoch has there. A position is in the log's line exactly then.

use super::entry::LogEntry;
use super::replica::{Part, Replica};
use crate::ids::Position;

/// Committed entries behind a position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The entries, ascending, without gaps; none where nothing more has committed.
    pub entries: Vec<LogEntry>,
    /// The last of them; where there is none, what was asked from, or the last
    /// committed entry where nothing was.
    pub position: Position,
}

/// Why there are no entries to give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommittedError {
    /// This node has no serving primary of the partition.
    #[error("not the serving primary of the partition")]
    NotPrimary,
    /// The log no longer reaches back to the position, or never held it: it is of a
    /// line that was lost, or of an epoch that the lineage has forgotten.
    #[error("the log does not hold what follows the position any more")]
    Compacted,
}

impl Replica {
    /// See [`super::NodeCore::committed_after`].
    pub(super) fn committed_after(
        &self,
        after: Option<Position>,
        bytes: usize,
    ) -> Result<Committed, CommittedError> {
        let serving = matches!(
            &self.part,
            Part::Primary(leadership) if leadership.serving && leadership.handover.is_none()
        );
        if !serving || self.corrupt {
            return Err(CommittedError::NotPrimary);
        }
        let Some(after) = after else {
            // What is committed is never below what is in memory.
            let mark = self.log.mark_at(self.commit);
            return Ok(Committed {
                entries: Vec::new(),
                position: mark.ok_or(CommittedError::Compacted)?.position,
            });
        };
        if after.index < self.log.base().index() || !self.is_in_line(after) {
            return Err(CommittedError::Compacted);
        }
        let entries = self.log.slice(after.index.next(), self.commit, bytes);
        Ok(Committed {
            position: entries.last().map_or(after, |last| last.position),
            entries,
        })
    }

    fn is_in_line(&self, position: Position) -> bool {
        position == Position::ZERO
            || self
                .log
                .lineage()
                .iter()
                .any(|mark| mark.epoch() == position.epoch && mark.index() >= position.index)
    }
}
