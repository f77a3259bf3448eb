//! What people are told through events: a fixed set of reasons, so that alerts may name them.
//!
//! The recorder of `kube` takes two events with one reason for the same and keeps the text of
//! the first. Here the text is most of what there is to tell, so events are made one by one, and
//! only the same text about the same cluster is not told again for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_crds::KvCluster;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;

use crate::controller::writes::within;
use crate::leader::boot_time;
use crate::names::FIELD_MANAGER;

/// How long the same text is not told again.
const AGAIN: Duration = Duration::from_secs(600);
/// The longest note of an event that the API server takes, in bytes.
const NOTE_BYTES_MAX: usize = 1024;

/// Why something is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// The manifest cannot be followed.
    Invalid,
    /// The manifest asks for something that deserves a thought.
    Warning,
    /// The cluster serves for the first time.
    Created,
    /// What the coordinators were asked for is done.
    Changed,
    /// The coordinators refuse something.
    Refused,
    /// A pod was deleted, to start anew.
    PodDeleted,
    /// A claim was deleted.
    ClaimDeleted,
    /// A data node retired.
    NodeRetired,
    /// A data node was given up.
    NodeGivenUp,
    /// An object has a name that the cluster needs, and belongs to somebody else.
    Foreign,
    /// Something that a person must decide or mend.
    Stuck,
    /// Partitions lost copies, or are not served.
    Degraded,
    /// The cluster is whole again.
    Recovered,
    /// Certificates were made or renewed.
    Certificates,
    /// Keys are asked for far more than others, and have been for a while.
    HotKeys,
}

impl Reason {
    /// All.
    pub const ALL: [Self; 15] = [
        Self::Invalid,
        Self::Warning,
        Self::Created,
        Self::Changed,
        Self::Refused,
        Self::PodDeleted,
        Self::ClaimDeleted,
        Self::NodeRetired,
        Self::NodeGivenUp,
        Self::Foreign,
        Self::Stuck,
        Self::Degraded,
        Self::Recovered,
        Self::Certificates,
        Self::HotKeys,
    ];

    /// Whether somebody should have a look.
    fn is_warning(self) -> bool {
        match self {
            Self::Invalid
            | Self::Warning
            | Self::Refused
            | Self::NodeGivenUp
            | Self::Foreign
            | Self::Stuck
            | Self::Degraded => true,
            Self::Created
            | Self::Changed
            | Self::PodDeleted
            | Self::ClaimDeleted
            | Self::NodeRetired
            | Self::Recovered
            | Self::Certificates
            | Self::HotKeys => false,
        }
    }

    /// What was being done.
    fn action(self) -> &'static str {
        match self {
            Self::Invalid | Self::Warning => "Validate",
            Self::Created | Self::Degraded | Self::Recovered | Self::Stuck | Self::HotKeys => {
                "Observe"
            }
            Self::Changed | Self::Refused | Self::NodeRetired | Self::NodeGivenUp => {
                "AskCoordinators"
            }
            Self::PodDeleted | Self::ClaimDeleted => "Delete",
            Self::Foreign | Self::Certificates => "Apply",
        }
    }
}

/// Something to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// Why.
    pub reason: Reason,
    /// A sentence.
    pub text: String,
}

impl News {
    /// From both.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }
}

/// The beginning of a text, if it is too long for an event.
fn bounded(text: &str) -> String {
    if text.len() <= NOTE_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(NOTE_BYTES_MAX - '…'.len_utf8());
    format!("{}…", &text[..end])
}

/// A cluster's UID, and what was told about it.
type Told = (String, Reason, String);

/// Tells people. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    client: Client,
    identity: String,
    told: Arc<Mutex<BTreeMap<Told, Duration>>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// In the name of this process.
    #[must_use]
    pub fn new(client: Client, identity: String) -> Self {
        Self {
            client,
            identity,
            told: Arc::default(),
        }
    }

    /// Tells something about a cluster, unless it was told of late. An event that is not taken
    /// is logged and counted, no more: what it tells is in the status as well.
    pub async fn tell(&self, about: &KvCluster, news: &News) {
        if !self.is_news(about, news, boot_time()) {
            return;
        }
        if news.reason.is_warning() {
            tracing::warn!(reason = ?news.reason, "{}", news.text);
        } else {
            tracing::info!(reason = ?news.reason, "{}", news.text);
        }
        let event = self.event(about, news);
        let namespace = about.namespace().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let params = PostParams::default();
        let published = within(
            || "publish an event".to_owned(),
            api.create(&params, &event),
        );
        if let Err(error) = published.await {
            crate::metrics::event_failed();
            tracing::warn!("{error}");
        }
    }

    fn is_news(&self, about: &KvCluster, news: &News, now: Duration) -> bool {
        let mut told = self.told.lock();
        told.retain(|_, at| now.saturating_sub(*at) < AGAIN);
        let what = (
            about.uid().unwrap_or_default(),
            news.reason,
            news.text.clone(),
        );
        let known = told.contains_key(&what);
        told.entry(what).or_insert(now);
        !known
    }

    fn event(&self, about: &KvCluster, news: &News) -> Event {
        let now = Timestamp::now();
        Event {
            action: Some(news.reason.action().to_owned()),
            event_time: Some(MicroTime(now)),
            metadata: ObjectMeta {
                namespace: about.namespace(),
                name: Some(format!("{}.{:x}", about.name_any(), now.as_nanosecond())),
                ..ObjectMeta::default()
            },
            note: Some(bounded(&news.text)),
            reason: Some(format!("{:?}", news.reason)),
            regarding: Some(about.object_ref(&())),
            reporting_controller: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(self.identity.clone()),
            type_: Some(
                if news.reason.is_warning() {
                    "Warning"
                } else {
                    "Normal"
                }
                .to_owned(),
            ),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn reasons_are_words_that_events_take() {
        let words: BTreeSet<String> = Reason::ALL.iter().map(|r| format!("{r:?}")).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for word in words {
            assert!(
                word.len() <= 128 && word.chars().all(|c| c.is_ascii_alphabetic()),
                "{word}"
            );
        }
    }

    #[tokio::test]
    async fn each_text_is_told_and_told_again_after_a_while() {
        let api = crate::testing::FakeApi::default();
        let events = Events::new(api.client(), "pod".to_owned());
        let about = crate::testing::manifest();
        let now = Duration::from_secs(5000);
        let stuck = News::new(Reason::Stuck, "one");
        let other = News::new(Reason::Stuck, "two");
        assert!(events.is_news(&about, &stuck, now));
        assert!(events.is_news(&about, &other, now));
        assert!(!events.is_news(&about, &stuck, now + AGAIN / 2));
        // It goes on being so: from time to time that is said again.
        assert!(events.is_news(&about, &stuck, now + AGAIN));

        events.tell(&about, &News::new(Reason::Refused, "no")).await;
        events.tell(&about, &News::new(Reason::Refused, "no")).await;
        let writes = api.writes();
        assert_eq!(writes.len(), 1, "{writes:?}");
        assert_eq!(writes[0].body["note"], "no");
        assert_eq!(writes[0].body["type"], "Warning");
        assert_eq!(writes[0].body["regarding"]["kind"], "KvCluster");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ä".repeat(NOTE_BYTES_MAX);
        let cut = bounded(&text);
        assert!(
            cut.len() <= NOTE_BYTES_MAX && cut.ends_with("ä…"),
            "{}",
            cut.len()
        );
        assert_eq!(bounded("short"), "short");
    }
}
