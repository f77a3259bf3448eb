//! Copies for reads alone: where a partition's reads stay hot, nodes with time to spare get one,
//! and give it up when the reads cool or the node is needed.
//!
//! Such a copy decides nothing and nothing waits for it; so whatever else happens to a partition
//! comes first. What keeps it calm:
//! - reads are hot by what each copy that there is has to answer, for a while without a break,
//!   and cool by what one copy fewer would have, at half of that, for longer;
//! - of a partition one copy is made at a time, and of all a few;
//! - a node gets one only where it would still be clearly less busy than the busiest of those
//!   that serve the partition now;
//! - one that could not keep up is not made anew at once.

use std::collections::{BTreeMap, BTreeSet};

use super::Supervisor;
use crate::cluster::command::Command;
use crate::cluster::report::KeyHeat;
use crate::cluster::state::READERS_MAX;
use crate::cluster::status::{HOT_SHOWN, HeatStatus, HotKeyStatus, HotPartition};
use crate::features::Feature;
use crate::hot::{KeyHash, PartitionLoad};
use crate::ids::{Micros, NodeId, PartitionId};
use crate::record::{Member, PartitionRecord};

/// How many copies for reads may be filled at a time, of all partitions.
const FILLED_AT_ONCE: usize = 2;
/// A node is given a copy where it would have at most so many percent of the requests that the
/// busiest of the partition's nodes has.
const BUSY_PERCENT: u64 = 80;

/// A partition is shown as hot where it is asked so many times what one is on average, and at
/// least so many times in a second.
const HOT_TIMES: u64 = 4;
const HOT_LEAST: u64 = 500;

/// When copies for reads are made, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadCopies {
    /// The most of one partition; 0 for none at all.
    pub per_partition: usize,
    /// The most of all partitions.
    pub in_all: usize,
    /// Reads in a second that any replica may answer, for each replica that answers them, from
    /// which on they are hot.
    pub hot_at: u64,
    /// For how long they must have been hot.
    pub hot_for: Micros,
    /// For how long they must have been cool before a copy goes.
    pub cool_for: Micros,
    /// How long one may be silent before it is given up.
    pub silent_for: Micros,
    /// How long after one that was given up the next is made of that partition.
    pub rest: Micros,
}

impl Default for ReadCopies {
    fn default() -> Self {
        Self {
            per_partition: 2,
            in_all: 16,
            hot_at: 10_000,
            hot_for: Micros::from_millis(10_000),
            cool_for: Micros::from_millis(60_000),
            silent_for: Micros::from_millis(10_000),
            rest: Micros::from_millis(60_000),
        }
    }
}

/// What is remembered of a partition's reads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadHeat {
    hot_since: Option<Micros>,
    cool_since: Option<Micros>,
    /// When the next copy may be made.
    rest_until: Micros,
}

/// What is hot in the whole cluster, by what the nodes told lately.
#[derive(Debug, Default)]
pub(super) struct Heat {
    pub(super) partitions: BTreeMap<PartitionId, PartitionLoad>,
    pub(super) keys: BTreeMap<(PartitionId, u64), KeyHeat>,
    /// Requests in a second by node, of what it told.
    nodes: BTreeMap<NodeId, u64>,
    /// The same of each partition.
    on_nodes: BTreeMap<(PartitionId, NodeId), u64>,
}

impl Heat {
    /// What is asked of a partition in a second.
    pub(super) fn asked(&self, partition: PartitionId) -> u64 {
        let load = self.partitions.get(&partition);
        load.map_or(0, PartitionLoad::requests_per_second)
    }

    /// Of that, what is asked of one node.
    pub(super) fn asked_on(&self, partition: PartitionId, node: NodeId) -> u64 {
        self.on_nodes.get(&(partition, node)).copied().unwrap_or(0)
    }

    pub(super) fn requests(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).copied().unwrap_or(0)
    }
}

/// What is hot, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeatFigures {
    /// Partitions that are asked far more than others, of those that are shown.
    pub partitions: usize,
    /// What the hottest of them is asked in a second.
    pub hottest_requests_per_second: u64,
    /// Copies for reads alone.
    pub read_copies: usize,
}

