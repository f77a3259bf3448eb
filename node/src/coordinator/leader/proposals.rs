//! The supervisor's proposals on their way through Raft.
//!
//! The supervisor gathers what comes up while one is under way, and gives one up of
//! which it hears nothing; so at most the newest waits here. What waited before it is
//! not proposed any more: it was made for a state that the newer one has looked at
//! again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::cluster::{Command, ProposalId, ProposalOutcome, Response};
use futures::future::{BoxFuture, FutureExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::coordinator::raft::{Applied, Raft};

/// The most entries under way: one that is flushed, one that follows.
const UNDER_WAY_MAX: usize = 2;
/// When an entry of which nothing was heard counts as lost.
const TIMEOUT: Duration = Duration::from_secs(5);

type Outcomes = Vec<(ProposalId, ProposalOutcome)>;
/// Writes an entry and waits until it is applied.
pub(super) type Write =
    Arc<dyn Fn(Command) -> BoxFuture<'static, Result<Response, String>> + Send + Sync>;

/// Writes through Raft.
pub(super) fn through(raft: Raft) -> Write {
    Arc::new(move |command| {
        let raft = raft.clone();
        async move {
            let answer = raft
                .client_write(command)
                .await
                .map_err(|e| e.to_string())?;
            let Applied(response) = answer.data;
            Ok(response.unwrap_or(Response::Unchanged))
        }
        .boxed()
    })
}

pub(super) struct Proposals {
    write: Write,
    waiting: Option<(ProposalId, Command)>,
    under_way: BTreeMap<u64, (ProposalId, Instant)>,
    tasks: JoinSet<(u64, Option<Response>)>,
    next: u64,
}

impl std::fmt::Debug for Proposals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proposals")
            .field("waiting", &self.waiting.as_ref().map(|(id, _)| id))
            .field("under_way", &self.under_way)
            .finish_non_exhaustive()
    }
}

impl Proposals {
    pub(super) fn new(write: Write) -> Self {
        Self {
            write,
            waiting: None,
            under_way: BTreeMap::new(),
            tasks: JoinSet::new(),
            next: 0,
        }
    }

    pub(super) fn add(&mut self, id: ProposalId, command: Command) {
        self.waiting = Some((id, command));
    }

    pub(super) fn any_under_way(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Since when the oldest of those under way is.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.under_way.values().map(|(_, since)| *since).min()
    }

    /// Sends off what waits, as far as there is room.
    pub(super) fn launch(&mut self) {
        if self.under_way.len() >= UNDER_WAY_MAX {
            return;
        }
        let Some((id, command)) = self.waiting.take() else {
            return;
        };
        metrics::counter!("cairn_coordinator_proposals_total").increment(1);
        let number = self.next;
        self.next += 1;
        let begun = Instant::now();
        self.under_way.insert(number, (id, begun));
        let written = (self.write)(command);
        self.tasks.spawn(async move {
            let response = match timeout(TIMEOUT, written).await {
                Ok(Ok(response)) => {
                    metrics::histogram!("cairn_coordinator_commit_seconds")
                        .record(begun.elapsed().as_secs_f64());
                    Some(response)
                }
                Ok(Err(error)) => {
                    tracing::warn!(error, "propose to Raft");
                    None
                }
                Err(_) => {
                    tracing::warn!("a proposal was not committed in time");
                    None
                }
            };
            (number, response)
        });
    }

    /// Waits for the next entry's end. Safe to drop half-way.
    pub(super) async fn next(&mut self) -> Outcomes {
        let Some(ended) = self.tasks.join_next().await else {
            return std::future::pending().await;
        };
        let Ok((number, response)) = ended else {
            // A task that panicked or was aborted: which one is not told, so that
            // none of those under way is known any more.
            return self.give_up();
        };
        let Some((id, _)) = self.under_way.remove(&number) else {
            return Vec::new();
        };
        // An error of Raft means that nobody knows: an entry may still be committed by
        // the next leader.
        let outcome = response.map_or(ProposalOutcome::Unknown, ProposalOutcome::Applied);
        vec![(id, outcome)]
    }

    /// Leadership is lost: what waited is never proposed, what is under way is
    /// unknown.
    pub(super) fn give_up(&mut self) -> Outcomes {
        self.tasks.abort_all();
        self.tasks.detach_all();
        let unknown = std::mem::take(&mut self.under_way)
            .into_values()
            .map(|(id, _)| (id, ProposalOutcome::Unknown));
        let failed = self
            .waiting
            .take()
            .map(|(id, _)| (id, ProposalOutcome::Failed));
        unknown.chain(failed).collect()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn command(n: u64) -> Command {
        Command::ExpectBack {
            node: cairn_core::ids::NodeId(n),
            until_unix_ms: n,
        }
    }

    #[tokio::test]
    async fn of_what_waits_only_the_newest_is_proposed_and_as_it_is() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let write: Write = {
            let (written, gate) = (Arc::clone(&written), Arc::clone(&gate));
            Arc::new(move |command| {
                written.lock().push(command);
                let gate = Arc::clone(&gate);
                async move {
                    let permit = gate.acquire().await.map_err(|e| e.to_string())?;
                    permit.forget();
                    Ok(Response::Done)
                }
                .boxed()
            })
        };
        let mut proposals = Proposals::new(write);
        let batch = |n| Command::Batch(vec![command(n), command(n + 100)]);
        for n in 1..=5 {
            proposals.add(ProposalId(n), batch(n));
            proposals.launch();
        }
        assert_eq!(*written.lock(), [batch(1), batch(2)]);
        gate.add_permits(1);
        let (first, outcome) = proposals.next().await.remove(0);
        assert!(first.0 <= 2, "{first:?}");
        assert_eq!(outcome, ProposalOutcome::Applied(Response::Done));
        proposals.launch();
        // Neither nested, which the state machine refuses, nor an older one.
        assert_eq!(*written.lock(), [batch(1), batch(2), batch(5)]);
        assert!(proposals.oldest().is_some());
        assert_eq!(proposals.give_up().len(), 2);
        assert!(proposals.oldest().is_none());
    }
}
