//! A simulated data node: the shipped core over the shipped log, recovery and apply,
//! on a disk and a store in memory.
//!
//! A crash drops what was not handed to the log, lets the batch that was being
//! written arrive in part, and, where the power goes, loses or tears what was not
//! flushed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, MapVersion, Mark, Micros, NodeId, PartitionId};
use cairn_core::kv::{DueKey, ExpiryRow, Table, VersionedValue};
use cairn_core::replication::{
    DurableRecord, Generation, LogEntry, NodeCore, RecoveredPartition, Timing,
};
use cairn_storage::disk::Disk;
use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::sim::{MemDisk, MemStore};
use cairn_storage::state::{self, Applier, Kind};
use cairn_storage::store::{Store, StoreChange};
use cairn_storage::wal::{Wal, WalError, WalOptions};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::digest::{Digest, Digests};

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
    /// Until when each flush takes long.
    pub slow_until: Micros,
    /// Until when the disk is full but for its reserve.
    pub full_until: Micros,
    /// Until when it wants to hand over what it leads.
    pub draining_until: Micros,
    /// The timings as its disk knows them: what it starts with.
    pub timing: Timing,
    /// What it may send to learners that are far behind, in bytes a second; 0 for any.
    pub catch_up_rate: u64,
    /// Bits of its log were flipped: what it holds may be damaged.
    pub damaged: bool,
    /// The partitions of which what it holds counts as absent.
    pub corrupt: BTreeSet<PartitionId>,
    /// The newest record of each partition that the process was told.
    pub told: BTreeMap<PartitionId, (Epoch, u64)>,
    /// The version of the map that it has seen.
    pub map_version: MapVersion,
    flush_fails: bool,
    /// It ends while it writes the next time; whether its power goes too.
    pub ends_writing: Option<bool>,
    /// Local time = true time * rate / 1e6 + offset.
    rate: u64,
    offset: u64,
    /// How far its calendar is ahead of the least one, in milliseconds.
    calendar: u64,
    /// Records that were not handed to the log yet.
    pub waiting: Vec<DurableRecord>,
    /// Records that are being written and flushed.
    pub writing: Vec<DurableRecord>,
    /// How many segments there were at most.
    pub segments: usize,
    disk: MemDisk,
    store: MemStore,
    applier: Applier,
    digests: Digests,
}

/// What a start came to.
#[derive(Debug)]
pub enum Started {
    /// The process runs, from what was recovered.
    Running {
        /// Whether a torn tail was dropped.
        dropped_tail: bool,
        /// What recovery found of the partitions.
        recovered: Vec<RecoveredPartition>,
    },
    /// The disk holds too little to start from: it has to be wiped.
    Unusable(String),
}

/// By how many milliseconds the calendars of nodes differ at most.
pub const CALENDARS_MS: u64 = 40;

/// How far back in the log a bit is likeliest to flip.
const NEWEST_BYTES: u64 = 24 << 10;

/// Keys without their generation, and values.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn problem<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

