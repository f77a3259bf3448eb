//! The writes of one connection that may be for striped counters.
//!
//! Additions go to stripes. Any other write of a key that may be a counter first goes the
//! usual way, and to the counters where the key turns out to be one. Writes of one key take
//! effect in the order in which the connection started them, except for additions among
//! themselves, whose order nobody can tell.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::kv::request::{RequestError, WriteLevel, WriteOp, WriteRequest};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream};

use super::Counters;
use crate::partition::WriteResult;

/// A write that may go the usual way.
#[derive(Debug)]
pub(crate) struct Plain {
    /// Its token.
    pub(crate) token: u64,
    /// The write.
    pub(crate) request: WriteRequest,
    /// When it is acknowledged.
    pub(crate) level: WriteLevel,
}

/// The writes of one connection that may be for striped counters.
pub(crate) struct Flows {
    counters: Counters,
    running: FuturesUnordered<BoxFuture<'static, (u64, Bytes, WriteResult)>>,
    lines: HashMap<Bytes, Line>,
    /// Writes that go the usual way, by token.
    plain: HashMap<u64, Usual>,
    /// Writes that waited and may go the usual way now.
    released: VecDeque<Plain>,
}

/// A write that goes the usual way, which its key may turn out not to allow.
#[derive(Debug)]
struct Usual {
    key: Bytes,
    /// How many stripes were agreed.
    stripes: u16,
    request: WriteRequest,
    level: WriteLevel,
}

/// What is under way for a key.
#[derive(Debug, Default)]
struct Line {
    running: usize,
    /// Whether one of them is no addition.
    is_closed: bool,
    waiting: VecDeque<Plain>,
}

impl std::fmt::Debug for Flows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flows")
            .field("running", &self.running.len())
            .field("plain", &self.plain.len())
            .finish_non_exhaustive()
    }
}

impl Flows {
    pub(crate) fn new(counters: Counters) -> Self {
        Self {
            counters,
            running: FuturesUnordered::new(),
            lines: HashMap::new(),
            plain: HashMap::new(),
            released: VecDeque::new(),
        }
    }

    /// Takes a write. Gives it back where it is to go the usual way.
    pub(crate) fn take(&mut self, write: Plain) -> Option<Plain> {
        let key = match &write.request.op {
            WriteOp::Batch { .. } => return Some(write),
            op => op.keys().next()?.clone(),
        };
        let Some(stripes) = self.counters.stripes(&key) else {
            return Some(write);
        };
        let is_addition = matches!(write.request.op, WriteOp::Increment { .. });
        let adds = match write.request.op {
            // One with a name first goes to the key's own partition, which may know the name.
            WriteOp::Increment { delta, .. }
                if stripes > 0 && write.request.sequenced.is_none() =>
            {
                Some(delta)
            }
            _ => None,
        };
        let line = self.lines.entry(key.clone()).or_default();
        let must_wait = !line.waiting.is_empty() || line.is_closed;
        if must_wait || (!is_addition && line.running > 0) {
            line.waiting.push_back(write);
            return None;
        }
        line.running += 1;
        line.is_closed = !is_addition;
        let Plain {
            token,
            request,
            level,
        } = write;
        if level == WriteLevel::All && adds.is_some() {
            // Stripes are acknowledged by quorums alone.
            self.run(token, key, async { Err(RequestError::IsCounter) });
            return None;
        }
        match adds {
            Some(delta) => {
                let (counters, of) = (self.counters.clone(), key.clone());
                self.run(
                    token,
                    key,
                    async move { counters.add(of, delta, stripes).await },
                );
                None
            }
            None => {
                let usual = Usual {
                    key,
                    stripes,
                    request: request.clone(),
                    level,
                };
                self.plain.insert(token, usual);
                Some(Plain {
                    token,
                    request,
                    level,
                })
            }
        }
    }

