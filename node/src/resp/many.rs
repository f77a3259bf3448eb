//! A read of several keys, a few at a time, so that a long list neither blocks the
//! thread nor has all of its reads under way at once.
//!
//! Each key is read by itself: the values are each the latest, not all of one moment.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::kv::request::RequestError;

use super::backend::{Backend, ReadResult, ReadTerms, Started};

/// How many reads of one command may be under way at a time.
const AT_ONCE: usize = 16;
/// How many keys are looked at before other connections have their turn.
const PER_TURN: usize = 128;

/// See the module.
pub(crate) struct Many<B: Backend> {
    values: Vec<Option<Bytes>>,
    /// The next key to be read.
    next: usize,
    running: VecDeque<(usize, B::Read)>,
    bytes: usize,
    /// The most bytes that the values may have; 0: only whether they exist is kept.
    bytes_max: usize,
    error: Option<RequestError>,
}

impl<B: Backend> Many<B> {
    /// For so many keys. `bytes_max` bounds the values; 0: only whether they exist is
    /// wanted.
    pub(crate) fn new(keys: usize, bytes_max: usize) -> Self {
        Self {
            bytes_max,
            values: vec![None; keys],
            next: 0,
            running: VecDeque::new(),
            bytes: 0,
            error: None,
        }
    }

    /// Goes on. Returns whether there is more to do at once.
    pub(crate) fn poll(
        &mut self,
        backend: &B,
        slot: u16,
        keys: &[Bytes],
        how: ReadTerms,
        context: &mut Context<'_>,
    ) -> bool {
        let mut running = std::mem::take(&mut self.running);
        running.retain_mut(|(at, future)| match Pin::new(future).poll(context) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                self.take(*at, result);
                false
            }
        });
        self.running = running;
        for _ in 0..PER_TURN {
            if self.running.len() >= AT_ONCE || self.error.is_some() || self.is_too_long() {
                return false;
            }
            let Some(key) = keys.get(self.next) else {
                return false;
            };
            match backend.read(slot, key, how) {
                Started::Done(result) => self.take(self.next, result),
                Started::Waiting(mut future) => match Pin::new(&mut future).poll(context) {
                    Poll::Ready(result) => self.take(self.next, result),
                    Poll::Pending => self.running.push_back((self.next, future)),
                },
            }
            self.next += 1;
        }
        true
    }

    fn take(&mut self, at: usize, result: ReadResult) {
        match result {
            Ok(value) => {
                let keep = self.bytes_max > 0;
                let data = value.map(|value| if keep { value.data } else { Bytes::new() });
                self.bytes += data.as_ref().map_or(0, Bytes::len);
                self.values[at] = data;
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }

    /// Whether everything was read, or something failed.
    pub(crate) fn is_done(&self) -> bool {
        self.error.is_some()
            || self.is_too_long()
            || (self.next == self.values.len() && self.running.is_empty())
    }

    /// Whether the values have more bytes than they may; some are missing then.
    pub(crate) fn is_too_long(&self) -> bool {
        self.bytes > self.bytes_max
    }

    pub(crate) fn take_error(&mut self) -> Option<RequestError> {
        self.error.take()
    }

    pub(crate) fn values(&self) -> &[Option<Bytes>] {
        &self.values
    }

    /// The bytes of all values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
