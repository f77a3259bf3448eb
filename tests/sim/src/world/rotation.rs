//! Quorums that change: just enough nodes reach each other, and once those serve, others
//! do, of which as few as may be were among the ones before.
//!
//! Whatever rests on two quorums having a member in common is tried with one member, and
//! that member is struck while it is the only one who knows.

use std::collections::BTreeSet;

use cairn_core::cluster::supervisor::{AdminRequest, Input};
use cairn_core::ids::{Micros, NodeId, PartitionId};
use cairn_core::record::ReplicaSet;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::{COORDINATORS, Happening, World};
use crate::plan::Kind;

/// How often it is looked whether those who reach each other serve.
const LOOK: u64 = 5_000;
/// After this others get their turn in any case.
const PATIENCE: Micros = Micros::from_millis(1_000);

/// Who reaches each other at the moment.
pub(super) struct Rotation {
    rng: StdRng,
    /// Whose quorums they are.
    partition: PartitionId,
    until: Micros,
    group: BTreeSet<u64>,
    since: Micros,
    /// When others get their turn, once these serve.
    ends: Option<Micros>,
}

impl World {
    pub(super) fn begin_rotation(&mut self, until: Micros, rng: &mut StdRng) {
        if self.rotation.is_some() {
            return;
        }
        self.rotation = Some(Rotation {
            rng: StdRng::seed_from_u64(rng.random()),
            partition: self.partitions.draw(rng),
            until,
            group: BTreeSet::new(),
            since: self.now,
            ends: Some(self.now),
        });
        self.at(0, Happening::Turn);
    }

    /// Looks whether it is the turn of others.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        let now = self.now;
        let Some(mut rotation) = self.rotation.take() else {
            return Ok(());
        };
        if now >= rotation.until {
            return Ok(());
        }
        self.at(LOOK, Happening::Turn);
        let serves = || self.serves_among(rotation.partition, |n| rotation.group.contains(&n));
        if rotation.ends.is_none() && serves() {
            let longest = [5_000, 50_000, 300_000][rotation.rng.random_range(0..3)];
            rotation.ends = Some(now.plus(Micros(rotation.rng.random_range(500..longest))));
        }
        let over = rotation.ends.is_some_and(|ends| now >= ends);
        let done = if over || now >= rotation.since.plus(PATIENCE) {
            self.next_turn(&mut rotation)
        } else {
            Ok(())
        };
        self.rotation = Some(rotation);
        done
    }

    fn next_turn(&mut self, rotation: &mut Rotation) -> Result<(), String> {
        let partition = rotation.partition;
        let Some(record) = self.record(partition) else {
            return Ok(());
        };
        let rng = &mut rotation.rng;
        let sets: Vec<&ReplicaSet> = record.config.sets().collect();
        let set = sets[rng.random_range(0..sets.len())];
        let mut members: Vec<u64> = set.members.iter().map(|m| m.node.0).collect();
        members.shuffle(rng);
        // Those who had no turn first, and whoever led last.
        let led = record.primary.map(|primary| primary.node.0);
        members.sort_by_key(|n| (rotation.group.contains(n), Some(*n) == led));
        let size = set.write_quorum().max(set.inspection_quorum());
        let mut group: BTreeSet<u64> = members.iter().take(size).copied().collect();
        let kept: Vec<u64> = group.intersection(&rotation.group).copied().collect();
        let strangers = self.nodes.iter().map(|node| node.id.0);
        group.extend(strangers.filter(|n| !members.contains(n) && rng.random_bool(0.3)));
        let within = |n: u64| n == COORDINATORS || group.contains(&n);
        for (a, b) in self.pairs() {
            if within(a) && within(b) {
                self.cut.remove(&(a, b));
                self.cut.remove(&(b, a));
            } else if within(a) || within(b) || rng.random_bool(0.5) {
                self.cut.insert((a, b), rotation.until);
                self.cut.insert((b, a), rotation.until);
            }
        }
        let until = rotation.until;
        let of = self.partitions.of(partition);
        self.say(|| format!("-- {group:?}{of} reach each other, until {until:?} at most"));
        self.coverage.count("other nodes reach each other");
        rotation.group = group;
        rotation.since = self.now;
        rotation.ends = None;
        if let Some(kept) = kept.first().filter(|_| rng.random_bool(0.5)) {
            let kinds = [
                Kind::Crash,
                Kind::PowerLoss,
                Kind::FlippedBit,
                Kind::Wipe,
                Kind::FoundDamage,
            ];
            let kind = kinds[rng.random_range(0..kinds.len())];
            self.say(|| format!("-- of both turns is {kept}: {kind:?}"));
            self.strike(kind, NodeId(*kept), rng)?;
        }
        if rng.random_bool(0.7) {
            self.supervise(Input::Admin(AdminRequest::Promote { partition }))?;
        }
        Ok(())
    }
}
