//! The commands of one connection that were read and not yet answered.
//!
//! Replies leave in the order of the commands. Commands of different slots run at
//! the same time; those of one slot keep their order where it shows:
//!
//! - writes start in the order in which they came, which the backend keeps;
//! - a read starts once every earlier write of its slot was answered, and a write
//!   once every earlier read of its slot was;
//! - a question about all keys starts once everything before it was answered, and
//!   everything behind it once it was.
//!
//! A command that finds its partition without a primary did nothing. It is held and
//! tried again for a while, unless a later command of its slot may have happened
//! already: then it is refused, for trying again would swap the two.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cairn_core::kv::request::{RequestError, WriteOp, WriteRequest};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::backend::{
    AskResult, Backend, Found, Question, ReadResult, ReadTerms, Session as _, Started, WriteResult,
};
use super::call::{ManyShape, ReadShape, WriteShape};
use super::encode::Protocol;
use super::many::Many;
use crate::budget::Room;

/// The most commands that may wait for an earlier one of their slot.
const DEFERRED_MAX: usize = 64;
/// The most reads that may be under way at a time.
const READING_MAX: usize = 32;
/// The first pause before a held command is tried again, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_LONGEST: Duration = Duration::from_millis(100);

/// How an entry stands.
#[derive(Debug)]
enum Phase<Running, Result> {
    /// It waits for an earlier one of its slot, or for a place among the reads.
    Deferred,
    /// It is under way.
    Running(Running),
    /// It found no primary and is tried again when the timer fires.
    Held,
    /// It is answered.
    Finished(Result),
}

type ManyResult<B> = Result<Box<Many<B>>, RequestError>;

enum Work<B: Backend> {
    /// A reply that is complete already.
    Local(BytesMut),
    Write {
        shape: WriteShape,
        request: WriteRequest,
        phase: Phase<(), WriteResult>,
    },
    Read {
        shape: ReadShape,
        key: Bytes,
        how: ReadTerms,
        phase: Phase<B::Read, ReadResult>,
    },
    Many {
        shape: ManyShape,
        keys: Vec<Bytes>,
        how: ReadTerms,
        phase: Phase<Box<Many<B>>, ManyResult<B>>,
    },
    Ask {
        question: Question,
        phase: Phase<BoxFuture<'static, AskResult>, AskResult>,
    },
}

/// Which slot a command is about, and how its reply is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    /// The slot of its keys.
    pub(crate) slot: u16,
    pub(crate) protocol: Protocol,
    /// The client does not want the reply.
    pub(crate) mute: bool,
}

struct Entry<B: Backend> {
    terms: Terms,
    /// What the command holds in memory until it is answered.
    cost: Cost,
    /// When it was first refused for want of a primary.
    refused: Option<Instant>,
    work: Work<B>,
}

/// What a command holds in memory: its bytes, and for a long one its part of what all
/// connections share, which goes back when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    pub(crate) bytes: usize,
    pub(crate) room: Room,
}

/// What becomes of a reply that is due.
pub(crate) enum Reply<'a, B: Backend> {
    /// Encoded already.
    Encoded(&'a [u8]),
    /// Of a write.
    Write(WriteShape, &'a WriteResult, &'a WriteOp),
    /// Of a read.
    Read(ReadShape, &'a ReadResult),
    /// Of a question about all keys.
    Found(&'a AskResult),
    /// Of a read of several keys.
    Many(ManyShape, Result<&'a Many<B>, &'a RequestError>),
}

/// A reply that is due.
pub(crate) struct Due<'a, B: Backend> {
    pub(crate) terms: Terms,
    pub(crate) reply: Reply<'a, B>,
}

/// How commands are run.
pub(crate) struct Runner<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) session: &'a mut B::Session,
    /// How long a command may be held.
    pub(crate) hold: Duration,
    /// The most bytes that the values of one reply may have.
    pub(crate) reply_bytes_max: usize,
}

/// When what is held is tried again: after a pause, or sooner if a newer map comes.
struct Retry {
    timer: Pin<Box<tokio::time::Sleep>>,
    changed: Option<BoxFuture<'static, ()>>,
}

