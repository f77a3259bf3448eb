//! What a cluster can be asked to be: defaults, refusals with their reason, warnings.

use serde::{Deserialize, Serialize};

use crate::counters::Declared;
use crate::kv::request::ReadLevel;
use crate::record::ClusterSettings;
use crate::slots::SLOTS;

/// The highest replication factor.
pub const REPLICATION_FACTOR_MAX: u8 = 7;
/// Partitions where nobody says otherwise.
pub const PARTITIONS_DEFAULT: u32 = 128;
/// Virtual nodes of a node of weight 100 where nobody says otherwise.
pub const VIRTUAL_NODES_DEFAULT: u32 = 64;
/// The most virtual nodes of a node of weight 100.
pub const VIRTUAL_NODES_MAX: u32 = 1024;
/// The highest weight of a data node; 100 is usual.
pub const WEIGHT_MAX: u32 = 10_000;
/// How long a grant lasts where nobody says otherwise.
pub const LEASE_MS_DEFAULT: u64 = 400;
/// How long a node may be silent where nobody says otherwise.
pub const NODE_TIMEOUT_MS_DEFAULT: u64 = 1_500;
/// How long a node may stay away before its replicas are made anew elsewhere, where
/// nobody says otherwise.
pub const REPLACE_AFTER_MS_DEFAULT: u64 = 300_000;
/// The longest such time: a week.
pub const REPLACE_AFTER_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;
/// Replicas that are made at a time on one node where nobody says otherwise.
pub const MOVES_PER_NODE_DEFAULT: u8 = 4;
/// Sequenced writes remembered per partition where nobody says otherwise.
pub const IDEMPOTENCE_WINDOW_DEFAULT: u32 = 65_536;

/// Supplies defaults; explicit values win.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// A majority must flush each write.
    Strong,
    /// One copy is enough for an acknowledgement.
    Eventual,
}

impl Preset {
    /// As settings and flags spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Eventual => "eventual",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Strong, Self::Eventual]
            .into_iter()
            .find(|preset| preset.name() == name)
    }
}

/// What a person asked for; everything unsaid is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SettingsRequest {
    /// Where the defaults come from; a majority where unsaid.
    #[serde(rename = "consistency")]
    pub preset: Option<Preset>,
    /// RF.
    pub replication_factor: Option<u8>,
    /// W.
    pub write_quorum: Option<u8>,
    /// The level of reads that name none.
    pub read_level: Option<ReadLevel>,
    /// R: how many replicas a quorum read asks; N-W+1 where unsaid.
    pub read_quorum: Option<u8>,
    /// The floor of rule 10.
    pub min_in_sync: Option<u8>,
    /// How many partitions.
    pub partitions: Option<u32>,
    /// Virtual nodes of a node of weight 100.
    pub virtual_nodes: Option<u32>,
    /// How many coordinators there are; 3 where unsaid.
    pub coordinators: Option<u32>,
    /// How many data nodes must have registered before the table is made; RF where
    /// unsaid.
    pub data_nodes: Option<u32>,
    /// How long a grant lasts.
    pub lease_ms: Option<u64>,
    /// How long a node may be silent.
    pub node_timeout_ms: Option<u64>,
    /// Sequenced writes remembered per partition.
    pub idempotence_window: Option<u32>,
    /// How long a node may stay away before its replicas are made anew elsewhere.
    pub replace_after_ms: Option<u64>,
    /// Replicas that are made at a time on one node.
    pub moves_per_node: Option<u8>,
    /// Which keys may become striped counters.
    pub counters: Option<String>,
}

/// Settings that were taken, and what should be said about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedSettings {
    /// The settings.
    pub settings: ClusterSettings,
    /// What a person should know.
    pub warnings: Vec<SettingsWarning>,
}