fn shown(key: &KeyHeat) -> HotKeyStatus {
    let name = key.name.as_deref().map(String::from_utf8_lossy);
    HotKeyStatus {
        partition: key.partition,
        key: name.map_or_else(|| KeyHash(key.hash).to_string(), Into::into),
        reads_per_second: key.reads_per_second,
        writes_per_second: key.writes_per_second,
        bytes_per_second: key.bytes_per_second,
        hot_for_ms: key.hot_for_ms,
    }
}

impl Supervisor {
    /// What the nodes told lately, put together.
    pub(super) fn heat(&self, now: Micros) -> Heat {
        let mut heat = Heat::default();
        let partitions = self.state.partitions().len();
        for (node, report) in self.views.heat(now) {
            for (partition, load) in &report.partitions {
                if (partition.0 as usize) < partitions {
                    let sum = heat.partitions.entry(*partition).or_default();
                    *sum = sum.plus(load);
                    let asked = heat.nodes.entry(node).or_default();
                    *asked = asked.saturating_add(load.requests_per_second());
                    let here = heat.on_nodes.entry((*partition, node)).or_default();
                    *here = here.saturating_add(load.requests_per_second());
                }
            }
            for key in &report.keys {
                let known = heat.keys.entry((key.partition, key.hash));
                known
                    .and_modify(|known| {
                        let sum = u64::saturating_add;
                        known.reads_per_second = sum(known.reads_per_second, key.reads_per_second);
                        known.writes_per_second =
                            sum(known.writes_per_second, key.writes_per_second);
                        known.bytes_per_second = sum(known.bytes_per_second, key.bytes_per_second);
                        known.hot_for_ms = known.hot_for_ms.max(key.hot_for_ms);
                        if known.name.is_none() {
                            known.name.clone_from(&key.name);
                        }
                    })
                    .or_insert_with(|| key.clone());
            }
        }
        heat
    }

    /// How many copies for reads alone there are.
    fn read_copies(&self) -> usize {
        let records = self.state.partitions().iter();
        records.map(|record| record.config.readers.len()).sum()
    }

    /// What is hot, in numbers.
    #[must_use]
    pub fn heat_figures(&self, now: Micros) -> HeatFigures {
        let shown = self.heat_status(&self.heat(now));
        let hottest = shown
            .partitions
            .iter()
            .map(|hot| hot.load.requests_per_second());
        HeatFigures {
            partitions: shown.partitions.len(),
            hottest_requests_per_second: hottest.max().unwrap_or(0),
            read_copies: shown.read_copies,
        }
    }

    /// What a partition must be asked in a second to count as hot.
    pub(super) fn hot_bound(&self, heat: &Heat) -> u64 {
        let asked = heat.partitions.values();
        let all = asked
            .map(PartitionLoad::requests_per_second)
            .fold(0, u64::saturating_add);
        let mean = all / (self.state.partitions().len() as u64).max(1);
        HOT_LEAST.max(mean.saturating_mul(HOT_TIMES))
    }

    /// The hottest of it, for people.
    pub(super) fn heat_status(&self, heat: &Heat) -> HeatStatus {
        let asked = |load: &PartitionLoad| load.requests_per_second();
        let bound = self.hot_bound(heat);
        let readers = |partition: PartitionId| {
            let record = self.state.partition(partition);
            record.map_or(0, |record| record.config.readers.len())
        };
        let mut partitions: Vec<HotPartition> = heat
            .partitions
            .iter()
            .filter(|(_, load)| asked(load) >= bound)
            .map(|(partition, load)| HotPartition {
                partition: *partition,
                load: *load,
                read_copies: readers(*partition),
            })
            .collect();
        partitions.sort_by_key(|hot| (std::cmp::Reverse(asked(&hot.load)), hot.partition));
        partitions.truncate(HOT_SHOWN);
        let mut keys: Vec<&KeyHeat> = heat.keys.values().collect();
        keys.sort_by_key(|key| {
            let asked = key.reads_per_second.saturating_add(key.writes_per_second);
            (std::cmp::Reverse(asked), key.hash)
        });
        keys.truncate(HOT_SHOWN);
        HeatStatus {
            partitions,
            keys: keys.into_iter().map(shown).collect(),
            read_copies: self.read_copies(),
        }
    }

