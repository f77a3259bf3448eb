//! Who the coordinators are, as data nodes and clients are told.
//!
//! Raft's own membership decides who they are. What stands here follows it, so that
//! their addresses travel and are kept with the map.

use super::ClusterState;
use super::nodes::check_text;
use crate::cluster::command::{Refusal, Response};
use crate::ids::MapVersion;
use crate::record::CoordinatorInfo;

/// More than any group has, one that is changing included.
const COORDINATORS_MAX: usize = 16;

impl ClusterState {
    pub(super) fn note_coordinators(
        &mut self,
        at: MapVersion,
        mut coordinators: Vec<CoordinatorInfo>,
    ) -> Result<Response, Refusal> {
        if coordinators.len() > COORDINATORS_MAX {
            return Err(Refusal::Invalid {
                reason: format!("there are at most {COORDINATORS_MAX} coordinators"),
            });
        }
        for CoordinatorInfo { name, peer, client } in &coordinators {
            check_text("name", name, 1, 253)?;
            check_text("peer address", peer, 1, 260)?;
            check_text("client address", client, 0, 260)?;
        }
        coordinators.sort();
        if coordinators == self.coordinators {
            return Ok(Response::Unchanged);
        }
        self.coordinators = coordinators;
        self.version = at;
        Ok(Response::Done)
    }

    /// The voters of the coordinators' group, as its leader noted them last, by name.
    #[must_use]
    pub fn coordinators(&self) -> &[CoordinatorInfo] {
        &self.coordinators
    }

    /// The ids of the coordinators' groups before this one, of which one disk was left.
    #[must_use]
    pub fn former_groups(&self) -> &[String] {
        &self.former_groups
    }
}
