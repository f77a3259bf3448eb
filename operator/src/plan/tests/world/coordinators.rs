//! What the model's coordinators and data nodes do.

use std::collections::BTreeSet;

use super::{Claim, Member, PARTITIONS, Partition, TICK_MS, World};
use crate::names::Role;
use crate::plan::Admin;
use crate::store::{Leaving, Settings};

/// For how long nothing must have happened before primaries go back to where they belong.
const CALM_MS: u64 = 30_000;

impl World {
    pub(super) fn coordinate(&mut self) {
        let names = self.names();
        let running: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| self.is_running(pod))
            .map(|(name, _)| name.clone())
            .collect();
        let coordinator = |name: &&String| names.ordinal(Role::Coordinator, name).is_some();
        if self.group.is_empty() {
            let first: Vec<_> = running.iter().filter(coordinator).cloned().collect();
            let all = self.sets.get(&Role::Coordinator).copied();
            if all.is_some_and(|all| all > 0 && first.len() == all as usize) {
                for name in first {
                    let disk = self.claim_of(&name).unwrap().uid.clone();
                    self.group.insert(name, disk);
                }
            }
        }
        let ups: BTreeSet<u64> = running
            .iter()
            .filter_map(|name| self.claim_of(name)?.identity)
            .collect();
        for (id, member) in &mut self.members {
            let is_back = !member.up && ups.contains(id);
            if member.up != ups.contains(id) {
                self.quiet_since = self.now;
            }
            member.up = ups.contains(id);
            if is_back {
                member.expected_back = None;
            }
            member.down_ms = if member.up {
                0
            } else {
                member.down_ms + TICK_MS
            };
        }
        if !self.has_leader() {
            return;
        }
        // One whose disk is empty is taken in again.
        for name in running.iter().filter(coordinator) {
            let disk = self.claim_of(name).unwrap().uid.clone();
            if let Some(known) = self.group.get_mut(name) {
                *known = disk;
            }
        }
        self.change_group();
        for name in running.iter().filter(|name| !coordinator(name)) {
            self.register(name);
        }
        self.make_cluster();
        self.mark_absences();
        for partition in 0..self.partitions.len() {
            self.move_copies(partition);
        }
        self.balance_primaries();
    }

    fn change_group(&mut self) {
        let Some((add, remove, ticks)) = &mut self.group_change else {
            return;
        };
        *ticks += 1;
        if *ticks < 3 {
            return;
        }
        let (add, remove) = (add.clone(), remove.clone());
        for name in add {
            if let Some(claim) = self.claim_of(&name) {
                let disk = claim.uid.clone();
                self.group.insert(name, disk);
            }
        }
        for name in remove {
            self.group.remove(&name);
        }
        self.group_change = None;
    }

    fn register(&mut self, name: &str) {
        if self.claim_of(name).unwrap().identity.is_some() {
            return;
        }
        let mut drains = false;
        if let Some((id, holder)) = self.member(name) {
            if holder.up || !self.is_safe_without(id) {
                return;
            }
            drains = holder.leaving == Some(Leaving::Draining);
            self.members.get_mut(&id).unwrap().live = false;
        }
        let id = self.members.len() as u64 + 1;
        self.members.insert(
            id,
            Member {
                name: name.to_owned(),
                live: true,
                up: true,
                down_ms: 0,
                leaving: drains.then_some(Leaving::Draining),
                expected_back: None,
                cordoned_until: 0,
            },
        );
        let claim = self.names().claim(name);
        self.claims.get_mut(&claim).unwrap().identity = Some(id);
    }

    fn make_cluster(&mut self) {
        let spec = &self.cluster.spec;
        let members = self.members.values().filter(|member| member.up).count();
        if self.settings.is_some() || members < self.wanted(Role::Data) as usize {
            return;
        }
        self.settings = Some(Settings {
            replication_factor: spec.replication_factor.into(),
            write_quorum: spec.settled_write_quorum().into(),
            min_in_sync: spec.settled_min_in_sync().into(),
            lease_ms: 400,
            node_timeout_ms: 1_500,
            replace_after_ms: 60_000,
            moves_per_node: 4,
            idempotence_window: 65_536,
            counters: String::new(),
        });
        for partition in 0..PARTITIONS {
            let copies: BTreeSet<u64> = self.seats(partition).unwrap().into_iter().collect();
            for id in &copies {
                self.disk(*id).unwrap().holds.insert(partition);
            }
            self.partitions.push(Partition {
                copies,
                ..Partition::default()
            });
        }
    }

    pub(super) fn copies_asked(&self) -> usize {
        self.settings
            .as_ref()
            .map_or(self.cluster.spec.replication_factor.into(), |settings| {
                settings.replication_factor as usize
            })
    }

    fn eligible(&self) -> Vec<u64> {
        let members = self.members.iter();
        let stay = members.filter(|(_, member)| member.live && member.leaving.is_none());
        stay.map(|(id, _)| *id).collect()
    }

    /// Where the copies of a partition belong: by name, so that an heir has its
    /// predecessor's.
    pub(super) fn seats(&self, partition: u32) -> Option<Vec<u64>> {
        let mut nodes = self.eligible();
        if nodes.len() < self.copies_asked() {
            return None;
        }
        nodes.sort_by_key(|id| score(&self.members[id].name, partition));
        nodes.truncate(self.copies_asked());
        Some(nodes)
    }

    fn disk(&mut self, id: u64) -> Option<&mut Claim> {
        let mut disks = self.claims.values_mut();
        disks.find(|claim| claim.identity == Some(id))
    }

    fn mark_absences(&mut self) {
        let spare = self.eligible().len().saturating_sub(self.copies_asked());
        let patience = self
            .settings
            .as_ref()
            .map_or(u64::MAX, |s| s.replace_after_ms);
        let now = self.now;
        let mut marked = 0;
        for member in self.members.values_mut().filter(|member| member.live) {
            let is_expected = member.expected_back.is_some_and(|until| until > now);
            match member.leaving {
                Some(Leaving::Away) if member.up => member.leaving = None,
                None if member.down_ms > patience && !is_expected && marked < spare => {
                    member.leaving = Some(Leaving::Away);
                    marked += 1;
                }
                _ => {}
            }
        }
    }

    fn move_copies(&mut self, at: usize) {
        let number = u32::try_from(at).unwrap();
        let mut partition = self.partitions[at].clone();
        self.shrink(number, &mut partition);
        let is_up = |id: &u64| self.members[id].live && self.members[id].up;
        let seats = self.seats(number);
        let has_source = partition.copies.iter().any(is_up);
        if !partition
            .primary
            .is_some_and(|id| is_up(&id) && partition.copies.contains(&id))
        {
            partition.primary = partition.copies.iter().copied().find(is_up);
        }
        if let Some(seats) = seats {
            let is_gone = |id: &u64| !self.members[id].live;
            partition.learner = partition
                .learner
                .filter(|(id, _)| !is_gone(id) && seats.contains(id));
            let missing = seats.iter().find(|id| !partition.copies.contains(id));
            let is_repair = partition.copies.iter().any(is_gone);
            if let Some(id) = missing
                && partition.learner.is_none()
                && (!self.paused || is_repair)
            {
                partition.learner = Some((*id, 0));
            }
            if let Some((id, ticks)) = partition.learner
                && has_source
                && is_up(&id)
            {
                partition.learner = Some((id, ticks + 1));
                if ticks >= 2 {
                    partition.learner = None;
                    partition.copies.insert(id);
                    self.disk(id).unwrap().holds.insert(number);
                }
            }
            let all_there = seats
                .iter()
                .all(|id| partition.copies.contains(id) && self.members[id].up);
            let surplus = partition
                .copies
                .iter()
                .find(|id| !seats.contains(id))
                .copied();
            if let Some(id) = surplus.filter(|_| all_there) {
                partition.copies.remove(&id);
                if let Some(disk) = self.disk(id) {
                    disk.holds.remove(&number);
                }
            }
        }
        self.partitions[at] = partition;
    }

    /// Once all has been calm for a while, primaries go back to where they belong.
    fn balance_primaries(&mut self) {
        if self.now - self.quiet_since < CALM_MS {
            return;
        }
        for at in 0..self.partitions.len() {
            let seats = self.seats(u32::try_from(at).unwrap());
            let Some(first) = seats.and_then(|seats| seats.first().copied()) else {
                continue;
            };
            let preferred = &self.members[&first];
            let is_awaited = preferred
                .expected_back
                .is_some_and(|until| until > self.now);
            let partition = &mut self.partitions[at];
            if preferred.up
                && !is_awaited
                && preferred.cordoned_until <= self.now
                && partition.copies.contains(&first)
            {
                partition.primary = Some(first);
            }
        }
    }

    /// Where a write needs every copy, one that is down is dropped (rule 10).
    fn shrink(&mut self, number: u32, partition: &mut Partition) {
        let settings = self.settings.as_ref().unwrap();
        let size = partition.copies.len();
        let floor = settings.min_in_sync as usize;
        if (settings.write_quorum as usize) < size || size <= floor {
            return;
        }
        let down = |id: &&u64| self.members[id].down_ms > 2_000;
        if let Some(id) = partition.copies.iter().find(down).copied() {
            partition.copies.remove(&id);
            if let Some(disk) = self.disk(id) {
                disk.holds.remove(&number);
            }
        }
    }

    fn holds_anything(&self, id: u64) -> bool {
        let seated = |number: u32| self.seats(number).is_some_and(|seats| seats.contains(&id));
        (0..PARTITIONS).zip(&self.partitions).any(|(number, p)| {
            p.copies.contains(&id) || p.learner.is_some_and(|(l, _)| l == id) || seated(number)
        })
    }

    pub(super) fn is_empty(&self, id: u64) -> bool {
        let member = &self.members[&id];
        member.leaving == Some(Leaving::Draining) && member.up && !self.holds_anything(id)
    }

    fn is_safe_without(&self, id: u64) -> bool {
        let quorum = self
            .settings
            .as_ref()
            .map_or(1, |s| s.write_quorum as usize);
        self.partitions.iter().all(|partition| {
            let size = partition.copies.len();
            let others = partition.copies.iter();
            let others = others.filter(|other| **other != id && self.members[other].live);
            !partition.copies.contains(&id) || others.count() > size - quorum.min(size)
        })
    }

    pub(super) fn is_whole(&self) -> bool {
        let seats = (0..PARTITIONS).zip(&self.partitions);
        seats.into_iter().all(|(number, partition)| {
            let seats = self.seats(number).map(BTreeSet::from_iter);
            partition.learner.is_none()
                && seats.as_ref() == Some(&partition.copies)
                && partition.copies.iter().all(|id| self.members[id].up)
        })
    }

    pub(super) fn admin(&mut self, admin: &Admin) -> bool {
        let spare = self.eligible().len().saturating_sub(self.copies_asked());
        match admin {
            Admin::Drain(id) => {
                let member = self.members.get_mut(id).unwrap();
                if !member.live || (member.leaving.is_none() && spare == 0) {
                    return false;
                }
                member.leaving = Some(Leaving::Draining);
            }
            Admin::Undrain(id) => {
                let member = self.members.get_mut(id).unwrap();
                member.leaving = None;
                return member.live;
            }
            Admin::Retire(id) => {
                if !self.is_empty(*id) {
                    return false;
                }
                self.members.get_mut(id).unwrap().live = false;
            }
            Admin::Gone(id) => {
                if !self.is_safe_without(*id) {
                    return false;
                }
                let member = self.members.get_mut(id).unwrap();
                assert!(!member.up, "{} answers: {:#?}", member.name, self.log);
                member.live = false;
                member.leaving = None;
            }
            Admin::ExpectBack(id, until) => {
                let member = self.members.get_mut(id).unwrap();
                member.expected_back = Some(*until);
                return member.live;
            }
            Admin::Cordon(id, until) => {
                self.members.get_mut(id).unwrap().cordoned_until = *until;
            }
            Admin::MovePrimary { partition, to } => {
                let up = self.members[to].up;
                let partition = &mut self.partitions[*partition as usize];
                assert!(up && partition.copies.contains(to), "{:#?}", self.log);
                partition.primary = Some(*to);
            }
            Admin::PauseMoves(paused) => self.paused = *paused,
            Admin::Settings(change) => {
                let asked = change.replication_factor;
                if asked.is_some_and(|asked| asked as usize > self.eligible().len()) {
                    return false;
                }
                let agreed = self.settings.as_mut().unwrap();
                for (field, value) in [
                    (&mut agreed.replication_factor, change.replication_factor),
                    (&mut agreed.write_quorum, change.write_quorum),
                    (&mut agreed.min_in_sync, change.min_in_sync),
                ] {
                    *field = value.unwrap_or(*field);
                }
                if let Some(counters) = &change.counters {
                    agreed.counters.clone_from(counters);
                }
                agreed.replace_after_ms =
                    change.replace_after_ms.unwrap_or(agreed.replace_after_ms);
            }
            Admin::AddCoordinators(added) => {
                let names: Vec<String> = added.iter().map(|(name, _)| name.clone()).collect();
                return self.begin_group_change(names, Vec::new());
            }
            Admin::RemoveCoordinators(names) => {
                return self.begin_group_change(Vec::new(), names.clone());
            }
        }
        true
    }

    fn begin_group_change(&mut self, add: Vec<String>, remove: Vec<String>) -> bool {
        assert!(
            self.group_change.is_none(),
            "one at a time: {:#?}",
            self.log
        );
        let mut after: BTreeSet<&String> = self.group.keys().chain(&add).collect();
        after.retain(|name| !remove.contains(name));
        let runs = |name: &str| self.pods.get(name).is_some_and(|pod| self.is_running(pod));
        let up = after.iter().filter(|name| runs(name)).count();
        if up * 2 <= after.len() || !add.iter().all(|name| runs(name)) {
            return false;
        }
        self.group_change = Some((add, remove, 0));
        true
    }
}

fn score(name: &str, partition: u32) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(partition).wrapping_mul(0x9e37_79b9);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash
}
