//! Commands about which nodes are to hold the data, and what follows for the seats.
//!
//! A node that drains, or that stayed away for too long, is *leaving*: a member whose
//! replicas count, and that no placement gives a seat. Which nodes may have seats, and how
//! many each partition needs, is the [`PlacementBasis`]; the seats remember the one that
//! they were made for, and where it is another by now, the leader plans anew.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ClusterState;
use super::partitions::is_degraded;
use crate::cluster::command::{Command, PlacementBasis, Refusal, Response, SeatChange};
use crate::ids::{MapVersion, NodeId, PartitionId};
use crate::record::NodeStanding;
use crate::seeded::{Bug, is_seeded};

/// Why a member is to hold nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leaving {
    /// It was asked to give everything up.
    Draining,
    /// It stayed away for longer than the grace.
    Away,
}

impl ClusterState {
    /// Why the node is to hold nothing, if it is.
    #[must_use]
    pub fn leaving(&self, node: NodeId) -> Option<Leaving> {
        self.leaving.get(&node).copied()
    }

    /// Whether moves are held back that no lost copy asks for.
    #[must_use]
    pub fn moves_paused(&self) -> bool {
        self.moves_paused
    }

    /// The nodes that may have seats now, and RF.
    #[must_use]
    pub fn basis(&self) -> PlacementBasis {
        PlacementBasis {
            replication_factor: self.settings.as_ref().map_or(0, |s| s.replication_factor),
            nodes: self
                .members()
                .filter(|n| !self.leaving.contains_key(&n.id))
                .map(|n| (n.id, (n.zone.clone(), n.weight)))
                .collect(),
        }
    }

    /// What the present seats were made for.
    #[must_use]
    pub fn placed_for(&self) -> &PlacementBasis {
        &self.placed_for
    }

    /// Whether the seats are those for a basis: made for it, none of them given by itself
    /// since, and none on a node that is to hold nothing.
    #[must_use]
    pub fn seats_fit(&self, basis: &PlacementBasis) -> bool {
        self.placed_for == *basis
            && !self.reseated
            && self
                .seats
                .iter()
                .flatten()
                .all(|seat| basis.nodes.contains_key(seat))
    }

    /// Whether acknowledged writes of the partition may be lost (rule 9): where W is
    /// configured to one, and where it was until lately and the set in force still is
    /// that of then.
    #[must_use]
    pub fn is_eventual(&self, partition: PartitionId) -> bool {
        self.settings.as_ref().is_some_and(|s| s.write_quorum == 1)
            || self.eventual.contains(&partition)
    }

    /// One of the partitions that keep a node from being empty: it holds a replica, or
    /// has a seat. A copy for reads keeps nobody: it may go with its node.
    #[must_use]
    pub fn held_by(&self, node: NodeId) -> Option<PartitionId> {
        let seat = || {
            let at = self.seats.iter().position(|seats| seats.contains(&node))?;
            u32::try_from(at).ok().map(PartitionId)
        };
        let mut held = self.partitions.iter().filter(|record| {
            let here = record.config.on_node(node);
            here.is_some_and(|m| !record.config.is_reader(m.replica))
        });
        held.next().map(|record| record.id).or_else(seat)
    }

    /// Refuses where too few nodes would be left for every replica of a partition.
    pub(super) fn check_enough_nodes(&self, have: usize, need: u8) -> Result<(), Refusal> {
        if self.partitions.is_empty() || have >= usize::from(need) {
            return Ok(());
        }
        Err(Refusal::TooFewNodes {
            have: u32::try_from(have).unwrap_or(u32::MAX),
            need: u32::from(need),
        })
    }

    fn leave(&mut self, at: MapVersion, node: NodeId, why: Leaving) -> Result<Response, Refusal> {
        if !self.is_member(node) {
            return Err(Refusal::UnknownNode { node });
        }
        if self.leaving(node).is_none() {
            let basis = self.basis();
            self.check_enough_nodes(basis.nodes.len() - 1, basis.replication_factor)?;
        }
        if self.leaving.insert(node, why) == Some(why) {
            return Ok(Response::Unchanged);
        }
        self.version = at;
        Ok(Response::Done)
    }

    pub(super) fn drain(&mut self, at: MapVersion, node: NodeId) -> Result<Response, Refusal> {
        self.leave(at, node, Leaving::Draining)
    }

    pub(super) fn mark_away(&mut self, at: MapVersion, node: NodeId) -> Result<Response, Refusal> {
        if self.leaving(node) == Some(Leaving::Draining) {
            return Ok(Response::Unchanged);
        }
        self.leave(at, node, Leaving::Away)
    }

    pub(super) fn undrain(&mut self, at: MapVersion, node: NodeId) -> Result<Response, Refusal> {
        if !self.is_member(node) {
            return Err(Refusal::UnknownNode { node });
        }
        if self.leaving.remove(&node).is_none() {
            return Ok(Response::Unchanged);
        }
        self.version = at;
        Ok(Response::Done)
    }

