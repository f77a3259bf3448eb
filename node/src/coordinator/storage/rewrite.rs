//! One coordinator's disk made the only one of a new group.
//!
//! It gets another Raft id and another group id, so that the disks that were lost never
//! count with it should they come back: whatever they send names the old ones. Its log
//! begins anew behind a snapshot, at an index that the lost ones never reached: map
//! versions are indexes. All of it is one batch, so that a crash leaves the old disk or
//! the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cairn_core::cluster::ClusterState;
use cairn_core::cluster::state::{NUMBERS_SKIPPED, RecoveryError, Survivor};
use cairn_core::ids::MapVersion;
use cairn_core::record::ClusterMap;
use openraft::{CommittedLeaderId, EntryPayload};
use uuid::Uuid;

use super::format::{self, keys};
use super::machine::Stored;
use super::{Contents, Identity, OpenError, WriteError, read};
use crate::coordinator::raft::{LogId, Membership, RaftId, RaftNode, SnapshotMeta, Vote};

/// A disk whose process is stopped.
pub(in super::super) struct OnDisk {
    contents: Contents,
    pub(in super::super) survivor: Survivor,
    membership: Membership,
    last: LogId,
}

/// Why a disk was not rewritten. It is as it was.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum RewriteError {
    /// What it knows is no base to go on from.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl OnDisk {
    /// Reads a disk, and takes it for as long as this lives. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(in super::super) fn open(directory: &Path) -> Result<Self, OpenError> {
        let contents = read(directory, None)?;
        let stored = |source| OpenError::Stored {
            what: "the snapshot",
            source,
        };
        let snapshot: Option<Stored> = contents
            .snapshot
            .as_deref()
            .map(format::decode)
            .transpose()
            .map_err(stored)?;
        let mut survivor = Survivor {
            committed: ClusterState::default(),
            tail: Vec::new(),
        };
        let mut membership = Membership::default();
        let mut last = None;
        if let Some(snapshot) = snapshot {
            survivor.committed =
                serde_json::from_str(&snapshot.state).map_err(|e| stored(e.into()))?;
            membership = snapshot.meta.last_membership;
            last = snapshot.meta.last_log_id;
        }
        for entry in &contents.entries {
            if Some(entry.log_id) <= last {
                continue;
            }
            last = Some(entry.log_id);
            let index = entry.log_id.index;
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) if last <= contents.committed => {
                    survivor.committed.apply(index, command.clone());
                }
                EntryPayload::Normal(command) => survivor.tail.push((index, command.clone())),
                EntryPayload::Membership(new) => {
                    membership = Membership::new(last, new.clone());
                }
            }
        }
        let last = last.ok_or(OpenError::Nobody)?;
        Ok(Self {
            contents,
            survivor,
            membership,
            last,
        })
    }

    pub(in super::super) fn identity(&self) -> &Identity {
        &self.contents.identity
    }

    /// The term that it voted in last.
    pub(in super::super) fn term(&self) -> u64 {
        let voted = self.contents.vote.as_ref();
        let voted = voted.map_or(0, |vote| vote.leader_id().term);
        voted.max(self.last.leader_id.term)
    }

    /// The index of its last entry.
    pub(in super::super) fn last_index(&self) -> u64 {
        self.last.index
    }

    /// The members of the group as it knows them: Raft id, and who it is.
    pub(in super::super) fn members(&self) -> BTreeMap<RaftId, RaftNode> {
        let nodes = self.membership.nodes();
        nodes.map(|(id, node)| (*id, node.clone())).collect()
    }

    pub(in super::super) fn voters(&self) -> BTreeSet<RaftId> {
        self.membership.voter_ids().collect()
    }

    /// Makes it the only disk of a new group. `newest` is the newest map of the data nodes
    /// that answered, `everybody` whether all did. Blocks.
    ///
    /// # Errors
    /// See [`RewriteError`].
    pub(in super::super) fn rewrite(
        self,
        newest: Option<&ClusterMap>,
        everybody: bool,
    ) -> Result<MapVersion, RewriteError> {
        let term = self.term() + 1;
        let members = self.members();
        let Self {
            contents,
            survivor,
            last,
            ..
        } = self;
        let Contents {
            mut disk,
            identity,
            entries,
            ..
        } = contents;
        let drawn = Identity::draw(&identity.name);
        let node = members.get(&identity.raft_id).cloned();
        let node = node.unwrap_or_else(|| RaftNode {
            name: identity.name.clone(),
            ..RaftNode::default()
        });
        let reached = newest.map_or(0, |map| map.version.0).max(last.index);
        let log_id = LogId::new(
            CommittedLeaderId::new(term, drawn.raft_id),
            reached + NUMBERS_SKIPPED,
        );
        let version = MapVersion(log_id.index);
        let former = identity.cluster_id.unwrap_or_default();
        let state = survivor.go_on(newest, everybody, &former, version)?;
        let stored = Stored {
            state: serde_json::to_string(&state)
                .map_err(|e| WriteError::Failed(format!(": {e}")))?,
            meta: SnapshotMeta {
                last_log_id: Some(log_id),
                last_membership: Membership::new(
                    Some(log_id),
                    openraft::Membership::new(
                        vec![[drawn.raft_id].into()],
                        BTreeMap::from([(drawn.raft_id, node)]),
                    ),
                ),
                snapshot_id: format!("{log_id}-recovered"),
            },
        };
        let identity = Identity {
            cluster_id: Some(Uuid::new_v4().to_string()),
            ..drawn
        };
        let mut changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = entries
            .iter()
            .map(|entry| (keys::entry(entry.log_id.index), None))
            .collect();
        changes.extend([
            identity.change(),
            (
                keys::VOTE.to_vec(),
                Some(format::encode(&Vote::new(term, identity.raft_id))),
            ),
            (
                keys::COMMITTED.to_vec(),
                Some(format::encode(&Some(log_id))),
            ),
            (keys::PURGED.to_vec(), Some(format::encode(&log_id))),
            (keys::SNAPSHOT.to_vec(), Some(format::encode(&stored))),
        ]);
        disk.commit(changes)?;
        Ok(version)
    }
}