    fn run(
        &mut self,
        token: u64,
        key: Bytes,
        flow: impl Future<Output = WriteResult> + Send + 'static,
    ) {
        self.running
            .push(Box::pin(async move { (token, key, flow.await) }));
    }

    /// What came of a write that went the usual way. `None`: the answer is to come.
    fn answered(&mut self, token: u64, result: WriteResult) -> Option<WriteResult> {
        if self.plain.is_empty() {
            return Some(result);
        }
        let Some(usual) = self.plain.remove(&token) else {
            return Some(result);
        };
        let Usual {
            key,
            stripes,
            request,
            level,
        } = usual;
        if result != Err(RequestError::IsCounter) {
            let is_added_to = matches!(request.op, WriteOp::Increment { .. }) && stripes > 0;
            if is_added_to && result.is_ok() {
                self.counters.is_to_be_counted(key.clone());
            }
            self.leave(&key);
            return Some(result);
        }
        // An addition with a name is told of the stripes, where its client sends it as it
        // likes; whatever is done here is acknowledged by quorums alone.
        let is_named_addition =
            matches!(request.op, WriteOp::Increment { .. }) && request.sequenced.is_some();
        if level == WriteLevel::All && !is_named_addition {
            self.leave(&key);
            return Some(result);
        }
        let counters = self.counters.clone();
        let of = key.clone();
        self.run(token, key, async move {
            let WriteRequest { op, sequenced } = request;
            match (op, sequenced) {
                (WriteOp::Increment { delta, .. }, None) => counters.add(of, delta, stripes).await,
                // It is put together again, and then the write may come once more.
                (WriteOp::Increment { .. }, Some(_)) if stripes == 0 => {
                    counters.put_together(of, stripes).await
                }
                (WriteOp::Increment { .. }, Some(_)) => counters.edition(of, stripes).await,
                (op, name) => counters.change(of, op, stripes, name).await,
            }
        });
        None
    }

    /// A write of the key has been answered: those that waited for it may go on.
    fn leave(&mut self, key: &Bytes) {
        let Some(line) = self.lines.get_mut(key) else {
            return;
        };
        line.running -= 1;
        if line.running > 0 {
            return;
        }
        let waiting = std::mem::take(&mut line.waiting);
        self.lines.remove(key);
        for write in waiting {
            let plain = self.take(write);
            self.released.extend(plain);
        }
    }

    /// Takes what has been answered, by the engine too; else the task is woken once there is
    /// something.
    pub(crate) fn poll_answers(
        &mut self,
        context: &mut Context<'_>,
        engine: &mut impl Engine,
    ) -> Poll<Vec<(u64, WriteResult)>> {
        if self.plain.is_empty() && self.running.is_empty() {
            return engine.poll_answers(context);
        }
        let mut answers = Vec::new();
        loop {
            let before = answers.len();
            self.poll_running(context, &mut answers);
            let mut engine_answered = false;
            while let Poll::Ready(answered) = engine.poll_answers(context) {
                engine_answered = true;
                for (token, result) in answered {
                    if let Some(result) = self.answered(token, result) {
                        answers.push((token, result));
                    }
                }
            }
            let released = self.released.len();
            engine.submit(self.released.drain(..));
            // Until nothing moves any more: then whatever is left wakes the task.
            if answers.len() == before && !engine_answered && released == 0 {
                break;
            }
        }
        if answers.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(answers)
        }
    }

    fn poll_running(&mut self, context: &mut Context<'_>, answers: &mut Vec<(u64, WriteResult)>) {
        if self.running.is_empty() {
            return;
        }
        while let Poll::Ready(Some((token, key, result))) =
            std::pin::Pin::new(&mut self.running).poll_next(context)
        {
            self.leave(&key);
            answers.push((token, result));
        }
    }
}

/// The usual way of a connection's writes.
pub(crate) trait Engine {
    /// Starts writes.
    fn submit(&mut self, writes: impl Iterator<Item = Plain>);

    /// Takes what was answered, at least one; else the task is woken once there is
    /// something.
    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>>;
}