    pub(super) fn mark_back(&mut self, at: MapVersion, node: NodeId) -> Result<Response, Refusal> {
        match self.leaving(node) {
            Some(Leaving::Away) => self.undrain(at, node),
            Some(Leaving::Draining) | None => Ok(Response::Unchanged),
        }
    }

    pub(super) fn retire(&mut self, at: MapVersion, node: NodeId) -> Result<Response, Refusal> {
        let info = self.node(node).ok_or(Refusal::UnknownNode { node })?;
        if info.standing == NodeStanding::Gone {
            return Ok(Response::Unchanged);
        }
        if self.leaving(node) != Some(Leaving::Draining) {
            return Err(Refusal::Invalid {
                reason: format!("node {node} has not been asked to give up what it holds"),
            });
        }
        if let Some(partition) = self.held_by(node)
            && !is_seeded(Bug::RetireBeforeEmpty)
        {
            return Err(Refusal::NotEmpty { node, partition });
        }
        self.set_gone(at, node);
        self.version = at;
        Ok(Response::Done)
    }

    pub(super) fn pause_moves(&mut self, at: MapVersion, paused: bool) -> Response {
        if std::mem::replace(&mut self.moves_paused, paused) == paused {
            return Response::Unchanged;
        }
        self.version = at;
        Response::Done
    }

    pub(super) fn rebalance(
        &mut self,
        at: MapVersion,
        basis: &PlacementBasis,
        moves: Vec<SeatChange>,
    ) -> Result<Response, Refusal> {
        let settings = self.settings.clone().ok_or(Refusal::NoCluster)?;
        if *basis != self.basis() {
            return Err(Refusal::BasisChanged);
        }
        for SeatChange {
            partition,
            before,
            seats,
        } in &moves
        {
            self.check_seats(*partition, seats, &settings)?;
            if let Some(stranger) = seats.iter().find(|n| !basis.nodes.contains_key(n)) {
                return Err(Refusal::Invalid {
                    reason: format!("node {stranger} is to hold nothing"),
                });
            }
            match self.seats.get(partition.0 as usize) {
                None => {
                    return Err(Refusal::UnknownPartition {
                        partition: *partition,
                    });
                }
                Some(known) if known != before => {
                    return Err(Refusal::SeatsChanged {
                        partition: *partition,
                    });
                }
                Some(_) => {}
            }
        }
        if moves.is_empty() && self.seats_fit(basis) {
            return Ok(Response::Unchanged);
        }
        for change in moves {
            if let Some(seats) = self.seats.get_mut(change.partition.0 as usize) {
                *seats = change.seats;
            }
        }
        self.placed_for = basis.clone();
        self.reseated = false;
        self.version = at;
        Ok(Response::Done)
    }

    pub(super) fn fenced(
        &mut self,
        at: MapVersion,
        token: u64,
        command: Command,
    ) -> Result<Response, Refusal> {
        self.check_token(token)?;
        if matches!(command, Command::Fenced { .. } | Command::Batch(_)) {
            return Err(Refusal::BadBatch);
        }
        // A caller that is refused for another reason is the present one all the same.
        self.token = token;
        self.apply_one(at, command)
    }

    /// Refuses a caller whose place another one has taken.
    ///
    /// # Errors
    /// [`Refusal::StaleCaller`].
    pub fn check_token(&self, token: u64) -> Result<(), Refusal> {
        if token >= self.token {
            return Ok(());
        }
        Err(Refusal::StaleCaller {
            token,
            seen: self.token,
        })
    }

    pub(super) fn reset_token(&mut self) -> Response {
        if std::mem::take(&mut self.token) == 0 {
            return Response::Unchanged;
        }
        Response::Done
    }

    /// After RF or W changed: what that makes of each partition's record.
    pub(super) fn follow_settings(&mut self, at: MapVersion, was_eventual: bool) {
        let Some(settings) = self.settings.clone() else {
            return;
        };
        if settings.write_quorum == 1 {
            self.eventual.clear();
        } else if was_eventual {
            self.eventual = self
                .partitions
                .iter()
                .filter(|record| record.config.sets().any(|set| set.write_quorum == 1))
                .map(|record| record.id)
                .collect();
        }
        for slot in &mut self.partitions {
            if is_seeded(Bug::ChangeWriteQuorumInPlace) && slot.config.joint.is_none() {
                let record = Arc::make_mut(slot);
                let members = u8::try_from(record.config.current.len()).unwrap_or(u8::MAX);
                record.config.current.write_quorum = settings.write_quorum.min(members);
                record.revision += 1;
                record.changed_at = at;
            }
            let degraded = is_degraded(&slot.config, &settings);
            if slot.degraded != degraded {
                let record = Arc::make_mut(slot);
                record.degraded = degraded;
                record.revision += 1;
                record.changed_at = at;
            }
        }
    }
}
