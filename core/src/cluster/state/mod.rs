//! The state machine behind the coordinators' Raft log.
//!
//! [`ClusterState::apply`] is a function of the state and the command alone, so that
//! every coordinator comes to the same state. It judges each command by itself and
//! trusts no proposer: what a rule forbids is refused here as well, as far as the
//! state can tell.
//!
//! Invariants, checked by [`ClusterState::broken_invariant`]:
//! - epochs only rise, and the primary of an epoch never changes once named;
//! - a replica number belongs to one node and one partition for ever;
//! - the primary of an epoch is a voter in it;
//! - one live identity holds a name.

mod coordinators;
mod membership;
mod nodes;
mod partitions;
mod readers;
mod recovery;
#[cfg(test)]
mod tests;

pub use membership::Leaving;
pub(in crate::cluster) use nodes::promotion_needs;
pub(in crate::cluster) use partitions::{may_shrink, write_quorum_for};
pub use readers::READERS_MAX;
pub use recovery::{NUMBERS_SKIPPED, RecoveryError, Survivor};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::{BATCH_MAX, Command, PlacementBasis, Refusal, Response};
use super::settings;
use crate::ids::{Epoch, MapVersion, NodeId, PartitionId, ReplicaId};
use crate::record::{
    ClusterMap, ClusterSettings, CoordinatorInfo, NodeInfo, NodeStanding, PartitionRecord,
};

/// What was lost of a partition, as far as known (rule 9).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LossCount {
    /// How often a primary was named from too few reports.
    pub promotions: u64,
    /// The sum of [`super::command::Loss::entries_known`].
    pub entries_known: u64,
}

/// All that the coordinators have agreed on.
///
/// Cloning is cheap: records and nodes are shared. It serialises as the snapshot of
/// the Raft log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterState {
    cluster_id: String,
    version: MapVersion,
    settings: Option<Arc<ClusterSettings>>,
    nodes: BTreeMap<NodeId, Arc<NodeInfo>>,
    partitions: Vec<Arc<PartitionRecord>>,
    /// Where each partition belongs, preferred primary first. Configurations follow
    /// it; they differ from it while something is broken or moving.
    seats: Vec<Vec<NodeId>>,
    expected_back: BTreeMap<NodeId, u64>,
    losses: BTreeMap<PartitionId, LossCount>,
    /// Partitions whose present members a person named as survivors, until their
    /// next primary: leases of members that were written off must be waited out.
    forced: BTreeMap<PartitionId, Epoch>,
    last_node: NodeId,
    last_replica: ReplicaId,
    /// Members that are to hold nothing, and why.
    #[serde(default)]
    leaving: BTreeMap<NodeId, Leaving>,
    /// What the seats were made for.
    #[serde(default)]
    placed_for: PlacementBasis,
    /// Whether some have been given other seats since, for what was lost.
    #[serde(default)]
    reseated: bool,
    #[serde(default)]
    moves_paused: bool,
    /// Partitions whose set in force acknowledges with W=1 because that was configured,
    /// and is no more: until they have another set, rule 9 still holds for them.
    #[serde(default)]
    eventual: BTreeSet<PartitionId>,
    /// The highest token of a caller.
    #[serde(default)]
    token: u64,
    /// The voters of the coordinators' group, as its leader noted them.
    #[serde(default)]
    coordinators: Vec<CoordinatorInfo>,
    /// The ids of the coordinators' groups before this one, of which one disk was left.
    #[serde(default)]
    former_groups: Vec<String>,
}

impl ClusterState {
    /// Applies one entry of the Raft log.
    pub fn apply(&mut self, raft_index: u64, command: Command) -> Response {
        let at = MapVersion(raft_index);
        match command {
            Command::Batch(commands) => {
                let nested = commands.iter().any(|c| matches!(c, Command::Batch(_)));
                if nested || commands.len() > BATCH_MAX {
                    return Response::Refused(Refusal::BadBatch);
                }
                Response::Batch(
                    commands
                        .into_iter()
                        .map(|c| self.apply_one(at, c).unwrap_or_else(Response::Refused))
                        .collect(),
                )
            }
            single => self.apply_one(at, single).unwrap_or_else(Response::Refused),
        }
    }

