//! What the nodes want done: the log, the store, the network.

use cairn_core::ids::{Index, NodeId, PartitionId};
use cairn_core::replication::{
    DurableRecord, Effect, Event, Generation, LogEntry, PeerMessage, Standing,
};
use rand::Rng;

use super::{COORDINATORS, Happening, World};
use crate::edge::{Answer, Caller, Outcome};
use crate::plan::Noise;

impl World {
    pub(super) fn step(&mut self, id: NodeId, event: Event) -> Result<(), String> {
        let mut effects = Vec::new();
        let now = self.now;
        let quiet = matches!(event, Event::Tick | Event::Coordinators { .. });
        let told = self.options.trace && !quiet;
        let node = self.node(id);
        let clock = node.clock(now);
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        let told = told.then(|| format!("{id} <- {event:?}"));
        core.step(clock, event, &mut effects);
        if let Some(told) = told {
            self.say(|| told);
        }
        self.carry_out(id, effects)
    }

    pub(super) fn carry_out(&mut self, id: NodeId, effects: Vec<Effect>) -> Result<(), String> {
        // What travels in batches may touch partitions that the event does not name.
        for partition in self.partitions.ids() {
            self.stepped(id, partition)?;
        }
        for effect in effects {
            match effect {
                Effect::Append(record) => {
                    self.say(|| format!("    {id} wal {record:?}"));
                    if matches!(record, DurableRecord::Truncate { .. }) {
                        self.coverage.count("truncation");
                    }
                    let partition = record.partition();
                    let invariants = &mut self.partitions[partition].invariants;
                    let appends = invariants.appends(id, &record);
                    appends.map_err(self.partitions.broken(partition))?;
                    if matches!(record, DurableRecord::Create { .. }) {
                        self.node(id).corrupt.remove(&partition);
                    }
                    self.node(id).waiting.push(record);
                }
                Effect::Send { to, message } => self.send(id, to, message),
                Effect::Apply {
                    partition,
                    generation,
                    entries,
                } => self.apply(id, partition, generation, &entries)?,
                Effect::Committed { partition, index } => self.committed(id, partition, index)?,
                Effect::Deposed { partition, epoch } => {
                    let of = self.partitions.of(partition);
                    self.say(|| format!("    {id} deposed of {epoch}{of}"));
                    self.coverage.count("deposed");
                    if let Some(mut edge) = self.edges.remove(&(id, partition)) {
                        self.tell(edge.depose());
                    }
                }
                Effect::Report(report) => {
                    let partition = report.partition;
                    let honest = self.partitions[partition].invariants.reports(id, &report);
                    honest.map_err(self.partitions.broken(partition))?;
                    if self.now >= self.coordinators_away_until && !self.is_cut(id.0, COORDINATORS)
                    {
                        let after = self.rng.random_range(200..5_000);
                        self.at(after, Happening::Report(id, report));
                    }
                }
                Effect::FetchSnapshot {
                    from,
                    wanted,
                    generation,
                } => self.begin_copy(id, from, wanted, generation),
                Effect::DropGeneration { generation, .. } => {
                    self.node(id).drop_generation(generation)?;
                }
                Effect::Reclaimable { partition, index } => {
                    self.node(id).reclaimable(partition, index);
                }
                Effect::ProbeLog => {
                    let session = self.node(id).session;
                    let after = self.rng.random_range(100..1_500);
                    self.at(after, Happening::Probed(id, session));
                }
                Effect::Mended { partition } => {
                    self.coverage.count("log mended");
                    self.node(id).corrupt.remove(&partition);
                    let head = self.standing(id, partition).map(|s| s.head);
                    let head = head.unwrap_or(Index::ZERO);
                    let invariants = &mut self.partitions[partition].invariants;
                    invariants.wholeness.mended(id, head);
                }
                Effect::Everywhere { .. } => {}
                Effect::Standing { partition } => {
                    let stopped = self.standing(id, partition);
                    let stopped =
                        stopped.filter(|s| !s.serving && s.primary.is_some_and(|p| p.node == id));
                    if stopped.is_some() && self.urged {
                        // As the agent does, the coordinators are told at once.
                        let session = self.node(id).session;
                        self.beat(id, session);
                    }
                }
                Effect::Proved {
                    partition,
                    level,
                    before,
                    proof,
                } => self.proved(id, partition, level, (before, proof)),
            }
        }
        self.flush(id);
        Ok(())
    }

