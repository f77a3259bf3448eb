//! The map: records, nodes, settings, and updates of all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_core::counters::Declared;
use cairn_core::ids::{Epoch, Index, MapVersion, Mark, NodeId, PartitionId, Position, ReplicaId};
use cairn_core::kv::request::ReadLevel;
use cairn_core::record::{
    Addresses, ClusterMap, ClusterSettings, Configuration, CoordinatorInfo, Member, NodeInfo,
    NodeStanding, OutsideAddresses, PartitionRecord, ReplicaSet, SlotRange,
};
use cairn_core::slots::SLOTS;

use crate::limits;
use crate::malformed::{Malformed, bounded, list, name, narrow, optional, required, text};
use crate::pb::map::v1 as pb;

impl From<Position> for pb::Position {
    fn from(Position { epoch, index }: Position) -> Self {
        Self {
            epoch: epoch.0,
            index: index.0,
        }
    }
}

impl From<pb::Position> for Position {
    fn from(pb::Position { epoch, index }: pb::Position) -> Self {
        Self {
            epoch: Epoch(epoch),
            index: Index(index),
        }
    }
}

/// Takes a position that must be there.
pub(crate) fn position(part: Option<pb::Position>, field: &str) -> Result<Position, Malformed> {
    part.map(Position::from)
        .ok_or_else(|| Malformed::missing(field))
}

impl From<Mark> for pb::Mark {
    fn from(Mark { position, chain }: Mark) -> Self {
        Self {
            epoch: position.epoch.0,
            index: position.index.0,
            chain,
        }
    }
}

impl From<pb::Mark> for Mark {
    fn from(
        pb::Mark {
            epoch,
            index,
            chain,
        }: pb::Mark,
    ) -> Self {
        Self {
            position: Position {
                epoch: Epoch(epoch),
                index: Index(index),
            },
            chain,
        }
    }
}

/// Takes a lineage: marks of ascending epochs and indexes.
pub(crate) fn lineage(parts: Vec<pb::Mark>, field: &str) -> Result<Vec<Mark>, Malformed> {
    bounded(parts.len(), limits::LINEAGE, field)?;
    let marks: Vec<Mark> = parts.into_iter().map(Mark::from).collect();
    let ascending = marks
        .windows(2)
        .all(|w| w[0].epoch() < w[1].epoch() && w[0].index() <= w[1].index());
    if !ascending {
        return Err(Malformed::new(field, "does not ascend"));
    }
    Ok(marks)
}

impl From<Member> for pb::Member {
    fn from(Member { node, replica }: Member) -> Self {
        Self {
            node: node.0,
            replica: replica.0,
        }
    }
}

impl TryFrom<pb::Member> for Member {
    type Error = Malformed;

    fn try_from(pb::Member { node, replica }: pb::Member) -> Result<Self, Malformed> {
        if node == 0 {
            return Err(Malformed::missing("node"));
        }
        if replica == 0 {
            return Err(Malformed::missing("replica"));
        }
        Ok(Self {
            node: NodeId(node),
            replica: ReplicaId(replica),
        })
    }
}

impl From<&ReplicaSet> for pb::ReplicaSet {
    fn from(
        ReplicaSet {
            members,
            write_quorum,
        }: &ReplicaSet,
    ) -> Self {
        Self {
            members: members.iter().copied().map(Into::into).collect(),
            write_quorum: u32::from(*write_quorum),
        }
    }
}

impl TryFrom<pb::ReplicaSet> for ReplicaSet {
    type Error = Malformed;

    fn try_from(
        pb::ReplicaSet {
            members,
            write_quorum,
        }: pb::ReplicaSet,
    ) -> Result<Self, Malformed> {
        let members: Vec<Member> = list(members, limits::MEMBERS, "members")?;
        if members.is_empty() {
            return Err(Malformed::new("members", "is empty"));
        }
        if write_quorum == 0 || write_quorum as usize > members.len() {
            return Err(Malformed::new(
                "write_quorum",
                format!("{write_quorum} does not fit {} members", members.len()),
            ));
        }
        Ok(Self {
            members,
            write_quorum: narrow(write_quorum, "write_quorum")?,
        })
    }
}

