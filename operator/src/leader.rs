//! Which of the operators acts: the one that holds a `Lease`, and under which term.
//!
//! A lease does not fence. Whoever held it may be stopped for a minute and go on as if nothing
//! had happened. So each reign has a *term*, a number that is larger than that of every reign
//! before it, and each call to the coordinators carries it: once one has changed something, all
//! with a smaller one are refused. What changes Kubernetes' objects is guarded by preconditions
//! instead, see `controller::writes`.
//!
//! The term is kept in an annotation of the lease. It is one more than the last, and never
//! less than the time in milliseconds, so that it grows even where somebody deleted the lease.
//!
//! A holder counts from when it *sent* its last renewal that succeeded, on a clock that goes on
//! while the machine sleeps, and stops well before others may take its place. Others count from
//! when they *saw* the lease change, on their own clock: what another clock wrote into the lease
//! is for people.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The annotation with the term.
pub const ANNOTATION_TERM: &str = "cairn.dev/term";

/// How long others leave a lease alone that does not change.
const LEASE: Duration = Duration::from_secs(15);
/// How long its holder acts after the last renewal that succeeded. What is left until
/// [`LEASE`] is for a call that is on its way, and for clocks that run at different speeds.
const HOLD: Duration = Duration::from_secs(10);
/// How often the lease is renewed, and looked at by others.
const PERIOD: Duration = Duration::from_secs(2);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);

/// Time since the machine started, suspended time included.
#[must_use]
pub fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// A time during which one operator acts alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reign {
    /// Larger than that of every reign before.
    pub term: u64,
    /// Until when it lasts, as [`boot_time`]; `None` where nobody else can take over.
    until: Option<Duration>,
}

impl Reign {
    /// One that does not run out.
    #[must_use]
    pub fn endless(term: u64) -> Self {
        Self { term, until: None }
    }
}

/// There is no reign: somebody else acts, or may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this operator does not hold the lease")]
pub struct NotLeading;

/// Says whether this operator acts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    reign: watch::Receiver<Option<Reign>>,
    clock: fn() -> Duration,
}

impl Leadership {
    /// What follows the reigns that the sender tells.
    #[must_use]
    pub fn new() -> (watch::Sender<Option<Reign>>, Self) {
        let (sender, reign) = watch::channel(None);
        let clock = boot_time;
        (sender, Self { reign, clock })
    }

    /// For an operator that is alone by whoever installed it: a reign without an end.
    #[must_use]
    pub fn alone() -> Self {
        let (sender, own) = Self::new();
        sender.send_replace(Some(Reign::endless(now_unix_ms())));
        own
    }

    /// The term, while this operator leads. To be asked just before each change.
    ///
    /// # Errors
    /// [`NotLeading`].
    pub fn term(&self) -> Result<u64, NotLeading> {
        let reign = *self.reign.borrow();
        reign
            .filter(|reign| reign.until.is_none_or(|until| (self.clock)() < until))
            .map(|reign| reign.term)
            .ok_or(NotLeading)
    }

    /// Waits until this operator leads.
    pub async fn gained(&mut self) -> u64 {
        loop {
            if let Ok(term) = self.term() {
                return term;
            }
            self.next().await;
        }
    }

    /// Waits until the reign with that term is over.
    pub async fn lost(&mut self, term: u64) {
        while self.term() == Ok(term) {
            self.next().await;
        }
    }

    /// Waits until something changes, or might have by the passing of time.
    async fn next(&mut self) {
        let told = timeout(PERIOD / 4, self.reign.changed()).await;
        if let Ok(Err(_)) = told {
            // Nobody will tell anything again: what is told holds until it has run out.
            sleep(PERIOD / 4).await;
        }
    }
}

/// Milliseconds since 1970 UTC.
#[must_use]
pub fn now_unix_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// A lease as it was seen last, and since when.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    resource_version: Option<String>,
    since: Duration,
}

/// What is to be done about the lease.
#[derive(Clone, PartialEq, Debug)]
enum Move {
    /// There is none.
    Create(Box<Lease>),
    /// Write it: to renew it, or to take it from whoever let it run out.
    Write(Box<Lease>),
    /// Somebody else holds it.
    Wait,
}

/// Takes part in the election.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<Seen>,
    /// The term under which this candidate holds the lease, where it does.
    term: Option<u64>,
}

