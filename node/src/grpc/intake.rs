//! What callers may make the node hold: the bytes of messages that come in.
//!
//! A message is kept until it is whole, whatever the service does with it. Short ones are
//! bounded by the number of calls. Before more than [`FREE_BYTES`] of one are taken from
//! the connection, room for all of it is taken: of what the connection may hold, then of
//! what all together may. Nobody who waits holds room, so that whoever has some gets on,
//! and it is given back when the message is whole, or when it has not come within its
//! time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::serve::IntakeConfig;
use crate::budget::{Budget, Room};

/// A message of at most so many bytes needs no room.
const FREE_BYTES: usize = 64 << 10;
/// What stands before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// Bounds the messages that come in on one connection.
#[derive(Clone, Debug)]
pub(super) struct IntakeLayer {
    bounds: Option<Bounds>,
}

#[derive(Clone, Debug)]
struct Bounds {
    /// What this connection may hold.
    connection: Budget,
    /// What all connections may hold.
    shared: Budget,
    /// How long a message may take once its first bytes came, or once it has room.
    message_timeout: Duration,
}

impl IntakeLayer {
    /// For one new connection.
    pub(super) fn new(config: Option<IntakeConfig>) -> Self {
        let bounds = config.map(|config| Bounds {
            connection: Budget::new(config.connection_bytes),
            shared: config.room,
            message_timeout: config.message_timeout,
        });
        Self { bounds }
    }
}

impl<S> Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        Intake {
            inner,
            bounds: self.bounds.clone(),
        }
    }
}

/// See [`IntakeLayer`].
#[derive(Clone, Debug)]
pub(super) struct Intake<S> {
    inner: S,
    bounds: Option<Bounds>,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Intake<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        self.inner.call(match self.bounds.clone() {
            Some(bounds) => request.map(|body| Body::new(Metered::new(body, bounds))),
            None => request,
        })
    }
}

/// Where in a message the body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    /// The bytes of the head that came.
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// The bytes of the message that came, and those that are still to come.
    taken: usize,
    missing: usize,
}

impl Place {
    const START: Self = Self {
        head: [0; HEAD_BYTES],
        head_bytes: 0,
        taken: 0,
        missing: 0,
    };

    /// Whether a message was begun and not ended.
    fn is_within(&self) -> bool {
        self.head_bytes > 0
    }

    fn length(&self) -> usize {
        self.taken + self.missing
    }

    /// Takes bytes that came. Says whether a message began or ended among them.
    fn advance(&mut self, mut bytes: &[u8]) -> bool {
        let mut passed = false;
        while !bytes.is_empty() {
            if self.head_bytes < HEAD_BYTES {
                let count = bytes.len().min(HEAD_BYTES - self.head_bytes);
                let (head, rest) = bytes.split_at(count);
                self.head[self.head_bytes..self.head_bytes + count].copy_from_slice(head);
                passed |= self.head_bytes == 0;
                self.head_bytes += count;
                bytes = rest;
                if self.head_bytes == HEAD_BYTES {
                    let [_, a, b, c, d] = self.head;
                    self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
                }
            } else {
                let count = bytes.len().min(self.missing);
                self.taken += count;
                self.missing -= count;
                bytes.advance(count);
            }
            if self.head_bytes == HEAD_BYTES && self.missing == 0 {
                *self = Self::START;
                passed = true;
            }
        }
        passed
    }
}

/// What is held for a message.
struct Held {
    _connection: Room,
    _shared: Room,
}

/// A request's body.
struct Metered {
    inner: Body,
    bounds: Bounds,
    place: Place,
    held: Option<Held>,
    waiting: Option<BoxFuture<'static, Held>>,
    /// What came and goes on once there is room.
    pending: Option<Bytes>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    fn new(inner: Body, bounds: Bounds) -> Self {
        Self {
            inner,
            bounds,
            place: Place::START,
            held: None,
            waiting: None,
            pending: None,
            timer: None,
        }
    }

    fn needs_room(&self) -> bool {
        self.held.is_none() && self.place.length() > FREE_BYTES && self.place.taken > FREE_BYTES
    }

    fn ask_for_room(&mut self) {
        let Bounds {
            connection, shared, ..
        } = self.bounds.clone();
        let bytes = self.place.length();
        self.waiting = Some(
            async move {
                let _connection = connection.take(bytes).await;
                let _shared = shared.take(bytes).await;
                Held {
                    _connection,
                    _shared,
                }
            }
            .boxed(),
        );
    }

