//! What is read and written, in which order, to use a striped counter.
//!
//! A [`Machine`] carries out one request. It says what is to be read and written
//! ([`Asked`]), takes the answers in any order, and is done at last. Reads that it asks for
//! are strong, and each write is one of a single key; how they come to their primaries, how
//! often they are tried and how long that may take is the caller's.
//!
//! See [`super`] for what holds, and why.

use bytes::Bytes;

use super::control::{Control, StripeValue};
use super::name::{StripeName, slot_of};
use crate::ids::Position;
use crate::kv::evaluate::{may_expire, new_expiry};
use crate::kv::integer;
use crate::kv::request::{Condition, Expiry, RequestError, Value, WriteOp, WriteOutcome};
use crate::seeded::{Bug, is_seeded};

/// How long seals are kept, in milliseconds: far longer than anybody goes by an edition that
/// has ended.
pub const SEALS_KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// How often one who adds waits for whoever sealed the stripes, before it does his work.
const PATIENCE: u32 = 4;
/// How often the key may turn out to be another before it is given up.
const TRIES_MAX: u32 = 64;
/// Marks the second call for a stripe.
const SECOND: u16 = 1 << 15;

/// What the caller knows.
pub struct Environment<'a> {
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Whether the primary of a slot is at hand.
    pub is_near: &'a dyn Fn(u16) -> bool,
    /// A random number, another one for each step.
    pub draw: u64,
}

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("now_ms", &self.now_ms)
            .finish_non_exhaustive()
    }
}

/// Something that is wanted, under a number that the answer brings back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The number.
    pub token: u16,
    /// What.
    pub call: Call,
}

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// A strong read.
    Read(Bytes),
    /// A write.
    Write(WriteOp),
    /// To be woken after so many milliseconds.
    Pause(u32),
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A read's value.
    Found(Found),
    /// A write was judged.
    Wrote(WriteOutcome, Position),
    /// The time has passed.
    Paused,
    /// It was not answered.
    Failed(RequestError),
}

/// What a read found.
pub type Found = Option<Value>;
/// Why a request was not answered.
pub type Failure = RequestError;

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// These calls, beside those that are under way.
    Ask(Vec<Asked>),
    /// Nothing more.
    Done(Result<Done, Failure>),
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// An addition, or a change. An addition to a striped counter says what the counter was
    /// when it was last added up, this addition included.
    Wrote {
        /// What came of it.
        outcome: WriteOutcome,
        /// The version that the key had, as far as it was looked at.
        position: Position,
    },
    /// A read. The bytes of a counter are what it is now.
    Read(Found),
    /// A counter was added up last at this time, milliseconds since the Unix epoch. What is no
    /// counter needs no adding up for ever.
    Recounted(u64),
}

/// What the key holds, as the machine saw it last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learned {
    /// The edition.
    pub control: Control,
    /// The version of the key.
    pub version: Position,
    /// When it expires.
    pub expires_at: Option<u64>,
}

impl Learned {
    /// Whether it may be gone by: an edition that expires ends without seals, by the clock of
    /// the key's primary alone, so that each addition asks for it.
    #[must_use]
    pub fn may_be_kept(&self) -> bool {
        self.expires_at.is_none()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Work {
    Add { delta: i64 },
    Read,
    Change(WriteOp),
    Recount { age_ms: u64 },
}

/// What follows when every stripe is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    /// The change that was asked for.
    Change,
    /// An edition with as many stripes as are agreed, at the same sum.
    Restripe,
}

/// Stripes that are gone through at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Round {
    of: Learned,
    left: u16,
    sum: i128,
    sealed: u16,
    began_ms: u64,
}

impl Round {
    fn new(of: Learned, now_ms: u64) -> Self {
        Self {
            of,
            left: of.control.stripes,
            sum: i128::from(of.control.base),
            sealed: 0,
            began_ms: now_ms,
        }
    }

