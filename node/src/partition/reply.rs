//! How answers travel from the engine to the tasks that wait for them.
//!
//! A task makes a [`ReplyQueue`], gives the engine one [`ReplyTo`] per request and
//! waits on the queue. The engine fills the queue as it goes and wakes the task at
//! most once per turn of its loop, however many answers it had: under load, waking
//! is what an answer costs most.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cairn_core::kv::request::{RequestError, WriteReply};
use cairn_proto::trace::SpanContext;
use parking_lot::Mutex;

/// What came of a write.
pub type WriteResult = Result<WriteReply, RequestError>;

#[derive(Debug)]
struct State {
    done: Vec<(u64, WriteResult)>,
    /// The task is woken once so many answers lie in `done`.
    want: usize,
    waker: Option<Waker>,
}

/// Where the answers of one connection, or of one call, arrive. Answers come in any
/// order, each with the token of its request.
#[derive(Debug)]
pub struct ReplyQueue {
    shared: Arc<Mutex<State>>,
}

impl Default for ReplyQueue {
    fn default() -> Self {
        Self::with_capacity(1)
    }
}

impl ReplyQueue {
    /// An empty queue with room for `answers`.
    #[must_use]
    pub fn with_capacity(answers: usize) -> Self {
        Self {
            shared: Arc::new(Mutex::new(State {
                done: Vec::with_capacity(answers),
                want: 1,
                waker: None,
            })),
        }
    }

    /// Where the answer of one request goes. Each is answered exactly once: one
    /// that is dropped unanswered counts as [`RequestError::Unknown`].
    #[must_use]
    pub fn reply_to(&self, token: u64) -> ReplyTo {
        ReplyTo {
            shared: Some(Arc::clone(&self.shared)),
            token,
            trace: None,
        }
    }

    /// Waits until at least `want` answers are there and takes all that are.
    /// Dropping the future loses nothing.
    pub async fn take(&mut self, want: usize) -> Vec<(u64, WriteResult)> {
        poll_fn(|context| self.poll_take(context, want)).await
    }

    /// As [`Self::take`], for hand-written futures.
    pub fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        want: usize,
    ) -> Poll<Vec<(u64, WriteResult)>> {
        let mut state = self.shared.lock();
        if state.done.len() >= want {
            state.waker = None;
            return Poll::Ready(std::mem::take(&mut state.done));
        }
        state.want = want;
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

/// Takes the answer of one request.
pub struct ReplyTo {
    shared: Option<Arc<Mutex<State>>>,
    token: u64,
    /// What its request is a part of, where it is traced.
    trace: Option<SpanContext>,
}

impl fmt::Debug for ReplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyTo")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl ReplyTo {
    /// The same of a request that is traced, or is not.
    #[must_use]
    pub fn traced(mut self, trace: Option<SpanContext>) -> Self {
        self.trace = trace;
        self
    }

    /// What the request is a part of, where it is traced.
    pub(super) fn trace(&self) -> Option<SpanContext> {
        self.trace
    }

    /// Which queue the answer goes to, as long as it was not given: what one connection sends
    /// has the same.
    pub(super) fn queue(&self) -> usize {
        let shared = self.shared.as_ref();
        shared.map_or(0, |shared| Arc::as_ptr(shared).addr())
    }

    /// Answers. A task that is to be woken for it is added to `wakers`, so that the
    /// caller wakes each once, after all that it has to say.
    pub(super) fn answer(mut self, result: WriteResult, wakers: &mut Vec<Waker>) {
        if let Some(waker) = self.put(result) {
            wakers.push(waker);
        }
    }

    /// Answers, and wakes at once.
    pub(super) fn answer_now(mut self, result: WriteResult) {
        if let Some(waker) = self.put(result) {
            waker.wake();
        }
    }

    fn put(&mut self, result: WriteResult) -> Option<Waker> {
        let shared = self.shared.take()?;
        let mut state = shared.lock();
        state.done.push((self.token, result));
        if state.done.len() >= state.want {
            state.waker.take()
        } else {
            None
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if let Some(waker) = self.put(Err(RequestError::Unknown)) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::Position;
    use cairn_core::kv::request::WriteOutcome;

    use super::*;

    fn reply(count: u64) -> WriteResult {
        Ok(WriteReply {
            outcome: WriteOutcome::Deleted { count },
            position: Position::ZERO,
        })
    }

    #[tokio::test]
    async fn a_task_is_woken_once_for_all_that_it_wants() {
        let mut queue = ReplyQueue::with_capacity(2);
        let (first, second) = (queue.reply_to(1), queue.reply_to(2));
        let waiting = tokio::spawn(async move { queue.take(2).await });
        tokio::task::yield_now().await;
        let mut wakers = Vec::new();
        second.answer(reply(2), &mut wakers);
        assert!(wakers.is_empty());
        first.answer(reply(1), &mut wakers);
        assert_eq!(wakers.len(), 1);
        wakers.into_iter().for_each(Waker::wake);
        let answers = waiting.await.expect("the task ends");
        assert_eq!(answers, vec![(2, reply(2)), (1, reply(1))]);
    }

    #[tokio::test]
    async fn an_answer_that_never_came_is_unknown() {
        let mut queue = ReplyQueue::default();
        drop(queue.reply_to(7));
        assert_eq!(queue.take(1).await, vec![(7, Err(RequestError::Unknown))]);
    }
}
