//! How long the calls of a connection may stand still, whoever polls them.
//!
//! The transport polls an answer when the client takes what came before it, and with the
//! answer what it is made from: the client's own messages, of a pipeline. A client that
//! takes nothing thus stops every timer inside them. So what each call waits for is noted
//! here, beside the transport, and the connection's own task looks at it:
//! - a message that has not come in its time: its call ends, and all that it holds goes;
//! - an answer of which nothing was taken for as long: the same;
//! - a connection none of whose answers moved for as long, or whose socket took no byte:
//!   it is closed.
//!
//! How far an answer came is seen in pieces of [`PIECE_BYTES`].

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Status;
use tonic::body::Body;

use super::answers::Sent;
use super::intake::Held;

/// What the transport is given of an answer at a time: for as much of each call it may
/// wait for the client without a look from here.
const PIECE_BYTES: usize = 64 << 10;
/// How many times its time a message may take that holds room, where the server itself did
/// not read it, busy with an answer that the client takes slowly.
const UNREAD_TIMES: u32 = 5;
/// How often a connection is looked at within its time-out.
const LOOKS: u32 = 8;

/// What is known of the calls of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    timeout: Duration,
    calls: Mutex<Vec<Weak<Call>>>,
    /// When the transport last came back for more of an answer.
    taken: Mutex<Instant>,
    /// Since when the socket has taken nothing, though there is something to write.
    blocked: Mutex<Option<Instant>>,
}

impl Patience {
    /// For a new connection whose calls may stand still for so long.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                timeout,
                calls: Mutex::default(),
                taken: Mutex::new(Instant::now()),
                blocked: Mutex::new(None),
            }),
        }
    }

    /// Notes a call that begins.
    pub(super) fn call(&self) -> Arc<Call> {
        let call = Arc::new(Call {
            patience: self.clone(),
            incoming: Mutex::default(),
            outgoing: Mutex::default(),
        });
        let mut calls = self.shared.calls.lock();
        // As many stay as are under way: what the others left goes before it doubles.
        if calls.len() == calls.capacity() {
            calls.retain(|call| call.strong_count() > 0);
        }
        calls.push(Arc::downgrade(&call));
        call
    }

    /// Notes what came of writing to the socket.
    pub(super) fn wrote<T>(&self, result: &Poll<T>) {
        let mut blocked = self.shared.blocked.lock();
        match result {
            Poll::Pending => drop(blocked.get_or_insert_with(Instant::now)),
            Poll::Ready(_) => *blocked = None,
        }
    }

    /// Ends what stood still for too long, for as long as it is polled; returns once the
    /// connection is to be closed.
    pub(super) async fn watch(&self) {
        let every = (self.shared.timeout / LOOKS).max(Duration::from_millis(10));
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if self.look(Instant::now()) {
                return;
            }
        }
    }

    /// Ends what stood still for too long by `now`; says whether the connection is to be
    /// closed.
    pub(super) fn look(&self, now: Instant) -> bool {
        let shared = &self.shared;
        let late = |since: Instant| now.saturating_duration_since(since) >= shared.timeout;
        // Outside the lock: the last hold of a call may be the one here.
        let calls: Vec<Arc<Call>> = shared
            .calls
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut stalled = false;
        for call in calls {
            if call.incoming.lock().is_late(now) {
                call.end(&unfinished());
            }
            let since = call.outgoing.try_lock().and_then(|out| out.since);
            if since.is_some_and(late) {
                stalled = true;
                call.end(&untaken());
            }
        }
        let blocked = *shared.blocked.lock();
        (stalled && late(*shared.taken.lock())) || blocked.is_some_and(late)
    }
}

fn unfinished() -> Status {
    Status::deadline_exceeded("a message was begun and has not come to its end in time")
}

