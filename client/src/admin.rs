//! Calls to the coordinators: what `cairn status` and its like use.

use std::time::{Duration, Instant};

use cairn_proto::limits;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::admin_client::AdminClient;
use cairn_proto::refusal;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::topology::fetch_map;
use crate::transport::{Channel, DialError, Dialer};

pub use cairn_proto::pb::coordinator::v1::change_request::Change;
pub use cairn_proto::pb::coordinator::v1::{
    ChangeCoordinators, ChangeReply, CoordinatorAt, Cordon, Drain, ExpectBack, MovePrimary,
    NodeGone, PauseMoves, Recover, ResetToken, Retire, Settings,
};

/// How long a pause is before the coordinators are asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a node may take to send its map.
const MAP_TIMEOUT: Duration = Duration::from_secs(1);

/// Speaks to the coordinators, whichever of them leads.
#[derive(Clone, Debug)]
pub struct Admin {
    endpoints: Vec<String>,
    dialer: Dialer,
    deadline: Duration,
    token: u64,
}

/// Why the coordinators gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is nobody to ask.
    #[error("no coordinator's address is given")]
    NoEndpoint,
    /// None of them can be reached.
    #[error(
        "no coordinator answers: {0}; check that the addresses are client ports of coordinators"
    )]
    Dial(#[from] DialError),
    /// None of them leads.
    #[error("the coordinators have no leader within {within:?}: {reason}")]
    NoLeader {
        /// How long it took.
        within: Duration,
        /// What was said last.
        reason: String,
    },
    /// They refuse.
    #[error("the coordinators refuse: {}", .0.message())]
    Refused(Box<Status>),
    /// The answer is not text.
    #[error("the status is not text: {0}")]
    Text(#[from] std::string::FromUtf8Error),
}

impl Admin {
    /// For coordinators whose client ports are `endpoints`, or for any nodes whose map
    /// names the coordinators.
    #[must_use]
    pub fn new<I>(endpoints: I, dialer: Dialer) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            dialer,
            deadline: Duration::from_secs(10),
            token: 0,
        }
    }

    /// For a caller that others may take the place of: a number that grows with each of
    /// them. Once one with a higher number has changed something, this one is refused.
    #[must_use]
    pub fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }

    /// How long a call may take in all, its retries included; 10 s at first.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The state of the cluster as a JSON document.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn status(&self) -> Result<String, AdminError> {
        let reply = self
            .ask(|mut client| async move { client.status(pb::StatusRequest {}).await })
            .await?;
        Ok(String::from_utf8(reply.json.into())?)
    }

    /// Changes something; returns what was done, in a sentence, and what should be known
    /// about it. Asking for what already is so is no error.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn change(
        &self,
        change: Change,
        override_manifest: bool,
    ) -> Result<ChangeReply, AdminError> {
        let request = pb::ChangeRequest {
            override_manifest,
            token: self.token,
            change: Some(change),
        };
        let reply = self
            .ask(|mut client| {
                let request = request.clone();
                async move { client.change(request).await }
            })
            .await?;
        Ok(reply)
    }

    /// What would have to be copied, as a JSON document: as things are, or as they were
    /// after a change.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn plan(&self, change: Option<Change>) -> Result<String, AdminError> {
        let request = pb::PlanRequest {
            change: change.map(|change| pb::ChangeRequest {
                override_manifest: false,
                token: self.token,
                change: Some(change),
            }),
        };
        let reply = self
            .ask(|mut client| {
                let request = request.clone();
                async move { client.plan(request).await }
            })
            .await?;
        Ok(String::from_utf8(reply.json.into())?)
    }

    /// Asks one coordinator after another, following what they say of their leader.
    async fn ask<T, F, A>(&self, call: F) -> Result<T, AdminError>
    where
        F: Fn(AdminClient<Channel>) -> A,
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let until = Instant::now() + self.deadline;
        let mut failure = AdminError::NoEndpoint;
        let mut endpoints = self.endpoints.clone();
        loop {
            for endpoint in &endpoints {
                let mut next = Some(endpoint.clone());
                let mut hops = 0;
                while let Some(address) = next.take() {
                    match self.ask_one(&address, &call, until).await {
                        Ok(reply) => return Ok(reply),
                        Err(AdminError::Refused(status)) => {
                            let leader: Option<pb::NotLeader> = refusal::detail(&status);
                            let passing = leader.is_some()
                                || matches!(
                                    status.code(),
                                    Code::Unavailable
                                        | Code::DeadlineExceeded
                                        | Code::Cancelled
                                        // A data node.
                                        | Code::Unimplemented
                                );
                            if !passing {
                                return Err(AdminError::Refused(status));
                            }
                            failure = AdminError::NoLeader {
                                within: self.deadline,
                                reason: status.message().to_owned(),
                            };
                            // Two coordinators that point at each other are asked
                            // again after a pause, not for ever.
                            hops += 1;
                            next = leader
                                .map(|l| l.client_address)
                                .filter(|a| !a.is_empty() && hops < 3);
                        }
                        Err(error) => failure = error,
                    }
                }
            }
            if self.endpoints.is_empty() || Instant::now() + PAUSE >= until {
                return Err(failure);
            }
            let known = endpoints.len();
            self.learn(&mut endpoints).await;
            if endpoints.len() == known {
                sleep(PAUSE).await;
            }
        }
    }

    /// Adds the coordinators that a map names: those that are given may be of long ago.
    async fn learn(&self, endpoints: &mut Vec<String>) {
        for address in &self.endpoints {
            let Ok(map) = fetch_map(&self.dialer, address, MAP_TIMEOUT).await else {
                continue;
            };
            for coordinator in &map.coordinators {
                let client = &coordinator.client;
                if !client.is_empty() && !endpoints.contains(client) {
                    endpoints.push(client.clone());
                }
            }
        }
    }

    async fn ask_one<T, F, A>(
        &self,
        address: &str,
        call: &F,
        until: Instant,
    ) -> Result<T, AdminError>
    where
        F: Fn(AdminClient<Channel>) -> A,
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let channel = self.dialer.dial(address).await?;
        let client =
            AdminClient::new(channel).max_decoding_message_size(limits::COORDINATOR_MESSAGE_BYTES);
        let left = until.saturating_duration_since(Instant::now());
        let answer = timeout(left, call(client))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| AdminError::Refused(Box::new(status)))
    }
}