    /// One more stripe is known. Whether it was the last.
    fn take(&mut self, sum: i64, is_sealed: bool) -> bool {
        self.sum += i128::from(sum);
        self.sealed += u16::from(is_sealed);
        self.left -= 1;
        self.left == 0
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Begin,
    Looking,
    Pausing,
    /// The key is no counter: the request as it is.
    Plain,
    /// The key is told what the counter came to, at that time.
    Telling(u64),
    Adding(Learned),
    /// An edition is begun, to add to it.
    Making(Control, Option<u64>),
    Collecting(Round),
    Sealing(Round, Then),
    /// Sealed, and the key is changed.
    Concluding {
        then: Then,
        /// What the counter was.
        before: Bytes,
        /// The edition that begins, and when it expires, where one does.
        next: Option<(Control, Option<u64>)>,
    },
    /// Gives the stripes of an edition that expires an expiry of their own.
    Guarding {
        left: u16,
        of: Learned,
        done: Option<Done>,
    },
    Ended,
}

/// One request for a key that may be a striped counter.
#[derive(Clone, Debug)]
pub struct Machine {
    key: Bytes,
    /// How many stripes are agreed; 0: none any more.
    stripes: u16,
    work: Work,
    nonce: u64,
    looks: u32,
    state: State,
    learned: Option<Learned>,
}

impl Machine {
    /// Adds to the counter. `cached`: what somebody learned of it lately, if it may be kept.
    /// `nonce` is drawn for this machine alone.
    #[must_use]
    pub fn add(key: Bytes, delta: i64, stripes: u16, nonce: u64, cached: Option<Learned>) -> Self {
        let mut machine = Self::new(key, Work::Add { delta }, stripes, nonce);
        if let Some(cached) = cached.filter(Learned::may_be_kept) {
            machine.learned = Some(cached);
        }
        machine
    }

    /// Reads the counter as it is.
    #[must_use]
    pub fn read(key: Bytes, stripes: u16, nonce: u64) -> Self {
        Self::new(key, Work::Read, stripes, nonce)
    }

    /// Sets, deletes or expires the counter.
    #[must_use]
    pub fn change(key: Bytes, op: WriteOp, stripes: u16, nonce: u64) -> Self {
        Self::new(key, Work::Change(op), stripes, nonce)
    }

    /// Adds the counter up, and tells by its key what it came to, unless that was done within
    /// the last `age_ms`; spreads it over as many stripes as are agreed.
    #[must_use]
    pub fn recount(key: Bytes, age_ms: u64, stripes: u16, nonce: u64) -> Self {
        Self::new(key, Work::Recount { age_ms }, stripes, nonce)
    }

    fn new(key: Bytes, work: Work, stripes: u16, nonce: u64) -> Self {
        Self {
            key,
            stripes,
            work,
            nonce,
            looks: 0,
            state: State::Begin,
            learned: None,
        }
    }

    /// What it knows of the counter now; `None` where it is none, or nobody looked.
    #[must_use]
    pub fn learned(&self) -> Option<Learned> {
        self.learned
    }

    /// Goes on, with an answer to something that it asked for; without one to begin.
    pub fn step(&mut self, with: &Environment<'_>, answer: Option<(u16, Answer)>) -> Step {
        let state = std::mem::replace(&mut self.state, State::Ended);
        let Some((token, answer)) = answer else {
            return match self.learned {
                Some(learned) => self.add_to(with, learned),
                None => self.look(),
            };
        };
        match (state, answer) {
            (State::Plain, Answer::Failed(RequestError::IsCounter)) => self.look_again(),
            (State::Guarding { left, of, done }, answer) => {
                self.guarded(with, (left, of, done), token, &answer)
            }
            (_, Answer::Failed(error)) => Step::Done(Err(error)),
            (State::Looking, Answer::Found(found)) => self.looked(with, found),
            (State::Pausing, Answer::Paused) => self.look(),
            (State::Plain, Answer::Wrote(outcome, position)) => {
                Step::Done(Ok(Done::Wrote { outcome, position }))
            }
            (State::Telling(at), Answer::Wrote(outcome, _)) => {
                let told = matches!(outcome, WriteOutcome::Set { .. });
                Step::Done(Ok(Done::Recounted(if told { at } else { 0 })))
            }
            (State::Adding(of), Answer::Wrote(outcome, _)) => self.added(of, outcome),
            (State::Making(control, expires_at), Answer::Wrote(outcome, version)) => {
                match outcome {
                    WriteOutcome::Set { .. } => {
                        let of = self.begun(control, version, expires_at);
                        let done = match self.work {
                            Work::Recount { .. } => Done::Recounted(control.counted_at_ms),
                            _ => Done::Wrote {
                                outcome: WriteOutcome::Integer(control.base),
                                position: version,
                            },
                        };
                        self.guard(with, of, Some(done))
                    }
                    _ => self.look_again(),
                }
            }
            (State::Collecting(mut round), Answer::Found(found)) => {
                let stripe = match &found {
                    None => Some((0, false)),
                    Some(value) => StripeValue::parse(&value.data).map(|v| (v.sum, v.is_sealed)),
                };
                let Some((sum, is_sealed)) = stripe else {
                    return self.strange();
                };
                if round.take(sum, is_sealed) {
                    return self.collected(&round);
                }
                self.wait(State::Collecting(round))
            }
            (State::Sealing(mut round, then), Answer::Wrote(outcome, _)) => {
                let WriteOutcome::Integer(sum) = outcome else {
                    return self.strange();
                };
                if round.take(sum, true) {
                    return self.conclude(with, &round, then);
                }
                self.wait(State::Sealing(round, then))
            }
            (State::Concluding { then, before, next }, Answer::Wrote(outcome, version)) => {
                self.concluded(with, (then, before, next), &outcome, version)
            }
            _ => self.strange(),
        }
    }

