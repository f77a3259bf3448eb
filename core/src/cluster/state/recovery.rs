//! What the cluster goes on with where a majority of the coordinators' disks is lost and
//! a person goes on with one that is left.
//!
//! That disk may be behind. What it lacks was decided, and may be known to data nodes:
//! epochs that they promised, primaries that they follow, members that took writes.
//! Two things make that harmless:
//!
//! - The newest map that a data node has takes the place of what the disk knows. Every
//!   map was committed, so that of two maps of a cluster the newer one is what the older
//!   one became.
//! - Every number that the lost coordinators may have given out is passed over: epochs,
//!   map versions, replicas, nodes. So nothing is named twice, whoever turns out to have
//!   been away; and no epoch has a primary before it was fenced and inspected (rules 1
//!   and 2).
//!
//! What cannot be made good is a change of members that nobody knows of who answered.
//! The caller says whether everybody did; if not, longer leases are waited out, and what
//! a promotion may lose is counted as where a person names survivors.

use std::sync::Arc;

use super::{ClusterState, Command};
use crate::ids::{Epoch, MapVersion, NodeId, PartitionId, ReplicaId};
use crate::record::{ClusterMap, NodeStanding};

/// How many epochs, versions and replicas are passed over. An entry of the coordinators'
/// log raises an epoch, the version, or the last replica by a few thousand at most, so
/// that no cluster lives long enough to come near it.
pub const NUMBERS_SKIPPED: u64 = 1 << 40;
/// How many nodes are passed over: more than a map may list.
const NODES_SKIPPED: u64 = 1 << 20;

/// Why a disk cannot be gone on with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The disk knows of no cluster.
    #[error("this disk knows of no cluster yet: there is nothing to recover")]
    NoCluster,
    /// A data node's map is of another cluster.
    #[error("the data nodes' map is of cluster {theirs}, and this disk belongs to {ours}")]
    OtherCluster {
        /// The disk's.
        ours: String,
        /// The map's.
        theirs: String,
    },
    /// Data nodes follow coordinators that were recovered already.
    #[error(
        "the data nodes' map is of version {theirs}, which a group that was recovered before \
         has given out, and this disk knows {ours}: go on with that group"
    )]
    Recovered {
        /// The disk's.
        ours: MapVersion,
        /// The map's.
        theirs: MapVersion,
    },
}

/// What one coordinator's disk knows.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// What was known to be committed.
    pub committed: ClusterState,
    /// What follows in its log: it may have been committed, or not.
    pub tail: Vec<(u64, Command)>,
}

impl Survivor {
    /// What the cluster goes on with. `newest` is the newest map of the data nodes that
    /// answered, `everybody` whether all did, `group` the id of the coordinators' group
    /// that is given up, `at` the version of the result.
    ///
    /// # Errors
    /// See [`RecoveryError`].
    pub fn go_on(
        self,
        newest: Option<&ClusterMap>,
        everybody: bool,
        group: &str,
        at: MapVersion,
    ) -> Result<ClusterState, RecoveryError> {
        let ours = self.committed.cluster_id.clone();
        if let Some(map) = newest
            && !ours.is_empty()
            && map.cluster_id != ours
        {
            return Err(RecoveryError::OtherCluster {
                ours,
                theirs: map.cluster_id.clone(),
            });
        }
        let mut state = self.with_newest(newest)?;
        if state.settings.is_none() {
            return Err(RecoveryError::NoCluster);
        }
        state.skip(at, everybody);
        state.coordinators.clear();
        state.former_groups.push(group.to_owned());
        Ok(state)
    }

    /// The newest state that is known. What is not known to be committed counts, as for a
    /// new leader, unless a data node's map shows that something else was.
    fn with_newest(self, newest: Option<&ClusterMap>) -> Result<ClusterState, RecoveryError> {
        let Self { committed, tail } = self;
        let mut state = committed.clone();
        let mut agrees = newest.is_none_or(|map| map.version <= state.version);
        for (index, command) in tail {
            state.apply(index, command);
            agrees |= newest.is_some_and(|map| *map == state.map());
        }
        let Some(map) = newest.filter(|_| !agrees) else {
            return Ok(state);
        };
        if map.version.0 - committed.version.0 >= NUMBERS_SKIPPED {
            return Err(RecoveryError::Recovered {
                ours: committed.version,
                theirs: map.version,
            });
        }
        let mut state = committed;
        state.adopt(map);
        Ok(state)
    }

