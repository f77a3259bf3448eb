//! Carries out what a machine asks for: here, or by the node that leads the partition.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::counters::machine::Learned;
use cairn_core::counters::{Answer, Asked, Call, Done, Environment, Machine, Step};
use cairn_core::ids::NodeId;
use cairn_core::kv::request::{RequestError, Sequenced, WriteOp, WriteRequest};
use cairn_core::slots;
use cairn_proto::counters::encode_call;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep};

use super::Counters;
use crate::partition::{StartedRead, wall_ms};
use crate::peer::CarryError;

/// How long to wait before a call is tried again that nobody took.
const AGAIN_MIN: Duration = Duration::from_millis(2);
const AGAIN_MAX: Duration = Duration::from_millis(50);

type Answers<'a> = FuturesUnordered<BoxFuture<'a, Vec<(u16, Answer)>>>;

impl Counters {
    /// Runs a machine to its end. `name` is that of the request, for the write that concludes
    /// it.
    pub(super) async fn run(
        &self,
        mut machine: Machine,
        name: Option<Sequenced>,
    ) -> (Option<Learned>, Result<Done, RequestError>) {
        let deadline = Instant::now() + self.handle().request_timeout();
        let mut under_way = Answers::new();
        let mut step = self.step(&mut machine, None);
        let mut answers = Vec::new().into_iter();
        loop {
            match step {
                Step::Done(done) => return (machine.learned(), done.map_err(of_the_counter)),
                Step::Ask(asked) => self.start(asked, name, deadline, &under_way),
            }
            let (token, answer) = loop {
                if let Some(answer) = answers.next() {
                    break answer;
                }
                match under_way.next().await {
                    Some(more) => answers = more.into_iter(),
                    // A machine that is not done waits for something.
                    None => return (None, Err(RequestError::Unknown)),
                }
            };
            step = self.step(&mut machine, Some((token, answer)));
        }
    }

    fn step(&self, machine: &mut Machine, answer: Option<(u16, Answer)>) -> Step {
        let map = self.handle().shared_map().load();
        let here = self.handle().node();
        let with = Environment {
            now_ms: wall_ms(),
            is_near: &|slot| {
                let record = map.partition_of_slot(slot);
                record
                    .and_then(|r| r.primary)
                    .is_some_and(|p| p.node == here)
            },
            draw: rand::random(),
        };
        machine.step(&with, answer)
    }

