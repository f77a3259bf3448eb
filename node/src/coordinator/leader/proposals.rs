//! The supervisor's proposals on their way through Raft.
//!
//! Raft flushes each entry on its own, so that what is proposed while others are
//! under way is gathered into one entry, whose commands are judged one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_core::cluster::{Command, ProposalId, ProposalOutcome, Response};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::coordinator::raft::{Applied, Raft};

/// The most commands of one entry.
const BATCH_MAX: usize = 2048;
/// The most entries under way: one that is flushed, one that follows.
const UNDER_WAY_MAX: usize = 2;
/// When an entry of which nothing was heard counts as lost.
const TIMEOUT: Duration = Duration::from_secs(5);

type Outcomes = Vec<(ProposalId, ProposalOutcome)>;

pub(super) struct Proposals {
    raft: Raft,
    waiting: Vec<(ProposalId, Command)>,
    under_way: BTreeMap<u64, Vec<ProposalId>>,
    tasks: JoinSet<(u64, Option<Response>)>,
    next: u64,
}

impl std::fmt::Debug for Proposals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proposals")
            .field("waiting", &self.waiting.len())
            .field("under_way", &self.under_way)
            .finish_non_exhaustive()
    }
}

impl Proposals {
    pub(super) fn new(raft: Raft) -> Self {
        Self {
            raft,
            waiting: Vec::new(),
            under_way: BTreeMap::new(),
            tasks: JoinSet::new(),
            next: 0,
        }
    }

    pub(super) fn add(&mut self, id: ProposalId, command: Command) {
        self.waiting.push((id, command));
    }

    pub(super) fn any_under_way(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Sends off what waits, as far as there is room.
    pub(super) fn launch(&mut self) {
        while !self.waiting.is_empty() && self.under_way.len() < UNDER_WAY_MAX {
            let rest = self.waiting.split_off(self.waiting.len().min(BATCH_MAX));
            let (ids, mut commands): (Vec<_>, Vec<_>) = std::mem::replace(&mut self.waiting, rest)
                .into_iter()
                .unzip();
            metrics::counter!("cairn_coordinator_proposals_total").increment(ids.len() as u64);
            let command = if commands.len() == 1 {
                commands.remove(0)
            } else {
                Command::Batch(commands)
            };
            let number = self.next;
            self.next += 1;
            self.under_way.insert(number, ids);
            let raft = self.raft.clone();
            self.tasks.spawn(async move {
                let begun = std::time::Instant::now();
                let written = timeout(TIMEOUT, raft.client_write(command)).await;
                let response = match written {
                    Ok(Ok(answer)) => {
                        metrics::histogram!("cairn_coordinator_commit_seconds")
                            .record(begun.elapsed().as_secs_f64());
                        match answer.data {
                            Applied(Some(response)) => Some(response),
                            Applied(None) => Some(Response::Unchanged),
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "propose to Raft");
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
        let Some(ids) = self.under_way.remove(&number) else {
            return Vec::new();
        };
        outcomes(ids, response)
    }

    /// Leadership is lost: what waited is never proposed, what is under way is
    /// unknown.
    pub(super) fn give_up(&mut self) -> Outcomes {
        self.tasks.abort_all();
        self.tasks.detach_all();
        let unknown = std::mem::take(&mut self.under_way)
            .into_values()
            .flatten()
            .map(|id| (id, ProposalOutcome::Unknown));
        let failed = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(id, _)| (id, ProposalOutcome::Failed));
        unknown.chain(failed).collect()
    }
}

/// One outcome per proposal of an entry. An error of Raft means that nobody knows:
/// an entry may still be committed by the next leader.
fn outcomes(ids: Vec<ProposalId>, response: Option<Response>) -> Outcomes {
    let of = |id, response| (id, ProposalOutcome::Applied(response));
    match response {
        None => ids
            .into_iter()
            .map(|id| (id, ProposalOutcome::Unknown))
            .collect(),
        Some(Response::Batch(answers)) if answers.len() == ids.len() => ids
            .into_iter()
            .zip(answers)
            .map(|(id, response)| of(id, response))
            .collect(),
        Some(response) => ids.into_iter().map(|id| of(id, response.clone())).collect(),
    }
}