    /// A primary answered with something that nobody asked for, or a stripe holds what
    /// nobody puts there.
    fn strange(&self) -> Step {
        Step::Done(Err(RequestError::Unknown))
    }

    fn wait(&mut self, state: State) -> Step {
        self.state = state;
        Step::Ask(Vec::new())
    }

    fn ask(&mut self, state: State, call: Call) -> Step {
        self.state = state;
        Step::Ask(vec![Asked { token: 0, call }])
    }

    fn look(&mut self) -> Step {
        let key = self.key.clone();
        self.ask(State::Looking, Call::Read(key))
    }

    /// The key is another than was thought: somebody else works on it.
    fn look_again(&mut self) -> Step {
        self.learned = None;
        self.looks += 1;
        if self.looks > TRIES_MAX {
            return Step::Done(Err(RequestError::Overloaded));
        }
        if self.looks < 2 {
            return self.look();
        }
        self.ask(State::Pausing, Call::Pause(5 * self.looks.min(20)))
    }

    fn looked(&mut self, with: &Environment<'_>, found: Found) -> Step {
        let Some(counter) = found.as_ref().and_then(|value| value.counter.as_deref()) else {
            self.learned = None;
            return self.met_no_counter(with, found);
        };
        let value = found.as_ref().map(|v| (v.version, v.expires_at));
        let (version, expires_at) = value.unwrap_or_default();
        let of = Learned {
            control: *counter,
            version,
            expires_at,
        };
        self.learned = Some(of);
        match &self.work {
            Work::Add { .. } if self.looks > PATIENCE => {
                self.looks = 0;
                self.seal(with, of, Then::Restripe)
            }
            Work::Add { .. } => self.add_to(with, of),
            Work::Read => self.collect(with, of),
            Work::Recount { .. } if of.control.stripes != self.stripes => {
                self.seal(with, of, Then::Restripe)
            }
            Work::Recount { age_ms } => {
                let age = with.now_ms.saturating_sub(of.control.counted_at_ms);
                if age < *age_ms {
                    let counted_at_ms = of.control.counted_at_ms;
                    return Step::Done(Ok(Done::Recounted(counted_at_ms)));
                }
                self.collect(with, of)
            }
            Work::Change(op) => match judge(op, &of) {
                Judged::Change if is_seeded(Bug::CountWithoutSeal) => {
                    self.conclude(with, &Round::new(of, with.now_ms), Then::Change)
                }
                Judged::Change => self.seal(with, of, Then::Change),
                Judged::Refuse { with_value: false } => {
                    let outcome = WriteOutcome::ConditionFailed {
                        version: Some(version),
                        previous: None,
                    };
                    self.done(outcome, version)
                }
                Judged::Refuse { with_value: true } => self.collect(with, of),
                Judged::Forbidden => Step::Done(Err(RequestError::IsCounter)),
            },
        }
    }