/// See the module.
pub(crate) struct Queue<B: Backend> {
    entries: VecDeque<Entry<B>>,
    /// The token of the first entry.
    first: u64,
    deferred: usize,
    writing: usize,
    reading: usize,
    held: usize,
    held_in_all: u64,
    retry: Option<Retry>,
    pause: Duration,
    /// Bytes of commands that wait for their answer.
    request_bytes: usize,
    /// Bytes of replies that are there and not yet due.
    reply_bytes: usize,
}

impl<B: Backend> Queue<B> {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 0,
            deferred: 0,
            writing: 0,
            reading: 0,
            held: 0,
            held_in_all: 0,
            retry: None,
            pause: RETRY_FIRST,
            request_bytes: 0,
            reply_bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether more commands may be taken, by how many already wait on each other.
    pub(crate) fn has_room(&self) -> bool {
        self.deferred < DEFERRED_MAX && self.reading < READING_MAX
    }

    /// Bytes of commands that wait for their answer.
    pub(crate) fn request_bytes(&self) -> usize {
        self.request_bytes
    }

    /// How many commands were taken so far, those that joined a reply aside.
    pub(crate) fn taken(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The command that was taken last costs so much until it is answered. One that ran
    /// at once holds only its reply, which is counted.
    pub(crate) fn charge(&mut self, cost: Cost) {
        if let Some(entry) = self.entries.back_mut()
            && !matches!(entry.work, Work::Local(_))
        {
            self.request_bytes += cost.bytes;
            entry.cost = cost;
        }
    }

    /// Bytes of replies that are there and not yet due.
    pub(crate) fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// How many commands were held since the last call.
    pub(crate) fn take_held(&mut self) -> u64 {
        std::mem::take(&mut self.held_in_all)
    }

    /// Where the reply of a command that runs at once goes, behind all others.
    pub(crate) fn local(&mut self, protocol: Protocol, mute: bool) -> &mut BytesMut {
        let joins = matches!(
            self.entries.back(),
            Some(Entry { terms, work: Work::Local(_), .. }) if terms.mute == mute
        );
        if !joins {
            self.entries.push_back(Entry {
                terms: Terms {
                    slot: 0,
                    protocol,
                    mute,
                },
                cost: Cost::default(),
                refused: None,
                work: Work::Local(BytesMut::new()),
            });
        }
        match self.entries.back_mut() {
            Some(Entry {
                work: Work::Local(bytes),
                ..
            }) => bytes,
            _ => unreachable!("a local entry is last"),
        }
    }

    /// So many bytes were added to [`Self::local`].
    pub(crate) fn grew(&mut self, bytes: usize) {
        self.reply_bytes += bytes;
    }

    /// Takes a write; starts it if it may.
    pub(crate) fn write(
        &mut self,
        runner: &mut Runner<'_, B>,
        terms: Terms,
        shape: WriteShape,
        request: WriteRequest,
    ) {
        let slot = terms.slot;
        let deferred = self.blocks(slot, true);
        let token = self.first + self.entries.len() as u64;
        let phase = if deferred {
            self.deferred += 1;
            Phase::Deferred
        } else {
            self.writing += 1;
            runner.session.write(slot, token, request.clone());
            Phase::Running(())
        };
        self.entries.push_back(Entry {
            terms,
            cost: Cost::default(),
            refused: None,
            work: Work::Write {
                shape,
                request,
                phase,
            },
        });
    }

    /// Takes a read; starts it if it may. A read that is answered at once while
    /// nothing is ahead of it is handed back instead.
    pub(crate) fn read(
        &mut self,
        runner: &mut Runner<'_, B>,
        terms: Terms,
        shape: ReadShape,
        key: Bytes,
        how: ReadTerms,
    ) -> Option<ReadResult> {
        let slot = terms.slot;
        let mut refused = None;
        let phase = if self.blocks(slot, false) {
            self.deferred += 1;
            Phase::Deferred
        } else {
            match runner.backend.read(slot, &key, how) {
                Started::Done(result) => {
                    if is_without_primary(result.as_ref().err()) && !runner.hold.is_zero() {
                        self.held += 1;
                        self.held_in_all += 1;
                        refused = Some(Instant::now());
                        Phase::Held
                    } else if self.entries.is_empty() {
                        return Some(result);
                    } else {
                        self.reply_bytes += value_bytes(&result);
                        Phase::Finished(result)
                    }
                }
                Started::Waiting(future) => {
                    self.reading += 1;
                    Phase::Running(future)
                }
            }
        };
        self.entries.push_back(Entry {
            terms,
            cost: Cost::default(),
            refused,
            work: Work::Read {
                shape,
                key,
                how,
                phase,
            },
        });
        None
    }

    /// Takes a read of several keys. It is started by [`Self::advance`].
    pub(crate) fn read_many(
        &mut self,
        terms: Terms,
        shape: ManyShape,
        keys: Vec<Bytes>,
        how: ReadTerms,
    ) {
        self.deferred += 1;
        self.entries.push_back(Entry {
            terms,
            cost: Cost::default(),
            refused: None,
            work: Work::Many {
                shape,
                keys,
                how,
                phase: Phase::Deferred,
            },
        });
    }

    /// Takes a question about all keys. It is started by [`Self::advance`].
    pub(crate) fn ask(&mut self, terms: Terms, question: Question) {
        self.deferred += 1;
        self.entries.push_back(Entry {
            terms,
            cost: Cost::default(),
            refused: None,
            work: Work::Ask {
                question,
                phase: Phase::Deferred,
            },
        });
    }

    /// Whether an entry that is not finished keeps a new one of that slot waiting.
    fn blocks(&self, slot: u16, write: bool) -> bool {
        if self.deferred + self.held + self.reading == 0 && (write || self.writing == 0) {
            return false;
        }
        self.entries
            .iter()
            .any(|entry| (entry.terms.slot == slot || entry.is_of_all()) && entry.blocks(write))
    }

    /// Takes the answers that have come, and tries again what is due for it. Returns
    /// whether anything changed.
    pub(crate) fn collect(
        &mut self,
        runner: &mut Runner<'_, B>,
        context: &mut Context<'_>,
    ) -> bool {
        let mut changed = false;
        if self.writing > 0
            && let Poll::Ready(answers) = runner.session.poll_answers(context)
        {
            changed = true;
            self.answer_writes(answers, runner.hold);
        }
        if self.reading > 0 {
            changed |= self.poll_reads(runner, context);
        }
        if self.held > 0 {
            changed |= self.poll_retry(runner, context);
        }
        if self.deferred > 0 && (changed || self.reading < READING_MAX) {
            changed |= self.advance(runner);
        }
        changed
    }

    fn answer_writes(&mut self, answers: Vec<(u64, WriteResult)>, hold: Duration) {
        let mut refusals = false;
        for (token, result) in answers {
            let entry = token
                .checked_sub(self.first)
                .and_then(|at| usize::try_from(at).ok())
                .and_then(|at| self.entries.get_mut(at));
            let Some(Entry {
                work: Work::Write { phase, .. },
                ..
            }) = entry
            else {
                continue;
            };
            if matches!(phase, Phase::Running(())) {
                refusals |= is_without_primary(result.as_ref().err());
                self.writing -= 1;
                *phase = Phase::Finished(result);
            }
        }
        if refusals {
            self.hold_refused(hold);
        }
    }

    /// Holds what was refused for want of a primary, as far as the order allows:
    /// from the last to the first, so that a run of writes is held as a whole.
    fn hold_refused(&mut self, hold: Duration) {
        let now = Instant::now();
        for at in (0..self.entries.len()).rev() {
            let entry = &self.entries[at];
            let late = entry
                .refused
                .is_some_and(|since| now.duration_since(since) >= hold);
            if late || hold.is_zero() || !entry.is_refused() {
                continue;
            }
            let overtaken = self
                .entries
                .range(at + 1..)
                .any(|later| later.terms.slot == entry.terms.slot && later.may_have_happened());
            if !overtaken {
                let entry = &mut self.entries[at];
                entry.refused.get_or_insert(now);
                entry.hold();
                self.held += 1;
                self.held_in_all += 1;
            }
        }
    }

    fn poll_reads(&mut self, runner: &mut Runner<'_, B>, context: &mut Context<'_>) -> bool {
        let mut changed = false;
        let mut refusals = false;
        // The first unfinished reply may grow to its bound; those behind it grow only
        // while all together are within the bound of one.
        let mut gathered = self.reply_bytes;
        let mut first = true;
        for entry in &mut self.entries {
            match &mut entry.work {
                Work::Read { phase, .. } => {
                    let Phase::Running(future) = phase else {
                        continue;
                    };
                    if let Poll::Ready(result) = Pin::new(future).poll(context) {
                        refusals |= is_without_primary(result.as_ref().err());
                        self.reply_bytes += value_bytes(&result);
                        *phase = Phase::Finished(result);
                        self.reading -= 1;
                        changed = true;
                    }
                }
                Work::Many {
                    keys, how, phase, ..
                } => {
                    let Phase::Running(many) = phase else {
                        continue;
                    };
                    let may_grow = std::mem::take(&mut first) || gathered < runner.reply_bytes_max;
                    if may_grow {
                        changed |= many.poll(runner.backend, entry.terms.slot, keys, *how, context);
                    }
                    gathered += many.bytes();
                    if !many.is_done() {
                        continue;
                    }
                    let Phase::Running(mut many) = std::mem::replace(phase, Phase::Held) else {
                        continue;
                    };
                    self.reading -= 1;
                    changed = true;
                    *phase = Phase::Finished(match many.take_error() {
                        Some(error) => {
                            refusals |= is_without_primary(Some(&error));
                            Err(error)
                        }
                        None => {
                            self.reply_bytes += many.bytes();
                            Ok(many)
                        }
                    });
                }
                Work::Ask { phase, .. } => {
                    let Phase::Running(asking) = phase else {
                        continue;
                    };
                    if let Poll::Ready(found) = asking.as_mut().poll(context) {
                        self.reply_bytes += found_bytes(&found);
                        *phase = Phase::Finished(found);
                        self.reading -= 1;
                        changed = true;
                    }
                }
                Work::Local(_) | Work::Write { .. } => {}
            }
        }
        if refusals {
            self.hold_refused(runner.hold);
        }
        changed
    }

    /// Lets what is held run again once the timer fires, or refuses it for good.
    fn poll_retry(&mut self, runner: &Runner<'_, B>, context: &mut Context<'_>) -> bool {
        let pause = self.pause;
        let retry = self.retry.get_or_insert_with(|| Retry {
            timer: Box::pin(tokio::time::sleep(pause)),
            changed: runner.backend.map_changed(),
        });
        let told = retry
            .changed
            .as_mut()
            .is_some_and(|changed| changed.as_mut().poll(context).is_ready());
        if !told && retry.timer.as_mut().poll(context).is_pending() {
            return false;
        }
        self.retry = None;
        self.pause = (self.pause * 2).min(RETRY_LONGEST);
        for entry in &mut self.entries {
            if entry.resume() {
                self.held -= 1;
                self.deferred += 1;
            }
        }
        true
    }

    /// Starts what no longer has to wait. Returns whether anything was.
    fn advance(&mut self, runner: &mut Runner<'_, B>) -> bool {
        let mut changed = false;
        let mut refusals = false;
        // Slots with an unfinished write, or an unfinished read, so far.
        let mut writes = SlotSet::default();
        let mut reads = SlotSet::default();
        let mut all_finished = true;
        for (at, entry) in self.entries.iter_mut().enumerate() {
            let slot = entry.terms.slot;
            match &mut entry.work {
                Work::Local(_) => {}
                Work::Write { request, phase, .. } => {
                    if matches!(phase, Phase::Deferred)
                        && !reads.contains(slot)
                        && !writes.stuck(slot)
                    {
                        runner
                            .session
                            .write(slot, self.first + at as u64, request.clone());
                        *phase = Phase::Running(());
                        self.deferred -= 1;
                        self.writing += 1;
                        changed = true;
                    }
                    match phase {
                        Phase::Finished(_) => {}
                        Phase::Running(()) => writes.insert(slot),
                        Phase::Deferred | Phase::Held => writes.insert_stuck(slot),
                    }
                }
                Work::Read {
                    key, how, phase, ..
                } => {
                    if matches!(phase, Phase::Deferred)
                        && self.reading < READING_MAX
                        && !writes.contains(slot)
                    {
                        *phase = match runner.backend.read(slot, key, *how) {
                            Started::Done(result) => {
                                refusals |= is_without_primary(result.as_ref().err());
                                self.reply_bytes += value_bytes(&result);
                                Phase::Finished(result)
                            }
                            Started::Waiting(future) => {
                                self.reading += 1;
                                Phase::Running(future)
                            }
                        };
                        self.deferred -= 1;
                        changed = true;
                    }
                    if !matches!(phase, Phase::Finished(_)) {
                        reads.insert(slot);
                    }
                }
                Work::Many {
                    shape, keys, phase, ..
                } => {
                    if matches!(phase, Phase::Deferred)
                        && self.reading < READING_MAX
                        && !writes.contains(slot)
                    {
                        *phase = Phase::Running(Box::new(Many::new(
                            keys.len(),
                            match shape {
                                ManyShape::Values => runner.reply_bytes_max.max(1),
                                ManyShape::Count => 0,
                            },
                        )));
                        self.deferred -= 1;
                        self.reading += 1;
                        changed = true;
                    }
                    if !matches!(phase, Phase::Finished(_)) {
                        reads.insert(slot);
                    }
                }
                Work::Ask { question, phase } => {
                    if matches!(phase, Phase::Deferred) && all_finished {
                        *phase = Phase::Running(runner.backend.ask(question.clone()));
                        self.deferred -= 1;
                        self.reading += 1;
                        changed = true;
                    }
                    if !matches!(phase, Phase::Finished(_)) {
                        // Nothing behind it starts before it is answered.
                        break;
                    }
                }
            }
            all_finished &= entry.is_finished();
        }
        if refusals {
            self.hold_refused(runner.hold);
        }
        changed
    }

    /// How many commands were answered and handed over so far.
    pub(crate) fn popped(&self) -> u64 {
        self.first
    }

    /// Hands over the first reply, if it is there.
    pub(crate) fn front(&self) -> Option<Due<'_, B>> {
        let entry = self.entries.front()?;
        let reply = match &entry.work {
            Work::Local(bytes) => Reply::Encoded(bytes),
            Work::Write {
                shape,
                request,
                phase: Phase::Finished(result),
            } => Reply::Write(*shape, result, &request.op),
            Work::Read {
                shape,
                phase: Phase::Finished(result),
                ..
            } => Reply::Read(*shape, result),
            Work::Many {
                shape,
                phase: Phase::Finished(result),
                ..
            } => Reply::Many(*shape, result.as_deref()),
            Work::Ask {
                phase: Phase::Finished(found),
                ..
            } => Reply::Found(found),
            _ => return None,
        };
        Some(Due {
            terms: entry.terms,
            reply,
        })
    }

