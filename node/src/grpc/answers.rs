//! What answers may hold until the client has taken them.
//!
//! Each connection has so many bytes for its answers. A long one takes room before it is
//! kept; one that finds none is not kept but read again once there is some, so that it is
//! the client's turn to take what there is. Short answers are counted by their pipeline.

use std::sync::Arc;
use std::task::{Context, Poll};

use cairn_proto::kv::ReadRequest;
use futures::FutureExt;
use futures::future::BoxFuture;
use tonic::{Extensions, Response};

use super::backend::{KvBackend, ReadResult, StartedRead};
use super::service::KvServer;
use crate::budget::{Budget, Room};

/// An answer of at most so many bytes takes no room of its own where it is counted at once.
const FREE_BYTES: usize = 16 << 10;
/// The same of one that is waited for, as many may be, and counted later.
const FREE_LATER_BYTES: usize = 1 << 10;
/// By how much the room of a pipeline grows, and what it may keep unused.
const STEP_BYTES: usize = 64 << 10;

/// The bytes that the answers of one connection may hold.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    budget: Budget,
}

/// The room of an answer that is on its way.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    _room: Arc<Room>,
}

impl Sent {
    pub(super) fn new(room: Room) -> Self {
        Self {
            _room: Arc::new(room),
        }
    }

    /// An answer that holds room until it was taken.
    pub(super) fn with<T>(message: T, room: Room) -> Response<T> {
        let mut response = Response::new(message);
        if !room.is_empty() {
            response.extensions_mut().insert(Self::new(room));
        }
        response
    }
}

/// About how many bytes what was read holds.
fn weight(result: &ReadResult) -> usize {
    let value = result.as_ref().ok().and_then(|read| read.value.as_ref());
    value.map_or(0, |value| value.data.len())
}

impl Answers {
    /// For a new connection.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            budget: Budget::new(bytes),
        }
    }

    /// Those of the connection that a request came on; without a bound where none is set.
    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions
            .get()
            .cloned()
            .unwrap_or_else(|| Self::new(usize::MAX))
    }

    /// Waits for room.
    pub(super) async fn room(&self, bytes: usize) -> Room {
        self.budget.take(bytes).await
    }

    /// Room, if there is some now.
    pub(super) fn room_now(&self, bytes: usize) -> Option<Room> {
        self.budget.try_take(bytes)
    }

    /// The room that what was read takes, if there is that much.
    pub(super) fn room_for(&self, result: &ReadResult) -> Option<Room> {
        match weight(result) {
            ..=FREE_BYTES => Some(Room::default()),
            bytes => self.budget.try_take(bytes),
        }
    }

    /// Goes on with a read that was started, until there is room for what it finds.
    pub(super) async fn read<B: KvBackend>(
        self,
        server: KvServer<B>,
        request: ReadRequest,
        mut started: StartedRead<B::Read>,
    ) -> (ReadResult, Room) {
        let mut room = Room::default();
        loop {
            let result = match started {
                StartedRead::Done(result) => result,
                StartedRead::Waiting(read) => read.await,
            };
            let bytes = weight(&result);
            if bytes <= FREE_LATER_BYTES {
                return (result, Room::default());
            }
            if room.bytes() >= bytes.min(self.budget.bytes()) {
                room.shrink_to(bytes);
                return (result, room);
            }
            // Nobody who waits holds room, and what was read goes.
            drop(room);
            if let Some(room) = self.budget.try_take(bytes) {
                return (result, room);
            }
            drop(result);
            room = self.budget.take(bytes).await;
            started = server.start_read(&request);
        }
    }

    /// For the answers of one pipeline.
    pub(super) fn ledger(&self) -> Ledger {
        Ledger {
            budget: self.budget.clone(),
            room: Room::default(),
            used: 0,
            wanted: 0,
            waiting: None,
        }
    }
}

/// What the answers of one pipeline hold. They are counted as they come, and room is taken
/// for many at a time, before another call is started.
pub(super) struct Ledger {
    budget: Budget,
    room: Room,
    /// What is counted.
    used: usize,
    /// What is to be counted once there is room.
    wanted: usize,
    waiting: Option<BoxFuture<'static, Room>>,
}

impl Ledger {
    /// Counts an answer, with the room that it took already.
    pub(super) fn add(&mut self, bytes: usize, room: Room) {
        self.used += bytes;
        self.room.merge(room);
    }

    /// An answer is on its way, or what was reserved was not needed.
    pub(super) fn remove(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
        // Who waits holds no more than what will go by itself.
        let wanted = match self.waiting {
            Some(_) => 0,
            None => self.wanted,
        };
        let needed = self.used + wanted;
        let spare = if self.used > 0 { STEP_BYTES } else { 0 };
        if self.room.bytes() > needed + spare {
            self.room.shrink_to(needed);
        }
    }