impl Node {
    /// A node with an empty disk.
    pub fn new(id: NodeId, timing: Timing, rng: &mut StdRng) -> Self {
        Self {
            id,
            core: None,
            wal: None,
            session: 0,
            paused_until: Micros(0),
            slow_until: Micros(0),
            full_until: Micros(0),
            draining_until: Micros(0),
            timing,
            catch_up_rate: 0,
            damaged: false,
            corrupt: BTreeSet::new(),
            told: BTreeMap::new(),
            map_version: MapVersion(0),
            flush_fails: false,
            ends_writing: None,
            calendar: rng.random_range(0..=CALENDARS_MS),
            rate: rng.random_range(990_000..=1_010_000),
            offset: rng.random_range(0..1_000_000_000),
            waiting: Vec::new(),
            writing: Vec::new(),
            segments: 0,
            disk: MemDisk::new(),
            store: MemStore::new(),
            applier: Applier::default(),
            digests: Digests::default(),
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

    /// The node's calendar: milliseconds since the Unix epoch.
    pub fn wall_ms(&self, now: Micros) -> u64 {
        now.0 / 1_000 + self.calendar
    }

    /// Starts the process from what its disk holds.
    ///
    /// # Errors
    /// Where recovery refuses a disk that only lost power.
    pub fn start(&mut self, now: Micros, rng: &mut StdRng) -> Result<Started, String> {
        self.session += 1;
        self.told.clear();
        self.map_version = MapVersion(0);
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
        self.applier = Applier::default();
        self.digests = Digests::default();
        let opened = Wal::open(
            self.disk.clone(),
            identity,
            options,
            &self.store,
            Box::new(move || random.random()),
        );
        let (wal, recovery) = match opened {
            Ok(opened) => opened,
            Err(error @ (WalError::Unreadable | WalError::StructureLost(_))) if self.damaged => {
                return Ok(Started::Unusable(error.to_string()));
            }
            Err(error) => return Err(format!("recovery (rule 12): {}: {error}", self.id)),
        };
        if !recovery.damage.is_empty() && !self.damaged {
            return Err(format!(
                "recovery (rule 12): {}: damage after a mere power loss: {:?}",
                self.id, recovery.damage
            ));
        }
        let lost = recovery.partitions.iter().find(|found| found.corrupt);
        if let Some(lost) = lost.filter(|_| !self.damaged) {
            return Err(format!(
                "recovery (rule 12): {}: {} counts as damaged after a mere crash",
                self.id, lost.meta.partition
            ));
        }
        self.segments = self.segments.max(wal.segments());
        self.wal = Some(wal);
        let session = self.id.0 * 1_000 + self.session;
        let recovered = recovery.partitions.clone();
        self.core = Some(NodeCore::new(
            self.id,
            session,
            self.timing,
            recovery.next_generation.max(1),
            recovery.partitions,
            self.clock(now),
        ));
        if let Some(core) = &mut self.core {
            core.set_catch_up_rate(self.catch_up_rate);
        }
        Ok(Started::Running {
            dropped_tail: recovery.dropped_tail,
            recovered,
        })
    }

    /// Ends the process at once; with `power_loss` what was not flushed may be gone.
    pub fn crash(&mut self, rng: &mut StdRng, power_loss: bool) {
        self.core = None;
        self.flush_fails = false;
        self.ends_writing = None;
        self.waiting.clear();
        let writing = std::mem::take(&mut self.writing);
        if let Some(mut wal) = self.wal.take()
            && !writing.is_empty()
        {
            // Some of the batch had been written when the process ended.
            // Written and not flushed, which is what may be torn, as often as not.
            let changes = match rng.random_bool(0.5) {
                true => 1,
                false => rng.random_range(0..4),
            };
            self.disk.fail_after(changes);
            let _ = wal.append(&writing);
        }
        if power_loss {
            self.disk.lose_power(&mut |n| rng.random_range(0..n));
        } else {
            self.disk.end_process();
        }
        // The store keeps its own buffers: they may go with either.
        self.store.lose_power(&mut |n| rng.random_range(0..n));
    }

    /// The records under way are written and flushed. Returns the number of the last, and
    /// the records; `None` where the flush failed, which ends the process.
    ///
    /// # Errors
    /// Where the log refuses.
    pub fn flush(&mut self) -> Result<Option<(u64, Vec<DurableRecord>)>, String> {
        let writing = std::mem::take(&mut self.writing);
        let Some(wal) = &mut self.wal else {
            return Ok(None);
        };
        let appended = wal.append(&writing).map_err(problem("append to the log"));
        let Some(number) = self.unless_failing(appended)? else {
            return Ok(None);
        };
        let Some(wal) = &mut self.wal else {
            return Ok(None);
        };
        if let Some(misplaced) = wal.take_misplaced().first() {
            return Err(format!("{}: {misplaced}", self.id));
        }
        self.segments = self.segments.max(wal.segments());
        Ok(Some((number, writing)))
    }

    /// Lets the next flush of the log fail.
    pub fn fail_flush(&mut self) {
        self.flush_fails = true;
        self.disk.fail_next_sync();
    }

    /// Flips a bit of a file of the log. Returns which.
    pub fn flip_bit(&mut self, rng: &mut StdRng) -> Option<(String, u64)> {
        let mut names = self.disk.list().ok()?;
        names.retain(|name| name.starts_with("segment-"));
        names.sort();
        // What is newest is what the store does not durably hold, so that it is needed.
        let newest = rng.random_bool(0.7);
        let name = match newest {
            true => names.last()?,
            false => names.get(rng.random_range(0..names.len().max(1)))?,
        };
        let contents = self.disk.contents(name)?;
        // What was never written says nothing of a disk.
        let written = contents.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let from = match newest {
            true => written.saturating_sub(NEWEST_BYTES),
            false => 0,
        };
        let bit = rng.random_range(from * 8..written * 8);
        let name = name.clone();
        self.disk.flip_bit(&name, bit);
        self.damaged = true;
        Some((name, bit))
    }

    /// The log is probed. Returns the number of the last record that is flushed; `None`
    /// where a flush failed, which ends the process.
    ///
    /// # Errors
    /// Where the log refuses.
    pub fn probe(&mut self) -> Result<Option<u64>, String> {
        let Some(wal) = &mut self.wal else {
            return Ok(None);
        };
        let probed = wal.probe().map_err(problem("probe the log"));
        self.unless_failing(probed)
    }

    /// The log falls idle; segments that nobody needs go. Whether one went; `None` where a
    /// flush failed, which ends the process.
    ///
    /// # Errors
    /// Where the log refuses.
    pub fn idle(&mut self) -> Result<Option<bool>, String> {
        let Some(wal) = &mut self.wal else {
            return Ok(Some(false));
        };
        let reclaimed = wal.confirm().and_then(|()| wal.reclaim());
        self.unless_failing(reclaimed.map_err(problem("reclaim a segment")))
    }

    fn unless_failing<T>(&mut self, result: Result<T, String>) -> Result<Option<T>, String> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(_) if std::mem::take(&mut self.flush_fails) => Ok(None),
            Err(error) => Err(format!("{}: {error}", self.id)),
        }
    }

