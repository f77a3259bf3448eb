//! Finding the coordinators' leader, and speaking to it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use cairn_client::transport::{Channel, Dialer};
use cairn_core::ids::{MapVersion, NodeId};
use cairn_core::record::{Addresses, ClusterMap, CoordinatorInfo};
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::coordinator_client::CoordinatorClient;
use cairn_proto::{limits, refusal};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::{AgentConfig, NodeIdentity, Place};
use crate::coordinator::CoordinatorAddress;

/// How often redirects are followed at once before there is a pause: two
/// coordinators that point at each other during an election are not to be chased.
const REDIRECTS_MAX: u32 = 3;
/// The first and the longest pause between tries.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// For how long nobody's word sends the node back to a coordinator that was silent.
const SILENT_FOR: Duration = Duration::from_millis(1_500);

/// Why a coordinator was of no help.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unhelpful {
    /// Another one leads; where, if it is known.
    #[error("it does not lead")]
    NotLeader(Option<String>),
    /// No answer in time: its process may be frozen, so that whoever still takes it
    /// for the leader is wrong about it.
    #[error("it is silent: {0}")]
    Silent(&'static str),
    /// It leads, and knows less than this node: its disk, or those of its group, went
    /// back in time.
    #[error("its map has version {theirs}, and this node has {ours}: it is behind")]
    Behind {
        /// Of its map.
        theirs: MapVersion,
        /// Of this node's.
        ours: MapVersion,
    },
    /// It refuses for a reason that will not go away by itself.
    #[error("refused: {0}")]
    Refused(String),
    /// Anything else: try again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Status> for Unhelpful {
    fn from(status: Status) -> Self {
        if let Some(leader) = refusal::detail::<pb::NotLeader>(&status) {
            let address = leader.peer_address;
            return Self::NotLeader((!address.is_empty()).then_some(address));
        }
        match status.code() {
            Code::PermissionDenied | Code::InvalidArgument => {
                Self::Refused(status.message().to_owned())
            }
            _ => Self::Unavailable(format!("{}: {}", status.code(), status.message())),
        }
    }
}

/// An admission.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) node: NodeId,
    pub(super) cluster_id: String,
    pub(super) map: MapUpdate,
    /// Where the node was registered to stand.
    pub(super) place: Place,
}

/// Goes round the coordinators, following redirects.
#[derive(Debug)]
pub(super) struct Search {
    /// As configured.
    coordinators: Vec<CoordinatorAddress>,
    /// Where to ask: as the map says, and as configured.
    peers: Vec<String>,
    dialer: Dialer,
    clients: HashMap<String, CoordinatorClient<Channel>>,
    next: usize,
    hint: Option<String>,
    /// When an answer was last waited for in vain, by address.
    silent: HashMap<String, Instant>,
    redirects: u32,
    pause: Duration,
}

impl Search {
    /// Begins somewhere: the nodes spread over the coordinators.
    pub(super) fn new(config: &AgentConfig) -> Self {
        Self {
            next: config.session as usize,
            peers: peers(&[], &config.coordinators),
            coordinators: config.coordinators.clone(),
            dialer: config.dialer.clone(),
            clients: HashMap::new(),
            hint: None,
            silent: HashMap::new(),
            redirects: 0,
            pause: PAUSE_MIN,
        }
    }

    /// Goes by a newer map: who the coordinators are may have changed since the node was
    /// configured. The configured ones stay, for where all that the map names are gone.
    pub(super) fn follow(&mut self, map: &ClusterMap) {
        self.peers = peers(&map.coordinators, &self.coordinators);
    }

    /// The next one to try. `None` where none is configured.
    pub(super) fn next(&mut self) -> Option<(String, CoordinatorClient<Channel>)> {
        let address = match self.hint.take() {
            Some(address) => address,
            None => {
                let count = self.peers.len();
                let address = self.peers.get(self.next.checked_rem(count)?)?;
                self.next = self.next.wrapping_add(1);
                address.clone()
            }
        };
        // Hints come from outside: only so many connections are kept.
        if self.clients.len() > 2 * self.peers.len() {
            self.clients.clear();
        }
        if let Some(client) = self.clients.get(&address) {
            return Some((address, client.clone()));
        }
        match self.dialer.lazy(&address) {
            Ok(channel) => {
                let limit = limits::COORDINATOR_MESSAGE_BYTES;
                let client = CoordinatorClient::new(channel)
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(limit);
                self.clients.insert(address.clone(), client.clone());
                Some((address, client))
            }
            Err(error) => {
                tracing::warn!(address, %error, "this is no address of a coordinator");
                None
            }
        }
    }

    /// It led.
    pub(super) fn succeeded(&mut self, address: String) {
        self.redirects = 0;
        self.pause = PAUSE_MIN;
        self.silent.remove(&address);
        // After a short interruption it is the most likely one to lead.
        self.hint = Some(address);
    }

