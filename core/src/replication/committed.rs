//! What a watcher is given of a log: committed entries, in order, behind a position
//! that it knows (rule 19).
//!
//! An epoch's entries come from one primary, so that a log that holds an entry of an
//! epoch at some index, or one of that epoch behind it, holds what everybody else of
//! that epoch has there. A position is in the log's line exactly then.

use super::entry::LogEntry;
use super::replica::{Part, Replica};
use crate::ids::{Mark, Position};

/// Committed entries behind a position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The entries, ascending, without gaps; none where nothing more has committed.
    pub entries: Vec<LogEntry>,
    /// The last of them; where there is none, what was asked from, or the last
    /// committed entry where nothing was.
    pub position: Position,
}

/// Which entries a log consists of, those included that are no longer in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The mark before the first entry in memory. Everything up to it is committed.
    pub base: Mark,
    /// The last mark of each epoch, oldest first.
    pub lineage: Vec<Mark>,
}

impl Line {
    /// Whether the log has, or had, an entry at that position: an entry that says so of
    /// itself is the log's own.
    #[must_use]
    pub fn holds(&self, position: Position) -> bool {
        is_in_line(&self.lineage, position)
    }
}

fn is_in_line(lineage: &[Mark], position: Position) -> bool {
    position == Position::ZERO
        || lineage
            .iter()
            .any(|mark| mark.epoch() == position.epoch && mark.index() >= position.index)
}

/// Why there are no entries to give.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommittedError {
    /// This node has no serving primary of the partition.
    #[error("not the serving primary of the partition")]
    NotPrimary,
    /// The position is in the log's line, and what follows it has left memory. It may be
    /// in the log on disk.
    #[error("what follows the position is no longer in memory")]
    BeforeMemory(Line),
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
        if !is_in_line(self.log.lineage(), after) {
            return Err(CommittedError::Compacted);
        }
        let base = self.log.base();
        if after.index < base.index() {
            return Err(CommittedError::BeforeMemory(Line {
                base,
                lineage: self.log.lineage().to_vec(),
            }));
        }
        let entries = self.log.slice(after.index.next(), self.commit, bytes);
        Ok(Committed {
            position: entries.last().map_or(after, |last| last.position),
            entries,
        })
    }
}