    /// Replication needs the log no more up to there.
    pub fn reclaimable(&mut self, partition: PartitionId, index: Index) {
        if let Some(wal) = &mut self.wal {
            wal.set_reclaimable(partition, index);
        }
    }

    /// Applies entries. Returns the mark that the state then holds.
    ///
    /// # Errors
    /// Where the state does not continue.
    pub fn apply(
        &mut self,
        partition: PartitionId,
        generation: Generation,
        entries: &[LogEntry],
    ) -> Result<Mark, String> {
        self.applier
            .stage(&self.store, partition, generation, entries)
            .map_err(problem("apply"))?;
        let mut observer = self.digests.observe(&self.store);
        self.applier
            .commit(&self.store, &mut observer)
            .map_err(problem("apply"))?;
        state::applied(&self.store, generation).map_err(problem("read"))
    }

    /// The mark that a state holds, and its digest.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn state(&mut self, generation: Generation) -> Result<(Mark, Digest), String> {
        let mark = state::applied(&self.store, generation).map_err(problem("read"))?;
        let digest = self.digests.of(&self.store, generation)?;
        Ok((mark, digest))
    }

    /// A key's value in a state.
    ///
    /// # Errors
    /// Where the store refuses or the value makes no sense.
    pub fn value(
        &self,
        generation: Generation,
        key: &[u8],
    ) -> Result<Option<VersionedValue>, String> {
        let stored = self.store.get(&state::data_key(generation, key));
        stored
            .map_err(problem("read"))?
            .map(VersionedValue::decode)
            .transpose()
            .map_err(problem("read"))
    }

    /// The idempotence table of a state.
    ///
    /// # Errors
    /// Where the store refuses or a row makes no sense.
    pub fn table(&self, generation: Generation) -> Result<Table, String> {
        let rows = self.rows(generation, Kind::Table)?;
        let rows = rows.into_iter().map(|(key, row)| {
            let index = key.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
            (Index(index), row)
        });
        Table::from_rows(rows).map_err(problem("read the table"))
    }

    /// The keys that the expiry index calls due.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn due(&self, generation: Generation, now: Micros) -> Result<Vec<DueKey>, String> {
        let rows = self.rows(generation, Kind::Expiry)?;
        let seconds = self.wall_ms(now) / 1_000;
        let due = rows
            .into_iter()
            .filter_map(|(row, _)| ExpiryRow::decode(&row));
        Ok(due
            .filter(|row| row.second <= seconds)
            .take(4)
            .map(DueKey::from)
            .collect())
    }

    fn rows(&self, generation: Generation, kind: Kind) -> Result<Vec<(Bytes, Bytes)>, String> {
        let (from, to) = state::kind_range(generation, kind);
        let mut rows = Vec::new();
        self.store
            .scan(&from, Some(&to), &mut |key, value| {
                rows.push((key.slice(state::KEY_PREFIX_BYTES..), value));
                true
            })
            .map_err(problem("scan"))?;
        Ok(rows)
    }

    /// The applied index of a generation of the state.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn applied(&self, generation: Generation) -> Result<Index, String> {
        let mark = state::applied(&self.store, generation).map_err(problem("read"))?;
        Ok(mark.index())
    }

    /// Persists the store and tells the log, for every partition.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn persist(&mut self) -> Result<(), String> {
        self.store.persist().map_err(problem("persist"))?;
        let (Some(core), Some(wal)) = (&self.core, &mut self.wal) else {
            return Ok(());
        };
        for partition in core.partitions() {
            let Some(standing) = core.standing(partition) else {
                continue;
            };
            let generation = standing.generation;
            let applied = state::applied(&self.store, generation).map_err(problem("read"))?;
            wal.set_store_durable(partition, generation, applied.index());
        }
        Ok(())
    }

    /// A copy of a generation's rows, and the mark and the lineage of what they hold.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn snapshot(&self, generation: Generation) -> Result<(Mark, Vec<Mark>, Rows), String> {
        let mark = state::applied(&self.store, generation).map_err(problem("read"))?;
        let lineage = state::lineage(&self.store, generation).map_err(problem("read"))?;
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
        Ok((mark, lineage, rows))
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
        self.digests.forget(generation);
        self.store.persist().map_err(problem("persist"))
    }

    /// Removes a generation's rows.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn drop_generation(&mut self, generation: Generation) -> Result<(), String> {
        self.applier.forget(generation);
        self.digests.forget(generation);
        state::drop_generation(&self.store, generation, 1_000).map_err(problem("drop"))
    }
}
