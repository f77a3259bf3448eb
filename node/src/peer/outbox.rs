//! What waits to be sent to one peer, and the stream of frames made of it.
//!
//! There are two queues. Messages that are small, and that leadership or an answer
//! waits for, go ahead of bulk, that is of appends: a lease that queued behind a burst
//! of appends, or was dropped with them, would lapse just when the node is busiest. No
//! message relies on its place among the others.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cairn_core::replication::PeerMessage;
use cairn_core::replication::message::{Append, AppendOutcome, Range};
use cairn_proto::pb::peer::v1 as pb;
use cairn_proto::trace::TracedEntry;
use futures::Stream;
use parking_lot::Mutex;

/// The part of a queue's bytes that the urgent messages may have besides.
const URGENT_SHARE: usize = 4;

/// Messages for one peer. Any thread pushes; the open stream takes.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    bytes_max: usize,
    messages_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the streams: only the newest one takes from the queues.
    stream: u64,
    /// Whether the newest stream's handshake was answered. Before that, and after
    /// it broke, messages are dropped: they would be stale once there is a stream.
    open: bool,
    urgent: Line,
    bulk: Line,
    /// Goes with the next frame: before the entries that it is about, or with them.
    traced: Vec<TracedEntry>,
    waker: Option<Waker>,
}

/// Messages in the order in which they came, each with its weight.
#[derive(Debug, Default)]
struct Line {
    messages: VecDeque<(PeerMessage, usize)>,
    bytes: usize,
}

impl Line {
    /// Whether there was room.
    fn push(&mut self, message: PeerMessage, bytes_max: usize, messages_max: usize) -> bool {
        let weight = weight(&message);
        // One message always fits an empty queue, however large it is.
        if !self.messages.is_empty()
            && (self.messages.len() >= messages_max || self.bytes + weight > bytes_max)
        {
            return false;
        }
        self.bytes += weight;
        self.messages.push_back((message, weight));
        true
    }

    /// Moves messages into a frame, as far as there is room in it.
    fn fill(&mut self, frame: &mut Vec<PeerMessage>, bytes: &mut usize, frame_bytes: usize) {
        while let Some((_, weight)) = self.messages.front() {
            let full =
                *bytes + weight > frame_bytes || frame.len() >= cairn_proto::limits::FRAME_MESSAGES;
            if full && !frame.is_empty() {
                return;
            }
            let Some((message, weight)) = self.messages.pop_front() else {
                return;
            };
            self.bytes -= weight;
            *bytes += weight;
            frame.push(message);
        }
    }
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
                let taken = if is_urgent(&message) {
                    let bytes_max = self.bytes_max / URGENT_SHARE;
                    state.urgent.push(message, bytes_max, self.messages_max)
                } else {
                    state.bulk.push(message, self.bytes_max, self.messages_max)
                };
                dropped += usize::from(!taken);
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

    /// Has the peer told of entries that are traced, with the next frame; beyond what one may
    /// hold they are not traced there.
    pub(super) fn tell_traced(&self, entries: Vec<TracedEntry>) {
        let mut state = self.state.lock();
        if state.open {
            let room = cairn_proto::limits::TRACED_ENTRIES.saturating_sub(state.traced.len());
            state.traced.extend(entries.into_iter().take(room));
        }
    }