    /// A node was stepped, for all that it may mean to a partition.
    fn stepped(&mut self, id: NodeId, partition: PartitionId) -> Result<(), String> {
        let invariants = &mut self.partitions[partition].invariants;
        let stepped = invariants.stepped(&self.nodes, id, partition, self.now);
        let cut = invariants.losses.cut.take();
        stepped.map_err(self.partitions.broken(partition))?;
        self.near_stepped(id, partition);
        if let Some(cut) = cut {
            let of = self.partitions.of(partition);
            self.say(|| format!("-- writes past {cut}{of} are lost"));
            self.coverage.count("acknowledged writes lost where W is 1");
            for read in self.reads.values_mut() {
                read.lower(partition, cut);
            }
        }
        Ok(())
    }

    /// How a node's replica of a partition stands, where there is one that runs.
    pub(super) fn standing(&self, id: NodeId, partition: PartitionId) -> Option<Standing> {
        let node = &self.nodes[(id.0 - 1) as usize];
        node.core.as_ref()?.standing(partition)
    }

    /// A node's state of a partition is that generation, and what every replica's must be.
    pub(super) fn holds(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        generation: Generation,
    ) -> Result<(), String> {
        let (mark, digest) = self.node(id).state(generation)?;
        let invariants = &mut self.partitions[partition].invariants;
        let equal = invariants.holds(id, mark, digest);
        equal.map_err(self.partitions.broken(partition))
    }

    fn apply(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        generation: Generation,
        entries: &[LogEntry],
    ) -> Result<(), String> {
        let session = self.node(id).session;
        if let Some(standing) = self.standing(id, partition) {
            let invariants = &mut self.partitions[partition].invariants;
            let applies = invariants.applies(id, partition, &standing, entries);
            applies.map_err(self.partitions.broken(partition))?;
        }
        self.near_begins(id, partition, generation, entries)?;
        let mark = self.node(id).apply(partition, generation, entries)?;
        self.holds(id, partition, generation)?;
        let after = self.rng.random_range(50..3_000);
        let happening = Happening::Applied(id, session, partition, generation, mark.index());
        self.at(after, happening);
        Ok(())
    }

    pub(super) fn applied(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        generation: Generation,
        index: Index,
    ) -> Result<(), String> {
        if self.rng.random_bool(0.1) {
            self.node(id).persist()?;
        }
        self.near_shows(id, partition, generation, index);
        let standing = self.standing(id, partition);
        if standing.is_some_and(|s| s.generation == generation)
            && let Some(edge) = self.edges.get_mut(&(id, partition))
        {
            edge.applied(index);
        }
        self.step(
            id,
            Event::Applied {
                partition,
                generation,
                index,
            },
        )
    }

    fn flush(&mut self, id: NodeId) {
        let slow = self.noise(Noise::SlowFlush, 0.02);
        let now = self.now;
        let node = self.node(id);
        if node.core.is_none() || !node.writing.is_empty() || node.waiting.is_empty() {
            return;
        }
        let slow = slow || node.slow_until > now;
        node.writing = std::mem::take(&mut node.waiting);
        let session = node.session;
        let after = if slow {
            self.rng.random_range(20_000..400_000)
        } else {
            self.rng.random_range(100..1_500)
        };
        self.at(after, Happening::Flushed(id, session));
    }