impl From<&Configuration> for pb::Configuration {
    fn from(
        Configuration {
            current,
            joint,
            learners,
            readers,
        }: &Configuration,
    ) -> Self {
        Self {
            current: Some(current.into()),
            joint: joint.as_ref().map(Into::into),
            learners: learners.iter().copied().map(Into::into).collect(),
            readers: readers.iter().copied().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Configuration> for Configuration {
    type Error = Malformed;

    fn try_from(
        pb::Configuration {
            current,
            joint,
            learners,
            readers,
        }: pb::Configuration,
    ) -> Result<Self, Malformed> {
        Ok(Self {
            current: required(current, "current")?,
            joint: optional(joint, "joint")?,
            learners: list(learners, limits::LEARNERS, "learners")?,
            readers: list(readers, limits::LEARNERS, "readers")?,
        })
    }
}

impl From<&PartitionRecord> for pb::PartitionRecord {
    fn from(
        PartitionRecord {
            id,
            slots,
            epoch,
            revision,
            config,
            primary,
            degraded,
            changed_at,
        }: &PartitionRecord,
    ) -> Self {
        Self {
            id: id.0,
            first_slot: u32::from(slots.first),
            last_slot: u32::from(slots.last),
            epoch: epoch.0,
            revision: *revision,
            config: Some(config.into()),
            primary: primary.map(Into::into),
            degraded: *degraded,
            changed_at: changed_at.0,
        }
    }
}

impl TryFrom<pb::PartitionRecord> for PartitionRecord {
    type Error = Malformed;

    fn try_from(
        pb::PartitionRecord {
            id,
            first_slot,
            last_slot,
            epoch,
            revision,
            config,
            primary,
            degraded,
            changed_at,
        }: pb::PartitionRecord,
    ) -> Result<Self, Malformed> {
        if last_slot >= u32::from(SLOTS) {
            return Err(Malformed::new(
                "last_slot",
                format!("{last_slot} is not a slot"),
            ));
        }
        if first_slot > last_slot {
            return Err(Malformed::new("first_slot", "is after last_slot"));
        }
        Ok(Self {
            id: partition(id, "id")?,
            slots: SlotRange {
                first: narrow(first_slot, "first_slot")?,
                last: narrow(last_slot, "last_slot")?,
            },
            epoch: Epoch(epoch),
            revision,
            config: required(config, "config")?,
            primary: optional(primary, "primary")?,
            degraded,
            changed_at: MapVersion(changed_at),
        })
    }
}

/// Takes a partition's number.
///
/// # Errors
/// Names `field`.
pub fn partition(id: u32, field: &str) -> Result<PartitionId, Malformed> {
    if id as usize >= limits::PARTITIONS {
        return Err(Malformed::new(field, format!("{id} is not a partition")));
    }
    Ok(PartitionId(id))
}

impl From<&Addresses> for pb::Addresses {
    fn from(
        Addresses {
            resp,
            client,
            peer,
            http,
            resp_hostname,
            ip,
            outside,
        }: &Addresses,
    ) -> Self {
        Self {
            resp: resp.clone(),
            client: client.clone(),
            peer: peer.clone(),
            http: http.clone(),
            resp_hostname: resp_hostname.clone(),
            outside_resp: outside.resp.clone(),
            outside_client: outside.client.clone(),
            ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::Addresses> for Addresses {
    type Error = Malformed;

    fn try_from(
        pb::Addresses {
            resp,
            client,
            peer,
            http,
            resp_hostname,
            outside_resp,
            outside_client,
            ip,
        }: pb::Addresses,
    ) -> Result<Self, Malformed> {
        let ip = Some(ip).filter(|ip| !ip.is_empty());
        let ip = ip.map(|ip| ip.parse()).transpose();
        Ok(Self {
            resp: text(resp, limits::ADDRESS_BYTES, "resp")?,
            client: text(client, limits::ADDRESS_BYTES, "client")?,
            peer: text(peer, limits::ADDRESS_BYTES, "peer")?,
            http: text(http, limits::ADDRESS_BYTES, "http")?,
            resp_hostname: text(resp_hostname, limits::ADDRESS_BYTES, "resp_hostname")?,
            ip: ip.map_err(|_| Malformed::new("ip", "is not an IP address"))?,
            outside: Box::new(OutsideAddresses {
                resp: text(outside_resp, limits::ADDRESS_BYTES, "outside_resp")?,
                client: text(outside_client, limits::ADDRESS_BYTES, "outside_client")?,
            }),
        })
    }
}

impl From<&NodeInfo> for pb::NodeInfo {
    fn from(
        NodeInfo {
            id,
            uuid,
            incarnation,
            name,
            addresses,
            zone,
            weight,
            standing,
            features,
            changed_at,
        }: &NodeInfo,
    ) -> Self {
        let standing = match standing {
            NodeStanding::Member => pb::NodeStanding::Member,
            NodeStanding::Gone => pb::NodeStanding::Gone,
        };
        Self {
            id: id.0,
            uuid: uuid.clone(),
            incarnation: incarnation.clone(),
            name: name.clone(),
            addresses: Some(addresses.into()),
            zone: zone.clone(),
            weight: *weight,
            standing: standing.into(),
            features: *features,
            changed_at: changed_at.0,
        }
    }
}

impl TryFrom<pb::NodeInfo> for NodeInfo {
    type Error = Malformed;

    fn try_from(
        pb::NodeInfo {
            id,
            uuid,
            incarnation,
            name: label,
            addresses,
            zone,
            weight,
            standing,
            features,
            changed_at,
        }: pb::NodeInfo,
    ) -> Result<Self, Malformed> {
        if id == 0 {
            return Err(Malformed::missing("id"));
        }
        Ok(Self {
            id: NodeId(id),
            uuid: name(uuid, limits::LABEL_BYTES, "uuid")?,
            incarnation: name(incarnation, limits::LABEL_BYTES, "incarnation")?,
            name: name(label, limits::LABEL_BYTES, "name")?,
            addresses: required(addresses, "addresses")?,
            zone: text(zone, limits::LABEL_BYTES, "zone")?,
            weight,
            standing: match pb::NodeStanding::try_from(standing) {
                Ok(pb::NodeStanding::Member) => NodeStanding::Member,
                Ok(pb::NodeStanding::Gone) => NodeStanding::Gone,
                Ok(pb::NodeStanding::Unspecified) | Err(_) => {
                    return Err(Malformed::new("standing", format!("{standing} is unknown")));
                }
            },
            features,
            changed_at: MapVersion(changed_at),
        })
    }
}

impl From<&ClusterSettings> for pb::ClusterSettings {
    fn from(
        ClusterSettings {
            replication_factor,
            write_quorum,
            min_in_sync,
            partitions,
            virtual_nodes,
            initial_data_nodes,
            lease_ms,
            lease_ms_longest,
            idempotence_window,
            node_timeout_ms,
            read_level,
            read_quorum,
            replace_after_ms,
            moves_per_node,
            counters,
        }: &ClusterSettings,
    ) -> Self {
        Self {
            replication_factor: u32::from(*replication_factor),
            write_quorum: u32::from(*write_quorum),
            min_in_sync: u32::from(*min_in_sync),
            partitions: *partitions,
            virtual_nodes: *virtual_nodes,
            initial_data_nodes: *initial_data_nodes,
            lease_ms: *lease_ms,
            lease_ms_longest: *lease_ms_longest,
            idempotence_window: *idempotence_window,
            node_timeout_ms: *node_timeout_ms,
            read_level: *read_level as u32,
            read_quorum: u32::from(*read_quorum),
            replace_after_ms: *replace_after_ms,
            moves_per_node: u32::from(*moves_per_node),
            counters: counters.clone(),
        }
    }
}

impl TryFrom<pb::ClusterSettings> for ClusterSettings {
    type Error = Malformed;

    fn try_from(
        pb::ClusterSettings {
            replication_factor,
            write_quorum,
            min_in_sync,
            partitions,
            virtual_nodes,
            initial_data_nodes,
            lease_ms,
            lease_ms_longest,
            idempotence_window,
            node_timeout_ms,
            read_level,
            read_quorum,
            replace_after_ms,
            moves_per_node,
            counters,
        }: pb::ClusterSettings,
    ) -> Result<Self, Malformed> {
        if partitions as usize > limits::PARTITIONS {
            return Err(Malformed::new(
                "partitions",
                format!("{partitions} is above {}", limits::PARTITIONS),
            ));
        }
        Ok(Self {
            replication_factor: narrow(replication_factor, "replication_factor")?,
            write_quorum: narrow(write_quorum, "write_quorum")?,
            min_in_sync: narrow(min_in_sync, "min_in_sync")?,
            partitions,
            virtual_nodes,
            initial_data_nodes,
            lease_ms,
            lease_ms_longest,
            idempotence_window,
            node_timeout_ms,
            read_level: usize::try_from(read_level)
                .ok()
                .and_then(|level| ReadLevel::ALL.get(level).copied())
                .ok_or_else(|| Malformed::new("read_level", format!("{read_level} is unknown")))?,
            read_quorum: narrow(read_quorum, "read_quorum")?,
            replace_after_ms,
            moves_per_node: narrow(moves_per_node, "moves_per_node")?,
            counters: match Declared::parse(&counters) {
                Ok(_) => counters,
                Err(error) => return Err(Malformed::new("counters", error.to_string())),
            },
        })
    }
}

impl From<&CoordinatorInfo> for pb::CoordinatorInfo {
    fn from(CoordinatorInfo { name, peer, client }: &CoordinatorInfo) -> Self {
        Self {
            name: name.clone(),
            peer: peer.clone(),
            client: client.clone(),
        }
    }
}

impl TryFrom<pb::CoordinatorInfo> for CoordinatorInfo {
    type Error = Malformed;

    fn try_from(
        pb::CoordinatorInfo {
            name: label,
            peer,
            client,
        }: pb::CoordinatorInfo,
    ) -> Result<Self, Malformed> {
        Ok(Self {
            name: name(label, limits::LABEL_BYTES, "name")?,
            peer: text(peer, limits::ADDRESS_BYTES, "peer")?,
            client: text(client, limits::ADDRESS_BYTES, "client")?,
        })
    }
}

impl From<&ClusterMap> for pb::ClusterMap {
    fn from(
        ClusterMap {
            cluster_id,
            version,
            settings,
            nodes,
            partitions,
            coordinators,
        }: &ClusterMap,
    ) -> Self {
        Self {
            cluster_id: cluster_id.clone(),
            version: version.0,
            settings: settings.as_deref().map(Into::into),
            nodes: nodes.values().map(|n| n.as_ref().into()).collect(),
            partitions: partitions.iter().map(|p| p.as_ref().into()).collect(),
            coordinators: coordinators.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::ClusterMap> for ClusterMap {
    type Error = Malformed;

    fn try_from(
        pb::ClusterMap {
            cluster_id,
            version,
            settings,
            nodes,
            partitions,
            coordinators,
        }: pb::ClusterMap,
    ) -> Result<Self, Malformed> {
        let nodes: Vec<NodeInfo> = list(nodes, limits::NODES, "nodes")?;
        if nodes.windows(2).any(|w| w[0].id >= w[1].id) {
            return Err(Malformed::new("nodes", "do not ascend by id"));
        }
        let partitions: Vec<PartitionRecord> = list(partitions, limits::PARTITIONS, "partitions")?;
        let map = Self {
            cluster_id: text(cluster_id, limits::LABEL_BYTES, "cluster_id")?,
            version: MapVersion(version),
            settings: optional(settings, "settings")?.map(Arc::new),
            nodes: nodes
                .into_iter()
                .map(|n| (n.id, Arc::new(n)))
                .collect::<BTreeMap<_, _>>(),
            partitions: partitions.into_iter().map(Arc::new).collect(),
            coordinators: list(coordinators, limits::COORDINATORS, "coordinators")?,
        };
        whole_table(&map.partitions)?;
        Ok(map)
    }
}

/// Checks that the table is empty, or covers every slot once, in order.
fn whole_table(partitions: &[Arc<PartitionRecord>]) -> Result<(), Malformed> {
    let mut next = 0u32;
    for (at, record) in partitions.iter().enumerate() {
        if record.id.0 as usize != at {
            return Err(Malformed::new(
                "partitions",
                format!("{} is at {at}", record.id),
            ));
        }
        if u32::from(record.slots.first) != next {
            return Err(Malformed::new(
                "partitions",
                format!("{} does not begin at slot {next}", record.id),
            ));
        }
        next = u32::from(record.slots.last) + 1;
    }
    if !partitions.is_empty() && next != u32::from(SLOTS) {
        return Err(Malformed::new("partitions", "do not cover every slot"));
    }
    Ok(())
}

/// What changed in the map since a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapDelta {
    /// The cluster.
    pub cluster_id: String,
    /// The receiver must have this version or a newer one.
    pub since: MapVersion,
    /// The version after the change.
    pub version: MapVersion,
    /// The settings, changed or not.
    pub settings: Option<Arc<ClusterSettings>>,
    /// The nodes that changed.
    pub nodes: Vec<Arc<NodeInfo>>,
    /// The records that changed, ascending.
    pub partitions: Vec<Arc<PartitionRecord>>,
    /// The coordinators, changed or not.
    pub coordinators: Vec<CoordinatorInfo>,
}

/// A map, or what changed in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapUpdate {
    /// The whole map.
    Full(Arc<ClusterMap>),
    /// What changed.
    Delta(MapDelta),
}

/// Why an update could not be applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// The update is of another cluster.
    #[error("the update is of cluster {theirs:?} and the map is of cluster {ours:?}")]
    OtherCluster {
        /// The map's.
        ours: String,
        /// The update's.
        theirs: String,
    },
    /// Something between the map and the update is missing: ask for the whole map.
    #[error("the map at {ours} lacks what the update, since {since}, builds on")]
    Gap {
        /// The map's version.
        ours: MapVersion,
        /// What the update builds on.
        since: MapVersion,
    },
    /// With the update the map would make no sense.
    #[error("the update does not fit the map: {0}")]
    Misfit(#[from] Malformed),
}

impl MapUpdate {
    /// What someone who has `version` of `cluster_id` needs to have `map`: a delta
    /// where they know the cluster, else the whole map.
    #[must_use]
    pub fn since(map: &Arc<ClusterMap>, cluster_id: &str, version: MapVersion) -> Self {
        let known = version > MapVersion::ZERO
            && version <= map.version
            && !cluster_id.is_empty()
            && cluster_id == map.cluster_id;
        if !known {
            return Self::Full(Arc::clone(map));
        }
        Self::Delta(MapDelta {
            cluster_id: map.cluster_id.clone(),
            since: version,
            version: map.version,
            settings: map.settings.clone(),
            nodes: map
                .nodes
                .values()
                .filter(|n| n.changed_at > version)
                .cloned()
                .collect(),
            partitions: map
                .partitions
                .iter()
                .filter(|p| p.changed_at > version)
                .cloned()
                .collect(),
            coordinators: map.coordinators.clone(),
        })
    }

    /// The version that the update leads to.
    #[must_use]
    pub fn version(&self) -> MapVersion {
        match self {
            Self::Full(map) => map.version,
            Self::Delta(delta) => delta.version,
        }
    }

    /// The map after the update; `None` where `map` is at least as new.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn apply(self, map: &ClusterMap) -> Result<Option<Arc<ClusterMap>>, ApplyError> {
        let theirs = match &self {
            Self::Full(new) => &new.cluster_id,
            Self::Delta(delta) => &delta.cluster_id,
        };
        if !map.cluster_id.is_empty() && *theirs != map.cluster_id {
            return Err(ApplyError::OtherCluster {
                ours: map.cluster_id.clone(),
                theirs: theirs.clone(),
            });
        }
        match self {
            Self::Full(new) => Ok((new.version > map.version).then_some(new)),
            Self::Delta(delta) => {
                if map.version < delta.since || map.cluster_id.is_empty() {
                    return Err(ApplyError::Gap {
                        ours: map.version,
                        since: delta.since,
                    });
                }
                if delta.version <= map.version {
                    return Ok(None);
                }
                let mut new = map.clone();
                new.version = delta.version;
                new.settings = delta.settings;
                new.coordinators = delta.coordinators;
                for node in delta.nodes {
                    new.nodes.insert(node.id, node);
                }
                for record in delta.partitions {
                    let at = record.id.0 as usize;
                    match at.cmp(&new.partitions.len()) {
                        std::cmp::Ordering::Less => new.partitions[at] = record,
                        std::cmp::Ordering::Equal => new.partitions.push(record),
                        std::cmp::Ordering::Greater => {
                            return Err(Malformed::new(
                                "partitions",
                                format!("{} leaves a gap in the table", record.id),
                            )
                            .into());
                        }
                    }
                }
                whole_table(&new.partitions)?;
                Ok(Some(Arc::new(new)))
            }
        }
    }
}

impl From<&MapUpdate> for pb::MapUpdate {
    fn from(update: &MapUpdate) -> Self {
        let update = match update {
            MapUpdate::Full(map) => pb::map_update::Update::Full(map.as_ref().into()),
            MapUpdate::Delta(MapDelta {
                cluster_id,
                since,
                version,
                settings,
                nodes,
                partitions,
                coordinators,
            }) => pb::map_update::Update::Delta(pb::MapDelta {
                cluster_id: cluster_id.clone(),
                since: since.0,
                version: version.0,
                settings: settings.as_deref().map(Into::into),
                nodes: nodes.iter().map(|n| n.as_ref().into()).collect(),
                partitions: partitions.iter().map(|p| p.as_ref().into()).collect(),
                coordinators: coordinators.iter().map(Into::into).collect(),
            }),
        };
        Self {
            update: Some(update),
        }
    }
}

impl TryFrom<pb::MapUpdate> for MapUpdate {
    type Error = Malformed;

    fn try_from(pb::MapUpdate { update }: pb::MapUpdate) -> Result<Self, Malformed> {
        match update.ok_or_else(|| Malformed::missing("update"))? {
            pb::map_update::Update::Full(map) => Ok(Self::Full(Arc::new(
                ClusterMap::try_from(map).map_err(|e| e.within("full"))?,
            ))),
            pb::map_update::Update::Delta(delta) => MapDelta::try_from(delta)
                .map(Self::Delta)
                .map_err(|e| e.within("delta")),
        }
    }
}

impl TryFrom<pb::MapDelta> for MapDelta {
    type Error = Malformed;

    fn try_from(
        pb::MapDelta {
            cluster_id,
            since,
            version,
            settings,
            nodes,
            partitions,
            coordinators,
        }: pb::MapDelta,
    ) -> Result<Self, Malformed> {
        let nodes: Vec<NodeInfo> = list(nodes, limits::NODES, "nodes")?;
        let partitions: Vec<PartitionRecord> = list(partitions, limits::PARTITIONS, "partitions")?;
        if partitions.windows(2).any(|w| w[0].id >= w[1].id) {
            return Err(Malformed::new("partitions", "do not ascend by id"));
        }
        Ok(Self {
            cluster_id: name(cluster_id, limits::LABEL_BYTES, "cluster_id")?,
            since: MapVersion(since),
            version: MapVersion(version),
            settings: optional(settings, "settings")?.map(Arc::new),
            nodes: nodes.into_iter().map(Arc::new).collect(),
            partitions: partitions.into_iter().map(Arc::new).collect(),
            coordinators: list(coordinators, limits::COORDINATORS, "coordinators")?,
        })
    }
}