    /// Forgets the first entry, whose reply was taken.
    pub(crate) fn pop(&mut self) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        self.first += 1;
        self.request_bytes -= entry.cost.bytes;
        self.reply_bytes -= match &entry.work {
            Work::Local(bytes) => bytes.len(),
            Work::Read {
                phase: Phase::Finished(result),
                ..
            } => value_bytes(result),
            Work::Many {
                phase: Phase::Finished(Ok(many)),
                ..
            } => many.bytes(),
            Work::Ask {
                phase: Phase::Finished(found),
                ..
            } => found_bytes(found),
            _ => 0,
        };
        if self.entries.is_empty() {
            self.pause = RETRY_FIRST;
            if self.entries.capacity() > 128 {
                self.entries = VecDeque::new();
            }
        }
    }
}

impl<B: Backend> Entry<B> {
    /// Whether it keeps a later write, or read, of its slot waiting.
    fn blocks(&self, write: bool) -> bool {
        match &self.work {
            Work::Local(_) => false,
            // A running write holds back no write: the backend keeps their order.
            Work::Write { phase, .. } => match phase {
                Phase::Finished(_) => false,
                Phase::Running(()) => !write,
                Phase::Deferred | Phase::Held => true,
            },
            // A read that is not finished holds back writes. It holds back no read,
            // unless a write is between them, which does so itself.
            Work::Read { phase, .. } => write && !matches!(phase, Phase::Finished(_)),
            Work::Many { phase, .. } => write && !matches!(phase, Phase::Finished(_)),
            Work::Ask { phase, .. } => !matches!(phase, Phase::Finished(_)),
        }
    }

