//! What callers may make the node hold: the bytes of messages that come in.
//!
//! A message is kept until it is whole, whatever the service does with it. Short ones are
//! bounded by the number of calls. Before more than [`FREE_BYTES`] of one are taken from
//! the connection, room for all of it is taken: of what the connection may hold, then of
//! what all together may. Nobody who waits holds room, so that whoever has some gets on,
//! and it is given back when the message is whole, or when it has not come within its
//! time, which [`super::patience`] looks after.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::future::{BoxFuture, Either};
use futures::{FutureExt, TryFutureExt};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::answers::{Answers, Sent};
use super::patience::{Call, Patience};
use super::serve::IntakeConfig;
use crate::budget::{Budget, Room};

/// A message of at most so many bytes needs no room.
pub(super) const FREE_BYTES: usize = 64 << 10;
/// What stands before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// Bounds the messages that come in on one connection, and the answers that go out.
#[derive(Clone, Debug)]
pub(super) struct IntakeLayer {
    bounds: Option<Bounds>,
}

#[derive(Clone, Debug)]
struct Bounds {
    /// What this connection may hold of messages.
    connection: Budget,
    /// What all connections may hold of them.
    shared: Budget,
    /// What this connection may hold of answers.
    answers: Answers,
    patience: Patience,
}

