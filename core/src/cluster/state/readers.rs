//! Commands about copies for reads alone.
//!
//! Such a copy changes no quorum and so needs no new epoch: like a learner it comes and goes
//! within one. Unlike a learner it stands in the way of nothing: configurations change, epochs
//! are raised and primaries named beside it, and where the node that has it is to hold a member,
//! it becomes the learner for that ([`super::ClusterState::apply`] of `AddLearner`).

use super::ClusterState;
use super::partitions::invalid;
use crate::cluster::command::{Refusal, Response};
use crate::ids::{Epoch, MapVersion, NodeId, PartitionId, ReplicaId};
use crate::record::Member;

/// The most copies for reads that a partition may have.
pub const READERS_MAX: usize = 8;

impl ClusterState {
    pub(super) fn add_reader(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        order: (Epoch, u64),
        node: NodeId,
    ) -> Result<Response, Refusal> {
        let mut record = self.at_order(partition, order)?;
        if !self.is_member(node) {
            return Err(Refusal::UnknownNode { node });
        }
        if self.leaving(node).is_some() {
            return Err(invalid(format!("node {node} is to hold nothing")));
        }
        if record.primary.is_none() {
            return Err(Refusal::NoPrimary { partition });
        }
        if record.config.joint.is_some() || !record.config.learners.is_empty() {
            return Err(invalid(format!(
                "partition {partition} is changing: a copy for reads can wait"
            )));
        }
        if record.config.on_node(node).is_some() || self.seats(partition).contains(&node) {
            return Err(invalid(format!(
                "node {node} holds a replica of partition {partition}, or is to"
            )));
        }
        if record.config.readers.len() >= READERS_MAX {
            return Err(invalid(format!(
                "partition {partition} has {READERS_MAX} copies for reads already"
            )));
        }
        let replica = self.allot_replica();
        record.config.readers.push(Member { node, replica });
        record.revision += 1;
        self.store(at, record)
    }

    pub(super) fn remove_reader(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        order: (Epoch, u64),
        replica: ReplicaId,
    ) -> Result<Response, Refusal> {
        let mut record = self.at_order(partition, order)?;
        if !record.config.is_reader(replica) {
            return Err(invalid(format!(
                "replica {replica} is no copy for reads of partition {partition}"
            )));
        }
        record.config.readers.retain(|m| m.replica != replica);
        record.revision += 1;
        self.store(at, record)
    }
}
