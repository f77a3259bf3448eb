//! What goes wrong, and the end of it.

use std::collections::BTreeSet;

use cairn_core::cluster::settings::SettingsChange;
use cairn_core::cluster::supervisor::{AdminRequest, Input};
use cairn_core::ids::{Micros, NodeId, PartitionId};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::{DiskRoom, Event, Timing};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Brain, COORDINATORS, Happening, World};
use crate::plan::{Fault, Kind};

/// What an ambush does, when its moment comes.
const AMBUSHES: [Kind; 8] = [
    Kind::Crash,
    Kind::PowerLoss,
    Kind::Isolate,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Pause,
    Kind::Halves,
    Kind::Halves,
];

/// Something that waits for the coordinators to decide.
pub(super) struct Ambush {
    left: u32,
    rng: StdRng,
}

impl World {
    /// A fault strikes.
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), String> {
        let mut rng = StdRng::seed_from_u64(fault.seed);
        let any = self.nodes[rng.random_range(0..self.nodes.len())].id;
        let partition = self.partitions.draw(&mut rng);
        let primary = self.record(partition).and_then(|record| record.primary);
        // What strikes the primary hurts most.
        let id = match primary {
            Some(primary) if rng.random_bool(0.3) => primary.node,
            _ => any,
        };
        let number = fault.number;
        self.say(|| format!("-- fault {number}: {:?}", fault.kind));
        self.strike(fault.kind, id, &mut rng)
    }

    /// Something strikes a node, or what is around it.
    pub(super) fn strike(
        &mut self,
        kind: Kind,
        id: NodeId,
        rng: &mut StdRng,
    ) -> Result<(), String> {
        let n = (id.0 - 1) as usize;
        // Nothing more happens to what has no disk any more.
        if self.healing || (self.retired.contains(&id.0) && kind != Kind::Join) {
            return Ok(());
        }
        match kind {
            Kind::Crash => self.crash(id, false, rng),
            Kind::PowerLoss => self.crash(id, true, rng),
            Kind::Pause => {
                let until = self.lasting(rng, 1_000..1_000_000);
                self.nodes[n].paused_until = until;
                self.say(|| format!("{id} is paused until {until:?}"));
                self.coverage.count("pause");
            }
            Kind::Isolate => self.isolate(id, false, rng),
            Kind::OneWay => self.isolate(id, true, rng),
            Kind::PartialPartition => {
                let until = self.lasting(rng, 10_000..1_500_000);
                for (a, b) in self.pairs() {
                    if rng.random_bool(0.3) {
                        self.cut.insert((a, b), until);
                        self.cut.insert((b, a), until);
                    }
                }
                let cut: Vec<_> = self.cut.keys().copied().collect();
                self.say(|| format!("cut until {until:?}: {cut:?}"));
                self.coverage.count("partial partition");
            }
            Kind::SlowLinks => {
                let until = self.lasting(rng, 100_000..2_000_000);
                for (a, b) in self.pairs() {
                    if rng.random_bool(0.4) {
                        let extra = rng.random_range(2_000..80_000);
                        self.slow.insert((a, b), (until, extra));
                        self.slow.insert((b, a), (until, extra));
                    }
                }
                let slow = self.slow.clone();
                self.say(|| format!("slow links: {slow:?}"));
                self.coverage.count("slow links");
            }
            Kind::SlowDisk => {
                let until = self.lasting(rng, 100_000..2_000_000);
                self.nodes[n].slow_until = until;
                self.say(|| format!("the disk of {id} is slow until {until:?}"));
                self.coverage.count("slow disk");
            }
            Kind::FailedFlush => {
                if self.nodes[n].core.is_some() {
                    self.nodes[n].fail_flush();
                    self.say(|| format!("the next flush of {id} fails"));
                }
            }
            Kind::FullDisk => return self.fill_disk(id, rng),
            Kind::FlippedBit => return self.flip_bit(id, rng),
            Kind::Wipe => {
                if self.may_lose_copy(id) {
                    self.copy_lost = true;
                    self.coverage.count("disk wiped");
                    return self.replace(id);
                }
            }
            Kind::FoundDamage => return self.find_damage(id, rng),
            Kind::Drain => {
                let until = self.lasting(rng, 200_000..1_500_000);
                self.nodes[n].draining_until = until;
                self.say(|| format!("{id} drains until {until:?}"));
                self.coverage.count("drained");
                let session = self.nodes[n].session;
                self.at(until.0 - self.now.0, Happening::Stop(id, session));
            }
            Kind::Lease => return self.change_lease(rng),
            Kind::Coordinators => self.lose_coordinators(rng),
            Kind::Siege => {
                let partition = self.partitions.draw(rng);
                let primary = self.record(partition).and_then(|record| record.primary);
                let id = primary.map_or(id, |primary| primary.node);
                return self.besiege(id, partition, rng);
            }
            Kind::Halves => self.halve(id, rng),
            Kind::Rotation => {
                let until = self.lasting(rng, 500_000..4_000_000);
                self.begin_rotation(until, rng);
            }
            Kind::Ambush => {
                self.ambush = Some(Ambush {
                    left: rng.random_range(1..=4),
                    rng: StdRng::seed_from_u64(rng.random()),
                });
            }
            Kind::Confine => self.confine(rng),
            Kind::Join
            | Kind::GiveUp
            | Kind::TakeBack
            | Kind::Gone
            | Kind::StayAway
            | Kind::HoldMoves
            | Kind::Factors
            | Kind::Rehome => return self.change_membership(kind, id, rng),
        }
        Ok(())
    }

    /// The coordinators have decided on a record.
    pub(super) fn spring_ambush(&mut self, record: &PartitionRecord) {
        self.keep_silent(record);
        let Some(mut ambush) = self.ambush.take().filter(|_| !self.healing) else {
            return;
        };
        let rng = &mut ambush.rng;
        for _ in 0..rng.random_range(0..=2) {
            let voters = record.config.voters();
            let target = match record.primary {
                Some(primary) if rng.random_bool(0.6) => Some(primary),
                _ => voters
                    .get(rng.random_range(0..voters.len().max(1)))
                    .copied(),
            };
            let Some(target) = target else { continue };
            let kind = AMBUSHES[rng.random_range(0..AMBUSHES.len())];
            // Before anybody hears of it, while they do, or a little later.
            let longest = [200, 20_000, 150_000][rng.random_range(0..3)];
            let after = rng.random_range(0..longest);
            self.at(after, Happening::Strike(target.node, kind, rng.random()));
            self.coverage.count("ambush");
        }
        ambush.left -= 1;
        self.ambush = (ambush.left > 0).then_some(ambush);
    }

    fn lasting(&self, rng: &mut StdRng, micros: std::ops::Range<u64>) -> Micros {
        self.now.plus(Micros(rng.random_range(micros)))
    }

    /// Every pair of those who talk to each other, once.
    pub(super) fn pairs(&self) -> Vec<(u64, u64)> {
        let count = self.nodes.len() as u64;
        (COORDINATORS..=count)
            .flat_map(|a| (a + 1..=count).map(move |b| (a, b)))
            .collect()
    }

    /// A process ends, half the time in the midst of its next write.
    fn crash(&mut self, id: NodeId, power_loss: bool, rng: &mut StdRng) {
        if self.node(id).core.is_none() {
            return;
        }
        self.coverage
            .count(if power_loss { "power loss" } else { "crash" });
        if rng.random_bool(0.5) {
            self.node(id).ends_writing = Some(power_loss);
            return;
        }
        self.end_process(id, power_loss, rng);
        let after = rng.random_range(1_000..800_000);
        self.at(after, Happening::Start(id));
    }

    /// A process ends, for what the world and no fault draws, and comes back.
    pub(super) fn end_and_restart(&mut self, id: NodeId, power_loss: bool) {
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        self.end_process(id, power_loss, &mut rng);
        let after = rng.random_range(1_000..800_000);
        self.at(after, Happening::Start(id));
    }

    pub(super) fn end_process(&mut self, id: NodeId, power_loss: bool, rng: &mut StdRng) {
        self.node(id).crash(rng, power_loss);
        self.edges.retain(|(node, _), _| *node != id);
        self.say(|| format!("{id} ends, power loss {power_loss}"));
        let session = self.node(id).session;
        self.at(5_000, Happening::StreamClosed(id, session));
    }

    /// A flush failed: the process must not go on (rule 12).
    pub(super) fn flush_failed(&mut self, id: NodeId) -> Result<(), String> {
        self.coverage.count("failed flush");
        let power_loss = self.rng.random_bool(0.3);
        self.end_and_restart(id, power_loss);
        Ok(())
    }

    fn isolate(&mut self, id: NodeId, one_way: bool, rng: &mut StdRng) {
        let until = self.lasting(rng, 10_000..1_500_000);
        self.coverage
            .count(if one_way { "one-way cut" } else { "partition" });
        let deaf = rng.random_bool(0.5);
        let likely = if rng.random_bool(0.4) { 0.95 } else { 0.6 };
        for other in COORDINATORS..=self.nodes.len() as u64 {
            if other == id.0 || !rng.random_bool(likely) {
                continue;
            }
            if !one_way || !deaf {
                self.cut.insert((id.0, other), until);
            }
            if !one_way || deaf {
                self.cut.insert((other, id.0), until);
            }
        }
        self.say(|| format!("{id} is cut off until {until:?}, one way {one_way}"));
    }

    /// A node and about half of the others are cut off from the rest and the coordinators.
    fn halve(&mut self, id: NodeId, rng: &mut StdRng) {
        let until = self.lasting(rng, 50_000..1_500_000);
        let others = 1..=self.nodes.len() as u64;
        let apart: BTreeSet<u64> = others
            .filter(|n| *n == id.0 || rng.random_bool(0.4))
            .collect();
        for (a, b) in self.pairs() {
            if apart.contains(&a) != apart.contains(&b) {
                self.cut.insert((a, b), until);
                self.cut.insert((b, a), until);
            }
        }
        self.say(|| format!("{apart:?} are cut off from the others until {until:?}"));
        self.coverage.count("cut in two");
    }

    /// A partition's primary is cut off from most, is slow to reach for the others, and is to be
    /// followed by others in all that it leads: what it may still answer is told by leases alone.
    fn besiege(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        rng: &mut StdRng,
    ) -> Result<(), String> {
        let until = self.lasting(rng, 50_000..1_500_000);
        for other in COORDINATORS..=self.nodes.len() as u64 {
            if other == id.0 {
                continue;
            }
            for pair in [(id.0, other), (other, id.0)] {
                match rng.random_range(0..10) {
                    0..5 => {
                        self.cut.insert(pair, until);
                    }
                    5..9 => {
                        let extra = rng.random_range(2_000..150_000);
                        self.slow.insert(pair, (until, extra));
                    }
                    _ => {}
                }
            }
        }
        self.say(|| format!("{id} is besieged until {until:?}"));
        self.coverage.count("primary besieged");
        let led = |of: &PartitionId| {
            let primary = self.record(*of).and_then(|record| record.primary);
            *of == partition || primary.is_some_and(|primary| primary.node == id)
        };
        let wanted: Vec<_> = self.partitions.ids().filter(led).collect();
        for partition in wanted {
            self.supervise(Input::Admin(AdminRequest::Promote { partition }))?;
        }
        Ok(())
    }

    fn fill_disk(&mut self, id: NodeId, rng: &mut StdRng) -> Result<(), String> {
        if self.node(id).core.is_none() {
            return Ok(());
        }
        let until = self.lasting(rng, 100_000..2_000_000);
        let room = if rng.random_bool(0.3) {
            DiskRoom::Spent
        } else {
            DiskRoom::Reserve
        };
        self.node(id).full_until = until;
        self.say(|| format!("the disk of {id} is full until {until:?}"));
        self.coverage.count("full disk");
        let session = self.node(id).session;
        let after = until.0 - self.now.0;
        self.at(after, Happening::Room(id, session, DiskRoom::Ample));
        self.step(id, Event::DiskRoom { room })
    }

    /// A bit flips in the log of a process that ended, after what it wrote was confirmed
    /// to be flushed: what is not can be told from a torn tail by nobody.
    fn flip_bit(&mut self, id: NodeId, rng: &mut StdRng) -> Result<(), String> {
        if self.node(id).core.is_none() || !self.may_damage_copy(id) {
            return Ok(());
        }
        if self.node(id).idle()?.is_none() {
            return self.flush_failed(id);
        }
        // Nothing is under way: a batch that is torn now would hide what is confirmed.
        self.node(id).writing.clear();
        self.end_process(id, false, rng);
        if let Some((name, bit)) = self.node(id).flip_bit(rng) {
            self.copy_lost = true;
            self.say(|| format!("bit {bit} of {name} of {id} flips"));
            self.coverage.count("flipped bit");
        }
        let after = rng.random_range(1_000..800_000);
        self.at(after, Happening::Start(id));
        Ok(())
    }

    /// What a running node reads of a replica is damaged, or what may hold any of them.
    fn find_damage(&mut self, id: NodeId, rng: &mut StdRng) -> Result<(), String> {
        let core = self.node(id).core.as_ref();
        let mut partitions: Vec<_> = core.into_iter().flat_map(|c| c.partitions()).collect();
        if partitions.is_empty() || !self.may_damage_copy(id) {
            return Ok(());
        }
        if partitions.len() > 1 && rng.random_bool(0.5) {
            let one = rng.random_range(0..partitions.len());
            partitions = vec![partitions[one]];
        }
        self.copy_lost = true;
        self.node(id).damaged = true;
        self.node(id).corrupt.extend(&partitions);
        for partition in &partitions {
            let invariants = &mut self.partitions[*partition].invariants;
            invariants.wholeness.finds_damage(id);
        }
        self.say(|| format!("{id} finds its replicas of {partitions:?} damaged"));
        self.coverage.count("damage found");
        self.step(id, Event::Corrupt { partitions })
    }

    /// A node that drained ends, and comes back.
    pub(super) fn stop(&mut self, id: NodeId) {
        self.end_and_restart(id, false);
    }

    /// The cluster is given another lease, of which the nodes hear one by one.
    fn change_lease(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let lease_ms = rng.random_range(50..600);
        let lease = Micros::from_millis(lease_ms);
        self.timing.lease = lease;
        // A node that joins later is told with the map what those before it knew.
        self.timing.lease_longest = self.timing.lease_longest.max(lease);
        self.say(|| format!("the lease becomes {lease:?}"));
        self.coverage.count("lease changed");
        for n in 1..=self.nodes.len() as u64 {
            let after = rng.random_range(200..300_000);
            self.at(after, Happening::Lease(NodeId(n), lease));
        }
        let Brain::Shipped(shipped) = &self.brain else {
            return Ok(());
        };
        let change = SettingsChange {
            lease_ms: Some(lease_ms),
            ..SettingsChange::default()
        };
        if let Some(command) = shipped.change(change) {
            self.administer(command)?;
        }
        Ok(())
    }

    /// A node asks for that lease from now on, and has its disk know of the longest.
    pub(super) fn hear_of_lease(&mut self, id: NodeId, lease: Micros) -> Result<(), String> {
        let after = self.rng.random_range(1_000..100_000);
        let node = self.node(id);
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        let longest = core.timing().lease_longest.max(lease);
        core.set_timing(Timing {
            lease,
            lease_longest: longest,
            ..*core.timing()
        });
        let session = node.session;
        self.at(after, Happening::LeaseSaved(id, session, longest));
        Ok(())
    }

    pub(super) fn lease_saved(&mut self, id: NodeId, longest: Micros) -> Result<(), String> {
        let timing = &mut self.node(id).timing;
        timing.lease_longest = timing.lease_longest.max(longest);
        self.step(id, Event::LeaseKept { longest })
    }

    /// Whether a copy may be damaged there. Where W is 1 nobody else need have what is
    /// broken, and a person has to name a survivor (rule 12).
    fn may_damage_copy(&self, id: NodeId) -> bool {
        !self.may_lose_writes() && self.may_lose_copy(id)
    }

    /// Whether the cluster has a copy of every partition to spare on that node, and nobody is
    /// lost already: no protocol gives back more.
    pub(super) fn may_lose_copy(&self, id: NodeId) -> bool {
        let Brain::Shipped(shipped) = &self.brain else {
            return false;
        };
        let tolerable = |record: &PartitionRecord| {
            let config = &record.config;
            let whole = config.joint.is_none() && config.learners.is_empty() && !record.degraded;
            let spare = config.current.write_quorum() < config.current.len();
            whole && (spare || config.on_node(id).is_none())
        };
        let mut partitions = self.partitions.ids();
        !self.copy_lost
            && partitions.all(|partition| shipped.record(partition).is_some_and(|r| tolerable(&r)))
    }

    /// Whether the configured W is 1, so that a promotion may lose writes.
    pub(super) fn may_lose_writes(&self) -> bool {
        self.partitions[PartitionId(0)].invariants.losses.allowed
    }

    fn lose_coordinators(&mut self, rng: &mut StdRng) {
        let until = self.lasting(rng, 50_000..1_500_000);
        let all = rng.random_bool(0.5);
        if let Brain::Shipped(shipped) = &mut self.brain {
            // Another leader will have heard nothing yet.
            shipped.resign();
            let after = until.0 - self.now.0;
            self.at(after, Happening::Elected);
            self.coverage.count("election");
            if !all {
                return;
            }
        }
        self.coordinators_away_until = until;
        self.say(|| "the coordinators are away".into());
        self.coverage.count("coordinators away");
    }

    /// Every fault ends.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.healing = true;
        self.cut.clear();
        self.slow.clear();
        self.rotation = None;
        self.ambush = None;
        self.coordinators_away_until = Micros(0);
        self.hushed.clear();
        self.silence = None;
        self.say(|| "-- healing".into());
        for n in 0..self.nodes.len() {
            self.nodes[n].paused_until = Micros(0);
            self.nodes[n].slow_until = Micros(0);
            self.nodes[n].draining_until = Micros(0);
            self.nodes[n].ends_writing = None;
            let id = self.nodes[n].id;
            if self.nodes[n].full_until > self.now {
                self.nodes[n].full_until = Micros(0);
                let room = DiskRoom::Ample;
                self.step(id, Event::DiskRoom { room })?;
            }
            self.start(id)?;
        }
        self.heal_membership()
    }
}