/// Why settings are refused. Field names are the manifest's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum SettingsError {
    /// RF out of range.
    #[error("replicationFactor {0} is not between 1 and {REPLICATION_FACTOR_MAX}")]
    ReplicationFactor(u8),
    /// W of zero.
    #[error("writeQuorum must be at least 1")]
    WriteQuorumZero,
    /// W > RF.
    #[error("writeQuorum {write_quorum} is above replicationFactor {replication_factor}")]
    WriteQuorumAboveReplicationFactor {
        /// W.
        write_quorum: u8,
        /// RF.
        replication_factor: u8,
    },
    /// RF > data nodes.
    #[error(
        "replicationFactor {replication_factor} needs as many data nodes, there are {data_nodes}"
    )]
    TooFewDataNodes {
        /// RF.
        replication_factor: u8,
        /// How many nodes.
        data_nodes: u32,
    },
    /// `strong` with W below a majority.
    #[error(
        "consistency strong needs a majority: writeQuorum {write_quorum} of replicationFactor \
         {replication_factor} is below {majority}"
    )]
    StrongBelowMajority {
        /// W.
        write_quorum: u8,
        /// RF.
        replication_factor: u8,
        /// The least W.
        majority: u8,
    },
    /// Quorum reads that may miss the newest write.
    #[error(
        "readQuorum {read_quorum} + writeQuorum {write_quorum} is not above replicationFactor \
         {replication_factor}: a quorum read could miss the newest write"
    )]
    ReadQuorumTooSmall {
        /// R.
        read_quorum: u8,
        /// W.
        write_quorum: u8,
        /// RF.
        replication_factor: u8,
    },
    /// R out of range.
    #[error("readQuorum {read_quorum} is not between 1 and replicationFactor {replication_factor}")]
    ReadQuorum {
        /// R.
        read_quorum: u8,
        /// RF.
        replication_factor: u8,
    },
    /// The floor is not between 1 and W.
    #[error("minInSync {min_in_sync} is not between 1 and writeQuorum {write_quorum}")]
    MinInSync {
        /// The floor.
        min_in_sync: u8,
        /// W.
        write_quorum: u8,
    },
    /// No or too many partitions.
    #[error("partitions {0} is not between 1 and {SLOTS}")]
    Partitions(u32),
    /// No or too many virtual nodes.
    #[error("virtualNodes {0} is not between 1 and {VIRTUAL_NODES_MAX}")]
    VirtualNodes(u32),
    /// Neither 1, 3 nor 5 coordinators.
    #[error(
        "{0} coordinators: there must be 1, 3 or 5 (an even number survives no more losses than \
         one fewer)"
    )]
    Coordinators(u32),
    /// A lease that is no use.
    #[error("leaseMs {0} is not between 50 and 60000")]
    Lease(u64),
    /// `lease_ms_longest` below `lease_ms`.
    #[error("the longest lease of the cluster, {longest} ms, is below leaseMs {lease}")]
    LeaseLongest {
        /// The longest ever.
        longest: u64,
        /// The lease.
        lease: u64,
    },
    /// A time-out that is no use.
    #[error("nodeTimeoutMs {0} is not between 100 and 600000")]
    NodeTimeout(u64),
    /// A window that is no use or too dear.
    #[error("idempotenceWindow {0} is not between 16 and 16777216")]
    IdempotenceWindow(u32),
    /// A grace that is no use.
    #[error("replaceAfterMs {0} is above {REPLACE_AFTER_MS_MAX}, a week")]
    ReplaceAfter(u64),
    /// No or too many moves at a time.
    #[error("movesPerNode {0} is not between 1 and 64")]
    MovesPerNode(u8),
    /// Counters that cannot be declared so.
    #[error("counters: {0}")]
    Counters(String),
}

/// What is taken, and should still be known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum SettingsWarning {
    /// RF 1.
    #[error(
        "replicationFactor 1: nothing is promoted after a loss, and a lost disk loses its data"
    )]
    SingleCopy,
    /// W=1 with copies.
    #[error(
        "writeQuorum 1: a failover may lose acknowledged writes; what may have been lost is counted"
    )]
    MayLoseWrites,
    /// 1 < W < majority.
    #[error(
        "writeQuorum {write_quorum} of {replication_factor} survives {for_writes} losses for writes \
         but only {for_promotion} for a promotion"
    )]
    PromotionNeedsMore {
        /// W.
        write_quorum: u8,
        /// RF.
        replication_factor: u8,
        /// RF - W.
        for_writes: u8,
        /// W - 1.
        for_promotion: u8,
    },
    /// `strong`, and reads that may be old unless they say otherwise.
    #[error("readLevel any under consistency strong: reads that name no level may be stale")]
    StaleByDefault,
    /// W=N above two.
    #[error(
        "writeQuorum equals replicationFactor {0}: any loss stops writes until the coordinators \
         have shrunk the partition, never below minInSync"
    )]
    EveryReplica(u8),
    /// A node may count as down before its lease has run out.
    #[error(
        "nodeTimeoutMs {node_timeout} is below leaseMs {lease}: short pauses look like failures"
    )]
    TimeoutBelowLease {
        /// The time-out.
        node_timeout: u64,
        /// The lease.
        lease: u64,
    },
    /// One coordinator.
    #[error("one coordinator: while it is away nothing is promoted or moved")]
    SingleCoordinator,
}