    /// Whether it is about the keys of every slot.
    fn is_of_all(&self) -> bool {
        matches!(self.work, Work::Ask { .. })
    }

    fn is_finished(&self) -> bool {
        match &self.work {
            Work::Local(_) => true,
            Work::Write { phase, .. } => matches!(phase, Phase::Finished(_)),
            Work::Read { phase, .. } => matches!(phase, Phase::Finished(_)),
            Work::Many { phase, .. } => matches!(phase, Phase::Finished(_)),
            Work::Ask { phase, .. } => matches!(phase, Phase::Finished(_)),
        }
    }

    /// Whether it was answered that there is no primary.
    fn is_refused(&self) -> bool {
        match &self.work {
            Work::Local(_) | Work::Ask { .. } => false,
            Work::Write { phase, .. } => {
                matches!(phase, Phase::Finished(Err(e)) if is_without_primary(Some(e)))
            }
            Work::Read { phase, .. } => {
                matches!(phase, Phase::Finished(Err(e)) if is_without_primary(Some(e)))
            }
            Work::Many { phase, .. } => {
                matches!(phase, Phase::Finished(Err(e)) if is_without_primary(Some(e)))
            }
        }
    }

    /// Whether it is under way or was carried out, so that no earlier one of its slot
    /// may be tried again.
    fn may_have_happened(&self) -> bool {
        match &self.work {
            // A question starts when nothing before it is left to be tried again.
            Work::Local(_) | Work::Ask { .. } => false,
            Work::Write { phase, .. } => match phase {
                Phase::Running(()) => true,
                Phase::Finished(_) => !self.is_refused(),
                Phase::Deferred | Phase::Held => false,
            },
            Work::Read { phase, .. } => match phase {
                Phase::Running(_) => true,
                Phase::Finished(_) => !self.is_refused(),
                Phase::Deferred | Phase::Held => false,
            },
            Work::Many { phase, .. } => match phase {
                Phase::Running(_) => true,
                Phase::Finished(_) => !self.is_refused(),
                Phase::Deferred | Phase::Held => false,
            },
        }
    }

