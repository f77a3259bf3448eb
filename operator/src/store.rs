//! What the coordinators say, as far as the operator needs it: the part of the document of
//! `cairn status -o json` that it reads. Fields that it does not know are passed over, so that
//! nodes may be newer than the operator.

use serde::Deserialize;

/// The document. A leader made it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// Empty before the cluster was made.
    pub cluster_id: String,
    /// How many partitions are how.
    pub summary: Summary,
    /// Data nodes, and identities that are gone and still hold a seat.
    pub nodes: Vec<Node>,
    /// The partitions.
    pub partitions: Vec<Partition>,
    /// What is being moved.
    #[serde(default)]
    pub rebalance: Rebalance,
    /// What clients ask for most.
    #[serde(default)]
    pub heat: Heat,
    /// The coordinators' group.
    #[serde(default)]
    pub coordinators: Vec<Coordinator>,
    /// The last change of that group.
    #[serde(default)]
    pub coordinators_change: Option<GroupChange>,
    /// What was agreed on; absent before the cluster was made.
    #[serde(default)]
    pub settings: Option<Settings>,
}

/// What clients ask for most.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Heat {
    /// Partitions.
    pub partitions: Vec<HotPartition>,
    /// Keys.
    pub keys: Vec<HotKey>,
    /// Copies for reads alone.
    pub read_copies: u32,
}

/// A partition that is asked far more than others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub struct HotPartition {
    /// Which.
    pub partition: u32,
}

/// A key that is asked for far more than others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HotKey {
    /// Its hash, or its name.
    pub key: String,
    /// For how long it has been hot.
    pub hot_for_ms: u64,
}

/// How many partitions are how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// In all.
    pub partitions: u32,
    /// With a primary that serves.
    pub serving: u32,
    /// With fewer copies, or a lower W, than configured.
    pub degraded: u32,
    /// With a copy being made, or a joint configuration.
    pub moving: u32,
    /// Promotions, ever, from too few reports.
    pub lossy_promotions: u64,
}

/// A data node.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its number.
    pub id: u64,
    /// Its name, which is that of its pod.
    pub name: String,
    /// Its zone.
    #[serde(default)]
    pub zone: String,
    /// Whether it is a member; otherwise it is gone for good.
    pub standing: NodeStanding,
    /// How the leader sees it.
    pub health: Health,
    /// Its process is stopping.
    #[serde(default)]
    pub draining: bool,
    /// It refuses writes for want of room.
    #[serde(default)]
    pub disk_full: bool,
    /// It is away on purpose until then, milliseconds since 1970 UTC.
    #[serde(default)]
    pub expected_back_unix_ms: Option<u64>,
    /// It gets no primary until then, milliseconds since 1970 UTC; absent where the
    /// coordinators are of a version that cannot be asked for it.
    #[serde(default)]
    pub cordoned_until_unix_ms: Option<u64>,
    /// Partitions that it leads.
    #[serde(default)]
    pub leads: u32,
    /// Copies on it.
    #[serde(default)]
    pub replicas: u32,
    /// Copies that belong on it.
    #[serde(default)]
    pub seats: u32,
    /// Why it is to hold nothing, if it is.
    #[serde(default)]
    pub leaving: Option<Leaving>,
    /// Whether it drains and has said that nothing is left.
    #[serde(default)]
    pub empty: bool,
}

/// Whether a node may come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(from = "serde_json::Value")]
pub enum NodeStanding {
    /// A member.
    Member,
    /// Gone for good, or something that this operator does not know.
    Gone,
}

/// How a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(from = "serde_json::Value")]
pub enum Health {
    /// Heard of lately.
    Up,
    /// Silent, but not down; or a leader that just started has not heard of it.
    Unknown,
    /// Counts as failed.
    Down,
}

/// Why a node is to hold nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(from = "serde_json::Value")]
pub enum Leaving {
    /// It was asked to give everything up.
    Draining,
    /// It stayed away for longer than the grace.
    Away,
}

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Partition {
    /// Which.
    pub partition: u32,
    /// `healthy`, `member-silent`, `moving`, `degraded`, `promoting`, `unserved`.
    pub state: String,
    /// The node that leads it.
    #[serde(default)]
    pub primary: Option<Seat>,
    /// Whether that one serves.
    #[serde(default)]
    pub serving: bool,
    /// Its copies.
    #[serde(default)]
    pub replicas: Vec<Copy>,
}

/// Who holds a copy, and where.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Seat {
    /// The data node.
    pub node: u64,
}

/// A copy.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    /// Whose.
    pub member: Seat,
    /// `member`, `learner`, `joining`, `leaving`.
    pub standing: String,
    /// Whether its node is up.
    #[serde(default)]
    pub up: bool,
    /// How many entries the primary knows it to lack.
    #[serde(default)]
    pub lag: Option<u64>,
}

