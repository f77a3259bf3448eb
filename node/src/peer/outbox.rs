//! What waits to be sent to one peer, and the stream of frames made of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cairn_core::replication::PeerMessage;
use cairn_core::replication::message::{Append, AppendOutcome};
use cairn_proto::pb::peer::v1 as pb;
use futures::Stream;
use parking_lot::Mutex;

/// Messages for one peer. Any thread pushes; the open stream takes.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    bytes_max: usize,
    messages_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the streams: only the newest one takes from the queue.
    stream: u64,
    /// Whether the newest stream's handshake was answered. Before that, and after
    /// it broke, messages are dropped: they would be stale once there is a stream.
    open: bool,
    queue: VecDeque<PeerMessage>,
    bytes: usize,
    waker: Option<Waker>,
}

/// What became of messages that were pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pushed {
    /// All wait.
    All,
    /// There is no open stream; none waits.
    Closed,
    /// So many did not fit.
    Dropped(usize),
}

impl Outbox {
    pub(super) fn new(bytes_max: usize, messages_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            bytes_max,
            messages_max,
        }
    }

    /// Appends messages, as far as there is room. Never blocks for long.
    pub(super) fn push(&self, messages: Vec<PeerMessage>) -> Pushed {
        let mut dropped = 0;
        let waker = {
            let mut state = self.state.lock();
            if !state.open {
                return Pushed::Closed;
            }
            for message in messages {
                let weight = weight(&message);
                let empty = state.queue.is_empty();
                // One message always fits an empty queue, however large it is.
                if !empty
                    && (state.queue.len() >= self.messages_max
                        || state.bytes + weight > self.bytes_max)
                {
                    dropped += 1;
                    continue;
                }
                state.bytes += weight;
                state.queue.push_back(message);
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        if dropped == 0 {
            Pushed::All
        } else {
            Pushed::Dropped(dropped)
        }
    }

    /// Makes the stream of frames that replaces any earlier one. It begins with
    /// `first`; messages are taken once [`Outbox::open`] was called for it.
    pub(super) fn stream(self: &Arc<Self>, first: pb::Frame, frame_bytes: usize) -> FrameStream {
        let number = {
            let mut state = self.state.lock();
            state.stream += 1;
            state.open = false;
            state.queue.clear();
            state.bytes = 0;
            state.waker = None;
            state.stream
        };
        FrameStream {
            outbox: Arc::clone(self),
            number,
            first: Some(first),
            taken: VecDeque::new(),
            frame_bytes,
        }
    }

    /// From here on messages wait for the newest stream.
    pub(super) fn open(&self) {
        self.state.lock().open = true;
    }

    /// The newest stream broke: drops what waits, and ends the stream.
    pub(super) fn close(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.open = false;
            state.stream += 1;
            state.queue = VecDeque::new();
            state.bytes = 0;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The frames to one peer, for as long as no newer stream takes its place.
#[derive(Debug)]
pub(super) struct FrameStream {
    outbox: Arc<Outbox>,
    number: u64,
    first: Option<pb::Frame>,
    /// Taken from the queue in one go, not yet in a frame.
    taken: VecDeque<PeerMessage>,
    frame_bytes: usize,
}

impl Stream for FrameStream {
    type Item = pb::Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<pb::Frame>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        if this.taken.is_empty() {
            let mut state = this.outbox.state.lock();
            if state.stream != this.number {
                return Poll::Ready(None);
            }
            if state.queue.is_empty() {
                match &mut state.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                return Poll::Pending;
            }
            std::mem::swap(&mut state.queue, &mut this.taken);
            state.bytes = 0;
        }
        let mut bytes = 0;
        let mut count = 0;
        for message in &this.taken {
            let weight = weight(message);
            if count > 0
                && (bytes + weight > this.frame_bytes
                    || count >= cairn_proto::limits::FRAME_MESSAGES)
            {
                break;
            }
            bytes += weight;
            count += 1;
        }
        Poll::Ready(Some(pb::Frame {
            handshake: None,
            messages: this.taken.drain(..count).map(Into::into).collect(),
        }))
    }
}

/// About how many bytes the message takes on the wire and in memory.
pub(super) fn weight(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Append(Append { entries, .. }) => {
            96 + entries.iter().map(|e| 48 + e.body.len()).sum::<usize>()
        }
        PeerMessage::AppendReply(reply) => match &reply.outcome {
            AppendOutcome::Diverged { lineage, .. } => 64 + 32 * lineage.len(),
            AppendOutcome::Matched { .. } | AppendOutcome::Refused | AppendOutcome::DiskFull => 48,
        },
        PeerMessage::LeaseRenew(renew) => {
            64 + 16 * renew.set.as_ref().map_or(0, Vec::len) + 24 * renew.commits.len()
        }
        PeerMessage::LeaseReply(reply) => 64 + 4 * reply.excluded.len(),
        PeerMessage::Record(record) => 128 + 32 * record.config.replicas().len(),
        PeerMessage::Release { .. }
        | PeerMessage::Confirm(_)
        | PeerMessage::ConfirmReply(_)
        | PeerMessage::NeedSnapshot { .. }
        | PeerMessage::MapVersion(_) => 64,
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::MapVersion;
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn messages(range: std::ops::Range<u64>) -> Vec<PeerMessage> {
        range
            .map(|n| PeerMessage::MapVersion(MapVersion(n)))
            .collect()
    }

    fn numbers(frame: &pb::Frame) -> Vec<u64> {
        let decoded = frame
            .messages
            .iter()
            .map(|m| PeerMessage::try_from(m.clone()).expect("well formed"));
        decoded
            .map(|m| match m {
                PeerMessage::MapVersion(version) => version.0,
                other => panic!("not a version: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_waits_travels_together_and_in_order() {
        let outbox = Arc::new(Outbox::new(1 << 20, 1000));
        let mut stream = outbox.stream(pb::Frame::default(), 1 << 20);
        assert_eq!(outbox.push(messages(0..3)), Pushed::Closed);
        let first = stream.next().now_or_never().flatten();
        assert_eq!(first, Some(pb::Frame::default()));
        assert!(stream.next().now_or_never().is_none());
        outbox.open();
        assert_eq!(outbox.push(messages(3..5)), Pushed::All);
        assert_eq!(outbox.push(messages(5..6)), Pushed::All);
        let frame = stream.next().now_or_never().flatten().expect("a frame");
        assert_eq!(numbers(&frame), vec![3, 4, 5]);
    }

    #[test]
    fn frames_are_bounded_and_the_queue_too() {
        let outbox = Arc::new(Outbox::new(1 << 20, 10));
        let mut stream = outbox.stream(pb::Frame::default(), 200);
        stream.next().now_or_never();
        outbox.open();
        assert_eq!(outbox.push(messages(0..12)), Pushed::Dropped(2));
        let mut seen = Vec::new();
        while let Some(Some(frame)) = stream.next().now_or_never() {
            assert!(frame.messages.len() <= 3);
            seen.extend(numbers(&frame));
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn an_older_stream_ends_when_a_newer_one_takes_its_place() {
        let outbox = Arc::new(Outbox::new(1 << 20, 10));
        let mut old = outbox.stream(pb::Frame::default(), 200);
        old.next().now_or_never();
        let _new = outbox.stream(pb::Frame::default(), 200);
        assert_eq!(old.next().now_or_never(), Some(None));
        outbox.open();
        outbox.close();
        assert_eq!(outbox.push(messages(0..1)), Pushed::Closed);
    }
}