fn majority(n: u8) -> u8 {
    n / 2 + 1
}

impl SettingsRequest {
    /// Fills in the defaults and judges the whole.
    ///
    /// # Errors
    /// Every reason for which the settings are refused, not only the first.
    pub fn resolve(&self) -> Result<ResolvedSettings, Vec<SettingsError>> {
        let replication_factor = self.replication_factor.unwrap_or(3);
        let write_quorum = self.write_quorum.unwrap_or(match self.preset {
            Some(Preset::Eventual) => 1,
            Some(Preset::Strong) | None => majority(replication_factor),
        });
        let min_in_sync = self
            .min_in_sync
            .unwrap_or_else(|| usual_floor(replication_factor, write_quorum));
        let lease_ms = self.lease_ms.unwrap_or(LEASE_MS_DEFAULT);
        let settings = ClusterSettings {
            replication_factor,
            write_quorum,
            min_in_sync,
            partitions: self.partitions.unwrap_or(PARTITIONS_DEFAULT),
            virtual_nodes: self.virtual_nodes.unwrap_or(VIRTUAL_NODES_DEFAULT),
            initial_data_nodes: self.data_nodes.unwrap_or(u32::from(replication_factor)),
            lease_ms,
            lease_ms_longest: lease_ms,
            idempotence_window: self
                .idempotence_window
                .unwrap_or(IDEMPOTENCE_WINDOW_DEFAULT),
            node_timeout_ms: self.node_timeout_ms.unwrap_or(NODE_TIMEOUT_MS_DEFAULT),
            read_level: self.read_level.unwrap_or(match self.preset {
                Some(Preset::Eventual) => ReadLevel::Any,
                Some(Preset::Strong) | None => ReadLevel::Primary,
            }),
            // Never below what meets every write quorum: see `ReadQuorumTooSmall`.
            read_quorum: self.read_quorum.unwrap_or(0),
            replace_after_ms: self.replace_after_ms.unwrap_or(REPLACE_AFTER_MS_DEFAULT),
            moves_per_node: self.moves_per_node.unwrap_or(MOVES_PER_NODE_DEFAULT),
            counters: self.counters.clone().unwrap_or_default(),
        };
        let mut errors = check(&settings);
        if self.preset == Some(Preset::Strong) && write_quorum < majority(replication_factor) {
            errors.push(SettingsError::StrongBelowMajority {
                write_quorum,
                replication_factor,
                majority: majority(replication_factor),
            });
        }
        if let Some(read_quorum) = self.read_quorum {
            if read_quorum == 0 || read_quorum > replication_factor {
                errors.push(SettingsError::ReadQuorum {
                    read_quorum,
                    replication_factor,
                });
            } else if u16::from(read_quorum) + u16::from(write_quorum)
                <= u16::from(replication_factor)
                && self.preset != Some(Preset::Eventual)
            {
                // Under `eventual` an R of one only says that stale reads are welcome,
                // as the brief's "W = 1, R = 1" does.
                errors.push(SettingsError::ReadQuorumTooSmall {
                    read_quorum,
                    write_quorum,
                    replication_factor,
                });
            }
        }
        let coordinators = self.coordinators.unwrap_or(3);
        if !matches!(coordinators, 1 | 3 | 5) {
            errors.push(SettingsError::Coordinators(coordinators));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut warnings = warnings(&settings);
        if coordinators == 1 {
            warnings.push(SettingsWarning::SingleCoordinator);
        }
        if self.preset == Some(Preset::Strong) && settings.read_level == ReadLevel::Any {
            warnings.push(SettingsWarning::StaleByDefault);
        }
        Ok(ResolvedSettings { settings, warnings })
    }
}

/// What a person wants changed while the cluster lives; everything unsaid stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsChange {
    /// RF.
    pub replication_factor: Option<u8>,
    /// W. Where RF changes and W was the majority of the old one, it becomes the majority
    /// of the new one.
    pub write_quorum: Option<u8>,
    /// The floor of rule 10. It follows RF and W where it was their default.
    pub min_in_sync: Option<u8>,
    /// How long a grant lasts.
    pub lease_ms: Option<u64>,
    /// How long a node may be silent.
    pub node_timeout_ms: Option<u64>,
    /// How long a node may stay away before its replicas are made anew elsewhere.
    pub replace_after_ms: Option<u64>,
    /// Replicas that are made at a time on one node.
    pub moves_per_node: Option<u8>,
    /// Sequenced writes remembered per partition.
    pub idempotence_window: Option<u32>,
    /// Which keys may become striped counters: all of them, as
    /// [`crate::counters::Declared`] spells them.
    pub counters: Option<String>,
}

