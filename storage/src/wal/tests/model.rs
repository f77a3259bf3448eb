//! What the log must say, kept beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, MapVersion, Mark, PartitionId, ReplicaId};
use cairn_core::kv::{EntryBody, StoredValue};
use cairn_core::record::{Configuration, PartitionRecord, ReplicaSet, SlotRange};
use cairn_core::replication::{DurableRecord, EntryKind, Generation, LogEntry, RecoveredPartition};

use super::super::{Recovery, Wal, WalError, WalOptions};
use crate::format::segment_header::LogIdentity;
use crate::sim::{MemDisk, MemStore};

/// A small, seeded source of choices (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Choices(u64);

impl Choices {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub(super) fn identity() -> LogIdentity {
    LogIdentity {
        cluster: "c".to_owned(),
        node: 1,
        incarnation: 2,
    }
}

/// Small segments, so that much is rolled.
pub(super) fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 64 << 10,
        total_bytes: 320 << 10,
        kept_bytes: 0,
        batch_bytes: 1 << 10,
        recovered_bytes: usize::MAX,
        spares: 1,
    }
}

pub(super) fn open(
    disk: &MemDisk,
    store: &MemStore,
    seed: u64,
) -> Result<(Wal<MemDisk>, Recovery), WalError> {
    open_with(disk, store, seed, options())
}

pub(super) fn open_with(
    disk: &MemDisk,
    store: &MemStore,
    seed: u64,
    options: WalOptions,
) -> Result<(Wal<MemDisk>, Recovery), WalError> {
    let mut choices = Choices::new(seed ^ 0x5eed);
    Wal::open(
        disk.clone(),
        identity(),
        options,
        store,
        Box::new(move || choices.number()),
    )
}

/// One partition as the log must describe it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ModelPartition {
    pub(super) replica: Option<ReplicaId>,
    pub(super) generation: Option<Generation>,
    pub(super) promised: Epoch,
    pub(super) revision: Option<u64>,
    pub(super) deleted_at: Option<(Epoch, u64)>,
    /// Every entry of the log, whether the log still holds it or not.
    pub(super) log: Vec<LogEntry>,
    /// The highest epoch of which entries were cut: its primary wrote them, and no other
    /// entries of that epoch stand in their place.
    pub(super) cut: Epoch,
}

impl ModelPartition {
    pub(super) fn head(&self) -> Mark {
        self.log.last().map_or(Mark::ZERO, LogEntry::mark)
    }

    pub(super) fn mark_at(&self, index: Index) -> Mark {
        match index.0 {
            0 => Mark::ZERO,
            n => self.log[n as usize - 1].mark(),
        }
    }

    /// The last mark of each epoch.
    pub(super) fn lineage(&self) -> Vec<Mark> {
        let mut lineage: Vec<Mark> = Vec::new();
        for entry in &self.log {
            match lineage.last_mut() {
                Some(last) if last.epoch() == entry.position.epoch => *last = entry.mark(),
                _ => lineage.push(entry.mark()),
            }
        }
        lineage
    }

    /// The data that the log makes, up to an index.
    pub(super) fn data(&self, index: Index) -> BTreeMap<Bytes, Bytes> {
        let mut data = BTreeMap::new();
        for entry in &self.log[..index.0 as usize] {
            if entry.kind == EntryKind::Write {
                let body = EntryBody::decode(entry.body.clone()).unwrap();
                for (key, value) in body.writes {
                    match value {
                        Some(value) => data.insert(key, value.data),
                        None => data.remove(&key),
                    };
                }
            }
        }
        data
    }
}

/// Every partition, and the numbers that are never used again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Model {
    pub(super) partitions: BTreeMap<PartitionId, ModelPartition>,
    pub(super) next: u64,
}

pub(super) const PARTITIONS: u32 = 4;

impl Model {
    pub(super) fn partition(&self, id: PartitionId) -> ModelPartition {
        self.partitions.get(&id).cloned().unwrap_or_default()
    }

    /// A record that may come next. `applied` says up to where the store holds a
    /// partition: nothing is cut below it.
    pub(super) fn draw(
        &mut self,
        choices: &mut Choices,
        applied: &dyn Fn(Generation) -> Index,
    ) -> DurableRecord {
        let partition = PartitionId(choices.below(u64::from(PARTITIONS)) as u32);
        let state = self.partition(partition);
        self.next += 1;
        let Some(_) = state.replica else {
            return DurableRecord::Create {
                partition,
                replica: ReplicaId(self.next),
                generation: Generation(self.next),
            };
        };
        let head = state.head();
        match choices.below(40) {
            0 => DurableRecord::Promise {
                partition,
                epoch: state.promised.next(),
            },
            1 => DurableRecord::Configure {
                record: Arc::new(record(partition, state.promised, self.next)),
            },
            2 => {
                let least = applied(state.generation.unwrap()).0;
                let to = least + choices.below(head.index().0 - least + 1);
                DurableRecord::Truncate {
                    partition,
                    to: state.mark_at(Index(to)),
                }
            }
            3 if choices.one_in(4) => DurableRecord::Delete {
                partition,
                order: (state.promised, self.next),
            },
            _ => {
                // A primary replicates what it inherited, in the epochs that it was
                // written in: only a part of the entries shows what was promised.
                let least = head.epoch().max(state.cut.next());
                let most = state.promised.max(least);
                let epoch = Epoch(least.0 + choices.below(most.0 - least.0 + 1));
                let (kind, body) = if choices.one_in(8) {
                    (EntryKind::Barrier, Bytes::new())
                } else {
                    (EntryKind::Write, body(choices))
                };
                DurableRecord::Entry {
                    partition,
                    entry: LogEntry::after(head, epoch, kind, body),
                }
            }
        }
    }