    /// Whether the map tells of more than the disk knows to be committed.
    #[must_use]
    pub fn is_behind(&self, map: &ClusterMap) -> bool {
        map.version > self.committed.version
    }
}

impl ClusterState {
    /// Takes over a newer committed map, and mends what no map tells.
    fn adopt(&mut self, map: &ClusterMap) {
        let ClusterMap {
            cluster_id,
            version,
            settings,
            nodes,
            partitions,
            coordinators: _,
        } = map;
        cluster_id.clone_into(&mut self.cluster_id);
        self.version = *version;
        self.settings.clone_from(settings);
        self.nodes.clone_from(nodes);
        self.partitions.clone_from(partitions);
        let live = |state: &Self, node: &NodeId| {
            let info = state.nodes.get(node)?;
            match info.standing {
                NodeStanding::Member => Some(*node),
                // Its name may have another identity, which has its seats.
                NodeStanding::Gone => state.holder_of_name(&info.name).map(|heir| heir.id),
            }
        };
        let mut seats = Vec::with_capacity(self.partitions.len());
        for (at, record) in self.partitions.iter().enumerate() {
            let members = record.config.current.members.iter().map(|m| m.node);
            let known: Option<Vec<NodeId>> = self.seats.get(at).and_then(|seats| {
                let live: Vec<NodeId> = seats.iter().filter_map(|n| live(self, n)).collect();
                let distinct = live.iter().collect::<std::collections::BTreeSet<_>>().len();
                (live.len() == seats.len() && distinct == live.len()).then_some(live)
            });
            seats.push(known.unwrap_or_else(|| members.collect()));
        }
        self.seats = seats;
        // A person may have named its survivors, which no map tells.
        for record in self.partitions.iter().filter(|r| r.primary.is_none()) {
            self.forced.insert(record.id, record.epoch);
        }
        let is_member = |node: &NodeId| {
            let info = self.nodes.get(node);
            info.is_some_and(|info| info.standing == NodeStanding::Member)
        };
        self.expected_back.retain(|node, _| is_member(node));
        self.leaving.retain(|node, _| is_member(node));
        // What was configured to one and is no more is not what a map tells: without the
        // note the partition takes more to be promoted, never less.
        let is_of_one = |partition: &PartitionId| {
            let record = self.partitions.get(partition.0 as usize);
            record.is_some_and(|record| record.config.current.write_quorum == 1)
        };
        self.eventual.retain(is_of_one);
    }