    /// It was of no help: where to go next, and after which pause.
    pub(super) fn failed(&mut self, address: &str, why: &Unhelpful) -> Duration {
        if let Unhelpful::Silent(_) = why {
            // A frozen process keeps its connections open: a new one says sooner
            // whether it is back.
            self.clients.remove(address);
            self.hint.take_if(|hint| hint == address);
            self.silent.retain(|_, at| at.elapsed() < SILENT_FOR);
            self.silent.insert(address.to_owned(), Instant::now());
        }
        if let Unhelpful::NotLeader(Some(leader)) = why
            && !self.is_silent(leader)
        {
            self.redirects += 1;
            if self.redirects <= REDIRECTS_MAX {
                self.hint = Some(leader.clone());
                return Duration::ZERO;
            }
        }
        self.redirects = 0;
        let all_tried = self.next.is_multiple_of(self.peers.len().max(1));
        match why {
            Unhelpful::Refused(_) | Unhelpful::Behind { .. } => PAUSE_MAX * 5,
            _ if all_tried => {
                let pause = self.pause;
                self.pause = (pause * 2).min(PAUSE_MAX);
                pause
            }
            _ => PAUSE_MIN / 5,
        }
    }

    /// Whether an answer from there was waited for in vain a short while ago: the
    /// others take it for the leader until they have elected another.
    fn is_silent(&self, address: &str) -> bool {
        self.silent
            .get(address)
            .is_some_and(|at| at.elapsed() < SILENT_FOR)
    }
}

/// Where to look for the leader, without repetition.
fn peers(known: &[CoordinatorInfo], configured: &[CoordinatorAddress]) -> Vec<String> {
    let known = known.iter().map(|c| &c.peer);
    let all = known.chain(configured.iter().map(|c| &c.peer));
    let mut seen = HashSet::new();
    all.filter(|peer| seen.insert(*peer)).cloned().collect()
}

/// Registers with one coordinator.
pub(super) async fn register(
    client: &mut CoordinatorClient<Channel>,
    config: &AgentConfig,
    identity: &NodeIdentity,
    cluster_id: &str,
) -> Result<Admission, Unhelpful> {
    let place = config
        .places
        .now()
        .ok_or_else(|| Unhelpful::Unavailable("the node's place is not known".to_owned()))?;
    let request = pb::RegisterRequest {
        format: cairn_proto::FORMAT,
        cluster_id: cluster_id.to_owned(),
        uuid: identity.uuid.clone(),
        incarnation: identity.incarnation.clone(),
        name: config.name.clone(),
        addresses: Some(
            (&Addresses {
                outside: Box::new(place.outside.clone()),
                ..config.addresses.clone()
            })
                .into(),
        ),
        zone: place.zone.clone(),
        weight: place.weight,
        features: config.features,
        session: config.session,
    };
    // An admission that takes longer is found made at the next try.
    let reply = timeout(config.connect_timeout, client.register(request))
        .await
        .map_err(|_| Unhelpful::Silent("no answer to the registration"))??
        .into_inner();
    let map = reply
        .map
        .ok_or_else(|| Unhelpful::Unavailable("an admission without a map".to_owned()))?;
    let map = MapUpdate::try_from(map).map_err(|e| Unhelpful::Unavailable(e.to_string()))?;
    if reply.node == 0 {
        return Err(Unhelpful::Unavailable(
            "an admission without a number".to_owned(),
        ));
    }
    Ok(Admission {
        node: NodeId(reply.node),
        cluster_id: reply.cluster_id,
        map,
        place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search() -> Search {
        let coordinators = ["a=127.0.0.1:1", "b=127.0.0.1:2", "c=127.0.0.1:3"];
        let coordinators = coordinators.iter().map(|c| c.parse().unwrap()).collect();
        Search::new(&AgentConfig::new(
            "n".to_owned(),
            0,
            coordinators,
            std::path::PathBuf::new(),
        ))
    }

    fn next(search: &mut Search) -> String {
        search.next().unwrap().0
    }

    #[tokio::test]
    async fn nobody_sends_a_node_back_to_a_leader_that_was_just_silent() {
        let mut search = search();
        let leader = next(&mut search);
        search.succeeded(leader.clone());
        search.failed(&leader, &Unhelpful::Silent("test"));
        assert!(
            !search.clients.contains_key(&leader),
            "its connection is dropped"
        );
        let second = next(&mut search);
        assert_ne!(second, leader);
        search.failed(&second, &Unhelpful::NotLeader(Some(leader.clone())));
        let third = next(&mut search);
        assert!(third != leader && third != second);
        // In its turn it is asked again: it may be back.
        assert_eq!(next(&mut search), leader);
        search.succeeded(leader.clone());
        assert!(!search.is_silent(&leader));
    }

    #[tokio::test]
    async fn the_coordinators_that_the_map_names_are_asked_beside_the_configured_ones() {
        let mut search = search();
        let named = |peer: &str| CoordinatorInfo {
            name: peer.to_owned(),
            peer: peer.to_owned(),
            client: String::new(),
        };
        search.follow(&ClusterMap {
            coordinators: vec![named("127.0.0.1:4"), named("127.0.0.1:2")],
            ..ClusterMap::default()
        });
        let mut asked: Vec<String> = (0..4).map(|_| next(&mut search)).collect();
        asked.sort();
        let all: Vec<String> = (1..=4).map(|port| format!("127.0.0.1:{port}")).collect();
        assert_eq!(asked, all);
    }

    #[tokio::test]
    async fn after_an_interruption_the_leader_is_asked_first_and_redirects_are_followed() {
        let mut search = search();
        let leader = next(&mut search);
        search.succeeded(leader.clone());
        search.failed(&leader, &Unhelpful::Unavailable("closed".to_owned()));
        assert_eq!(next(&mut search), leader);
        let other = "127.0.0.1:3".to_owned();
        let pause = search.failed(&leader, &Unhelpful::NotLeader(Some(other.clone())));
        assert_eq!(pause, Duration::ZERO);
        assert_eq!(next(&mut search), other);
    }
}