    /// Looks after the copies for reads. Called at every sweep.
    pub(super) fn tend_readers(&mut self, now: Micros, heat: &Heat) {
        let copies = self.options.read_copies;
        let understood = self.check_feature(Feature::ReadCopies);
        let may_make = copies.per_partition > 0 && understood.is_ok();
        // Whoever is silent, or was not asked yet, is no reason to give up what there is.
        let may_stay = understood.map_or_else(|lacking| lacking.older() == 0, |()| true);
        let mut looked_at: BTreeSet<PartitionId> = heat.partitions.keys().copied().collect();
        let (mut in_all, mut filling) = (0, 0);
        for record in self.state.partitions() {
            let readers = &record.config.readers;
            if readers.is_empty() {
                continue;
            }
            looked_at.insert(record.id);
            in_all += readers.len();
            filling += readers
                .iter()
                .filter(|m| !self.is_filled(record, **m))
                .count();
        }
        self.read_heat
            .retain(|partition, known| looked_at.contains(partition) || now < known.rest_until);
        let mut wanted: Vec<(u64, PartitionId)> = Vec::new();
        for partition in looked_at {
            let Some(record) = self.state.partition(partition).cloned() else {
                continue;
            };
            let load = heat.partitions.get(&partition).copied();
            let load = load.unwrap_or_default();
            let each = self.note_reads(now, &record, load);
            if !self.is_idle(now, &record) {
                continue;
            }
            if let Some((reader, failed)) = self.reader_to_drop(now, &record, may_stay, heat) {
                if failed {
                    self.read_heat.entry(partition).or_default().rest_until = now.plus(copies.rest);
                }
                self.propose_reader(
                    now,
                    Command::RemoveReader {
                        partition,
                        epoch: record.epoch,
                        revision: record.revision,
                        replica: reader.replica,
                    },
                );
                continue;
            }
            let readers = &record.config.readers;
            let room = readers.len() < copies.per_partition.min(READERS_MAX);
            let steady = readers.iter().all(|m| self.is_filled(&record, *m));
            if may_make && room && steady && self.stays_hot(now, partition) {
                wanted.push((each, partition));
            }
        }
        // The hottest first.
        wanted.sort_by_key(|(each, partition)| (std::cmp::Reverse(*each), *partition));
        for (_, partition) in wanted {
            if in_all >= copies.in_all || filling >= FILLED_AT_ONCE {
                break;
            }
            let Some(record) = self.state.partition(partition).cloned() else {
                continue;
            };
            let load = heat.partitions.get(&partition).copied().unwrap_or_default();
            let Some(node) = self.node_for_reader(now, &record, &load, heat) else {
                continue;
            };
            in_all += 1;
            filling += 1;
            // What it brings shows once it answers.
            self.read_heat.entry(partition).or_default().hot_since = None;
            self.propose_reader(
                now,
                Command::AddReader {
                    partition,
                    epoch: record.epoch,
                    revision: record.revision,
                    node,
                },
            );
        }
    }

    /// Notes whether the reads are hot or cool. Returns how many each replica has to answer.
    fn note_reads(&mut self, now: Micros, record: &PartitionRecord, load: PartitionLoad) -> u64 {
        let copies = self.options.read_copies;
        let replicas = record.config.answering_reads().len() as u64;
        let reads = load.replica_reads_per_second;
        let each = reads / replicas.max(1);
        let known = self.read_heat.entry(record.id).or_default();
        if each >= copies.hot_at {
            known.hot_since.get_or_insert(now);
        } else {
            known.hot_since = None;
        }
        let without_one = reads / (replicas.saturating_sub(1)).max(1);
        if without_one < copies.hot_at / 2 {
            known.cool_since.get_or_insert(now);
        } else {
            known.cool_since = None;
        }
        each
    }

    fn stays_hot(&self, now: Micros, partition: PartitionId) -> bool {
        let known = self.read_heat.get(&partition);
        known.is_some_and(|known| {
            let long = |since: Micros| now.minus(since) >= self.options.read_copies.hot_for;
            now >= known.rest_until && known.hot_since.is_some_and(long)
        })
    }

    fn stays_cool(&self, now: Micros, partition: PartitionId) -> bool {
        let known = self.read_heat.get(&partition);
        let long = |since: Micros| now.minus(since) >= self.options.read_copies.cool_for;
        known.is_some_and(|known| known.cool_since.is_some_and(long))
    }