    fn met_no_counter(&mut self, with: &Environment<'_>, found: Found) -> Step {
        match &self.work {
            Work::Read => Step::Done(Ok(Done::Read(found))),
            Work::Recount { .. } => match found {
                // It was added to in the usual way, and is to be striped from now on.
                Some(value) if self.stripes > 0 => match integer::parse(&value.data) {
                    Some(base) => {
                        let control = self.edition(base, self.stripes, with.now_ms);
                        let condition = Condition::Version(value.version);
                        let op = if self.looks > 0 && value.expires_at.is_none() {
                            // It is added to all the time: its version would never hold for as
                            // long as this takes.
                            WriteOp::Adopt {
                                key: self.key.clone(),
                                control: control.encode(),
                            }
                        } else {
                            self.establish(&control, condition, value.expires_at)
                        };
                        self.ask(State::Making(control, value.expires_at), Call::Write(op))
                    }
                    None => Step::Done(Ok(Done::Recounted(u64::MAX))),
                },
                _ => Step::Done(Ok(Done::Recounted(u64::MAX))),
            },
            Work::Change(op) => {
                let op = op.clone();
                self.ask(State::Plain, Call::Write(op))
            }
            Work::Add { delta } if self.stripes == 0 => {
                let op = WriteOp::Increment {
                    key: self.key.clone(),
                    delta: *delta,
                };
                self.ask(State::Plain, Call::Write(op))
            }
            Work::Add { delta } => {
                let (before, condition, expires_at) = match &found {
                    None => (0, Condition::Absent, None),
                    Some(value) => match integer::parse(&value.data) {
                        Some(base) => (base, Condition::Version(value.version), value.expires_at),
                        None => return self.done(WriteOutcome::NotAnInteger, value.version),
                    },
                };
                // The edition begins with this addition: nobody sees a counter that nothing
                // was added to.
                let Some(base) = before.checked_add(*delta) else {
                    let position = found.map_or(Position::ZERO, |value| value.version);
                    return self.done(WriteOutcome::Overflow, position);
                };
                let control = self.edition(base, self.stripes, with.now_ms);
                let op = self.establish(&control, condition, expires_at);
                self.ask(State::Making(control, expires_at), Call::Write(op))
            }
        }
    }

    fn edition(&mut self, base: i64, stripes: u16, now_ms: u64) -> Control {
        let edition = self.nonce;
        self.nonce = self.nonce.wrapping_add(1);
        Control {
            edition,
            stripes,
            base,
            total: base,
            counted_at_ms: now_ms,
        }
    }

    fn establish(
        &self,
        control: &Control,
        condition: Condition,
        expires_at: Option<u64>,
    ) -> WriteOp {
        WriteOp::Establish {
            key: self.key.clone(),
            condition,
            control: control.encode(),
            expiry: expires_at.map_or(Expiry::Never, Expiry::AtMillis),
        }
    }

    fn begun(&mut self, control: Control, version: Position, expires_at: Option<u64>) -> Learned {
        let of = Learned {
            control,
            version,
            expires_at,
        };
        self.learned = Some(of);
        of
    }

    fn stripe(&self, control: &Control, stripe: u16) -> Bytes {
        let name = StripeName {
            counter: self.key.clone(),
            edition: control.edition,
            stripe,
        };
        name.key(control.stripes)
    }

    /// One call for each stripe.
    fn each(&self, control: &Control, call: impl Fn(Bytes) -> Call) -> Step {
        let asked = (0..control.stripes).map(|stripe| self.of_stripe(control, stripe, &call));
        Step::Ask(asked.collect())
    }

    fn of_stripe(&self, control: &Control, stripe: u16, call: impl Fn(Bytes) -> Call) -> Asked {
        Asked {
            token: stripe,
            call: call(self.stripe(control, stripe)),
        }
    }

    fn add_to(&mut self, with: &Environment<'_>, of: Learned) -> Step {
        let Work::Add { delta } = self.work else {
            return self.strange();
        };
        let stripes = of.control.stripes;
        let near = (0..stripes).filter(|stripe| {
            let slot = slot_of(&self.key, *stripe, stripes);
            (with.is_near)(slot)
        });
        let near: Vec<u16> = near.collect();
        let at = |count: usize| (with.draw % count.max(1) as u64) as usize;
        let stripe = match near.get(at(near.len())) {
            Some(stripe) => *stripe,
            None => at(usize::from(stripes)) as u16,
        };
        let op = WriteOp::Increment {
            key: self.stripe(&of.control, stripe),
            delta,
        };
        self.ask(State::Adding(of), Call::Write(op))
    }

    fn added(&mut self, of: Learned, outcome: WriteOutcome) -> Step {
        match (outcome, &self.work) {
            (WriteOutcome::Integer(_), Work::Add { delta }) => {
                let outcome = WriteOutcome::Integer(of.control.total.saturating_add(*delta));
                self.done(outcome, of.version)
            }
            // Sealed.
            (WriteOutcome::NotAnInteger, _) => self.look_again(),
            (outcome, _) => self.done(outcome, of.version),
        }
    }

