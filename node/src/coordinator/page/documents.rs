//! The status document as JSON, made once for all who ask within a moment.
//!
//! Only a leader knows how nodes and partitions are. A coordinator that does not lead
//! passes on what the leader says; where none answers it tells what it has itself, which
//! says of itself that it does not come from a leader.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cairn_client::transport::Channel;
use cairn_proto::limits;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::coordinator_client::CoordinatorClient;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use super::super::group::Group;
use super::super::service::{Office, StatusDocument};

/// How long a document is given out before another one is made: however many ask, the
/// leader's task is asked no more often than that.
const FRESH: Duration = Duration::from_millis(500);
/// How long the leader may take to answer another coordinator.
const LEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// The document of one moment.
#[derive(Clone, Debug)]
pub(in super::super) struct Edition {
    /// Two of one tag differ in nothing but ages.
    pub(in super::super) tag: u64,
    /// A JSON object.
    pub(in super::super) json: Bytes,
}

impl Edition {
    fn of(mut document: StatusDocument) -> Result<Self, serde_json::Error> {
        let json = serde_json::to_vec(&document)?;
        document.forget_ages();
        let tag = xxh3_64(&serde_json::to_vec(&document)?);
        Ok(Self {
            tag,
            json: json.into(),
        })
    }
}

/// Gives out the newest edition. Cheap to clone.
#[derive(Clone, Debug)]
pub(in super::super) struct Documents(Arc<Shared>);

/// The same, without keeping the coordinator's disk open.
#[derive(Clone, Debug)]
pub(super) struct WeakDocuments(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    office: Office,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    newest: Option<(Instant, Edition)>,
    /// The connection to the leader, by its address.
    leader: Option<(String, CoordinatorClient<Channel>)>,
    /// Which coordinators answered, by name.
    heard: Arc<parking_lot::Mutex<BTreeMap<String, bool>>>,
    /// The task that asks them.
    asking: Option<AbortOnDropHandle<()>>,
}

impl Kept {
    /// Which coordinators answered when they were asked last, by name. They are asked again
    /// behind the answer: one that hangs must not hold up what is told of the others.
    fn answers(&mut self, group: &Arc<Group>) -> BTreeMap<String, bool> {
        let asking = self.asking.as_ref();
        if asking.is_none_or(|asking| asking.is_finished()) {
            let (group, heard) = (Arc::clone(group), Arc::clone(&self.heard));
            let asked = async move {
                let answers = group.ask_others().await.into_iter();
                *heard.lock() = answers.map(|met| (met.name, met.answer.is_ok())).collect();
            };
            self.asking = Some(AbortOnDropHandle::new(tokio::spawn(asked)));
        }
        self.heard.lock().clone()
    }
}

impl WeakDocuments {
    /// Them, unless the coordinator has stopped.
    pub(super) fn upgrade(&self) -> Option<Documents> {
        self.0.upgrade().map(Documents)
    }
}

impl Documents {
    pub(in super::super) fn new(office: Office) -> Self {
        Self(Arc::new(Shared {
            office,
            kept: Mutex::default(),
        }))
    }

    pub(super) fn downgrade(&self) -> WeakDocuments {
        WeakDocuments(Arc::downgrade(&self.0))
    }

    /// The document, at most [`FRESH`] old. Whoever asks while one is made waits for it.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub(in super::super) async fn newest(&self) -> Result<Edition, Status> {
        let mut kept = self.0.kept.lock().await;
        if let Some((made, edition)) = &kept.newest
            && made.elapsed() < FRESH
        {
            return Ok(edition.clone());
        }
        let edition = match self.of_leader(&mut kept).await {
            Some(edition) => edition,
            None => self.own(&mut kept).await?,
        };
        kept.newest = Some((Instant::now(), edition.clone()));
        Ok(edition)
    }

    async fn own(&self, kept: &mut Kept) -> Result<Edition, Status> {
        let office = &self.0.office;
        let mut document = office.document().await;
        if office.desk.reign().is_some() {
            document.note_answers(&kept.answers(&office.group));
        }
        // A large one takes milliseconds, which network threads have not.
        let made = tokio::task::spawn_blocking(move || Edition::of(document)).await;
        made.map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(error.to_string()))
    }

    /// What another coordinator says that leads; nothing where this one does, where none
    /// is known, and where it gives no answer.
    async fn of_leader(&self, kept: &mut Kept) -> Option<Edition> {
        let group = &self.0.office.group;
        let (id, node) = Group::leader_of(&group.raft.metrics().borrow())?;
        if id == group.id() {
            return None;
        }
        let address = node.peer.clone();
        let mut client = match &kept.leader {
            Some((known, client)) if *known == address => client.clone(),
            _ => {
                let channel = group.dialer.lazy(&address).ok()?;
                let client = CoordinatorClient::new(channel)
                    .max_decoding_message_size(limits::COORDINATOR_MESSAGE_BYTES);
                kept.leader = Some((address, client.clone()));
                client
            }
        };
        let before = kept.newest.as_ref().map(|(_, edition)| edition);
        let request = pb::ShowRequest {
            tag: before.map_or(0, |edition| edition.tag),
        };
        let answer = timeout(LEADER_TIMEOUT, client.show(request)).await;
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(reply) => {
                let pb::ShowReply { tag, json } = reply.into_inner();
                match before {
                    Some(before) if before.tag == tag => Some(before.clone()),
                    _ => (!json.is_empty()).then_some(Edition { tag, json }),
                }
            }
            Err(status) => {
                tracing::debug!(%status, leader = node.name, "the leader does not tell the status");
                None
            }
        }
    }
}
