//! What the data nodes say to each other. Every message may be lost, delayed,
//! repeated or reordered: none relies on the stream that carries it.

use std::sync::Arc;

use super::entry::LogEntry;
use crate::ids::{Epoch, Index, MapVersion, Mark, Micros, PartitionId, Position, ReplicaId};
use crate::record::{Member, PartitionRecord};

/// One message from a node to another. Many travel in one frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// From a primary: entries, or a probe where there are none.
    Append(Append),
    /// The answer.
    AppendReply(AppendReply),
    /// From a node that is primary of something: renew my leases (rules 5, 16).
    LeaseRenew(LeaseRenew),
    /// The answer.
    LeaseReply(LeaseReply),
    /// From a primary that hands over: my grants of this epoch are void (rule 11).
    Release {
        /// Which partition.
        partition: PartitionId,
        /// The epoch in which the sender was primary.
        epoch: Epoch,
    },
    /// From a primary that restarted while the coordinators are away (rule 14).
    Confirm(Confirm),
    /// The answer.
    ConfirmReply(ConfirmReply),
    /// From a replica whose log lacks a range: do you have it (rule 12)?
    FetchRange(FetchRange),
    /// The answer.
    Range(Range),
    /// From a node with reads that wait: how do your replicas stand (rule 6)?
    ReadAsk(ReadAsk),
    /// The answer.
    ReadAnswer(ReadAnswer),
    /// From a primary: your log cannot be caught up from mine, fetch a snapshot.
    NeedSnapshot {
        /// Which partition.
        partition: PartitionId,
        /// The primary's epoch.
        epoch: Epoch,
        /// The replica that is meant.
        to: ReplicaId,
        /// Whose state is to be fetched; `None`: the sender's.
        source: Option<Member>,
        /// The last index that it must hold at least.
        after: Index,
    },
    /// The answer, once there is something to tell.
    SnapshotNews(SnapshotNews),
    /// A committed record that the sender saw the receiver to lack (rule 15).
    Record(Arc<PartitionRecord>),
    /// The version of the sender's map, so that the other side can ask for it.
    MapVersion(MapVersion),
}

/// Entries from the primary of `epoch`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// Which partition.
    pub partition: PartitionId,
    /// The epoch of the primary that sends it.
    pub epoch: Epoch,
    /// The replica that is meant: another one on the same node ignores it.
    pub to: ReplicaId,
    /// The sender's replica.
    pub from: ReplicaId,
    /// The sender's process. A primary that restarted in its own epoch may have lost
    /// entries that the process before it sent (rule 14).
    pub session: u64,
    /// The last entry before `entries` in the primary's log.
    pub previous: Mark,
    /// The entries, ascending, without gaps; already flushed by the primary.
    pub entries: Vec<LogEntry>,
    /// The primary's commit index.
    pub commit: Index,
}

impl Append {
    /// Whether each entry follows the one before it, the first one `previous`, by
    /// index, epoch and checksum: what a primary sends does, what was damaged on the
    /// way does not.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut before = self.previous;
        self.entries.iter().all(|entry| {
            let sound = entry.follows(before) && entry.position.epoch <= self.epoch;
            before = entry.mark();
            sound
        })
    }
}

/// A follower's answer to an [`Append`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendReply {
    /// Which partition.
    pub partition: PartitionId,
    /// The epoch of the [`Append`], or the higher one that the sender promised.
    pub epoch: Epoch,
    /// The replica that answers.
    pub from: ReplicaId,
    /// As in the [`Append`]: what another process of the primary sent may not be what
    /// this one has in its log. Zero where no [`Append`] is answered.
    pub session: u64,
    /// What became of it.
    pub outcome: AppendOutcome,
}

/// What became of an [`Append`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AppendOutcome {
    /// Everything up to here is the primary's log, and flushed.
    Matched {
        /// The last such index.
        index: Index,
    },
    /// `previous` is not in my log.
    Diverged {
        /// My last entry.
        head: Position,
        /// The last mark of each epoch in my log, oldest first, the newest 32.
        lineage: Vec<Mark>,
    },
    /// I promised a higher epoch (`AppendReply::epoch`), or in this one follow another
    /// process of the same primary.
    Refused,
    /// I have no room for data (rule 15 keeps room for barriers alone).
    DiskFull,
}