    fn collect(&mut self, with: &Environment<'_>, of: Learned) -> Step {
        self.state = State::Collecting(Round::new(of, with.now_ms));
        self.each(&of.control, Call::Read)
    }

    fn collected(&mut self, round: &Round) -> Step {
        let Learned {
            control,
            version,
            expires_at,
        } = round.of;
        let text = Bytes::from(round.sum.to_string());
        match &self.work {
            Work::Read => {
                let control = Control {
                    counted_at_ms: round.began_ms,
                    total: clamp(round.sum),
                    ..control
                };
                let mut value = Value::string(text, version, expires_at);
                value.counter = Some(Box::new(control));
                Step::Done(Ok(Done::Read(Some(value))))
            }
            Work::Change(_) => {
                let outcome = WriteOutcome::ConditionFailed {
                    version: Some(version),
                    previous: Some(text),
                };
                self.done(outcome, version)
            }
            // Somebody is about to end this edition.
            Work::Recount { .. } if round.sealed > 0 => {
                Step::Done(Ok(Done::Recounted(control.counted_at_ms)))
            }
            Work::Recount { .. } => {
                let control = Control {
                    total: clamp(round.sum),
                    counted_at_ms: round.began_ms,
                    ..control
                };
                let op = self.establish(&control, Condition::Version(version), expires_at);
                self.ask(State::Telling(round.began_ms), Call::Write(op))
            }
            Work::Add { .. } => self.strange(),
        }
    }

    fn seal(&mut self, with: &Environment<'_>, of: Learned, then: Then) -> Step {
        let expires_at = with.now_ms.saturating_add(SEALS_KEPT_MS);
        let mut round = Round::new(of, with.now_ms);
        if then == Then::Restripe && is_seeded(Bug::LoseStripe) && round.left > 1 {
            round.left -= 1;
        }
        self.state = State::Sealing(round, then);
        let seal = |key| Call::Write(WriteOp::Seal { key, expires_at });
        let sealed = (0..round.left).map(|stripe| self.of_stripe(&of.control, stripe, seal));
        Step::Ask(sealed.collect())
    }

    fn conclude(&mut self, with: &Environment<'_>, round: &Round, then: Then) -> Step {
        let Learned {
            version,
            expires_at,
            ..
        } = round.of;
        let key = self.key.clone();
        let before = Bytes::from(round.sum.to_string());
        let (op, next) = match (then, &self.work) {
            (
                Then::Change,
                Work::Change(WriteOp::Set {
                    value,
                    expiry,
                    return_previous,
                    ..
                }),
            ) => {
                let op = WriteOp::Conclude {
                    key,
                    version,
                    to: Some((value.clone(), new_expiry(*expiry, expires_at))),
                    previous: return_previous.then(|| before.clone()),
                };
                (op, None)
            }
            (Then::Change, Work::Change(WriteOp::Delete { .. })) => {
                let op = WriteOp::Conclude {
                    key,
                    version,
                    to: None,
                    previous: None,
                };
                (op, None)
            }
            (then, work) => {
                let Ok(sum) = i64::try_from(round.sum) else {
                    return self.done(WriteOutcome::Overflow, version);
                };
                let (expires_at, stripes) = match (then, work) {
                    (Then::Change, Work::Change(WriteOp::Expire { expiry, .. })) => {
                        (new_expiry(*expiry, expires_at), round.of.control.stripes)
                    }
                    _ => (expires_at, self.stripes),
                };
                if stripes == 0 {
                    let op = WriteOp::Conclude {
                        key,
                        version,
                        to: Some((integer::spell(sum), expires_at)),
                        previous: None,
                    };
                    (op, None)
                } else {
                    let control = self.edition(sum, stripes, with.now_ms);
                    let op = self.establish(&control, Condition::Version(version), expires_at);
                    (op, Some((control, expires_at)))
                }
            }
        };
        self.ask(State::Concluding { then, before, next }, Call::Write(op))
    }