    /// Passes over every number that may have been given out, and leaves every partition
    /// without a primary.
    fn skip(&mut self, at: MapVersion, everybody: bool) {
        let replicas = self.partitions.iter().flat_map(|r| r.config.replicas());
        let replica = replicas.map(|m| m.replica).max().unwrap_or_default();
        let node = self.nodes.keys().max().copied().unwrap_or_default();
        self.last_replica = ReplicaId(self.last_replica.max(replica).0 + NUMBERS_SKIPPED);
        self.last_node = NodeId(self.last_node.max(node).0 + NODES_SKIPPED);
        let former = std::mem::take(&mut self.forced);
        for record in &mut self.partitions {
            let record = Arc::make_mut(record);
            record.epoch = Epoch(record.epoch.0 + NUMBERS_SKIPPED);
            record.revision = 0;
            record.primary = None;
            record.changed_at = at;
            if !everybody || former.contains_key(&record.id) {
                self.forced.insert(record.id, record.epoch);
            }
        }
        for info in self.nodes.values_mut() {
            Arc::make_mut(info).changed_at = at;
        }
        self.version = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::command::{NodeRegistration, Response};
    use crate::cluster::settings::SettingsRequest;
    use crate::record::Addresses;

    const P: PartitionId = PartitionId(0);

    fn register(name: &str) -> Command {
        Command::RegisterNode(NodeRegistration {
            uuid: format!("uuid-{name}"),
            incarnation: "i".to_owned(),
            name: name.to_owned(),
            addresses: Addresses::default(),
            zone: String::new(),
            weight: 100,
            features: 0,
            replace_dead: false,
        })
    }

    /// Three data nodes and a table, at entry 10.
    fn cluster() -> ClusterState {
        let mut state = ClusterState::default();
        let mut settings = SettingsRequest::default().resolve().unwrap().settings;
        settings.initial_data_nodes = 3;
        settings.partitions = 4;
        let seats = vec![[1, 2, 3].map(NodeId).to_vec(); 4];
        let made = [
            Command::CreateCluster {
                cluster_id: "c".to_owned(),
                settings,
            },
            register("a"),
            register("b"),
            register("c"),
            Command::MakeTable { seats },
        ];
        for (index, command) in (6..).zip(made) {
            let response = state.apply(index, command);
            assert_eq!(response.refusal(), None);
        }
        state
    }

    fn raise(state: &ClusterState) -> Command {
        Command::RaiseEpoch {
            partition: P,
            epoch: state.partition(P).unwrap().epoch,
        }
    }

    fn name(state: &ClusterState, at: usize) -> Command {
        let record = state.partition(P).unwrap();
        Command::NamePrimary {
            partition: P,
            epoch: record.epoch,
            primary: record.config.current.members[at],
            loss: None,
        }
    }

    fn applied(state: &ClusterState, commands: &[(u64, Command)]) -> ClusterState {
        let mut state = state.clone();
        for (index, command) in commands {
            assert_eq!(state.apply(*index, command.clone()), Response::Done);
        }
        state
    }

    /// As the coordinators that were lost decided: node c holds no replica of the first
    /// partition any more, and d does.
    fn moved() -> ClusterState {
        let state = cluster();
        let mut later = state.clone();
        later.apply(11, register("d"));
        let order = |state: &ClusterState| {
            let record = state.partition(P).unwrap();
            (record.epoch, record.revision)
        };
        let (epoch, revision) = order(&later);
        let node = NodeId(4);
        let learner = Command::AddLearner {
            partition: P,
            epoch,
            revision,
            node,
        };
        assert_eq!(later.apply(12, learner), Response::Done);
        let record = later.partition(P).unwrap().clone();
        let mut set = record.config.current.clone();
        set.members[2] = record.config.learners[0];
        let (epoch, revision) = order(&later);
        let joint = Command::EnterJoint {
            partition: P,
            epoch,
            revision,
            set,
        };
        assert_eq!(later.apply(13, joint), Response::Done);
        let (epoch, _) = order(&later);
        let leave = Command::LeaveJoint {
            partition: P,
            epoch,
            direction: crate::cluster::Direction::Forward,
        };
        assert_eq!(later.apply(14, leave), Response::Done);
        later
    }

    fn survivor(committed: ClusterState, tail: Vec<(u64, Command)>) -> Survivor {
        Survivor { committed, tail }
    }

    const AT: MapVersion = MapVersion(NUMBERS_SKIPPED + 99);

    #[test]
    fn a_disk_that_was_behind_goes_on_with_the_members_and_above_the_epochs_of_the_newest_map() {
        let map = moved().map();
        let state = survivor(cluster(), Vec::new());
        assert!(state.is_behind(&map));
        let state = state.go_on(Some(&map), true, "group", AT).unwrap();
        assert_eq!(state.broken_invariant(), None);
        let record = state.partition(P).unwrap();
        assert_eq!(record.config, map.partitions[0].config);
        for (record, known) in state.partitions().iter().zip(&map.partitions) {
            assert!(record.epoch.0 >= known.epoch.0 + NUMBERS_SKIPPED);
            assert_eq!(
                record.primary, None,
                "nobody leads an epoch that was not fenced"
            );
            assert_eq!(record.changed_at, AT);
        }
        assert_eq!(state.version(), AT);
        assert!(!state.is_forced(P), "everybody was heard: nothing is lost");
        assert_eq!(state.former_groups(), ["group"]);
        // Whatever the lost ones gave out is never given out again.
        let mut state = state;
        let Response::Registered { node } = state.apply(AT.0 + 1, register("e")) else {
            panic!("not admitted");
        };
        assert!(node > NodeId(4 + 1_000));
        assert_eq!(state.node(NodeId(4)).unwrap().name, "d");
    }

    #[test]
    fn where_somebody_was_not_heard_leases_are_waited_out_and_losses_counted() {
        let state = survivor(cluster(), Vec::new());
        let mut state = state.go_on(None, false, "group", AT).unwrap();
        assert!(state.partitions().iter().all(|r| state.is_forced(r.id)));
        let named = name(&state, 0);
        assert_eq!(state.apply(AT.0 + 1, named), Response::Done);
        assert_eq!(state.loss(P).promotions, 1);
    }

    #[test]
    fn what_is_not_known_to_be_committed_counts_unless_a_map_shows_that_it_was_not() {
        let committed = cluster();
        let raised = raise(&committed);
        let tail = vec![(11, raised.clone())];
        let after = applied(&committed, &tail);
        let epoch = |state: &ClusterState| state.partition(P).unwrap().epoch.0 % NUMBERS_SKIPPED;
        // Nobody says anything, or something older.
        for newest in [None, Some(committed.map())] {
            let state = survivor(committed.clone(), tail.clone());
            let state = state.go_on(newest.as_ref(), true, "group", AT).unwrap();
            assert_eq!(epoch(&state), epoch(&after));
        }
        // A map of the same line, from the middle of the tail.
        let longer = vec![tail[0].clone(), (12, name(&after, 1))];
        let state = survivor(committed.clone(), longer);
        let state = state.go_on(Some(&after.map()), true, "group", AT).unwrap();
        assert_eq!(epoch(&state), epoch(&after));
        // A leader that was deposed wrote the tail; others decided something else.
        let others = applied(
            &committed,
            &[(
                11,
                Command::NoteCoordinators {
                    coordinators: vec![crate::record::CoordinatorInfo {
                        name: "x".to_owned(),
                        peer: "x:1".to_owned(),
                        client: String::new(),
                    }],
                },
            )],
        );
        let state = survivor(committed.clone(), vec![(11, raised), (12, register("z"))]);
        let state = state.go_on(Some(&others.map()), true, "group", AT).unwrap();
        assert_eq!(epoch(&state), epoch(&committed));
        assert!(state.node_by_uuid("uuid-z").is_none());
    }

    #[test]
    fn a_map_of_another_cluster_or_of_a_later_group_is_refused() {
        let mut other = cluster().map();
        other.cluster_id = "another".to_owned();
        let refused = survivor(cluster(), Vec::new()).go_on(Some(&other), true, "group", AT);
        assert!(matches!(refused, Err(RecoveryError::OtherCluster { .. })));
        let recovered = survivor(cluster(), Vec::new()).go_on(None, true, "group", AT);
        let later = recovered.unwrap().map();
        let refused = survivor(cluster(), Vec::new()).go_on(Some(&later), true, "group", AT);
        assert!(matches!(refused, Err(RecoveryError::Recovered { .. })));
        let empty = survivor(ClusterState::default(), Vec::new()).go_on(None, true, "group", AT);
        assert_eq!(empty, Err(RecoveryError::NoCluster));
    }

    #[test]
    fn seats_follow_an_identity_that_took_anothers_name() {
        let mut later = cluster();
        let gone = Command::MarkGone {
            node: NodeId(3),
            force: true,
        };
        later.apply(11, gone);
        let mut heir = register("c");
        if let Command::RegisterNode(registration) = &mut heir {
            registration.uuid = "another".to_owned();
        }
        later.apply(12, heir);
        let state = survivor(cluster(), Vec::new());
        let state = state.go_on(Some(&later.map()), true, "group", AT).unwrap();
        assert_eq!(state.seats(P), [1, 2, 4].map(NodeId));
    }
}