impl SettingsChange {
    /// What the settings come to be, before they are judged.
    #[must_use]
    pub fn of(&self, agreed: &ClusterSettings) -> ClusterSettings {
        let replication_factor = self.replication_factor.unwrap_or(agreed.replication_factor);
        let write_quorum = self.write_quorum.unwrap_or_else(|| {
            if agreed.write_quorum == majority(agreed.replication_factor) {
                majority(replication_factor)
            } else {
                agreed.write_quorum
            }
        });
        let min_in_sync = self.min_in_sync.unwrap_or_else(|| {
            let usual = usual_floor(agreed.replication_factor, agreed.write_quorum);
            if agreed.min_in_sync == usual {
                usual_floor(replication_factor, write_quorum)
            } else {
                agreed.min_in_sync
            }
        });
        ClusterSettings {
            replication_factor,
            write_quorum,
            min_in_sync,
            lease_ms: self.lease_ms.unwrap_or(agreed.lease_ms),
            node_timeout_ms: self.node_timeout_ms.unwrap_or(agreed.node_timeout_ms),
            replace_after_ms: self.replace_after_ms.unwrap_or(agreed.replace_after_ms),
            moves_per_node: self.moves_per_node.unwrap_or(agreed.moves_per_node),
            idempotence_window: self.idempotence_window.unwrap_or(agreed.idempotence_window),
            // More than there are cannot be asked.
            read_quorum: agreed.read_quorum.min(replication_factor),
            counters: self
                .counters
                .clone()
                .unwrap_or_else(|| agreed.counters.clone()),
            ..agreed.clone()
        }
    }
}

/// The floor of rule 10 where nobody says otherwise.
fn usual_floor(replication_factor: u8, write_quorum: u8) -> u8 {
    write_quorum.min(replication_factor.div_ceil(2))
}