    fn concluded(
        &mut self,
        with: &Environment<'_>,
        (then, before, next): (Then, Bytes, Option<(Control, Option<u64>)>),
        outcome: &WriteOutcome,
        version: Position,
    ) -> Step {
        if matches!(outcome, WriteOutcome::ConditionFailed { .. }) {
            return self.look_again();
        }
        let done = match (then, &self.work) {
            (Then::Change, Work::Change(op)) => {
                let wants_value = match op {
                    WriteOp::Set {
                        return_previous, ..
                    } => *return_previous,
                    WriteOp::Expire { return_value, .. } => *return_value,
                    _ => false,
                };
                let outcome = match op {
                    WriteOp::Delete { .. } => WriteOutcome::Deleted { count: 1 },
                    _ => WriteOutcome::Set {
                        previous: wants_value.then_some(before),
                    },
                };
                Some(Done::Wrote {
                    outcome,
                    position: version,
                })
            }
            (_, Work::Recount { .. }) => Some(Done::Recounted(with.now_ms)),
            _ => None,
        };
        match (next, done) {
            (Some((control, expires_at)), done) => {
                let of = self.begun(control, version, expires_at);
                self.guard(with, of, done)
            }
            (None, Some(done)) => {
                self.learned = None;
                Step::Done(Ok(done))
            }
            // It is no longer striped.
            (None, None) => {
                self.learned = None;
                self.look()
            }
        }
    }

    /// The stripes of an edition that expires are given an expiry, since nobody seals them.
    fn guard(&mut self, with: &Environment<'_>, of: Learned, done: Option<Done>) -> Step {
        let Some(expires_at) = of.expires_at else {
            return self.guarded_all(with, of, done);
        };
        self.state = State::Guarding {
            left: of.control.stripes,
            of,
            done,
        };
        let expiry = Expiry::AtMillis(expires_at.saturating_add(SEALS_KEPT_MS));
        self.each(&of.control, |key| {
            Call::Write(WriteOp::Set {
                key,
                value: integer::spell(0),
                condition: Condition::Absent,
                expiry,
                return_previous: false,
            })
        })
    }

    fn guarded(
        &mut self,
        with: &Environment<'_>,
        (mut left, of, done): (u16, Learned, Option<Done>),
        token: u16,
        answer: &Answer,
    ) -> Step {
        if let Answer::Wrote(WriteOutcome::ConditionFailed { .. }, _) = answer
            && token & SECOND == 0
            && let Some(expires_at) = of.expires_at
        {
            // Somebody has added to it already. One that is gone by now has expired.
            let key = self.stripe(&of.control, token);
            let expiry = Expiry::AtMillis(expires_at.saturating_add(SEALS_KEPT_MS));
            self.state = State::Guarding { left, of, done };
            return Step::Ask(vec![Asked {
                token: token | SECOND,
                call: Call::Write(WriteOp::Expire {
                    key,
                    expiry,
                    condition: crate::kv::request::ExpiryCondition::Never,
                    return_value: false,
                }),
            }]);
        }
        // One that could not be reached stays behind when the counter has expired: it costs
        // a few bytes, and is of no edition that anybody goes by.
        left -= 1;
        if left == 0 {
            return self.guarded_all(with, of, done);
        }
        self.wait(State::Guarding { left, of, done })
    }

    fn guarded_all(&mut self, with: &Environment<'_>, of: Learned, done: Option<Done>) -> Step {
        match done {
            Some(done) => Step::Done(Ok(done)),
            None => self.add_to(with, of),
        }
    }

    fn done(&mut self, outcome: WriteOutcome, position: Position) -> Step {
        Step::Done(Ok(Done::Wrote { outcome, position }))
    }
}

/// Whether a change may be made to a counter.
enum Judged {
    Change,
    Refuse { with_value: bool },
    Forbidden,
}

fn judge(op: &WriteOp, of: &Learned) -> Judged {
    match op {
        WriteOp::Set {
            condition,
            return_previous,
            ..
        } => match condition {
            Condition::Always | Condition::Present => Judged::Change,
            Condition::Absent => Judged::Refuse {
                with_value: *return_previous,
            },
            // Additions do not change the version.
            Condition::Version(_) => Judged::Forbidden,
        },
        WriteOp::Delete { condition, .. } => match condition {
            Condition::Always | Condition::Present => Judged::Change,
            Condition::Absent => Judged::Refuse { with_value: false },
            Condition::Version(_) => Judged::Forbidden,
        },
        WriteOp::Expire {
            expiry,
            condition,
            return_value,
            ..
        } => {
            let new = new_expiry(*expiry, of.expires_at);
            if may_expire(*condition, of.expires_at, new) {
                Judged::Change
            } else {
                Judged::Refuse {
                    with_value: *return_value,
                }
            }
        }
        _ => Judged::Forbidden,
    }
}

fn clamp(sum: i128) -> i64 {
    sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