/// What is being moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rebalance {
    /// Whether moves are held back that no lost copy asks for.
    pub paused: bool,
    /// Whether copies belong where the present nodes would have them.
    pub planned: bool,
    /// Whether there are fewer nodes than the replication factor asks for.
    pub too_few_nodes: bool,
    /// Whether nobody is replaced because too many nodes are down at once.
    pub held_back: bool,
    /// Copies that are being made.
    pub under_way: u32,
    /// Copies that are still to be made.
    pub waiting: u32,
    /// Partitions that still change without a copy.
    pub to_adjust: u32,
    /// About how many bytes are still to be copied.
    pub bytes_left: u64,
}

/// A coordinator.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coordinator {
    /// Its name, which is that of its pod.
    pub name: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// How many entries of the log it is behind.
    #[serde(default)]
    pub lag: Option<u64>,
}

/// A change of the coordinators' group.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupChange {
    /// What.
    #[serde(default)]
    pub what: String,
    /// How far; empty once it has ended.
    #[serde(default)]
    pub step: String,
    /// Why it failed; empty where it did not.
    #[serde(default)]
    pub failed: serde_json::Value,
}

/// What was agreed on, under the names that the coordinators' record of it has.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Settings {
    /// RF.
    pub replication_factor: u32,
    /// W.
    pub write_quorum: u32,
    /// How far W may be lowered.
    pub min_in_sync: u32,
    /// How long a grant lasts, ms.
    pub lease_ms: u64,
    /// How long a node may be silent, ms.
    pub node_timeout_ms: u64,
    /// How long a node may stay away, ms.
    pub replace_after_ms: u64,
    /// Copies made at a time on a node.
    pub moves_per_node: u32,
    /// Sequenced writes that a partition remembers.
    pub idempotence_window: u32,
    /// Which keys may become striped counters, as `PREFIX=STRIPES,...`.
    #[serde(default)]
    pub counters: String,
}

fn word(value: &serde_json::Value) -> &str {
    match value {
        serde_json::Value::String(word) => word,
        // A word with a reason.
        serde_json::Value::Object(fields) => fields.keys().next().map_or("", String::as_str),
        _ => "",
    }
}

impl From<serde_json::Value> for NodeStanding {
    fn from(value: serde_json::Value) -> Self {
        if word(&value).eq_ignore_ascii_case("member") {
            Self::Member
        } else {
            Self::Gone
        }
    }
}

impl From<serde_json::Value> for Health {
    fn from(value: serde_json::Value) -> Self {
        match word(&value).to_ascii_lowercase().as_str() {
            "up" => Self::Up,
            "down" => Self::Down,
            _ => Self::Unknown,
        }
    }
}

impl From<serde_json::Value> for Leaving {
    fn from(value: serde_json::Value) -> Self {
        if word(&value).eq_ignore_ascii_case("away") {
            Self::Away
        } else {
            Self::Draining
        }
    }
}

impl Store {
    /// The live identity of that name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == name && node.standing == NodeStanding::Member)
    }

    /// Partitions without a primary that serves.
    #[must_use]
    pub fn unserved(&self) -> u32 {
        self.summary.partitions.saturating_sub(self.summary.serving)
    }

    /// Whether every partition has all its copies, and all of them answer.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.partitions.iter().all(|p| p.state == "healthy")
    }

    /// Whether copies are being made, or are about to be. Those that are held back, or have
    /// nowhere to go, are not.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        let moves = &self.rebalance;
        // A node that has just joined: its share is worked out in a moment.
        let is_due = !moves.planned && !moves.paused && !moves.too_few_nodes;
        moves.under_way > 0 || moves.waiting > 0 || moves.to_adjust > 0 || is_due
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::cluster::settings::SettingsRequest;
    use cairn_core::cluster::status::ClusterStatus;

    use super::*;

    /// The document as the coordinators write it, not as this file would have it.
    #[test]
    fn what_the_coordinators_write_is_read() {
        let settings = SettingsRequest::default().resolve().unwrap().settings;
        let status = ClusterStatus {
            cluster_id: "c".to_owned(),
            ..ClusterStatus::default()
        };
        let mut document = serde_json::to_value(&status).unwrap();
        document["settings"] = serde_json::to_value(&settings).unwrap();
        let store: Store = serde_json::from_value(document).unwrap();
        let read = store.settings.unwrap();
        assert_eq!(read.replication_factor, 3);
        assert_eq!(read.write_quorum, 2);
        assert_eq!(read.lease_ms, settings.lease_ms);
        assert_eq!(read.replace_after_ms, settings.replace_after_ms);
        assert_eq!(read.moves_per_node, u32::from(settings.moves_per_node));
    }
}