    fn hold(&mut self) {
        match &mut self.work {
            Work::Local(_) | Work::Ask { .. } => {}
            Work::Write { phase, .. } => *phase = Phase::Held,
            Work::Read { phase, .. } => *phase = Phase::Held,
            Work::Many { phase, .. } => *phase = Phase::Held,
        }
    }

    /// Lets it run again if it is held.
    fn resume(&mut self) -> bool {
        match &mut self.work {
            Work::Local(_) | Work::Ask { .. } => false,
            Work::Write { phase, .. } => phase.resume(),
            Work::Read { phase, .. } => phase.resume(),
            Work::Many { phase, .. } => phase.resume(),
        }
    }
}

impl<Running, Result> Phase<Running, Result> {
    fn resume(&mut self) -> bool {
        let held = matches!(self, Self::Held);
        if held {
            *self = Self::Deferred;
        }
        held
    }
}

/// Whether the partition has no primary that anyone here knows of, so that nothing
/// was done and a little patience may help.
fn is_without_primary(error: Option<&RequestError>) -> bool {
    matches!(error, Some(RequestError::Moved { primary: None, .. }))
}

fn found_bytes(result: &AskResult) -> usize {
    match result {
        Ok(Found::Page { keys, .. }) => keys.iter().map(Bytes::len).sum(),
        Ok(Found::Count(_)) | Err(_) => 0,
    }
}

fn value_bytes(result: &ReadResult) -> usize {
    match result {
        Ok(Some(value)) => value.data.len(),
        Ok(None) | Err(_) => 0,
    }
}

/// Slots met while walking the queue. Few as a rule, so that a list does.
#[derive(Default)]
struct SlotSet {
    slots: Vec<(u16, bool)>,
}

impl SlotSet {
    fn insert(&mut self, slot: u16) {
        if !self.contains(slot) {
            self.slots.push((slot, false));
        }
    }

    /// A write that has not started: later ones of its slot may not either.
    fn insert_stuck(&mut self, slot: u16) {
        match self.slots.iter_mut().find(|(s, _)| *s == slot) {
            Some((_, stuck)) => *stuck = true,
            None => self.slots.push((slot, true)),
        }
    }

    fn contains(&self, slot: u16) -> bool {
        self.slots.iter().any(|(s, _)| *s == slot)
    }

    fn stuck(&self, slot: u16) -> bool {
        self.slots.iter().any(|(s, stuck)| *s == slot && *stuck)
    }
}
