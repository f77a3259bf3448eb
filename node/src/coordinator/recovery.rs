//! Going on with one coordinator's disk where the majority of the disks is lost: done by
//! a person, with the process stopped.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use cairn_client::transport::Dialer;
use cairn_core::ids::MapVersion;
use cairn_core::record::{ClusterMap, NodeInfo, NodeStanding};
use cairn_proto::pb::coordinator::v1::raft_request::Kind;
use futures::future::join_all;

use super::group::{Introduction, IntroductionReply};
use super::join::ASK_TIMEOUT;
use super::network::Caller;
use super::storage::OnDisk;

/// Why a disk cannot be gone on with. It is as it was.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RecoverError(String);

/// A member of the group, as the disk knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownMember {
    /// Its name.
    pub name: String,
    /// Its Raft id.
    pub raft_id: u64,
    /// Its port between nodes.
    pub peer: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it is this disk.
    pub own: bool,
    /// Whether it answers.
    pub alive: bool,
}

/// One coordinator's disk, whose process is stopped. Nobody else opens it meanwhile.
pub struct SurvivingDisk(OnDisk);

impl fmt::Debug for SurvivingDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SurvivingDisk").field(&self.name()).finish()
    }
}

impl SurvivingDisk {
    /// Reads the disk. Blocks.
    ///
    /// # Errors
    /// Where its process runs, or it is not that of a coordinator, damaged, or given up.
    pub fn open(directory: &Path) -> Result<Self, RecoverError> {
        let opened = OnDisk::open(directory).map_err(|e| RecoverError(e.to_string()))?;
        Ok(Self(opened))
    }

    /// The coordinator's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.identity().name
    }

    /// The Raft term that it voted in last.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.0.term()
    }

    /// The index of the last entry in its log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.0.last_index()
    }

    /// The newest map that it knows to be committed.
    #[must_use]
    pub fn map(&self) -> ClusterMap {
        self.0.survivor.committed.map()
    }

    /// Whether a data node's map tells of more than that.
    #[must_use]
    pub fn is_behind(&self, map: &ClusterMap) -> bool {
        self.0.survivor.is_behind(map)
    }

    /// The members of its group, and which of the others answer, by asking each.
    pub async fn members(&self, dialer: &Dialer) -> Vec<KnownMember> {
        let voters = &self.0.voters();
        let own = self.0.identity().raft_id;
        let members = self.0.members();
        let asked = members.iter().map(|(id, node)| async move {
            let who = Caller::new(dialer, &node.peer)
                .call(
                    Kind::Identify,
                    String::new(),
                    0,
                    0,
                    &Introduction::Who,
                    ASK_TIMEOUT,
                )
                .await;
            let alive = matches!(who, Ok(IntroductionReply::Card(card)) if card.raft_id == *id);
            KnownMember {
                name: node.name.clone(),
                raft_id: *id,
                peer: node.peer.clone(),
                voter: voters.contains(id),
                own: *id == own,
                alive,
            }
        });
        join_all(asked).await
    }

    /// Makes this disk the only one of a new group, from which every other disk of the
    /// old one is kept out. `newest` is the newest map of the data nodes that answered,
    /// `everybody` whether all did. The version from which the map goes on. Blocks.
    ///
    /// # Errors
    /// Where the maps do not fit, or the disk cannot be written.
    pub fn rewrite(
        self,
        newest: Option<&ClusterMap>,
        everybody: bool,
    ) -> Result<MapVersion, RecoverError> {
        let rewritten = self.0.rewrite(newest, everybody);
        rewritten.map_err(|e| RecoverError(e.to_string()))
    }
}

/// The maps of data nodes: what they know of the coordinators' decisions.
#[derive(Debug, Default)]
pub struct Heard {
    /// The newest map of any of them.
    pub newest: Option<ClusterMap>,
    /// The data nodes that did not answer.
    pub silent: Vec<NodeInfo>,
}

impl Heard {
    /// Asks every data node of the map, every one that their maps add, and `besides`.
    /// `within` bounds each call.
    pub async fn of(
        map: &ClusterMap,
        besides: &[String],
        dialer: &Dialer,
        within: Duration,
    ) -> Self {
        let mut newest: Option<ClusterMap> = None;
        let mut answered = std::collections::BTreeMap::new();
        loop {
            let known = newest
                .as_ref()
                .filter(|newest| newest.version > map.version);
            let nodes = members(known.unwrap_or(map));
            let addresses = nodes.iter().map(|node| &node.addresses.client);
            let unasked: std::collections::BTreeSet<&String> = addresses
                .chain(besides)
                .filter(|address| !address.is_empty() && !answered.contains_key(*address))
                .collect();
            if unasked.is_empty() {
                let silent = nodes
                    .into_iter()
                    .filter(|node| answered.get(&node.addresses.client) != Some(&true))
                    .collect();
                return Self { newest, silent };
            }
            let asked = unasked.into_iter().map(|address| async move {
                let fetched = cairn_client::fetch_map(dialer, address, within).await;
                (address.clone(), fetched)
            });
            for (address, fetched) in join_all(asked).await {
                answered.insert(address, fetched.is_ok());
                if let Ok(fetched) = fetched
                    && newest.as_ref().is_none_or(|n| n.version < fetched.version)
                {
                    newest = Some(ClusterMap::clone(&fetched));
                }
            }
        }
    }

    /// The names of the silent ones.
    #[must_use]
    pub fn silent_names(&self) -> Vec<String> {
        self.silent.iter().map(|node| node.name.clone()).collect()
    }
}

fn members(map: &ClusterMap) -> Vec<NodeInfo> {
    map.nodes
        .values()
        .filter(|node| node.standing == NodeStanding::Member)
        .map(|node| NodeInfo::clone(node))
        .collect()
}
