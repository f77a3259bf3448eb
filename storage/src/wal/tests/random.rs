//! Random histories, each from its seed.

use cairn_core::ids::{Index, PartitionId};
use cairn_core::kv::VersionedValue;
use cairn_core::replication::{DurableRecord, Generation};

use super::super::{Recovery, Wal, WalError, WalOptions};
use super::model::{Choices, Model, open, open_with, options};
use crate::sim::{MemDisk, MemStore};
use crate::state::{self, Kind, apply_entries, kind_range};
use crate::store::Store;

/// How many seeds a test runs.
const SEEDS: u64 = 150;
/// Steps to a life of the process, at most.
const STEPS: u64 = 60;
/// How often the process starts again.
const LIVES: u64 = 6;

pub(super) struct World {
    pub(super) choices: Choices,
    pub(super) options: WalOptions,
    pub(super) disk: MemDisk,
    pub(super) store: MemStore,
    /// What was acknowledged.
    pub(super) model: Model,
    /// What was under way when the power went.
    in_flight: Vec<DurableRecord>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            choices: Choices::new(seed),
            options: options(),
            disk: MemDisk::new(),
            store: MemStore::new(),
            model: Model::default(),
            in_flight: Vec::new(),
        }
    }

    /// Appends a few records; `false` once the power is gone.
    fn append(&mut self, wal: &mut Wal<MemDisk>) -> bool {
        let mut next = self.model.clone();
        let store = self.store.clone();
        let applied = |generation: Generation| state::applied(&store, generation).unwrap().index();
        let mut records = Vec::new();
        for _ in 0..=self.choices.below(12) {
            let record = next.draw(&mut self.choices, &applied);
            next.take(&record);
            records.push(record);
        }
        if wal.append(&records).is_err() {
            self.in_flight = records;
            self.model.next = next.next;
            return false;
        }
        self.model = next;
        true
    }

    /// Applies some of what is acknowledged.
    fn apply(&mut self) {
        let ids: Vec<PartitionId> = self.model.partitions.keys().copied().collect();
        for id in ids {
            let state = self.model.partition(id);
            let Some(generation) = state.generation.filter(|_| state.replica.is_some()) else {
                continue;
            };
            let applied = state::applied(&self.store, generation).unwrap().index().0;
            let upto = applied + self.choices.below(state.head().index().0 - applied + 1);
            let entries = &state.log[applied as usize..upto as usize];
            apply_entries(&self.store, id, generation, entries).unwrap();
        }
    }

    /// Tells the log what the store durably holds and what the others have.
    fn report(&mut self, wal: &mut Wal<MemDisk>) {
        self.store.persist().unwrap();
        for (id, state) in &self.model.partitions {
            let Some(generation) = state.generation.filter(|_| state.replica.is_some()) else {
                continue;
            };
            let applied = state::applied(&self.store, generation).unwrap().index();
            wal.set_store_durable(*id, generation, applied);
            let needed = self.choices.below(state.head().index().0 + 1);
            wal.set_reclaimable(*id, Index(needed));
        }
    }

    pub(super) fn step(&mut self, wal: &mut Wal<MemDisk>) -> bool {
        match self.choices.below(12) {
            0 => wal.confirm().is_ok(),
            1 | 2 => {
                self.apply();
                true
            }
            3 => {
                self.report(wal);
                true
            }
            4 => wal.reclaim().is_ok(),
            5 => wal.probe().is_ok(),
            _ => self.append(wal),
        }
    }

    pub(super) fn lose_power(&mut self) {
        let choices = &mut self.choices;
        if choices.one_in(3) {
            // The process dies and the page cache lives.
            self.disk.lose_power(&mut |n| n - 1);
            self.store.lose_power(&mut |n| n - 1);
        } else {
            self.disk.lose_power(&mut |n| choices.below(n));
            self.store.lose_power(&mut |n| choices.below(n));
        }
    }

    /// Opens the log again and takes over what it says, which must be what was
    /// acknowledged and a first part of what was under way.
    pub(super) fn recover(&mut self, seed: u64) -> Wal<MemDisk> {
        let random = self.choices.number();
        let (wal, recovery) = open_with(&self.disk, &self.store, random, self.options)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(recovery.damage, Vec::<String>::new(), "seed {seed}");
        let mut candidate = self.model.clone();
        let mut complaints = Vec::new();
        let in_flight = std::mem::take(&mut self.in_flight);
        let fits = std::iter::once(None)
            .chain(in_flight.iter().map(Some))
            .any(|record| {
                if let Some(record) = record {
                    candidate.take(record);
                }
                match candidate.agrees(&recovery.partitions) {
                    Ok(()) => true,
                    Err(complaint) => {
                        complaints.push(complaint);
                        false
                    }
                }
            });
        assert!(fits, "seed {seed}: {complaints:#?}");
        self.model = Model {
            next: self.model.next.max(recovery.next_generation),
            ..candidate
        };
        self.check_data(&recovery, seed);
        wal
    }

    /// The store holds exactly what the log makes up to the applied mark.
    fn check_data(&self, recovery: &Recovery, seed: u64) {
        for recovered in &recovery.partitions {
            let state = self.model.partition(recovered.meta.partition);
            let (Some(_), Some(generation)) = (state.replica, state.generation) else {
                continue;
            };
            let mut data = std::collections::BTreeMap::new();
            let (from, to) = kind_range(generation, Kind::Data);
            self.store
                .scan(&from, Some(&to), &mut |key, value| {
                    let value = VersionedValue::decode(value).unwrap();
                    data.insert(key.slice(state::KEY_PREFIX_BYTES..), value.value.data);
                    true
                })
                .unwrap();
            assert_eq!(
                data,
                state.data(recovered.applied.index()),
                "seed {seed}, {}",
                recovered.meta.partition
            );
        }
    }
}