/// Every reason for which the settings cannot keep their promise.
#[must_use]
pub fn check(settings: &ClusterSettings) -> Vec<SettingsError> {
    // Without `..`: a new setting must be judged here.
    let &ClusterSettings {
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
        // Every level can be kept, and a quorum of reads is made as large as it must be.
        read_level: _,
        read_quorum: _,
        replace_after_ms,
        moves_per_node,
        ref counters,
    } = settings;
    let mut errors = Vec::new();
    if !(1..=REPLICATION_FACTOR_MAX).contains(&replication_factor) {
        errors.push(SettingsError::ReplicationFactor(replication_factor));
    }
    if write_quorum == 0 {
        errors.push(SettingsError::WriteQuorumZero);
    }
    if write_quorum > replication_factor {
        errors.push(SettingsError::WriteQuorumAboveReplicationFactor {
            write_quorum,
            replication_factor,
        });
    }
    if min_in_sync == 0 || min_in_sync > write_quorum {
        errors.push(SettingsError::MinInSync {
            min_in_sync,
            write_quorum,
        });
    }
    if initial_data_nodes < u32::from(replication_factor) {
        errors.push(SettingsError::TooFewDataNodes {
            replication_factor,
            data_nodes: initial_data_nodes,
        });
    }
    if partitions == 0 || partitions > u32::from(SLOTS) {
        errors.push(SettingsError::Partitions(partitions));
    }
    if virtual_nodes == 0 || virtual_nodes > VIRTUAL_NODES_MAX {
        errors.push(SettingsError::VirtualNodes(virtual_nodes));
    }
    if !(50..=60_000).contains(&lease_ms) {
        errors.push(SettingsError::Lease(lease_ms));
    }
    if lease_ms_longest < lease_ms {
        errors.push(SettingsError::LeaseLongest {
            longest: lease_ms_longest,
            lease: lease_ms,
        });
    }
    if !(16..=16_777_216).contains(&idempotence_window) {
        errors.push(SettingsError::IdempotenceWindow(idempotence_window));
    }
    if !(100..=600_000).contains(&node_timeout_ms) {
        errors.push(SettingsError::NodeTimeout(node_timeout_ms));
    }
    if replace_after_ms > REPLACE_AFTER_MS_MAX {
        errors.push(SettingsError::ReplaceAfter(replace_after_ms));
    }
    if !(1..=64).contains(&moves_per_node) {
        errors.push(SettingsError::MovesPerNode(moves_per_node));
    }
    if let Err(error) = Declared::parse(counters) {
        errors.push(SettingsError::Counters(error.to_string()));
    }
    errors
}

