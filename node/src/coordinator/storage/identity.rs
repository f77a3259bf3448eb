//! Who a coordinator's disk is.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::format::{self, keys};
use crate::coordinator::raft::RaftId;

/// Drawn when an empty disk is first used, and living only there: a coordinator
/// whose disk was wiped is another one, that never votes for the one before it
/// (rule 12).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in super::super) struct Identity {
    /// The coordinator's configured name; the disk is no other's.
    pub(in super::super) name: String,
    /// For people.
    pub(in super::super) uuid: Uuid,
    /// The id under which this disk votes.
    pub(in super::super) raft_id: RaftId,
    /// The cluster that this disk belongs to, once it heard of one. Drawn by the
    /// coordinator that initialises the Raft group, before it does.
    pub(in super::super) cluster_id: Option<String>,
    /// The group that a person went on with on another disk, once this one has met it:
    /// it takes part in nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in super::super) superseded_by: Option<String>,
}

impl Identity {
    /// Draws a new one. Raft ids are 63 bits wide and never 0, which stands for
    /// "nobody" in messages.
    pub(in super::super) fn draw(name: &str) -> Self {
        let uuid = Uuid::new_v4();
        let (high, low) = Uuid::new_v4().as_u64_pair();
        Self {
            name: name.to_owned(),
            uuid,
            raft_id: ((high ^ low) >> 1).max(1),
            cluster_id: None,
            superseded_by: None,
        }
    }
}

impl Identity {
    /// The change that stores it.
    pub(in super::super) fn change(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        (keys::IDENTITY.to_vec(), Some(format::encode(self)))
    }
}