    fn set_timer(&mut self) {
        let until = Instant::now() + self.bounds.message_timeout;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(until),
            none => *none = Some(Box::pin(sleep_until(until))),
        }
    }

    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        self.timer
            .as_mut()
            .is_some_and(|timer| timer.as_mut().poll(context).is_ready())
    }

    /// What came goes on, unless it has to wait for room.
    fn took(&mut self, data: Bytes) -> Option<Bytes> {
        if self.place.advance(&data) {
            self.held = None;
            if self.place.is_within() {
                self.set_timer();
            } else {
                self.timer = None;
            }
        }
        if self.needs_room() {
            self.ask_for_room();
            self.pending = Some(data);
            return None;
        }
        Some(data)
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                // Who waits here holds little, and may wait for as long as its call.
                this.held = Some(ready!(waiting.poll_unpin(context)));
                this.waiting = None;
                this.set_timer();
            }
            if let Some(data) = this.pending.take() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Pending if this.place.is_within() && this.is_late(context) => {
                    this.held = None;
                    let status = Status::deadline_exceeded(
                        "a message was begun and has not come to its end in time",
                    );
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                Ok(data) => {
                    if let Some(data) = this.took(data) {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages(lengths: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &length in lengths {
            bytes.push(0);
            bytes.extend_from_slice(&u32::try_from(length).expect("short").to_be_bytes());
            bytes.resize(bytes.len() + length, 7);
        }
        bytes
    }

    proptest! {
        #[test]
        fn messages_are_found_in_whatever_pieces(
            lengths in prop::collection::vec(0usize..300, 1..8),
            piece in 1usize..50,
        ) {
            let bytes = messages(&lengths);
            let mut place = Place::START;
            let mut at = 0;
            for chunk in bytes.chunks(piece) {
                place.advance(chunk);
                at += chunk.len();
                // What is known of the message under way is true.
                let mut start = 0;
                for &length in &lengths {
                    let end = start + HEAD_BYTES + length;
                    if (start..end).contains(&at) {
                        prop_assert_eq!(place.is_within(), at > start);
                        if at >= start + HEAD_BYTES {
                            prop_assert_eq!(place.taken, at - start - HEAD_BYTES);
                            prop_assert_eq!(place.missing, end - at);
                        }
                    }
                    start = end;
                }
            }
            prop_assert!(!place.is_within());
        }
    }

    fn body(chunks: Vec<Vec<u8>>, bounds: &Bounds) -> Metered {
        let stream = futures::StreamExt::chain(
            futures::stream::iter(
                chunks
                    .into_iter()
                    .map(|c| Ok::<_, std::io::Error>(Bytes::from(c))),
            ),
            futures::stream::pending(),
        );
        Metered::new(
            Body::new(axum::body::Body::from_stream(stream)),
            bounds.clone(),
        )
    }

    async fn next(body: &mut Metered) -> Result<usize, Status> {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        let frame = frame.expect("no end")?;
        Ok(frame.into_data().expect("data").len())
    }

    fn bounds(connection: usize, shared: usize) -> Bounds {
        Bounds {
            connection: Budget::new(connection),
            shared: Budget::new(shared),
            message_timeout: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn a_long_message_holds_room_until_it_is_whole_and_others_wait() {
        let bounds = bounds(1 << 20, 1 << 20);
        let long = messages(&[600 << 10, 10]);
        let half = long.len() / 2;
        let mut first = body(vec![long[..half].to_vec(), long[half..].to_vec()], &bounds);
        assert_eq!(next(&mut first).await.expect("data"), half);
        assert_eq!(bounds.shared.free_bytes(), 424 << 10);
        // A short one goes past, a long one waits.
        let mut short = body(vec![messages(&[FREE_BYTES])], &bounds);
        assert!(next(&mut short).await.is_ok());
        let mut second = body(vec![long[..half].to_vec()], &bounds);
        assert!(next(&mut second).now_or_never().is_none());
        assert!(next(&mut first).await.is_ok());
        assert!(next(&mut second).await.is_ok());
        drop(second);
        assert_eq!(bounds.shared.free_bytes(), 1 << 20);
    }

    #[tokio::test]
    async fn one_connection_does_not_take_the_room_of_all() {
        let shared = Budget::new(2 << 20);
        let of_one = Bounds {
            shared: shared.clone(),
            ..bounds(1 << 20, 0)
        };
        let long = messages(&[900 << 10])[..200 << 10].to_vec();
        let mut bodies: Vec<_> = (0..5).map(|_| body(vec![long.clone()], &of_one)).collect();
        let begun = bodies
            .iter_mut()
            .filter_map(|one| next(one).now_or_never())
            .count();
        assert_eq!(begun, 1);
        let other = Bounds {
            connection: Budget::new(1 << 20),
            ..of_one.clone()
        };
        assert!(next(&mut body(vec![long.clone()], &other)).await.is_ok());
    }

    #[tokio::test]
    async fn a_message_that_does_not_come_is_given_up_with_its_room() {
        let bounds = Bounds {
            message_timeout: Duration::from_millis(20),
            ..bounds(1 << 20, 1 << 20)
        };
        let long = messages(&[600 << 10]);
        let mut stuck = body(vec![long[..300 << 10].to_vec()], &bounds);
        assert!(next(&mut stuck).await.is_ok());
        let mut waiting = body(vec![long[..300 << 10].to_vec()], &bounds);
        assert!(next(&mut waiting).now_or_never().is_none());
        let status = next(&mut stuck).await.expect_err("given up");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(next(&mut waiting).await.is_ok());
        // One that sends a byte a minute is no better.
        let drops = messages(&[600])
            .into_iter()
            .map(|byte| vec![byte])
            .take(2)
            .collect();
        let mut slow = body(drops, &bounds);
        assert!(next(&mut slow).await.is_ok());
        assert!(next(&mut slow).await.is_ok());
        assert!(next(&mut slow).await.is_err());
        // Between messages there is all the time in the world.
        let mut idle = body(vec![messages(&[600])], &bounds);
        assert!(next(&mut idle).await.is_ok());
        assert!(idle.timer.is_none());
    }
}