/// What a person should know of settings that are taken.
#[must_use]
pub fn warnings(settings: &ClusterSettings) -> Vec<SettingsWarning> {
    let n = settings.replication_factor;
    let w = settings.write_quorum;
    let mut warnings = Vec::new();
    if n == 1 {
        warnings.push(SettingsWarning::SingleCopy);
    } else if w == 1 {
        warnings.push(SettingsWarning::MayLoseWrites);
    } else if w < majority(n) {
        warnings.push(SettingsWarning::PromotionNeedsMore {
            write_quorum: w,
            replication_factor: n,
            for_writes: n - w,
            for_promotion: w - 1,
        });
    } else if w == n && n > 2 {
        warnings.push(SettingsWarning::EveryReplica(n));
    }
    if settings.node_timeout_ms < settings.lease_ms {
        warnings.push(SettingsWarning::TimeoutBelowLease {
            node_timeout: settings.node_timeout_ms,
            lease: settings.lease_ms,
        });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(change: impl FnOnce(&mut SettingsRequest)) -> Result<ResolvedSettings, Vec<String>> {
        let mut request = SettingsRequest::default();
        change(&mut request);
        request
            .resolve()
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_are_the_designs() {
        let plain = resolve(|_| ()).unwrap();
        assert!(plain.warnings.is_empty());
        let s = plain.settings;
        assert_eq!(
            (s.replication_factor, s.write_quorum, s.min_in_sync),
            (3, 2, 2)
        );
        assert_eq!((s.partitions, s.virtual_nodes, s.lease_ms), (128, 64, 400));
        for (rf, w, floor) in [
            (1, 1, 1),
            (2, 2, 1),
            (3, 2, 2),
            (4, 3, 2),
            (5, 3, 3),
            (6, 4, 3),
            (7, 4, 4),
        ] {
            let s = resolve(|r| r.replication_factor = Some(rf))
                .unwrap()
                .settings;
            assert_eq!((s.write_quorum, s.min_in_sync), (w, floor), "RF {rf}");
        }
    }

    #[test]
    fn what_cannot_keep_its_promise_is_refused_with_the_reason() {
        let refused = |change: fn(&mut SettingsRequest)| resolve(change).unwrap_err().join("; ");
        assert_eq!(
            refused(|r| r.write_quorum = Some(4)),
            "writeQuorum 4 is above replicationFactor 3"
        );
        assert_eq!(
            refused(|r| r.data_nodes = Some(2)),
            "replicationFactor 3 needs as many data nodes, there are 2"
        );
        assert_eq!(
            refused(|r| {
                r.preset = Some(Preset::Strong);
                r.replication_factor = Some(5);
                r.write_quorum = Some(2);
            }),
            "consistency strong needs a majority: writeQuorum 2 of replicationFactor 5 is below 3"
        );
        assert_eq!(
            refused(|r| r.read_quorum = Some(1)),
            "readQuorum 1 + writeQuorum 2 is not above replicationFactor 3: a quorum read could \
             miss the newest write"
        );
        assert!(refused(|r| r.coordinators = Some(4)).starts_with("4 coordinators"));
        assert!(refused(|r| r.replication_factor = Some(8)).contains("between 1 and 7"));
        assert!(refused(|r| r.replication_factor = Some(0)).contains("between 1 and 7"));
        assert!(refused(|r| r.partitions = Some(0)).contains("between 1 and 16384"));
        assert!(refused(|r| r.partitions = Some(16_385)).contains("between 1 and 16384"));
        assert!(refused(|r| r.min_in_sync = Some(3)).contains("minInSync 3"));
    }

    #[test]
    fn every_reason_is_given_and_not_only_the_first() {
        let reasons = resolve(|r| {
            r.write_quorum = Some(4);
            r.coordinators = Some(2);
            r.partitions = Some(0);
        })
        .unwrap_err();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
    }

    #[test]
    fn five_replicas_with_a_write_quorum_of_two_are_taken_and_warned_about() {
        let taken = resolve(|r| {
            r.replication_factor = Some(5);
            r.write_quorum = Some(2);
        })
        .unwrap();
        assert_eq!(
            taken.warnings[0].to_string(),
            "writeQuorum 2 of 5 survives 3 losses for writes but only 1 for a promotion"
        );
    }

    #[test]
    fn what_followed_from_the_replication_factor_follows_the_new_one() {
        let agreed = resolve(|_| ()).unwrap().settings;
        let to = |change: SettingsChange, agreed: &ClusterSettings| {
            let s = change.of(agreed);
            (s.replication_factor, s.write_quorum, s.min_in_sync)
        };
        let rf = |rf| SettingsChange {
            replication_factor: Some(rf),
            ..SettingsChange::default()
        };
        assert_eq!(to(rf(5), &agreed), (5, 3, 3));
        assert_eq!(to(rf(2), &agreed), (2, 2, 1));
        let three = SettingsChange {
            write_quorum: Some(3),
            ..SettingsChange::default()
        };
        let chosen = three.of(&agreed);
        assert_eq!(to(rf(5), &chosen), (5, 3, 3));
        assert_eq!(to(rf(4), &chosen), (4, 3, 2));
        // What was chosen stays, and is judged.
        assert_eq!(to(rf(2), &chosen), (2, 3, 1));
        assert!(!check(&rf(2).of(&chosen)).is_empty());
    }

    #[test]
    fn the_eventual_preset_takes_one_copy_and_says_what_that_costs() {
        let taken = resolve(|r| {
            r.preset = Some(Preset::Eventual);
            r.read_quorum = Some(1);
        })
        .unwrap();
        assert_eq!(
            (taken.settings.write_quorum, taken.settings.min_in_sync),
            (1, 1)
        );
        assert_eq!(taken.warnings, [SettingsWarning::MayLoseWrites]);
        assert_eq!(taken.settings.read_level, ReadLevel::Any);
        let explicit = resolve(|r| {
            r.preset = Some(Preset::Eventual);
            r.write_quorum = Some(2);
            r.read_level = Some(ReadLevel::Replica);
        })
        .unwrap();
        assert_eq!(explicit.settings.write_quorum, 2);
        assert_eq!(explicit.settings.read_level, ReadLevel::Replica);
    }

    #[test]
    fn reads_are_the_primarys_where_nobody_says_otherwise() {
        let levels = |preset| resolve(|r| r.preset = preset).unwrap().settings.read_level;
        assert_eq!(levels(None), ReadLevel::Primary);
        assert_eq!(levels(Some(Preset::Strong)), ReadLevel::Primary);
        let stale = resolve(|r| {
            r.preset = Some(Preset::Strong);
            r.read_level = Some(ReadLevel::Any);
        })
        .unwrap();
        assert_eq!(stale.warnings, [SettingsWarning::StaleByDefault]);
    }
}