impl Candidate {
    /// For the lease of that name. `identity` must be that of this very process: one that starts
    /// anew is another.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity,
            seen: None,
            term: None,
        }
    }

    /// Stands for election, and renews what it won, until `stop`; gives the lease back then.
    pub async fn run(mut self, reign: watch::Sender<Option<Reign>>, stop: CancellationToken) {
        let mut until = Duration::ZERO;
        loop {
            let sent = boot_time();
            match timeout(CALL, self.attempt(sent)).await {
                Ok(Ok(Some(term))) => {
                    let was = *reign.borrow();
                    if was.is_none_or(|was| was.term != term) {
                        tracing::info!(term, identity = self.identity, "leading");
                    }
                    until = sent + HOLD;
                    reign.send_replace(Some(Reign {
                        term,
                        until: Some(until),
                    }));
                }
                Ok(Ok(None)) => {
                    until = Duration::ZERO;
                    self.resign(&reign, "another operator holds the lease");
                }
                Ok(Err(error)) => tracing::warn!(%error, "renew or take the lease"),
                Err(_) => tracing::warn!("the lease could not be read or written in time"),
            }
            if boot_time() >= until {
                self.resign(&reign, "the lease was not renewed in time");
            }
            tokio::select! {
                () = sleep(PERIOD) => {}
                () = stop.cancelled() => break,
            }
        }
        let held = reign.send_replace(None).is_some();
        if held && let Ok(Err(error)) = timeout(CALL, self.release()).await {
            tracing::warn!(%error, "give the lease back; it runs out by itself");
        }
    }

    fn resign(&mut self, reign: &watch::Sender<Option<Reign>>, why: &str) {
        if reign.send_replace(None).is_some() {
            tracing::error!(why, "not leading any more");
        }
        // Taking it up again, even from oneself, is a new reign.
        self.term = None;
    }

    /// Renews or takes the lease; the term where it is held then.
    async fn attempt(&mut self, now: Duration) -> Result<Option<u64>, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        self.look(lease.as_ref(), now);
        let written = match self.decide(lease.as_ref(), now, Timestamp::now()) {
            Move::Wait => {
                self.term = None;
                return Ok(None);
            }
            Move::Create(lease) => self.api.create(&PostParams::default(), &lease).await,
            // Its resourceVersion makes this a compare-and-set.
            Move::Write(lease) => {
                let params = PostParams::default();
                self.api.replace(&self.name, &params, &lease).await
            }
        };
        let written = match written {
            Ok(written) => written,
            // Somebody was faster.
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                self.term = None;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.look(Some(&written), now);
        self.term = Some(term_of(&written));
        Ok(self.term)
    }

    /// Remembers since when the lease has been as it is.
    fn look(&mut self, lease: Option<&Lease>, now: Duration) {
        let resource_version = lease.and_then(ResourceExt::resource_version);
        if self
            .seen
            .as_ref()
            .is_none_or(|seen| seen.resource_version != resource_version)
        {
            self.seen = Some(Seen {
                resource_version,
                since: now,
            });
        }
    }

    fn decide(&self, lease: Option<&Lease>, now: Duration, wall: Timestamp) -> Move {
        let Some(lease) = lease else {
            return Move::Create(Box::new(self.taken(None, wall)));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder == self.identity && self.term == Some(term_of(lease)) {
            let mut lease = lease.clone();
            lease.spec.get_or_insert_default().renew_time = Some(MicroTime(wall));
            return Move::Write(Box::new(lease));
        }
        let others = Duration::from_secs(
            u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0),
        );
        let since = self.seen.as_ref().map_or(now, |seen| seen.since);
        let ran_out = now.saturating_sub(since) >= others.max(LEASE);
        if holder.is_empty() || holder == self.identity || ran_out {
            Move::Write(Box::new(self.taken(Some(lease), wall)))
        } else {
            Move::Wait
        }
    }

    /// The lease with this candidate as its holder, under a new term.
    fn taken(&self, lease: Option<&Lease>, wall: Timestamp) -> Lease {
        let mut taken = lease.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let last = lease.map_or(0, term_of);
        let wall_ms = u64::try_from(wall.as_millisecond()).unwrap_or(0);
        let term = last.saturating_add(1).max(wall_ms);
        taken
            .annotations_mut()
            .insert(ANNOTATION_TERM.to_owned(), term.to_string());
        let spec = taken.spec.get_or_insert_default();
        *spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            acquire_time: Some(MicroTime(wall)),
            renew_time: Some(MicroTime(wall)),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0).saturating_add(1)),
            ..spec.clone()
        };
        taken
    }

    /// Gives the lease back, so that nobody has to wait it out. Its term stays in it.
    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return Ok(());
        }
        spec.holder_identity = None;
        self.api
            .replace(&self.name, &PostParams::default(), &lease)
            .await?;
        tracing::info!("the lease is given back");
        Ok(())
    }
}

/// The term that a lease tells; 0 where it tells none.
fn term_of(lease: &Lease) -> u64 {
    lease
        .annotations()
        .get(ANNOTATION_TERM)
        .and_then(|term| term.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
