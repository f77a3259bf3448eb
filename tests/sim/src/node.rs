//! A simulated data node: the shipped core over a modelled log and store.
//!
//! The log keeps its records in memory with a mark of what was flushed; a crash
//! keeps the flushed ones and a drawn prefix of the rest. The store keeps an
//! applied mark and a checksum of what was applied, with an older persisted copy
//! that a crash may fall back to.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_core::ids::{Epoch, Index, Mark, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::{
    DurableRecord, Generation, LogEntry, NodeCore, PartitionMeta, RecoveredPartition, Timing,
};
use rand::Rng;
use rand::rngs::StdRng;

/// The state of one generation in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// The last applied entry.
    pub applied: Mark,
    /// Every applied entry's mark, by index: what tests compare.
    pub history: BTreeMap<Index, Mark>,
}

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// The core, while the process runs.
    pub core: Option<NodeCore>,
    /// Counts the starts of the process.
    pub session: u64,
    /// Until when the process is stopped (SIGSTOP).
    pub paused_until: Micros,
    /// Local time = true time * rate / 1e6 + offset.
    pub rate: u64,
    /// See `rate`.
    pub offset: u64,
    /// All records since the disk was new.
    pub wal: Vec<DurableRecord>,
    /// How many of them are flushed.
    pub flushed: usize,
    /// How many there were when this process started.
    pub at_start: usize,
    /// A flush is under way up to this many.
    pub flushing: Option<usize>,
    /// The store.
    pub store: BTreeMap<Generation, Copy>,
    /// What of it is persisted.
    pub persisted: BTreeMap<Generation, Copy>,
}

impl Node {
    /// A node with an empty disk.
    pub fn new(id: NodeId, rng: &mut StdRng) -> Self {
        Self {
            id,
            core: None,
            session: 0,
            paused_until: Micros(0),
            rate: rng.random_range(990_000..=1_010_000),
            offset: rng.random_range(0..1_000_000_000),
            wal: Vec::new(),
            flushed: 0,
            at_start: 0,
            flushing: None,
            store: BTreeMap::new(),
            persisted: BTreeMap::new(),
        }
    }

    /// The node's clock.
    pub fn clock(&self, now: Micros) -> Micros {
        Micros(
            now.0 / 1_000_000 * self.rate + now.0 % 1_000_000 * self.rate / 1_000_000 + self.offset,
        )
    }

    /// Starts the process from what its disk holds.
    pub fn start(&mut self, now: Micros, timing: Timing, dropped_tail: bool) {
        self.session += 1;
        self.flushed = self.wal.len();
        self.at_start = self.wal.len();
        self.flushing = None;
        let (recovered, next_generation) = recover(&self.wal, &self.store, dropped_tail);
        let session = self.id.0 * 1_000 + self.session;
        self.core = Some(NodeCore::new(
            self.id,
            session,
            timing,
            next_generation,
            recovered,
            self.clock(now),
        ));
    }

    /// Ends the process at once. With `power_loss` what was not flushed may be gone.
    /// Returns whether records were lost.
    pub fn crash(&mut self, rng: &mut StdRng, power_loss: bool) -> bool {
        self.core = None;
        self.flushing = None;
        let mut dropped = false;
        if power_loss {
            let keep = rng.random_range(self.flushed..=self.wal.len());
            dropped = keep < self.wal.len();
            self.wal.truncate(keep);
            self.store = self.persisted.clone();
        }
        dropped
    }

    /// Applies entries.
    pub fn apply(&mut self, generation: Generation, entries: &[LogEntry]) -> Option<Index> {
        let copy = self.store.entry(generation).or_default();
        for entry in entries {
            if entry.position.index <= copy.applied.index() {
                continue;
            }
            copy.applied = entry.mark();
            copy.history.insert(entry.position.index, entry.mark());
        }
        entries.last().map(|e| e.position.index)
    }
}

/// Folds the log as recovery does.
fn recover(
    wal: &[DurableRecord],
    store: &BTreeMap<Generation, Copy>,
    dropped_tail: bool,
) -> (Vec<RecoveredPartition>, u64) {
    struct Found {
        replica: Option<ReplicaId>,
        generation: Generation,
        promised: Epoch,
        record: Option<Arc<PartitionRecord>>,
        deleted_at: Option<(Epoch, u64)>,
        base: Mark,
        lineage: Vec<Mark>,
        entries: Vec<LogEntry>,
    }
    let mut found: BTreeMap<PartitionId, Found> = BTreeMap::new();
    let mut next_generation = 1;
    for record in wal {
        let f = found.entry(record.partition()).or_insert(Found {
            replica: None,
            generation: Generation(0),
            promised: Epoch::ZERO,
            record: None,
            deleted_at: None,
            base: Mark::ZERO,
            lineage: Vec::new(),
            entries: Vec::new(),
        });
        match record.clone() {
            DurableRecord::Create {
                replica,
                generation,
                ..
            } => {
                f.replica = Some(replica);
                f.generation = generation;
                f.base = Mark::ZERO;
                f.entries.clear();
                f.lineage.clear();
                next_generation = next_generation.max(generation.0 + 1);
            }
            DurableRecord::Delete { order, .. } => {
                f.replica = None;
                f.deleted_at = Some(order);
            }
            DurableRecord::Promise { epoch, .. } => f.promised = epoch,
            DurableRecord::Configure { record } => f.record = Some(record),
            DurableRecord::Entry { entry, .. } => f.entries.push(entry),
            DurableRecord::Truncate { to, .. } => {
                f.entries.retain(|e| e.position.index <= to.index());
            }
            DurableRecord::Installed {
                generation,
                mark,
                lineage,
                keep_tail,
                ..
            } => {
                f.generation = generation;
                f.base = mark;
                f.lineage = lineage;
                next_generation = next_generation.max(generation.0 + 1);
                if keep_tail {
                    f.entries.retain(|e| e.position.index > mark.index());
                } else {
                    f.entries.clear();
                }
            }
        }
    }
    let recovered = found
        .into_iter()
        .map(|(partition, f)| RecoveredPartition {
            applied: store
                .get(&f.generation)
                .map(|c| c.applied)
                .unwrap_or_default(),
            meta: PartitionMeta {
                partition,
                replica: f.replica,
                generation: f.generation,
                promised: f.promised,
                record: f.record,
                deleted_at: f.deleted_at,
                base: f.base,
                lineage: f.lineage,
            },
            entries: f.entries,
            corrupt: false,
            dropped_tail,
        })
        .collect();
    (recovered, next_generation)
}
