//! Which nodes there are and what they are to hold: they join, give everything up, are
//! gone for good or stay away, and RF and W change, all while faults go on. Of the shipped
//! coordinators alone.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::cluster::command::{Command, Response};
use cairn_core::cluster::settings::SettingsChange;
use cairn_core::cluster::state::{ClusterState, Leaving};
use cairn_core::ids::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Brain, Happening, World};
use crate::invariants::{retired, settled};
use crate::node::Node;
use crate::plan::Kind;

/// How many nodes there are at most beyond RF, unless more are needed to replace others.
const SPARE: usize = 3;
const ZONES: [&str; 3] = ["", "a", "b"];
const WEIGHTS: [u32; 3] = [50, 100, 200];

/// What was seen of it.
#[derive(Debug, Default)]
pub(super) struct Membership {
    leaving: BTreeMap<NodeId, Leaving>,
    /// Nodes that gave up all that they held.
    emptied: BTreeSet<NodeId>,
    /// Nodes that were retired.
    retired: BTreeSet<NodeId>,
}

impl World {
    pub(super) fn state(&self) -> Option<&ClusterState> {
        match &self.brain {
            Brain::StandIn(_) => None,
            Brain::Shipped(shipped) => Some(&shipped.state),
        }
    }

    /// An admin's command commits.
    pub(super) fn administer(&mut self, command: Command) -> Result<Response, String> {
        let now = self.now;
        let Brain::Shipped(shipped) = &mut self.brain else {
            return Ok(Response::Unchanged);
        };
        let (outputs, response) = shipped.command(now, command.clone());
        self.say(|| format!("admin: {command:?}: {response:?}"));
        self.publish_all()?;
        self.observe_membership()?;
        self.outputs(outputs)?;
        Ok(response)
    }

