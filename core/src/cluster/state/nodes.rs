//! Commands about data nodes: admission, addresses, giving up.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ClusterState, Leaving};
use crate::cluster::command::{NodeRegistration, Refusal, Response};
use crate::cluster::settings::WEIGHT_MAX;
use crate::features::names;
use crate::ids::{MapVersion, NodeId, PartitionId};
use crate::record::{Addresses, NodeInfo, NodeStanding, ReplicaSet};
use crate::seeded::{Bug, is_seeded};

/// The most data nodes that a cluster has at a time.
pub(super) const MEMBERS_MAX: usize = 4096;

/// Refuses a text that is too short, too long or holds control characters: names
/// and addresses travel into maps, logs and protocol replies.
pub(super) fn check_text(
    field: &str,
    text: &str,
    least: usize,
    most: usize,
) -> Result<(), Refusal> {
    let reason = if text.len() < least {
        "it is empty".to_owned()
    } else if text.len() > most {
        format!("it is longer than {most} bytes")
    } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        "it holds a blank or a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Refusal::BadText {
        field: field.to_owned(),
        reason,
    })
}

/// How many members of a set must be left for a promotion without a person's word, where
/// acknowledged writes `may_be_lost` (rule 9) or not.
///
/// A set whose W is above one is inspected by N-W+1 either way: its lease's quorum is W.
pub(crate) fn promotion_needs(set: &ReplicaSet, may_be_lost: bool) -> usize {
    if may_be_lost {
        // Rule 9: enough to keep any lease from being renewed, see
        // `supervisor::promotion`.
        set.len() + 1 - set.lease_quorum().min(set.len())
    } else {
        set.inspection_quorum()
    }
}

impl ClusterState {
    pub(super) fn register_node(
        &mut self,
        at: MapVersion,
        registration: NodeRegistration,
    ) -> Result<Response, Refusal> {
        if self.settings.is_none() {
            return Err(Refusal::NoCluster);
        }
        let NodeRegistration {
            uuid,
            incarnation,
            name,
            addresses,
            zone,
            weight,
            features,
            replace_dead,
        } = registration;
        check_text("uuid", &uuid, 1, 64)?;
        check_text("incarnation", &incarnation, 1, 64)?;
        check_text("name", &name, 1, 253)?;
        check_text("zone", &zone, 0, 253)?;
        let Addresses {
            resp,
            client,
            peer,
            http,
            resp_hostname,
            ip: _,
            outside,
        } = &addresses;
        for (field, address) in [
            ("resp address", resp),
            ("client address", client),
            ("peer address", peer),
            ("http address", http),
            ("Redis host name", resp_hostname),
            ("resp address outside", &outside.resp),
            ("client address outside", &outside.client),
        ] {
            check_text(field, address, 0, 300)?;
        }
        if weight == 0 || weight > WEIGHT_MAX {
            return Err(Refusal::Invalid {
                reason: format!("weight {weight} is not between 1 and {WEIGHT_MAX}"),
            });
        }
        let unknown = self.node_features_in_use() & !features;
        if unknown != 0 {
            return Err(Refusal::Invalid {
                reason: format!(
                    "the build of {name} does not understand {}, which the cluster uses: upgrade \
                     it first",
                    names(unknown)
                ),
            });
        }
        let known = self.node_by_uuid(&uuid).cloned();
        if let Some(known) = &known {
            let same = known.incarnation == incarnation || is_seeded(Bug::EmptyDiskKeepsIdentity);
            if !same {
                return Err(Refusal::OtherIncarnation { node: known.id });
            }
            if known.standing == NodeStanding::Gone {
                return Err(Refusal::IdentityGone { node: known.id });
            }
        }
        let holder = self
            .holder_of_name(&name)
            .filter(|h| h.uuid != uuid)
            .cloned();
        if let Some(holder) = &holder {
            // A known identity that only changes its name never pushes another out:
            // only an empty disk takes a dead one's seats.
            if !replace_dead || known.is_some() {
                return Err(Refusal::NameTaken {
                    name,
                    holder: holder.id,
                });
            }
            self.check_not_last_copy(holder.id)?;
        } else if known.is_none() && self.members().count() >= MEMBERS_MAX {
            return Err(Refusal::Invalid {
                reason: format!("a cluster has at most {MEMBERS_MAX} data nodes"),
            });
        }
        let id = known
            .as_ref()
            .map_or_else(|| self.last_node.next(), |known| known.id);
        let is_new = known.is_none();
        let mut info = NodeInfo {
            id,
            uuid,
            incarnation,
            name,
            addresses,
            zone,
            weight,
            standing: NodeStanding::Member,
            features,
            changed_at: at,
        };
        if let Some(known) = known {
            info.changed_at = known.changed_at;
            if info == *known {
                return Ok(Response::Registered { node: id });
            }
            info.changed_at = at;
        } else {
            self.last_node = id;
        }
        if let Some(holder) = holder {
            // What was asked of the name holds for its heir.
            let drains = self.leaving(holder.id) == Some(Leaving::Draining);
            self.set_gone(at, holder.id);
            if drains {
                self.leaving.insert(id, Leaving::Draining);
            }
        }
        if is_new {
            self.inherit_seats(&info.name, id);
        }
        self.nodes.insert(id, Arc::new(info));
        self.version = at;
        Ok(Response::Registered { node: id })
    }