    /// Whether there is room for all that is counted and wanted. If not, the task is woken
    /// once there is, or goes on when its own answers were taken.
    pub(super) fn poll_covered(&mut self, context: &mut Context<'_>) -> bool {
        loop {
            if let Some(waiting) = &mut self.waiting {
                let Poll::Ready(room) = waiting.poll_unpin(context) else {
                    return false;
                };
                self.room.merge(room);
                self.waiting = None;
            }
            let (needed, all) = (self.used + self.wanted, self.budget.bytes());
            if needed > all && self.used > 0 {
                return false;
            }
            let missing = needed.min(all).saturating_sub(self.room.bytes());
            if missing == 0 {
                return true;
            }
            let step = missing.max(STEP_BYTES).min(all - self.room.bytes());
            match self.budget.try_take(step) {
                Some(room) => self.room.merge(room),
                None => {
                    self.room.shrink_to(self.used);
                    let missing = needed.min(all).saturating_sub(self.room.bytes());
                    self.waiting = Some(self.budget.take(missing).boxed());
                }
            }
        }
    }

    /// Leaves its turn, since nobody asks for it any more: those behind it go on.
    pub(super) fn rest(&mut self) {
        self.waiting = None;
        self.wanted = 0;
    }

    /// Counts bytes that an answer may come to have, once there is room for them.
    pub(super) fn poll_reserve(&mut self, bytes: usize, context: &mut Context<'_>) -> bool {
        self.wanted = bytes;
        let covered = self.poll_covered(context);
        if covered {
            self.used += std::mem::take(&mut self.wanted);
        }
        covered
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_ledger_takes_room_in_steps_waits_for_it_and_gives_it_back() {
        let answers = Answers::new(1 << 20);
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (answers.ledger(), answers.ledger());
        first.add(100, Room::default());
        assert!(first.poll_covered(&mut context));
        assert_eq!(answers.budget.free_bytes(), (1 << 20) - STEP_BYTES);
        // A long one brings its own.
        let room = answers.budget.try_take(900 << 10).expect("there is room");
        first.add(900 << 10, room);
        assert!(first.poll_covered(&mut context));
        second.add(200 << 10, Room::default());
        assert!(!second.poll_covered(&mut context));
        // What may come to be long is not even begun.
        assert!(!second.poll_reserve(300 << 10, &mut context));
        first.remove(900 << 10);
        assert!(second.poll_reserve(300 << 10, &mut context));
        assert_eq!(second.used, 500 << 10);
        second.remove(500 << 10);
        first.remove(100);
        drop((first, second));
        assert_eq!(answers.budget.free_bytes(), 1 << 20);
    }

    #[test]
    fn ledgers_that_wait_do_not_hold_what_others_wait_for() {
        let answers = Answers::new(1 << 20);
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (answers.ledger(), answers.ledger());
        for ledger in [&mut first, &mut second] {
            ledger.add(300 << 10, Room::default());
            assert!(ledger.poll_covered(&mut context));
        }
        for ledger in [&mut first, &mut second] {
            assert!(!ledger.poll_reserve(700 << 10, &mut context));
        }
        // Each client takes its answers, and each gets what it waits for in turn.
        first.remove(300 << 10);
        second.remove(300 << 10);
        assert!(first.poll_reserve(700 << 10, &mut context));
        assert!(!second.poll_reserve(700 << 10, &mut context));
        first.remove(700 << 10);
        assert!(second.poll_reserve(700 << 10, &mut context));
        // Whoever rests holds nothing.
        second.remove(700 << 10);
        assert_eq!(answers.budget.free_bytes(), 1 << 20);
    }

    #[test]
    fn who_needs_more_than_there_is_in_all_goes_on_alone() {
        let answers = Answers::new(1 << 20);
        let mut context = Context::from_waker(Waker::noop());
        let mut ledger = answers.ledger();
        ledger.add(100, Room::default());
        assert!(!ledger.poll_reserve(2 << 20, &mut context));
        ledger.remove(100);
        assert!(ledger.poll_reserve(2 << 20, &mut context));
    }

    #[tokio::test]
    async fn short_answers_take_no_room() {
        let answers = Answers::new(1 << 20);
        let value = |bytes: usize| -> ReadResult {
            Ok(crate::partition::Reading {
                value: Some(cairn_core::kv::request::Value::string(
                    Bytes::from(vec![7; bytes]),
                    cairn_core::ids::Position::ZERO,
                    None,
                )),
                local: None,
            })
        };
        let none = answers.room_for(&value(FREE_BYTES)).expect("it is short");
        assert!(none.is_empty());
        let all = answers.room_for(&value(1 << 20)).expect("there is room");
        assert!(answers.room_for(&value(FREE_BYTES + 1)).is_none());
        drop(all);
        assert!(answers.room_for(&value(FREE_BYTES + 1)).is_some());
    }
}