fn untaken() -> Status {
    Status::deadline_exceeded("nothing of the answer was taken in time")
}

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    patience: Patience,
    incoming: Mutex<Incoming>,
    /// Taken before `incoming`, where both are.
    outgoing: Mutex<Outgoing>,
}

/// The message that comes in.
#[derive(Debug, Default)]
struct Incoming {
    held: Option<Held>,
    /// When it was begun, or got room, and when it has to be whole.
    begun: Option<Instant>,
    until: Option<Instant>,
    late: bool,
    waker: Option<Waker>,
    /// What messages before it hold that are whole and not dealt with.
    kept: Option<Vec<Held>>,
    /// Until when the oldest of them is to be.
    deal_until: Option<Instant>,
}

impl Incoming {
    /// Whether it is late by now. What it held is given back at once.
    fn is_late(&mut self, now: Instant) -> bool {
        let over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if over(self.until) || over(self.deal_until) {
            *self = Self {
                late: true,
                waker: self.waker.take(),
                ..Self::default()
            };
            self.wake();
        }
        self.late
    }

    /// The client took some of the answer, during which nobody reads what it sends: that
    /// time is not the message's. One that holds room has a few times its time in all.
    fn was_unread(&mut self, now: Instant, timeout: Duration) {
        if let (Some(begun), Some(_)) = (self.begun, self.until) {
            let longest = begun + timeout * UNREAD_TIMES;
            let until = now + timeout;
            self.until = Some(match self.held {
                Some(_) => until.min(longest),
                None => until,
            });
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Call {
    /// A message was begun, or got room: from now on it has its time.
    pub(super) fn message_begins(&self) {
        let now = Instant::now();
        let mut incoming = self.incoming.lock();
        incoming.begun = Some(now);
        incoming.until = Some(now + self.patience.shared.timeout);
    }

    /// The message got room.
    pub(super) fn grant(&self, held: Held) {
        self.message_begins();
        let mut incoming = self.incoming.lock();
        incoming.held = Some(held);
        incoming.wake();
    }

    /// The message is whole: it holds nothing, unless it is kept.
    pub(super) fn message_ends(&self) {
        let longest = self.patience.shared.timeout * UNREAD_TIMES;
        let mut incoming = self.incoming.lock();
        incoming.until = None;
        if let Some(held) = incoming.held.take()
            && let Some(kept) = &mut incoming.kept
        {
            kept.push(held);
            incoming.deal_until.get_or_insert(Instant::now() + longest);
        }
    }

    /// The body is gone, with what it came to.
    pub(super) fn body_is_gone(&self) {
        let mut incoming = self.incoming.lock();
        incoming.until = None;
        incoming.held = None;
        incoming.kept = None;
        incoming.deal_until = None;
    }

    /// From now on messages hold what they hold until [`Self::dealt_with`], since whoever
    /// reads them deals with a part of one at a time.
    pub(super) fn keep(&self) {
        self.incoming.lock().kept.get_or_insert_default();
    }

    /// Nothing of the messages before is left.
    pub(super) fn dealt_with(&self) {
        let mut incoming = self.incoming.lock();
        if let Some(kept) = &mut incoming.kept {
            kept.clear();
        }
        incoming.deal_until = None;
    }

    pub(super) fn has_room(&self) -> bool {
        self.incoming.lock().held.is_some()
    }

    /// Whether the message is late; if not, the task is woken once it is, or has room.
    pub(super) fn wait(&self, context: &mut Context<'_>) -> Result<(), Status> {
        let mut incoming = self.incoming.lock();
        if incoming.late {
            return Err(unfinished());
        }
        match &mut incoming.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Ok(())
    }

    /// Ends the answer, and with it what it is made from. One that is polled right now
    /// does not stand still.
    fn end(&self, status: &Status) {
        let Some(mut outgoing) = self.outgoing.try_lock() else {
            return;
        };
        if outgoing.body.take().is_some() {
            outgoing.rest = Bytes::new();
            outgoing.sent = None;
            outgoing.ended = Some(status.clone());
            if let Some(waker) = outgoing.waker.take() {
                waker.wake();
            }
        }
    }

    /// The same answer, looked after.
    pub(super) fn answer(self: &Arc<Self>, body: Body, sent: Option<Sent>) -> Body {
        if body.is_end_stream() {
            return body;
        }
        *self.outgoing.lock() = Outgoing {
            body: Some(body),
            sent,
            ..Outgoing::default()
        };
        Body::new(Answer {
            call: Arc::clone(self),
        })
    }
}

/// The answer that goes out.
#[derive(Debug, Default)]
struct Outgoing {
    body: Option<Body>,
    /// What the body gave and the transport did not take.
    rest: Bytes,
    /// The room that the answer holds.
    sent: Option<Sent>,
    /// Since when the transport has not come back for more.
    since: Option<Instant>,
    ended: Option<Status>,
    waker: Option<Waker>,
}

/// A response's body.
struct Answer {
    call: Arc<Call>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The body may hold the call.
        let outgoing = std::mem::take(&mut *self.call.outgoing.lock());
        drop(outgoing);
    }
}

impl Outgoing {
    fn piece(&mut self) -> Frame<Bytes> {
        let length = self.rest.len().min(PIECE_BYTES);
        self.since = Some(Instant::now());
        Frame::data(self.rest.split_to(length))
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut outgoing = self.call.outgoing.lock();
        let out = &mut *outgoing;
        if out.since.take().is_some() {
            // What was given before this is on its way.
            let (now, shared) = (Instant::now(), &self.call.patience.shared);
            *shared.taken.lock() = now;
            self.call.incoming.lock().was_unread(now, shared.timeout);
        }
        if !out.rest.is_empty() {
            return Poll::Ready(Some(Ok(out.piece())));
        }
        let Some(body) = &mut out.body else {
            return Poll::Ready(out.ended.take().map(|status| {
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers)?;
                Ok(Frame::trailers(trailers))
            }));
        };
        let frame = match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Pending => {
                match &mut out.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                return Poll::Pending;
            }
            ended => return ended,
        };
        match frame.into_data() {
            Ok(data) => {
                out.rest = data;
                Poll::Ready(Some(Ok(out.piece())))
            }
            Err(trailers) => Poll::Ready(Some(Ok(trailers))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let outgoing = self.call.outgoing.lock();
        outgoing.rest.is_empty()
            && outgoing.ended.is_none()
            && outgoing.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
        std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    async fn length(body: &mut Body) -> usize {
        let frame = next(body).await.expect("no end").expect("no error");
        frame.into_data().expect("data").len()
    }

    fn long(bytes: usize) -> Body {
        Body::new(axum::body::Body::from(vec![7; bytes]))
    }

    #[tokio::test]
    async fn an_answer_goes_out_in_pieces_and_all_of_it_does() {
        let patience = Patience::new(TIMEOUT);
        let mut body = patience.call().answer(long(200 << 10), None);
        let mut lengths = Vec::new();
        while !body.is_end_stream() {
            lengths.push(length(&mut body).await);
        }
        assert_eq!(lengths, [64 << 10, 64 << 10, 64 << 10, 8 << 10]);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_goes_and_its_connection_is_closed() {
        let patience = Patience::new(TIMEOUT);
        let room = crate::budget::Budget::new(1 << 20);
        let sent = Sent::new(room.take(1 << 20).await);
        let mut body = patience.call().answer(long(200 << 10), Some(sent));
        // Nothing is owed before the transport was given something.
        let begin = Instant::now();
        assert!(!patience.look(begin + TIMEOUT * 2));
        length(&mut body).await;
        assert!(!patience.look(begin + TIMEOUT / 2));
        assert_eq!(room.free_bytes(), 0);
        assert!(patience.look(Instant::now() + TIMEOUT));
        assert_eq!(room.free_bytes(), 1 << 20);
        // What the transport was given already is the last of it.
        let trailers = next(&mut body).await.expect("a status").expect("no error");
        let trailers = trailers.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "4");
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn one_answer_that_is_not_taken_ends_alone_while_others_move() {
        let patience = Patience::new(TIMEOUT);
        let (mut stuck, mut moving) = (
            patience.call().answer(long(200 << 10), None),
            patience.call().answer(long(200 << 10), None),
        );
        length(&mut stuck).await;
        length(&mut moving).await;
        let given = Instant::now();
        *patience.shared.taken.lock() = given + TIMEOUT / 2;
        assert!(!patience.look(given + TIMEOUT));
        let ended = next(&mut stuck).await.expect("a status").expect("no error");
        assert!(ended.is_trailers());
    }

    #[tokio::test]
    async fn a_message_is_not_late_for_the_time_in_which_the_client_takes_an_answer() {
        let patience = Patience::new(TIMEOUT);
        let call = patience.call();
        let mut body = call.answer(long(1 << 20), None);
        length(&mut body).await;
        call.message_begins();
        let begun = Instant::now();
        call.incoming.lock().was_unread(begun + TIMEOUT, TIMEOUT);
        assert!(!call.incoming.lock().is_late(begun + TIMEOUT * 3 / 2));
        assert!(call.incoming.lock().is_late(begun + TIMEOUT * 5 / 2));

        // One that holds room has its bounds: an answer can be taken for ever.
        let room = crate::budget::Budget::new(1 << 20);
        let call = patience.call();
        call.grant(Held::of(room.take(1 << 20).await));
        let begun = Instant::now();
        for times in 1..UNREAD_TIMES * 2 {
            let mut incoming = call.incoming.lock();
            incoming.was_unread(begun + TIMEOUT * times, TIMEOUT);
            let late = incoming.is_late(begun + TIMEOUT * times + TIMEOUT / 2);
            assert_eq!(late, times >= UNREAD_TIMES, "after {times}");
        }
        assert_eq!(room.free_bytes(), 1 << 20);
    }

    #[tokio::test]
    async fn what_a_message_holds_is_kept_until_it_is_dealt_with_where_that_is_asked_for() {
        let patience = Patience::new(TIMEOUT);
        let room = crate::budget::Budget::new(1 << 20);
        let call = patience.call();
        for kept in [false, true] {
            call.grant(Held::of(room.take(1 << 20).await));
            call.message_ends();
            assert_eq!(room.free_bytes() == 0, kept);
            call.keep();
        }
        call.dealt_with();
        assert_eq!(room.free_bytes(), 1 << 20);
    }

    #[tokio::test]
    async fn an_answer_that_has_nothing_to_say_may_wait_for_ever() {
        let patience = Patience::new(TIMEOUT);
        let silent = axum::body::Body::from_stream(futures::stream::pending::<
            Result<Bytes, std::io::Error>,
        >());
        let mut body = patience.call().answer(Body::new(silent), None);
        assert!(next(&mut body).now_or_never().is_none());
        assert!(!patience.look(Instant::now() + TIMEOUT * 100));
        assert!(next(&mut body).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_is_closed() {
        let patience = Patience::new(TIMEOUT);
        patience.wrote::<()>(&Poll::Pending);
        let since = Instant::now();
        patience.wrote::<()>(&Poll::Pending);
        assert!(!patience.look(since + TIMEOUT / 2));
        assert!(patience.look(since + TIMEOUT));
        patience.wrote(&Poll::Ready(()));
        assert!(!patience.look(since + TIMEOUT));
    }

    #[tokio::test]
    async fn calls_that_ended_are_forgotten() {
        let patience = Patience::new(TIMEOUT);
        for _ in 0..10_000 {
            let call = patience.call();
            drop(call.answer(long(100), None));
        }
        assert!(patience.shared.calls.lock().capacity() < 100);
    }
}