#[test]
fn what_was_flushed_survives_every_power_loss() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let mut wal = world.recover(seed);
        for _ in 0..LIVES {
            if world.choices.one_in(2) {
                let changes = world.choices.below(40);
                world.disk.fail_after(changes);
            }
            for _ in 0..world.choices.below(STEPS) {
                if !world.step(&mut wal) {
                    break;
                }
            }
            world.lose_power();
            if world.choices.one_in(3) {
                // The power goes again while the log recovers.
                let changes = world.choices.below(8);
                world.disk.fail_after(changes);
                let opened = open(&world.disk, &world.store, world.choices.number());
                drop(opened);
                world.lose_power();
            }
            wal = world.recover(seed);
        }
    }
}

#[test]
fn a_flipped_bit_never_passes_for_the_truth() {
    let mut noticed = 0;
    let mut whole = 0;
    let mut refused = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed ^ 0xf11b);
        let mut wal = world.recover(seed);
        for _ in 0..world.choices.below(STEPS) {
            world.step(&mut wal);
        }
        wal.confirm().unwrap();
        drop(wal);
        let names: Vec<String> = crate::disk::Disk::list(&world.disk)
            .unwrap()
            .into_iter()
            .filter(|name| name.starts_with("segment-"))
            .collect();
        let name = &names[world.choices.below(names.len() as u64) as usize];
        let length = world.disk.contents(name).unwrap().len() as u64;
        let bit = world.choices.below(length * 8);
        world.disk.flip_bit(name, bit);
        world.lose_power();
        // Twice: what the first start knew, the second must not have forgotten.
        for start in 0..2 {
            match open(&world.disk, &world.store, world.choices.number()) {
                Ok((_, recovery)) => {
                    noticed += usize::from(!recovery.damage.is_empty());
                    for recovered in recovery.partitions.iter().filter(|r| !r.corrupt) {
                        whole += 1;
                        world
                            .model
                            .agrees_on(recovered)
                            .unwrap_or_else(|complaint| {
                                panic!("seed {seed}, start {start}, {name} bit {bit}: {complaint}")
                            });
                    }
                }
                Err(WalError::Unreadable | WalError::StructureLost(_)) => {
                    noticed += 1;
                    refused += 1;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
            world.lose_power();
        }
    }
    assert!(noticed > 20, "only {noticed} flips hit anything");
    assert!(whole > 100, "only {whole} partitions stayed whole");
    // Only a segment's header and what a start carries over stand there once.
    assert!(refused * 4 < noticed, "{refused} of {noticed} were refused");
}

#[test]
fn a_flush_that_fails_acknowledges_nothing() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed ^ 0xfa11);
        let mut wal = world.recover(seed);
        for _ in 0..world.choices.below(STEPS / 2) {
            world.step(&mut wal);
        }
        world.disk.fail_next_sync();
        while world.append(&mut wal) {}
        drop(wal);
        world.lose_power();
        world.recover(seed);
    }
}