    /// Whether the partition is served and nothing else is being done about it.
    pub(super) fn is_idle(&self, now: Micros, record: &PartitionRecord) -> bool {
        let free = self.works.get(&record.id).is_none_or(|work| {
            work.promotion.is_idle() && work.pending.is_none() && now >= work.rest_until
        });
        free && !super::is_changing(&record.config) && self.views.is_serving(record)
    }

    /// Whether the copy has what the primary has.
    fn is_filled(&self, record: &PartitionRecord, reader: Member) -> bool {
        let follower = self.views.follower(record, reader);
        follower.is_some_and(|f| f.caught_up && f.answering)
    }

    /// A copy that is to go, and whether it failed.
    fn reader_to_drop(
        &self,
        now: Micros,
        record: &PartitionRecord,
        may_stay: bool,
        heat: &Heat,
    ) -> Option<(Member, bool)> {
        let copies = self.options.read_copies;
        let readers = &record.config.readers;
        let work = self.works.get(&record.id);
        let failed = |reader: &&Member| {
            let silent = work.and_then(|work| work.silent.get(&reader.replica));
            self.views.is_corrupt(record.id, **reader)
                || self
                    .views
                    .follower(record, **reader)
                    .is_some_and(|f| f.hopeless)
                || silent.is_some_and(|since| now.minus(*since) >= copies.silent_for)
        };
        let needed = |reader: &&Member| {
            !self.state.is_member(reader.node)
                || self.state.leaving(reader.node).is_some()
                || self.views.is_full(reader.node)
        };
        if let Some(reader) = readers.iter().find(needed) {
            return Some((*reader, false));
        }
        if let Some(reader) = readers.iter().find(failed) {
            return Some((*reader, true));
        }
        let surplus = readers.len() > copies.per_partition
            || !may_stay
            || (!readers.is_empty() && self.read_copies() > copies.in_all);
        if !surplus && !self.stays_cool(now, record.id) {
            return None;
        }
        let busiest = readers.iter().max_by_key(|m| heat.requests(m.node));
        busiest.map(|reader| (*reader, false))
    }

    /// The node that is to get a copy of the partition, if any may.
    fn node_for_reader(
        &self,
        now: Micros,
        record: &PartitionRecord,
        load: &PartitionLoad,
        heat: &Heat,
    ) -> Option<NodeId> {
        let replicas = record.config.answering_reads();
        let share = load.replica_reads_per_second / (replicas.len() as u64 + 1);
        let busiest = replicas.iter().map(|m| heat.requests(m.node)).max()?;
        let most = busiest.saturating_mul(BUSY_PERCENT) / 100;
        let seats = self.state.seats(record.id);
        let bytes = record
            .primary
            .and_then(|primary| self.views.status(record.id, primary))
            .and_then(|status| status.bytes);
        let copies: BTreeMap<NodeId, usize> = {
            let mut copies = BTreeMap::new();
            for reader in self
                .state
                .partitions()
                .iter()
                .flat_map(|r| &r.config.readers)
            {
                *copies.entry(reader.node).or_default() += 1;
            }
            copies
        };
        let basis = self.state.basis();
        basis
            .nodes
            .keys()
            .copied()
            .filter(|node| {
                let room = bytes.is_none_or(|bytes| {
                    let figures = self.views.figures(*node);
                    figures.is_none_or(|f| f.disk_total_bytes == 0 || f.disk_free_bytes / 4 > bytes)
                });
                room && !seats.contains(node)
                    && record.config.on_node(*node).is_none()
                    && self.is_up_for(now, *node, self.options.repair_after)
                    && !self.views.is_draining(*node)
                    && !self.views.is_full(*node)
                    && !self.views.detector.is_deaf(*node)
                    && self.cordoned_until(*node).is_none()
                    && !self.is_announced(*node)
                    && heat.requests(*node).saturating_add(share) <= most
            })
            .min_by_key(|node| {
                let has = copies.get(node).copied().unwrap_or(0);
                (heat.requests(*node), has, *node)
            })
    }

    fn propose_reader(&mut self, now: Micros, command: Command) {
        let work = command
            .partition()
            .and_then(|partition| self.works.get_mut(&partition));
        if let Some(work) = work {
            work.pending = Some(now);
            self.queue.push(command);
        }
    }
}
