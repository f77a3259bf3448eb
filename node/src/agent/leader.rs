//! Finding the coordinators' leader, and speaking to it.

use std::collections::HashMap;
use std::time::Duration;

use cairn_client::transport::Dialer;
use cairn_core::ids::NodeId;
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::coordinator_client::CoordinatorClient;
use cairn_proto::{limits, refusal};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{AgentConfig, NodeIdentity};
use crate::coordinator::CoordinatorAddress;

/// How often redirects are followed at once before there is a pause: two
/// coordinators that point at each other during an election are not to be chased.
const REDIRECTS_MAX: u32 = 3;
/// The first and the longest pause between tries.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Why a coordinator was of no help.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unhelpful {
    /// Another one leads; where, if it is known.
    #[error("it does not lead")]
    NotLeader(Option<String>),
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
}

/// Goes round the coordinators, following redirects.
#[derive(Debug)]
pub(super) struct Search {
    coordinators: Vec<CoordinatorAddress>,
    dialer: Dialer,
    clients: HashMap<String, CoordinatorClient<Channel>>,
    next: usize,
    hint: Option<String>,
    redirects: u32,
    pause: Duration,
}

impl Search {
    /// Begins somewhere: the nodes spread over the coordinators.
    pub(super) fn new(config: &AgentConfig) -> Self {
        Self {
            next: config.session as usize,
            coordinators: config.coordinators.clone(),
            dialer: config.dialer.clone(),
            clients: HashMap::new(),
            hint: None,
            redirects: 0,
            pause: PAUSE_MIN,
        }
    }

    /// The next one to try. `None` where none is configured.
    pub(super) fn next(&mut self) -> Option<(String, CoordinatorClient<Channel>)> {
        let address = match self.hint.take() {
            Some(address) => address,
            None => {
                let count = self.coordinators.len();
                let address = self.coordinators.get(self.next.checked_rem(count)?)?;
                self.next = self.next.wrapping_add(1);
                address.peer.clone()
            }
        };
        // Hints come from outside: only so many connections are kept.
        if self.clients.len() > 2 * self.coordinators.len() {
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
        // After a short interruption it is the most likely one to lead.
        self.hint = Some(address);
    }

    /// It was of no help: where to go next, and when.
    pub(super) async fn failed(&mut self, why: &Unhelpful) {
        if let Unhelpful::NotLeader(Some(leader)) = why {
            self.redirects += 1;
            if self.redirects <= REDIRECTS_MAX {
                self.hint = Some(leader.clone());
                return;
            }
        }
        self.redirects = 0;
        let all_tried = self.next.is_multiple_of(self.coordinators.len().max(1));
        let pause = match why {
            Unhelpful::Refused(_) => PAUSE_MAX * 5,
            _ if all_tried => {
                let pause = self.pause;
                self.pause = (pause * 2).min(PAUSE_MAX);
                pause
            }
            _ => PAUSE_MIN / 5,
        };
        sleep(pause).await;
    }
}

/// Registers with one coordinator.
pub(super) async fn register(
    client: &mut CoordinatorClient<Channel>,
    config: &AgentConfig,
    identity: &NodeIdentity,
    cluster_id: &str,
) -> Result<Admission, Unhelpful> {
    let request = pb::RegisterRequest {
        format: cairn_proto::FORMAT,
        cluster_id: cluster_id.to_owned(),
        uuid: identity.uuid.clone(),
        incarnation: identity.incarnation.clone(),
        name: config.name.clone(),
        addresses: Some((&config.addresses).into()),
        zone: config.zone.clone(),
        weight: config.weight,
        features: config.features,
        session: config.session,
    };
    // Being admitted takes an entry in Raft's log.
    let within = config.connect_timeout * 4;
    let reply = timeout(within, client.register(request))
        .await
        .map_err(|_| Unhelpful::Unavailable("no answer in time".to_owned()))??
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
    })
}