    /// Something changes which nodes there are, or what they are to hold.
    pub(super) fn change_membership(
        &mut self,
        kind: Kind,
        id: NodeId,
        rng: &mut StdRng,
    ) -> Result<(), String> {
        // Until all have come of whom the settings tell, there is no table.
        let table = |state: &&ClusterState| !state.partitions().is_empty();
        let Some(state) = self.state().filter(table) else {
            return Ok(());
        };
        match kind {
            Kind::Join => {
                let basis = state.basis();
                if basis.nodes.len() < usize::from(basis.replication_factor) + SPARE {
                    self.join(rng)?;
                }
            }
            Kind::GiveUp => {
                self.administer(Command::Drain { node: id })?;
            }
            Kind::TakeBack => {
                let draining = self.draining();
                if !draining.is_empty() {
                    let node = draining[rng.random_range(0..draining.len())];
                    self.administer(Command::Undrain { node })?;
                }
            }
            Kind::Gone => self.lose_for_good(id)?,
            Kind::StayAway => self.stay_away(id, rng),
            Kind::HoldMoves => {
                let paused = !state.moves_paused();
                self.administer(Command::PauseMoves { paused })?;
                self.coverage.count("moves held back or let go on");
            }
            Kind::Factors => self.change_factors(rng)?,
            Kind::Rehome => {
                let zone = ZONES[rng.random_range(0..ZONES.len())];
                let weight = WEIGHTS[rng.random_range(0..WEIGHTS.len())];
                self.rehome(id, (zone.to_owned(), weight))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A node with an empty disk registers under a name that nobody had.
    pub(super) fn join(&mut self, rng: &mut StdRng) -> Result<NodeId, String> {
        let seat = self.seats.values().max().map_or(1, |last| last + 1);
        let node = self.admit(seat)?;
        self.coverage.count("node joined");
        let after = rng.random_range(1_000..100_000);
        self.at(after, Happening::Start(node));
        Ok(node)
    }

    /// The coordinators admit a node with an empty disk, under a name that nobody has or
    /// whose holder is known to be lost.
    pub(super) fn admit(&mut self, seat: u64) -> Result<NodeId, String> {
        let identity = NodeId(self.nodes.len() as u64 + 1);
        self.seats.insert(identity.0, seat);
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        let node = Node::new(identity, self.timing, &mut rng);
        self.nodes.push(node);
        let Brain::Shipped(shipped) = &self.brain else {
            return Ok(identity);
        };
        let command = shipped.registration(seat, identity.0);
        let response = self.administer(command)?;
        match response {
            Response::Registered { node } if node == identity => Ok(identity),
            other => Err(format!("an empty disk joins: {identity} is told {other:?}")),
        }
    }

    fn rehome(&mut self, id: NodeId, home: (String, u32)) -> Result<(), String> {
        let seat = self.seats[&id.0];
        let Brain::Shipped(shipped) = &mut self.brain else {
            return Ok(());
        };
        if shipped.is_member(id) {
            shipped.rehome(seat, home);
            let command = shipped.registration(seat, id.0);
            self.administer(command)?;
            self.coverage.count("another weight or zone");
        }
        Ok(())
    }

    /// The nodes that are to give up all that they hold.
    fn draining(&self) -> Vec<NodeId> {
        let draining =
            |(node, why): (&NodeId, &Leaving)| (*why == Leaving::Draining).then_some(*node);
        self.membership
            .leaving
            .iter()
            .filter_map(draining)
            .collect()
    }

    /// A process ends for long, perhaps for longer than the grace, and comes back with its
    /// old disk.
    fn stay_away(&mut self, id: NodeId, rng: &mut StdRng) {
        if self.node(id).core.is_none() {
            return;
        }
        self.coverage.count("node stays away");
        self.end_process(id, rng.random_bool(0.5), rng);
        let after = rng.random_range(500_000..5_000_000);
        self.at(after, Happening::Start(id));
    }

    /// A node is said to be gone for good, where the others can do without its copies, and
    /// its disk goes soon after.
    fn lose_for_good(&mut self, id: NodeId) -> Result<(), String> {
        let holds = self
            .records()
            .any(|record| record.config.on_node(id).is_some());
        if holds && !self.may_lose_copy(id) {
            return Ok(());
        }
        let force = false;
        if self.administer(Command::MarkGone { node: id, force })? == Response::Done {
            self.copy_lost |= holds;
            self.coverage.count("gone for good");
            self.throw_away(id);
        }
        Ok(())
    }

    fn throw_away(&mut self, id: NodeId) {
        let after = self.rng.random_range(0..300_000);
        self.at(after, Happening::Discard(id));
    }

    /// The process of a node that is no member any more ends, and its disk is thrown away.
    pub(super) fn discard(&mut self, id: NodeId) {
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        if self.node(id).core.is_some() {
            self.end_process(id, false, &mut rng);
        }
        self.node(id).replace_disk();
        self.retired.insert(id.0);
        self.say(|| format!("the disk of {id} is thrown away"));
    }

    fn change_factors(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let replication_factor = rng.random_range(2..=5u8);
        let least = match self.may_lose_writes() {
            true if rng.random_bool(0.5) => return self.set_factors(replication_factor, 1),
            true => 1,
            false => 2,
        };
        self.set_factors(
            replication_factor,
            rng.random_range(least..=replication_factor),
        )
    }

    fn set_factors(&mut self, replication_factor: u8, write_quorum: u8) -> Result<(), String> {
        let (Brain::Shipped(shipped), Some(settings)) =
            (&self.brain, self.state().and_then(|state| state.settings()))
        else {
            return Ok(());
        };
        let before = (settings.replication_factor, settings.write_quorum);
        let command = shipped.change(SettingsChange {
            replication_factor: Some(replication_factor),
            write_quorum: Some(write_quorum),
            ..SettingsChange::default()
        });
        let Some(command) = command else {
            return Ok(());
        };
        if self.administer(command)? == Response::Done {
            if before.0 != replication_factor {
                self.coverage.count("RF changed");
            }
            if before.1 != write_quorum {
                self.coverage.count("W changed");
            }
        }
        Ok(())
    }

    /// Asks for each node that gives everything up whether it may go.
    pub(super) fn retire_the_empty(&mut self) -> Result<(), String> {
        for node in self.draining() {
            let empty = self.membership.emptied.contains(&node);
            // Whoever asks too early is refused.
            if !self.rng.random_bool(if empty { 0.1 } else { 0.01 }) {
                continue;
            }
            if self.administer(Command::Retire { node })? == Response::Done {
                self.coverage.count("node retired");
                self.membership.retired.insert(node);
                for partition in self.partitions.ids() {
                    let retired = self.partitions[partition].invariants.retired(node);
                    retired.map_err(self.partitions.broken(partition))?;
                }
                self.throw_away(node);
            }
        }
        Ok(())
    }

    /// The coordinators' state is held against what must hold of all partitions together.
    pub(super) fn observe_membership(&mut self) -> Result<(), String> {
        let Brain::Shipped(shipped) = &self.brain else {
            return Ok(());
        };
        let state = shipped.state.clone();
        let mut leaving = BTreeMap::new();
        for info in state.nodes().values() {
            let node = info.id;
            let before = self.membership.leaving.get(&node).copied();
            let now = state.leaving(node);
            leaving.extend(now.map(|why| (node, why)));
            let member = state.is_member(node);
            let told = match (before, now) {
                (Some(Leaving::Draining), None) if member => "drain taken back",
                (None, Some(Leaving::Draining)) => "drain begun",
                (Some(Leaving::Away), None) if member => "back after it was replaced",
                (None, Some(Leaving::Away)) => "away for longer than the grace",
                _ => "",
            };
            self.coverage.count(told);
            let drains = now == Some(Leaving::Draining);
            if !drains || state.held_by(node).is_some() {
                self.membership.emptied.remove(&node);
            } else if self.membership.emptied.insert(node) {
                self.coverage.count("drain done");
            }
        }
        self.membership.leaving = leaving;
        for node in &self.membership.retired {
            retired::check(&state, *node)?;
        }
        Ok(())
    }

    /// The faults are over: moves go on, and there are nodes enough for RF.
    pub(super) fn heal_membership(&mut self) -> Result<(), String> {
        self.administer(Command::PauseMoves { paused: false })?;
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        while let Some(state) = self.state() {
            let drains = |node: NodeId| state.leaving(node) == Some(Leaving::Draining);
            let there = state.members().filter(|info| !drains(info.id)).count();
            if there >= usize::from(state.basis().replication_factor) {
                break;
            }
            self.join(&mut rng)?;
        }
        Ok(())
    }

    /// Whether everything is where it belongs.
    ///
    /// # Errors
    /// What is not.
    pub(super) fn settled(&self) -> Result<(), String> {
        self.state().map_or(Ok(()), settled::check)
    }
}