    pub(super) fn take(&mut self, record: &DurableRecord) {
        let state = self.partitions.entry(record.partition()).or_default();
        match record {
            DurableRecord::Create {
                replica,
                generation,
                ..
            } => {
                state.replica = Some(*replica);
                state.generation = Some(*generation);
                state.log.clear();
            }
            DurableRecord::Delete { order, .. } => {
                state.replica = None;
                state.deleted_at = state.deleted_at.max(Some(*order));
                state.log.clear();
            }
            DurableRecord::Promise { epoch, .. } => state.promised = state.promised.max(*epoch),
            DurableRecord::Configure { record } => state.revision = Some(record.revision),
            DurableRecord::Entry { entry, .. } => {
                assert!(entry.follows(state.head()));
                state.promised = state.promised.max(entry.position.epoch);
                state.log.push(entry.clone());
            }
            DurableRecord::Truncate { to, .. } => {
                if state.head() != *to {
                    state.cut = state.cut.max(state.head().epoch());
                }
                state.log.truncate(to.index().0 as usize);
            }
            DurableRecord::Installed { .. } | DurableRecord::Corrupt { .. } => {
                unreachable!("has scenarios of its own")
            }
        }
    }

    /// Whether recovery says what the model says, of every partition.
    pub(super) fn agrees(&self, recovered: &[RecoveredPartition]) -> Result<(), String> {
        let known: Vec<PartitionId> = recovered.iter().map(|r| r.meta.partition).collect();
        let modelled: Vec<PartitionId> = self.partitions.keys().copied().collect();
        if known != modelled {
            return Err(format!("partitions {known:?} instead of {modelled:?}"));
        }
        recovered.iter().try_for_each(|r| {
            let state = self.partition(r.meta.partition);
            if r.meta.deleted_at != state.deleted_at
                || r.meta.record.as_ref().map(|r| r.revision) != state.revision
            {
                return Err(format!("deletion or record: {:?}", r.meta));
            }
            self.agrees_on(r)
        })
    }

    /// Whether recovery says what the model says of one partition, but for what is
    /// learnt again from the coordinators: their record, and which older record
    /// dropped an earlier replica.
    pub(super) fn agrees_on(&self, recovered: &RecoveredPartition) -> Result<(), String> {
        let RecoveredPartition {
            meta,
            entries,
            applied,
            corrupt,
            dropped_tail: _,
            missing: _,
        } = recovered;
        let state = self.partition(meta.partition);
        let check = |fits: bool, what: &str| {
            if fits {
                Ok(())
            } else {
                Err(format!("{what} of {}: {meta:?}", meta.partition))
            }
        };
        check(!corrupt, "health")?;
        check(meta.replica == state.replica, "replica")?;
        check(meta.promised == state.promised, "promise")?;
        if state.replica.is_none() {
            check(meta.deleted_at == state.deleted_at, "deletion")?;
            return check(entries.is_empty(), "entries of a deleted replica");
        }
        check(Some(meta.generation) == state.generation, "generation")?;
        let base = meta.base.index();
        check(base <= applied.index(), "base against the applied mark")?;
        check(applied.index() <= state.head().index(), "applied mark")?;
        check(state.mark_at(applied.index()) == *applied, "applied chain")?;
        check(state.mark_at(base) == meta.base, "base")?;
        check(
            entries.as_slice() == &state.log[base.0 as usize..],
            "entries",
        )?;
        check(state.lineage().ends_with(&meta.lineage), "lineage")?;
        check(
            meta.lineage.last().copied().unwrap_or(meta.base) == state.head(),
            "head",
        )
    }
}

pub(super) fn record(partition: PartitionId, epoch: Epoch, revision: u64) -> PartitionRecord {
    PartitionRecord {
        id: partition,
        slots: SlotRange { first: 0, last: 9 },
        epoch,
        revision,
        config: Configuration {
            current: ReplicaSet {
                members: Vec::new(),
                write_quorum: 1,
            },
            joint: None,
            learners: Vec::new(),
            readers: Vec::new(),
        },
        primary: None,
        degraded: false,
        changed_at: MapVersion(revision),
    }
}

/// A body that writes or deletes a few of a few keys.
pub(super) fn body(choices: &mut Choices) -> Bytes {
    let mut body = EntryBody::default();
    let first = choices.below(8);
    for key in first..first + 1 + choices.below(2) {
        let key = Bytes::from(format!("key{key}"));
        let value = (!choices.one_in(5)).then(|| StoredValue {
            expires_at: None,
            kind: 0,
            data: Bytes::from(vec![choices.number() as u8; choices.below(300) as usize]),
        });
        body.writes.push((key, value));
    }
    body.encode()
}