/// Renews the leases of every partition in a set that both ends know by version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseRenew {
    /// Drawn when the holder's process started.
    pub session: u64,
    /// Counts the rounds of this session.
    pub round: u64,
    /// The version of the set.
    pub version: u64,
    /// How long a grant is to last, counted by the grantor from receipt.
    pub span: Micros,
    /// The set itself, until the grantor has confirmed its version.
    pub set: Option<Vec<(PartitionId, Epoch)>>,
    /// Commit indexes that moved since they were last told.
    pub commits: Vec<(PartitionId, Epoch, Index)>,
}

/// The grant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseReply {
    /// As in the request.
    pub session: u64,
    /// As in the request.
    pub round: u64,
    /// The version of the set that was granted. Another version than the
    /// request's means that nothing was granted and the set is to be sent.
    pub version: u64,
    /// Partitions of the set that were not granted.
    pub excluded: Vec<PartitionId>,
    /// How long the grant lasts: what was asked for, or less.
    pub span: Micros,
    /// The grantor has no room for data.
    pub disk_full: bool,
    /// How many snapshots its node gives just now.
    pub giving: u32,
}

/// Asks for entries that a broken place took out of the sender's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchRange {
    /// Which partition.
    pub partition: PartitionId,
    /// The replica that is meant.
    pub to: ReplicaId,
    /// The last entry before the wanted ones.
    pub after: Mark,
    /// The last wanted index.
    pub until: Index,
}

/// As many of those as one message holds. Their running checksum proves them, so that
/// they mean the same whoever gives them, and in every epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// Which partition.
    pub partition: PartitionId,
    /// The replica that answers.
    pub from: ReplicaId,
    /// As in the question.
    pub after: Mark,
    /// The entries, ascending, without gaps; none where the sender does not have them.
    pub entries: Vec<LogEntry>,
}

/// What became of the snapshot that a replica was told to fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotNews {
    /// Which partition.
    pub partition: PartitionId,
    /// The epoch that the sender promised.
    pub epoch: Epoch,
    /// The replica that fetches it.
    pub from: ReplicaId,
    /// Whose state it is.
    pub source: ReplicaId,
    /// What there is to tell.
    pub news: CopyNews,
}

/// What there is to tell of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyNews {
    /// It is on its way.
    Begun {
        /// The last index that it holds: the log is wanted from there on.
        last: Index,
    },
    /// Nothing comes of it: another source is to be tried.
    Failed,
}

/// Asks how the replicas of a node stand, for the reads that arrived before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadAsk {
    /// The sender's process, so that an answer to an older one counts nothing.
    pub session: u64,
    /// Counts the questions of this process to this node.
    pub number: u64,
    /// Of which partitions, ascending.
    pub partitions: Vec<PartitionId>,
    /// For which of them a lease for reads is wanted too, ascending.
    pub leases: Vec<PartitionId>,
}

/// The answer: nothing of a partition of which no replica here counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadAnswer {
    /// As in the question.
    pub session: u64,
    /// As in the question.
    pub number: u64,
    /// Of the partitions in the question.
    pub stands: Vec<Stand>,
}

/// How a replica stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stand {
    /// Which partition.
    pub partition: PartitionId,
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch that it promised.
    pub epoch: Epoch,
    /// Whether it serves as primary of that epoch, under its lease (rule 5).
    pub leased: bool,
    /// Its last entry on disk.
    pub head: Position,
    /// The last entry that it knows to be committed, the lowest position where none is.
    pub commit: Position,
    /// For how long it commits nothing that the one who asks has not matched; zero where it
    /// grants no such lease.
    pub reads_for: Micros,
}

/// Asks whether the sender may resume as primary of its own epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Confirm {
    /// Which partition.
    pub partition: PartitionId,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The replica that is meant.
    pub to: ReplicaId,
    /// The sender's process, so that an older process's answer counts nothing.
    pub session: u64,
}

/// The answer: what the replica promised and holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfirmReply {
    /// Which partition.
    pub partition: PartitionId,
    /// The epoch of the question.
    pub epoch: Epoch,
    /// Who answers.
    pub from: ReplicaId,
    /// As in the question.
    pub session: u64,
    /// The promised epoch of the replica.
    pub promised: Epoch,
    /// Its last entry on disk.
    pub head: Position,
}