    /// Gives a new identity the seats of those of its name that are gone, whether they
    /// were replaced by it or given up before: nobody else would ever fill them.
    fn inherit_seats(&mut self, name: &str, heir: NodeId) {
        let gone: BTreeSet<NodeId> = self
            .nodes
            .values()
            .filter(|n| n.standing == NodeStanding::Gone && n.name == name)
            .map(|n| n.id)
            .collect();
        for seats in &mut self.seats {
            // Two of one name on the seats of one partition would make the heir hold
            // two replicas of it.
            if let Some(seat) = seats.iter_mut().find(|s| gone.contains(s)) {
                *seat = heir;
            }
        }
    }

    pub(super) fn mark_gone(
        &mut self,
        at: MapVersion,
        node: NodeId,
        force: bool,
    ) -> Result<Response, Refusal> {
        let info = self.node(node).ok_or(Refusal::UnknownNode { node })?;
        if info.standing == NodeStanding::Gone {
            return Ok(Response::Unchanged);
        }
        if !force {
            self.check_not_last_copy(node)?;
        }
        self.set_gone(at, node);
        self.version = at;
        Ok(Response::Done)
    }

    pub(super) fn set_gone(&mut self, at: MapVersion, node: NodeId) {
        self.expected_back.remove(&node);
        self.leaving.remove(&node);
        if let Some(info) = self.nodes.get_mut(&node) {
            let info = Arc::make_mut(info);
            info.standing = NodeStanding::Gone;
            info.changed_at = at;
        }
    }

    pub(super) fn expect_back(
        &mut self,
        node: NodeId,
        until_unix_ms: u64,
    ) -> Result<Response, Refusal> {
        if !self.is_member(node) {
            return Err(Refusal::UnknownNode { node });
        }
        let before = if until_unix_ms == 0 {
            self.expected_back.remove(&node)
        } else {
            self.expected_back.insert(node, until_unix_ms)
        };
        Ok(if before.unwrap_or(0) == until_unix_ms {
            Response::Unchanged
        } else {
            Response::Done
        })
    }

    /// Refuses where giving up the node's copies would leave a partition that can
    /// never be promoted again without a person's word: with one replica that is the
    /// only copy, with more it is the one that the inspection quorum needs.
    fn check_not_last_copy(&self, node: NodeId) -> Result<(), Refusal> {
        for record in &self.partitions {
            let may_be_lost = self.is_eventual(record.id);
            for set in record.config.sets() {
                if !set.members.iter().any(|m| m.node == node) {
                    continue;
                }
                let left = set
                    .members
                    .iter()
                    .filter(|m| m.node != node && self.is_member(m.node))
                    .count();
                if left < promotion_needs(set, may_be_lost) {
                    return Err(Refusal::LastCopies {
                        node,
                        partition: record.id,
                    });
                }
            }
        }
        Ok(())
    }

    /// How many partitions have a replica on the node.
    #[must_use]
    pub fn replicas_on(&self, node: NodeId) -> usize {
        self.partitions
            .iter()
            .filter(|r| r.config.on_node(node).is_some())
            .count()
    }

    /// The partitions with a replica on the node.
    pub fn partitions_on(&self, node: NodeId) -> impl Iterator<Item = PartitionId> {
        self.partitions
            .iter()
            .filter(move |r| r.config.on_node(node).is_some())
            .map(|r| r.id)
    }
}