    pub(super) fn flushed(&mut self, id: NodeId) -> Result<(), String> {
        if let Some(power_loss) = self.node(id).ends_writing {
            self.coverage.count("ends while it writes");
            self.end_and_restart(id, power_loss);
            return Ok(());
        }
        let Some((number, records)) = self.node(id).flush()? else {
            return self.flush_failed(id);
        };
        for record in &records {
            let partition = record.partition();
            let flushed = self.partitions[partition].invariants.flushed(id, record);
            flushed.map_err(self.partitions.broken(partition))?;
        }
        self.step(id, Event::Flushed { number })?;
        self.flush(id);
        if self.rng.random_bool(0.02) {
            match self.node(id).idle()? {
                None => return self.flush_failed(id),
                Some(true) => self.coverage.count("segment reclaimed"),
                Some(false) => {}
            }
        }
        Ok(())
    }

    pub(super) fn probed(&mut self, id: NodeId) -> Result<(), String> {
        let Some(number) = self.node(id).probe()? else {
            return self.flush_failed(id);
        };
        self.coverage.count("log probed");
        self.step(id, Event::Flushed { number })
    }

    fn send(&mut self, from: NodeId, to: NodeId, mut message: PeerMessage) {
        self.tamper(&mut message);
        let (now, pair) = (self.now, (from.0, to.0));
        if self.cut.get(&pair).is_some_and(|until| *until > now) {
            return;
        }
        if self.noise(Noise::Drop, 0.01) {
            self.coverage.count("drop");
            return;
        }
        let mut after = self.rng.random_range(50..800);
        if let Some((until, extra)) = self.slow.get(&pair)
            && *until > now
        {
            after += extra + self.rng.random_range(0..*extra);
        }
        if self.noise(Noise::Delay, 0.02) {
            after += self.rng.random_range(1_000..200_000);
            self.coverage.count("delay");
        }
        if self.noise(Noise::Duplicate, 0.01) {
            self.coverage.count("duplicate");
            let late = after + self.rng.random_range(100..50_000);
            let message = message.clone();
            self.at(late, Happening::Deliver { from, to, message });
        }
        self.at(after, Happening::Deliver { from, to, message });
    }

    fn committed(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        index: Index,
    ) -> Result<(), String> {
        let now = self.now;
        let clock = self.node(id).clock(now);
        let Some(standing) = self.standing(id, partition) else {
            return Ok(());
        };
        let edge = self.edges.entry((id, partition)).or_default();
        let outcome = edge.committed(&standing, clock, index);
        self.conclude(id, partition, outcome)
    }

    /// Carries out what came of a call to a node's edge.
    pub(super) fn conclude(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        outcome: Outcome,
    ) -> Result<(), String> {
        for event in outcome.events {
            self.coverage.count(event);
        }
        let now = self.now;
        let clock = self.node(id).clock(now);
        if let Some(standing) = self.standing(id, partition) {
            for mark in outcome.acknowledged {
                let invariants = &mut self.partitions[partition].invariants;
                invariants.liveness.written = now;
                let acknowledged = invariants.acknowledge((id, clock), &standing, mark);
                acknowledged.map_err(self.partitions.broken(partition))?;
                self.partitions[partition]
                    .invariants
                    .near
                    .acknowledged(now, mark);
                self.coverage.count("write acknowledged");
            }
        }
        for position in outcome.repeated {
            let repeated = self.partitions[partition].invariants.repeated(id, position);
            repeated.map_err(self.partitions.broken(partition))?;
        }
        self.tell(outcome.answers);
        self.carry_out(id, outcome.effects)
    }

    /// Answers leave for clients.
    pub(super) fn tell(&mut self, answers: Vec<(Caller, Answer)>) {
        for (caller, answer) in answers {
            if self.noise(Noise::Requests, 0.01) {
                continue;
            }
            let after = self.rng.random_range(50..800);
            self.at(after, Happening::Reply(caller, answer));
        }
    }
}
