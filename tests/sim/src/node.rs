//! A simulated data node: the shipped core over the shipped log, recovery and apply,
//! on a disk and a store in memory.
//!
//! A crash drops what was not handed to the log, lets the batch that was being
//! written arrive in part, and, where the power goes, loses or tears what was not
//! flushed.

use cairn_core::ids::{Index, Mark, Micros, NodeId, PartitionId};
use cairn_core::replication::{DurableRecord, Generation, LogEntry, NodeCore, Timing};
use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::sim::{MemDisk, MemStore};
use cairn_storage::state;
use cairn_storage::store::{Store, StoreChange};
use cairn_storage::wal::{Wal, WalOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// The core, while the process runs.
    pub core: Option<NodeCore>,
    /// The log, while the process runs.
    wal: Option<Wal<MemDisk>>,
    /// Counts the starts of the process.
    pub session: u64,
    /// Until when the process is stopped (SIGSTOP).
    pub paused_until: Micros,
    /// Local time = true time * rate / 1e6 + offset.
    rate: u64,
    offset: u64,
    /// Records that were not handed to the log yet.
    pub waiting: Vec<DurableRecord>,
    /// Records that are being written and flushed.
    pub writing: Vec<DurableRecord>,
    /// How many segments there were at most.
    pub segments: usize,
    disk: MemDisk,
    store: MemStore,
}

/// Keys without their generation, and values.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn problem<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

impl Node {
    /// A node with an empty disk.
    pub fn new(id: NodeId, rng: &mut StdRng) -> Self {
        Self {
            id,
            core: None,
            wal: None,
            session: 0,
            paused_until: Micros(0),
            rate: rng.random_range(990_000..=1_010_000),
            offset: rng.random_range(0..1_000_000_000),
            waiting: Vec::new(),
            writing: Vec::new(),
            segments: 0,
            disk: MemDisk::new(),
            store: MemStore::new(),
        }
    }

    /// An empty disk takes the place of the one that there was.
    pub fn replace_disk(&mut self) {
        self.disk = MemDisk::new();
        self.store = MemStore::new();
        self.wal = None;
        self.waiting.clear();
        self.writing.clear();
    }

    /// The node's clock.
    pub fn clock(&self, now: Micros) -> Micros {
        let (seconds, rest) = (now.0 / 1_000_000, now.0 % 1_000_000);
        Micros(seconds * self.rate + rest * self.rate / 1_000_000 + self.offset)
    }

    /// Starts the process from what its disk holds. Returns what recovery says.
    ///
    /// # Errors
    /// Where recovery refuses a disk that only lost power.
    pub fn start(&mut self, now: Micros, timing: Timing, rng: &mut StdRng) -> Result<bool, String> {
        self.session += 1;
        let identity = LogIdentity {
            cluster: "simulated".into(),
            node: u128::from(self.id.0),
            incarnation: u128::from(self.id.0),
        };
        let options = WalOptions {
            segment_bytes: 64 << 10,
            total_bytes: 512 << 10,
            batch_bytes: 4 << 10,
            ..WalOptions::default()
        };
        let mut random = StdRng::seed_from_u64(rng.random());
        let (wal, recovery) = Wal::open(
            self.disk.clone(),
            identity,
            options,
            &self.store,
            Box::new(move || random.random()),
        )
        .map_err(problem("open the log"))?;
        if !recovery.damage.is_empty() {
            return Err(format!(
                "{}: damage after a mere power loss: {:?}",
                self.id, recovery.damage
            ));
        }
        if let Some(damaged) = recovery.partitions.iter().find(|found| found.corrupt) {
            return Err(format!(
                "{}: {} counts as damaged after a mere crash",
                self.id, damaged.meta.partition
            ));
        }
        self.segments = self.segments.max(wal.segments());
        self.wal = Some(wal);
        let session = self.id.0 * 1_000 + self.session;
        let dropped = recovery.dropped_tail;
        self.core = Some(NodeCore::new(
            self.id,
            session,
            timing,
            recovery.next_generation.max(1),
            recovery.partitions,
            self.clock(now),
        ));
        Ok(dropped)
    }

    /// Ends the process at once; with `power_loss` what was not flushed may be gone.
    pub fn crash(&mut self, rng: &mut StdRng, power_loss: bool) {
        self.core = None;
        self.waiting.clear();
        let writing = std::mem::take(&mut self.writing);
        if let Some(mut wal) = self.wal.take()
            && !writing.is_empty()
        {
            // Some of the batch had been written when the process ended.
            self.disk.fail_after(rng.random_range(0..4));
            let _ = wal.append(&writing);
        }
        if power_loss {
            self.disk.lose_power(&mut |n| rng.random_range(0..n));
        } else {
            self.disk.lose_power(&mut |n| n - 1);
        }
        // The store keeps its own buffers: they may go with either.
        self.store.lose_power(&mut |n| rng.random_range(0..n));
    }