    /// Starts calls: those for one node travel together.
    fn start<'a>(
        &'a self,
        asked: Vec<Asked>,
        name: Option<Sequenced>,
        deadline: Instant,
        under_way: &Answers<'a>,
    ) {
        let mut groups: BTreeMap<NodeId, Vec<Asked>> = BTreeMap::new();
        for Asked { token, call } in asked {
            let key = match &call {
                Call::Pause(ms) => {
                    let pause = Duration::from_millis(u64::from(*ms));
                    under_way.push(Box::pin(async move {
                        sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
                        let answer = if Instant::now() < deadline {
                            Answer::Paused
                        } else {
                            Answer::Failed(RequestError::Overloaded)
                        };
                        vec![(token, answer)]
                    }));
                    continue;
                }
                call => key_of(call),
            };
            match self.primary_of(&key) {
                Some(node) if node != self.handle().node() => {
                    groups.entry(node).or_default().push(Asked { token, call });
                }
                _ => under_way.push(Box::pin(async move {
                    let answer = self.carry(call, name, None, deadline).await;
                    vec![(token, answer)]
                })),
            }
        }
        for (node, asked) in groups {
            under_way.push(Box::pin(self.carry_by(node, asked, name, deadline)));
        }
    }

    fn primary_of(&self, key: &Bytes) -> Option<NodeId> {
        let map = self.handle().shared_map().load();
        let record = map.partition_of_slot(slots::slot(key))?;
        record.primary.map(|primary| primary.node)
    }

    /// Has another node carry out calls; what it does not take is tried elsewhere.
    async fn carry_by(
        &self,
        node: NodeId,
        asked: Vec<Asked>,
        name: Option<Sequenced>,
        deadline: Instant,
    ) -> Vec<(u16, Answer)> {
        let (tokens, calls): (Vec<u16>, Vec<Call>) =
            asked.into_iter().map(|a| (a.token, a.call)).unzip();
        let answers = self.ask(node, &calls, name, deadline).await;
        let mut told = Vec::with_capacity(tokens.len());
        for ((token, call), answer) in tokens.into_iter().zip(calls).zip(answers) {
            let answer = match elsewhere(&answer) {
                Some(hint) => self.carry(call, name, hint, deadline).await,
                None => answer,
            };
            told.push((token, answer));
        }
        told
    }

    /// Carries out a call, wherever its primary is, until the deadline.
    async fn carry(
        &self,
        call: Call,
        name: Option<Sequenced>,
        mut hint: Option<NodeId>,
        deadline: Instant,
    ) -> Answer {
        let key = key_of(&call);
        let mut pause = AGAIN_MIN;
        loop {
            let here = self.handle().node();
            let answer = match hint.take().or_else(|| self.primary_of(&key)) {
                Some(node) if node != here => {
                    let mut answers = self
                        .ask(node, std::slice::from_ref(&call), name, deadline)
                        .await;
                    answers
                        .pop()
                        .unwrap_or(Answer::Failed(RequestError::Unknown))
                }
                _ => self.carry_here(&call, name).await,
            };
            let Some(next) = elsewhere(&answer) else {
                return answer;
            };
            if Instant::now() + pause >= deadline {
                return answer;
            }
            hint = next.filter(|node| Some(*node) != self.primary_of(&key));
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }

    /// Carries out a call by this node's own engine.
    pub(super) async fn carry_here(&self, call: &Call, name: Option<Sequenced>) -> Answer {
        let handle = self.handle();
        let key = key_of(call);
        let partition = match handle.partition_of(&key) {
            Ok(partition) => partition,
            Err(error) => return Answer::Failed(error),
        };
        match call {
            Call::Pause(_) => Answer::Paused,
            Call::Read(key) => {
                let read = match handle.start_read(partition, key) {
                    StartedRead::Done(result) => result,
                    StartedRead::Waiting(read) => read.await,
                };
                read.map_or_else(Answer::Failed, Answer::Found)
            }
            Call::Write(op) => {
                let concludes = matches!(op, WriteOp::Conclude { .. });
                let request = WriteRequest {
                    op: op.clone(),
                    sequenced: name.filter(|_| concludes),
                };
                match handle.write_to(partition, request).await {
                    Ok(reply) => Answer::Wrote(reply.outcome, reply.position),
                    Err(error) => Answer::Failed(error),
                }
            }
        }
    }

    /// Asks another node. One answer for each call.
    async fn ask(
        &self,
        node: NodeId,
        calls: &[Call],
        name: Option<Sequenced>,
        deadline: Instant,
    ) -> Vec<Answer> {
        self.shared.figures.asked.increment(calls.len() as u64);
        let encoded = calls
            .iter()
            .filter_map(|call| encode_call(call, name))
            .collect();
        let left = deadline.saturating_duration_since(Instant::now());
        match self.shared.peers.carry_counters(node, encoded, left).await {
            Ok(answers) if answers.len() == calls.len() => answers,
            Ok(_) | Err(CarryError::Lost) => calls.iter().map(|call| self.lost(call)).collect(),
            Err(CarryError::NotSent) => {
                let not_taken = |call: &Call| Answer::Failed(self.not_taken(call));
                calls.iter().map(not_taken).collect()
            }
        }
    }

    /// The answer did not come: whether the call took effect is not known, except where that
    /// makes no difference to whoever tries again.
    fn lost(&self, call: &Call) -> Answer {
        Answer::Failed(match call {
            Call::Read(_) | Call::Write(WriteOp::Seal { .. }) => self.not_taken(call),
            _ => RequestError::Unknown,
        })
    }

    /// Nobody took it, and nothing was done.
    fn not_taken(&self, call: &Call) -> RequestError {
        match self.handle().partition_of(&key_of(call)) {
            Ok(partition) => RequestError::NotReady { partition },
            Err(error) => error,
        }
    }
}

/// Where a call for a stripe was sent in vain is nothing that a client could go by.
fn of_the_counter(error: RequestError) -> RequestError {
    match error {
        RequestError::Moved { partition, .. } => RequestError::NotReady { partition },
        error => error,
    }
}

/// Whether a call was not taken, and may be tried again: at this node, where one is named.
fn elsewhere(answer: &Answer) -> Option<Option<NodeId>> {
    match answer {
        Answer::Failed(RequestError::Moved { primary, .. }) => Some(primary.map(|p| p.node)),
        Answer::Failed(RequestError::NotReady { .. } | RequestError::NoMap) => Some(None),
        _ => None,
    }
}

fn key_of(call: &Call) -> Bytes {
    match call {
        Call::Read(key) => key.clone(),
        Call::Write(op) => op.keys().next().cloned().unwrap_or_default(),
        Call::Pause(_) => Bytes::new(),
    }
}
