//! What replication is told, and what it wants done.
//!
//! # Order
//! Effects are carried out in the order in which they stand. [`Effect::Append`]
//! hands a record to the write-ahead log; the core numbers those records itself,
//! from 1 for the first record after start, and the edge says with
//! [`Event::Flushed`] up to which number they are durable. The core emits an
//! effect that needs durability (a message that vouches for a head, a report, an
//! application to the store) only after that event: no effect needs the edge to
//! hold it back.

use std::sync::Arc;

use super::copying::SnapshotWanted;
use super::durable::{DurableRecord, Generation};
use super::entry::LogEntry;
use super::message::PeerMessage;
use super::proof::{Proof, ProofLevel};
use crate::cluster::report::{CopyProgress, Order, ReplicaReport};
use crate::ids::{Epoch, Index, Mark, Micros, NodeId, PartitionId};
use crate::record::PartitionRecord;

/// What room there is on a node's disk (rule 15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskRoom {
    /// Enough.
    Ample,
    /// None but what is kept for epochs, barriers, a new primary's inherited log, and
    /// deletes.
    Reserve,
    /// Of that too so little that only epochs and barriers are written.
    Spent,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed. To be sent at least every [`super::Timing::tick`].
    Tick,
    /// The log is durable up to and including the record of this number. Also the
    /// answer to [`Effect::ProbeLog`], with the number that was told last.
    Flushed {
        /// The number of the record.
        number: u64,
    },
    /// A message from another node, already known to be who it says it is.
    Peer {
        /// The sender.
        from: NodeId,
        /// What it says.
        message: PeerMessage,
    },
    /// A connection to the node was made anew: what was in flight may be lost.
    PeerConnected {
        /// To whom.
        peer: NodeId,
    },
    /// A committed record, from the coordinators or from another node's map.
    Record {
        /// The record.
        record: Arc<PartitionRecord>,
    },
    /// The coordinators ask.
    Order {
        /// What they ask.
        order: Order,
    },
    /// Whether the coordinators are within reach (rule 14).
    Coordinators {
        /// Whether they are.
        reachable: bool,
    },
    /// The disk of this node knows of the longest lease that the cluster ever had: the
    /// next start of the process waits for as long (rule 5), so that grants may last as
    /// long from now on.
    LeaseKept {
        /// That lease.
        longest: Micros,
    },
    /// The store has applied entries up to here.
    Applied {
        /// Which partition.
        partition: PartitionId,
        /// The generation in which.
        generation: Generation,
        /// The last applied index.
        index: Index,
    },
    /// A snapshot that [`Effect::FetchSnapshot`] asked for is durable in the store.
    SnapshotFetched {
        /// Which partition.
        partition: PartitionId,
        /// The fresh prefix that holds it.
        generation: Generation,
        /// The last entry that it holds.
        mark: Mark,
        /// The last mark of each epoch up to `mark`, oldest first.
        lineage: Vec<Mark>,
    },
    /// The fetch failed; the prefix was dropped.
    SnapshotFailed {
        /// Which partition.
        partition: PartitionId,
        /// The prefix.
        generation: Generation,
    },
    /// A snapshot that is fetched has begun to arrive.
    SnapshotBegun {
        /// Which partition.
        partition: PartitionId,
        /// The prefix.
        generation: Generation,
        /// The last index that it will hold.
        last: Index,
    },
    /// More of a snapshot that is fetched has arrived: what a heartbeat tells.
    SnapshotProgress {
        /// Which partition.
        partition: PartitionId,
        /// The prefix.
        generation: Generation,
        /// How far it is.
        progress: CopyProgress,
    },
    /// About how many bytes the states under these prefixes take on the disk, where that is
    /// news: what a heartbeat tells. Ascending by prefix.
    StateMeasured {
        /// Prefixes, with their bytes.
        sizes: Vec<(Generation, u64)>,
    },
    /// A node streams a snapshot of this replica: entries past `from` are to stay in
    /// the log until [`Event::SnapshotServed`], as far as the bound allows.
    SnapshotServing {
        /// Which partition.
        partition: PartitionId,
        /// The node.
        to: NodeId,
        /// The mark's index.
        from: Index,
    },
    /// The stream ended.
    SnapshotServed {
        /// Which partition.
        partition: PartitionId,
        /// The node.
        to: NodeId,
        /// The mark's index.
        from: Index,
    },
    /// Reading the store or the log of these partitions found damage (rule 12).
    Corrupt {
        /// Which.
        partitions: Vec<PartitionId>,
    },
    /// What room there is on the disk.
    DiskRoom {
        /// How much.
        room: DiskRoom,
    },
    /// Hand over everything that this node leads, as far as the coordinators
    /// arrange it: the node is about to stop.
    Drain,
}

/// Something to be done.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Append the record to the write-ahead log.
    Append(DurableRecord),
    /// Nothing was flushed for a while: write something to the log that says nothing,
    /// flush it, then say [`Event::Flushed`] (rule 1: a disk that hangs must be found
    /// although nobody writes).
    ProbeLog,
    /// Send a message. It may be dropped under pressure.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// Apply committed entries to the store, in this order.
    Apply {
        /// Which partition.
        partition: PartitionId,
        /// The prefix to apply to.
        generation: Generation,
        /// The entries.
        entries: Vec<LogEntry>,
    },
    /// The primary may answer for everything up to here: it is committed, and
    /// where W is 1 the lease was checked.
    Committed {
        /// Which partition.
        partition: PartitionId,
        /// The last such index.
        index: Index,
    },
    /// Every member of each set in force has flushed everything up to here. Told where
    /// [`super::NodeCore::want_everywhere`] asked for it.
    Everywhere {
        /// Which partition.
        partition: PartitionId,
        /// The last such index; it is committed too.
        index: Index,
    },
    /// What came of a question for the reads below a number: see
    /// [`super::NodeCore::prove`].
    Proved {
        /// Which partition.
        partition: PartitionId,
        /// What was to be shown.
        level: ProofLevel,
        /// It covers the reads below this number.
        before: u64,
        /// What came of it.
        proof: Proof,
    },
    /// The replica's standing changed: read it with [`super::NodeCore::standing`]
    /// and publish it. Emitted once per step and partition at most.
    Standing {
        /// Which partition.
        partition: PartitionId,
    },
    /// The replica is no longer the primary of the epoch in which it accepted
    /// writes: whatever waits for a commit has an unknown outcome.
    Deposed {
        /// Which partition.
        partition: PartitionId,
        /// The epoch that it led.
        epoch: Epoch,
    },
    /// The replica that counted as damaged since the start is whole again: its log was
    /// mended.
    Mended {
        /// Which partition.
        partition: PartitionId,
    },
    /// To the coordinators.
    Report(ReplicaReport),
    /// Fetch a snapshot from the replica into a fresh prefix, make it durable, then
    /// say [`Event::SnapshotFetched`].
    FetchSnapshot {
        /// The node to fetch from.
        from: NodeId,
        /// What is to be asked for there, see [`super::NodeCore::give_snapshot`].
        wanted: SnapshotWanted,
        /// The fresh prefix.
        generation: Generation,
    },
    /// The prefix holds nothing that is needed: remove its keys.
    DropGeneration {
        /// Which partition.
        partition: PartitionId,
        /// The prefix.
        generation: Generation,
    },
    /// Log entries up to here are no longer needed by any replica within the bound
    /// that the core keeps: the segments that hold only such may go once the store
    /// holds them durably (rule 17).
    Reclaimable {
        /// Which partition.
        partition: PartitionId,
        /// The last index that may go.
        index: Index,
    },
}