impl IntakeLayer {
    /// For one new connection, whose calls are noted in `patience`.
    pub(super) fn new(config: Option<(IntakeConfig, Patience)>) -> Self {
        let bounds = config.map(|(config, patience)| Bounds {
            connection: Budget::new(config.connection_bytes),
            shared: config.room,
            answers: Answers::new(config.answer_bytes),
            patience,
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

impl<S> Service<Request<Body>> for Intake<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(bounds) = self.bounds.clone() else {
            return Either::Left(self.inner.call(request));
        };
        let call = bounds.patience.call();
        request.extensions_mut().insert(bounds.answers.clone());
        request.extensions_mut().insert(Arc::clone(&call));
        let metered = Arc::clone(&call);
        let request = request.map(|body| Body::new(Metered::new(body, bounds, metered)));
        let answered = self.inner.call(request).map_ok(move |mut response| {
            let sent = response.extensions_mut().remove::<Sent>();
            response.map(|body| call.answer(body, sent))
        });
        Either::Right(answered.boxed())
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
#[derive(Debug)]
pub(super) struct Held {
    _connection: Room,
    _shared: Room,
}

#[cfg(test)]
impl Held {
    pub(super) fn of(room: Room) -> Self {
        Self {
            _connection: room,
            _shared: Room::default(),
        }
    }
}

/// A request's body.
struct Metered {
    inner: Body,
    bounds: Bounds,
    call: Arc<Call>,
    place: Place,
    /// Takes room on a task of its own: whoever waits for room and is not polled would
    /// have it without an end.
    waiting: Option<AbortOnDropHandle<()>>,
    /// What came and goes on once there is room.
    pending: Option<Bytes>,
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.waiting = None;
        self.call.body_is_gone();
    }
}

impl Metered {
    fn new(inner: Body, bounds: Bounds, call: Arc<Call>) -> Self {
        Self {
            inner,
            bounds,
            call,
            place: Place::START,
            waiting: None,
            pending: None,
        }
    }

    /// Takes room for the message that is coming; says whether it has to wait for that.
    fn has_to_wait(&mut self) -> bool {
        if self.place.length() <= FREE_BYTES
            || self.place.taken <= FREE_BYTES
            || self.call.has_room()
        {
            return false;
        }
        let Bounds {
            connection, shared, ..
        } = self.bounds.clone();
        let bytes = self.place.length();
        if let Some(_connection) = connection.try_take(bytes)
            && let Some(_shared) = shared.try_take(bytes)
        {
            self.call.grant(Held {
                _connection,
                _shared,
            });
            return false;
        }
        // Who waits here holds little, and may wait for as long as its call.
        self.call.message_ends();
        let call = Arc::clone(&self.call);
        self.waiting = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let _connection = connection.take(bytes).await;
            let _shared = shared.take(bytes).await;
            call.grant(Held {
                _connection,
                _shared,
            });
        })));
        true
    }

    /// What came goes on, unless it has to wait for room.
    fn took(&mut self, data: Bytes) -> Option<Bytes> {
        if self.place.advance(&data) {
            self.call.message_ends();
            if self.place.is_within() {
                self.call.message_begins();
            }
        }
        if self.has_to_wait() {
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
            if this.place.is_within() {
                this.call.wait(context)?;
            }
            if this.waiting.is_some() && !this.call.has_room() {
                return Poll::Pending;
            }
            this.waiting = None;
            if let Some(data) = this.pending.take() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
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
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

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
            bounds.patience.call(),
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
            answers: Answers::new(1 << 20),
            patience: Patience::new(TIMEOUT),
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
        let bounds = bounds(1 << 20, 1 << 20);
        let look = || bounds.patience.look(Instant::now() + TIMEOUT);
        let long = messages(&[600 << 10]);
        let mut stuck = body(vec![long[..300 << 10].to_vec()], &bounds);
        assert!(next(&mut stuck).await.is_ok());
        let mut waiting = body(vec![long[..300 << 10].to_vec()], &bounds);
        assert!(next(&mut waiting).now_or_never().is_none());
        // Nobody polls it, and its room goes to the next all the same.
        assert!(!look(), "the connection lives");
        assert!(next(&mut waiting).await.is_ok());
        let status = next(&mut stuck).await.expect_err("given up");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        // One that got its room unseen has its time too.
        let mut unseen = body(vec![long[..300 << 10].to_vec()], &bounds);
        assert!(next(&mut unseen).now_or_never().is_none());
        drop(waiting);
        while !unseen.call.has_room() {
            tokio::task::yield_now().await;
        }
        look();
        assert_eq!(bounds.shared.free_bytes(), 1 << 20);
        // One that sends a byte a minute is no better.
        let drops = messages(&[600])
            .into_iter()
            .map(|byte| vec![byte])
            .take(2)
            .collect();
        let mut slow = body(drops, &bounds);
        assert!(next(&mut slow).await.is_ok());
        assert!(next(&mut slow).await.is_ok());
        look();
        assert!(next(&mut slow).await.is_err());
        // Between messages there is all the time in the world.
        let mut idle = body(vec![messages(&[600])], &bounds);
        assert!(next(&mut idle).await.is_ok());
        look();
        assert!(next(&mut idle).now_or_never().is_none());
    }

    /// Answers with what it is sent, as a pipeline does: its answer is made from the
    /// request while it goes out.
    async fn echo(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        Ok(Response::new(request.into_body()))
    }

    #[tokio::test]
    async fn a_client_that_takes_no_answer_holds_no_room_past_its_time() {
        let bounds = bounds(1 << 20, 1 << 20);
        let layer = IntakeLayer {
            bounds: Some(bounds.clone()),
        };
        let mut service = layer.layer(tower::service_fn(echo));
        let half = messages(&[600 << 10])[..300 << 10].to_vec();
        let sent = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(half))]);
        let sent = futures::StreamExt::chain(sent, futures::stream::pending());
        let request = Request::new(Body::new(axum::body::Body::from_stream(sent)));
        let Ok(response) = service.call(request).await;
        let mut answer = response.into_body();
        let mut take =
            async || std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await;
        // The transport has a piece of the answer, and from here on nobody polls.
        let piece = take().await.expect("a piece").expect("no error");
        assert!(piece.is_data());
        assert_eq!(bounds.shared.free_bytes(), 424 << 10);
        assert!(!bounds.patience.look(Instant::now()));
        assert_eq!(bounds.shared.free_bytes(), 424 << 10);
        assert!(bounds.patience.look(Instant::now() + TIMEOUT));
        assert_eq!(bounds.shared.free_bytes(), 1 << 20);
        // The call is over, with all that it kept.
        let trailers = take().await.expect("a status").expect("no error");
        let trailers = trailers.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "4");
    }
}