    fn apply_one(&mut self, at: MapVersion, command: Command) -> Result<Response, Refusal> {
        match command {
            Command::CreateCluster {
                cluster_id,
                settings,
            } => self.create_cluster(at, cluster_id, settings),
            Command::ChangeSettings { settings } => self.change_settings(at, settings),
            Command::RegisterNode(registration) => self.register_node(at, registration),
            Command::MarkGone { node, force } => self.mark_gone(at, node, force),
            Command::ExpectBack {
                node,
                until_unix_ms,
            } => self.expect_back(node, until_unix_ms),
            Command::MakeTable { seats } => self.make_table(at, seats),
            Command::RaiseEpoch { partition, epoch } => self.raise_epoch(at, partition, epoch),
            Command::NamePrimary {
                partition,
                epoch,
                primary,
                loss,
            } => self.name_primary(at, partition, epoch, primary, loss),
            Command::AddLearner {
                partition,
                epoch,
                revision,
                node,
            } => self.add_learner(at, partition, (epoch, revision), node),
            Command::RemoveLearner {
                partition,
                epoch,
                revision,
                replica,
            } => self.remove_learner(at, partition, (epoch, revision), replica),
            Command::AddReader {
                partition,
                epoch,
                revision,
                node,
            } => self.add_reader(at, partition, (epoch, revision), node),
            Command::RemoveReader {
                partition,
                epoch,
                revision,
                replica,
            } => self.remove_reader(at, partition, (epoch, revision), replica),
            Command::EnterJoint {
                partition,
                epoch,
                revision,
                set,
            } => self.enter_joint(at, partition, (epoch, revision), set),
            Command::LeaveJoint {
                partition,
                epoch,
                direction,
            } => self.leave_joint(at, partition, epoch, direction),
            Command::Shrink {
                partition,
                epoch,
                keep,
            } => self.shrink(at, partition, epoch, &keep),
            Command::KeepSurvivors {
                partition,
                epoch,
                keep,
            } => self.keep_survivors(at, partition, epoch, &keep),
            Command::Reseat {
                partition,
                before,
                seats,
            } => self.reseat(at, partition, &before, seats),
            Command::Drain { node } => self.drain(at, node),
            Command::Undrain { node } => self.undrain(at, node),
            Command::MarkAway { node } => self.mark_away(at, node),
            Command::MarkBack { node } => self.mark_back(at, node),
            Command::Retire { node } => self.retire(at, node),
            Command::PauseMoves { paused } => Ok(self.pause_moves(at, paused)),
            Command::Rebalance { basis, moves } => self.rebalance(at, &basis, moves),
            Command::Fenced { token, command } => self.fenced(at, token, *command),
            Command::ResetToken => Ok(self.reset_token()),
            Command::NoteCoordinators { coordinators } => self.note_coordinators(at, coordinators),
            Command::Batch(_) => Err(Refusal::BadBatch),
        }
    }

    fn create_cluster(
        &mut self,
        at: MapVersion,
        cluster_id: String,
        settings: ClusterSettings,
    ) -> Result<Response, Refusal> {
        if self.settings.is_some() {
            // A second proposer of the same bootstrap is told so: its settings, not
            // looked at, may differ from those that won.
            return if self.cluster_id == cluster_id {
                Ok(Response::Unchanged)
            } else {
                Err(Refusal::ClusterExists {
                    cluster_id: self.cluster_id.clone(),
                })
            };
        }
        nodes::check_text("clusterId", &cluster_id, 1, 64)?;
        let errors = settings::check(&settings);
        if !errors.is_empty() {
            return Err(Refusal::Settings(errors));
        }
        self.cluster_id = cluster_id;
        self.settings = Some(Arc::new(settings));
        self.version = at;
        Ok(Response::Done)
    }