    /// The records under way are written and flushed. Returns the number of the last.
    ///
    /// # Errors
    /// Where the log refuses.
    pub fn flush(&mut self) -> Result<u64, String> {
        let writing = std::mem::take(&mut self.writing);
        let Some(wal) = &mut self.wal else {
            return Ok(0);
        };
        let number = wal.append(&writing).map_err(problem("append to the log"))?;
        if let Some(misplaced) = wal.take_misplaced().first() {
            return Err(format!("{}: {misplaced}", self.id));
        }
        self.segments = self.segments.max(wal.segments());
        Ok(number)
    }

    /// The log is probed. Returns the number of the last record that is flushed.
    ///
    /// # Errors
    /// Where the log refuses.
    pub fn probe(&mut self) -> Result<u64, String> {
        match &mut self.wal {
            Some(wal) => wal.probe().map_err(problem("probe the log")),
            None => Ok(0),
        }
    }

    /// The log falls idle; segments that nobody needs go.
    ///
    /// # Errors
    /// Where the log refuses.
    pub fn idle(&mut self) -> Result<bool, String> {
        let Some(wal) = &mut self.wal else {
            return Ok(false);
        };
        wal.confirm().map_err(problem("confirm the log"))?;
        wal.reclaim().map_err(problem("reclaim a segment"))
    }

    /// Replication needs the log no more up to there.
    pub fn reclaimable(&mut self, partition: PartitionId, index: Index) {
        if let Some(wal) = &mut self.wal {
            wal.set_reclaimable(partition, index);
        }
    }

    /// Applies entries.
    ///
    /// # Errors
    /// Where the state does not continue.
    pub fn apply(
        &mut self,
        partition: PartitionId,
        generation: Generation,
        entries: &[LogEntry],
    ) -> Result<Index, String> {
        let mark = state::apply_entries(&self.store, partition, generation, entries)
            .map_err(problem("apply"))?;
        Ok(mark.index())
    }

    /// The applied index of a generation of the state.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn applied(&self, generation: Generation) -> Result<Index, String> {
        let mark = state::applied(&self.store, generation).map_err(problem("read"))?;
        Ok(mark.index())
    }

    /// Persists the store and tells the log.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn persist(&mut self, partition: PartitionId) -> Result<(), String> {
        self.store.persist().map_err(problem("persist"))?;
        let generation = self
            .core
            .as_ref()
            .and_then(|core| core.standing(partition))
            .map(|standing| standing.generation);
        if let (Some(generation), Some(wal)) = (generation, &mut self.wal) {
            let applied = state::applied(&self.store, generation).map_err(problem("read"))?;
            wal.set_store_durable(partition, generation, applied.index());
        }
        Ok(())
    }

    /// A copy of a generation's rows and the mark that they hold.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn snapshot(&self, generation: Generation) -> Result<(Mark, Rows), String> {
        let mark = state::applied(&self.store, generation).map_err(problem("read"))?;
        let (from, to) = state::generation_range(generation);
        let mut rows = Vec::new();
        self.store
            .scan(&from, to.as_deref(), &mut |key, value| {
                let rest = &key[8..];
                if !state::is_metadata(rest) {
                    rows.push((rest.to_vec(), value.to_vec()));
                }
                true
            })
            .map_err(problem("scan"))?;
        Ok((mark, rows))
    }

    /// Installs such a copy under a fresh generation, durably.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn install(
        &mut self,
        generation: Generation,
        mark: Mark,
        lineage: &[Mark],
        rows: Rows,
    ) -> Result<(), String> {
        let mut changes: Vec<StoreChange> = rows
            .into_iter()
            .map(|(key, value)| {
                let key = [&generation.0.to_be_bytes()[..], &key].concat();
                (key.into(), Some(value.into()))
            })
            .collect();
        let begin = state::data_key(generation, b"");
        let keys = changes.iter().filter(|(key, _)| key.starts_with(&begin));
        let keys = keys.count() as u64;
        changes.extend(state::metadata_rows(generation, mark, lineage, keys));
        self.store.write(&changes).map_err(problem("install"))?;
        self.store.persist().map_err(problem("persist"))
    }

    /// Removes a generation's rows.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn drop_generation(&mut self, generation: Generation) -> Result<(), String> {
        state::drop_generation(&self.store, generation, 1_000).map_err(problem("drop"))
    }
}