    /// Makes the stream of frames that replaces any earlier one. It begins with
    /// `first`; messages are taken once [`Outbox::open`] was called for it.
    pub(super) fn stream(self: &Arc<Self>, first: pb::Frame, frame_bytes: usize) -> FrameStream {
        let number = {
            let mut state = self.state.lock();
            state.stream += 1;
            state.open = false;
            state.urgent = Line::default();
            state.bulk = Line::default();
            state.traced = Vec::new();
            state.waker = None;
            state.stream
        };
        FrameStream {
            outbox: Arc::clone(self),
            number,
            first: Some(first),
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
            state.urgent = Line::default();
            state.bulk = Line::default();
            state.traced = Vec::new();
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
    frame_bytes: usize,
}

impl Stream for FrameStream {
    type Item = pb::Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<pb::Frame>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        let mut messages = Vec::new();
        let traced = {
            let mut state = this.outbox.state.lock();
            if state.stream != this.number {
                return Poll::Ready(None);
            }
            let mut bytes = 0;
            state
                .urgent
                .fill(&mut messages, &mut bytes, this.frame_bytes);
            state.bulk.fill(&mut messages, &mut bytes, this.frame_bytes);
            if messages.is_empty() {
                match &mut state.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                return Poll::Pending;
            }
            std::mem::take(&mut state.traced)
        };
        Poll::Ready(Some(pb::Frame {
            handshake: None,
            messages: messages.into_iter().map(Into::into).collect(),
            traced: traced.into_iter().map(Into::into).collect(),
        }))
    }
}

/// Whether it goes ahead of appends.
fn is_urgent(message: &PeerMessage) -> bool {
    match message {
        PeerMessage::Append(_)
        | PeerMessage::NeedSnapshot { .. }
        | PeerMessage::SnapshotNews(_)
        | PeerMessage::FetchRange(_)
        | PeerMessage::Range(_) => false,
        PeerMessage::AppendReply(_)
        | PeerMessage::LeaseRenew(_)
        | PeerMessage::LeaseReply(_)
        | PeerMessage::Release { .. }
        | PeerMessage::Confirm(_)
        | PeerMessage::ConfirmReply(_)
        | PeerMessage::ReadAsk(_)
        | PeerMessage::ReadAnswer(_)
        | PeerMessage::Record(_)
        | PeerMessage::MapVersion(_) => true,
    }
}

/// About how many bytes the message takes on the wire and in memory.
pub(crate) fn weight(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Append(Append { entries, .. }) => {
            96 + entries.iter().map(|e| 48 + e.body.len()).sum::<usize>()
        }
        PeerMessage::Range(Range { entries, .. }) => {
            64 + entries.iter().map(|e| 48 + e.body.len()).sum::<usize>()
        }
        PeerMessage::AppendReply(reply) => match &reply.outcome {
            AppendOutcome::Diverged { lineage, .. } => 64 + 32 * lineage.len(),
            AppendOutcome::Matched { .. } | AppendOutcome::Refused | AppendOutcome::DiskFull => 48,
        },
        PeerMessage::LeaseRenew(renew) => {
            64 + 16 * renew.set.as_ref().map_or(0, Vec::len) + 24 * renew.commits.len()
        }
        PeerMessage::ReadAsk(ask) => 64 + 4 * (ask.partitions.len() + ask.leases.len()),
        PeerMessage::ReadAnswer(answer) => 64 + 48 * answer.stands.len(),
        PeerMessage::LeaseReply(reply) => 64 + 4 * reply.excluded.len(),
        PeerMessage::Record(record) => 128 + 32 * record.config.replicas().len(),
        PeerMessage::Release { .. }
        | PeerMessage::Confirm(_)
        | PeerMessage::ConfirmReply(_)
        | PeerMessage::NeedSnapshot { .. }
        | PeerMessage::SnapshotNews(_)
        | PeerMessage::FetchRange(_)
        | PeerMessage::MapVersion(_) => 64,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_core::ids::{Epoch, Index, MapVersion, Mark, PartitionId, Position, ReplicaId};
    use cairn_core::replication::{EntryKind, LogEntry};
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

    fn append(index: u64, bytes: usize) -> PeerMessage {
        let position = |index| Position {
            epoch: Epoch(1),
            index: Index(index),
        };
        PeerMessage::Append(Append {
            partition: PartitionId(0),
            epoch: Epoch(1),
            to: ReplicaId(1),
            from: ReplicaId(2),
            session: 1,
            previous: Mark {
                position: position(index - 1),
                chain: 0,
            },
            entries: vec![LogEntry {
                position: position(index),
                kind: EntryKind::Write,
                body: Bytes::from(vec![0; bytes]),
                chain: 0,
            }],
            commit: Index(0),
        })
    }

    #[test]
    fn a_lease_travels_ahead_of_appends_and_is_not_dropped_with_them() {
        let outbox = Arc::new(Outbox::new(100_000, 1000));
        let mut stream = outbox.stream(pb::Frame::default(), 20_000);
        stream.next().now_or_never();
        outbox.open();
        let burst = |from: u64| (from..from + 10).map(|n| append(n, 15_000)).collect();
        assert_eq!(outbox.push(burst(1)), Pushed::Dropped(4));
        // The stream has begun with the burst when the next messages come.
        stream.next().now_or_never().flatten().expect("a frame");
        assert_eq!(outbox.push(burst(11)), Pushed::Dropped(9));
        assert_eq!(outbox.push(messages(0..2)), Pushed::All);
        let frame = stream.next().now_or_never().flatten().expect("a frame");
        let urgent = |m: &pb::Message| matches!(m.body, Some(pb::message::Body::MapVersion(_)));
        let kinds: Vec<bool> = frame.messages.iter().map(urgent).collect();
        assert_eq!(kinds, vec![true, true, false]);
    }

    #[test]
    fn what_was_taken_for_a_frame_counts_no_longer_and_the_rest_still_does() {
        let outbox = Arc::new(Outbox::new(100_000, 1000));
        let mut stream = outbox.stream(pb::Frame::default(), 20_000);
        stream.next().now_or_never();
        outbox.open();
        let burst = |from: u64, to: u64| (from..to).map(|n| append(n, 19_000)).collect();
        assert_eq!(outbox.push(burst(1, 7)), Pushed::Dropped(1));
        stream.next().now_or_never().flatten().expect("a frame");
        assert_eq!(outbox.push(burst(7, 9)), Pushed::Dropped(1));
    }
}