    fn change_settings(
        &mut self,
        at: MapVersion,
        mut settings: ClusterSettings,
    ) -> Result<Response, Refusal> {
        let old = self.settings.as_ref().ok_or(Refusal::NoCluster)?;
        let fixed = [
            ("partitions", settings.partitions != old.partitions),
            ("virtualNodes", settings.virtual_nodes != old.virtual_nodes),
            (
                "dataNodes",
                settings.initial_data_nodes != old.initial_data_nodes,
            ),
        ];
        if let Some((field, _)) = fixed.iter().find(|(_, changed)| *changed) {
            return Err(Refusal::FixedSetting {
                field: (*field).to_owned(),
            });
        }
        // Whatever the proposer believed: the longest lease never shrinks, for a
        // process that starts must reckon with every grant it may ever have given
        // (rule 5).
        settings.lease_ms_longest = settings.lease_ms.max(old.lease_ms_longest);
        // How many nodes the table waited for is history, once there is one.
        if !self.partitions.is_empty() {
            settings.initial_data_nodes = settings
                .initial_data_nodes
                .max(u32::from(settings.replication_factor));
        }
        let errors = settings::check(&settings);
        if !errors.is_empty() {
            return Err(Refusal::Settings(errors));
        }
        let declared = settings.declared_counters();
        if let Err(error) = declared.may_follow(&old.declared_counters()) {
            let error = settings::SettingsError::Counters(error.to_string());
            return Err(Refusal::Settings(vec![error]));
        }
        if settings == **old {
            return Ok(Response::Unchanged);
        }
        if settings.replication_factor > old.replication_factor {
            self.check_enough_nodes(self.basis().nodes.len(), settings.replication_factor)?;
        }
        let was_eventual = old.write_quorum == 1;
        self.settings = Some(Arc::new(settings));
        self.version = at;
        self.follow_settings(at, was_eventual);
        Ok(Response::Done)
    }

    /// The cluster's id; empty before it was made.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The version of the map.
    #[must_use]
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// The settings, once the cluster was made.
    #[must_use]
    pub fn settings(&self) -> Option<&Arc<ClusterSettings>> {
        self.settings.as_ref()
    }

    /// Every identity ever admitted.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Arc<NodeInfo>> {
        &self.nodes
    }

    /// One identity.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&Arc<NodeInfo>> {
        self.nodes.get(&node)
    }

    /// The identities that may come back or are here.
    pub fn members(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.nodes
            .values()
            .filter(|n| n.standing == NodeStanding::Member)
    }

    /// Whether the node is a member: known, and not gone.
    #[must_use]
    pub fn is_member(&self, node: NodeId) -> bool {
        self.node(node)
            .is_some_and(|n| n.standing == NodeStanding::Member)
    }

    /// The live identity that holds a name.
    #[must_use]
    pub fn holder_of_name(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.members().find(|n| n.name == name)
    }

    /// The identity of a node's UUID, gone or not.
    #[must_use]
    pub fn node_by_uuid(&self, uuid: &str) -> Option<&Arc<NodeInfo>> {
        self.nodes.values().find(|n| n.uuid == uuid)
    }

    /// The table; empty before it was made.
    #[must_use]
    pub fn partitions(&self) -> &[Arc<PartitionRecord>] {
        &self.partitions
    }

    /// One record.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&Arc<PartitionRecord>> {
        self.partitions.get(partition.0 as usize)
    }

    /// Where the partition belongs, preferred primary first.
    #[must_use]
    pub fn seats(&self, partition: PartitionId) -> &[NodeId] {
        self.seats
            .get(partition.0 as usize)
            .map_or(&[], Vec::as_slice)
    }

    /// Where every partition belongs: the input of the next placement.
    #[must_use]
    pub fn all_seats(&self) -> &[Vec<NodeId>] {
        &self.seats
    }

    /// Until when (milliseconds since 1970 UTC) a node was said to be away on purpose.
    #[must_use]
    pub fn expected_back(&self, node: NodeId) -> Option<u64> {
        self.expected_back.get(&node).copied()
    }

    /// What was lost of a partition, as far as known.
    #[must_use]
    pub fn loss(&self, partition: PartitionId) -> LossCount {
        self.losses.get(&partition).copied().unwrap_or_default()
    }

    /// Whether the partition's members were named by a person as its survivors and
    /// no primary has been named since.
    #[must_use]
    pub fn is_forced(&self, partition: PartitionId) -> bool {
        self.forced.contains_key(&partition)
    }

    /// The whole map.
    #[must_use]
    pub fn map(&self) -> ClusterMap {
        ClusterMap {
            cluster_id: self.cluster_id.clone(),
            version: self.version,
            settings: self.settings.clone(),
            nodes: self.nodes.clone(),
            partitions: self.partitions.clone(),
            coordinators: self.coordinators.clone(),
        }
    }
}
