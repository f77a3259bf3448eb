//! Clients of a striped counter, whose requests the shipped machine carries out over all
//! partitions: additions of one, reads, sets, deletes, other numbers of stripes. What they
//! saw has to be linearizable, as that of any other key.
//!
//! Only some seeds have them, with randomness of their own, so that the others mean what they
//! meant.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::counters::{
    Answer as MachineAnswer, Asked, Call, Declared, Done, Environment, Machine, Step,
};
use cairn_core::ids::{Micros, NodeId, PartitionId};
use cairn_core::kv::VersionedValue;
use cairn_core::kv::request::{
    Condition, Expiry, RequestError, Value, WriteOp, WriteOutcome, WriteRequest,
};
use cairn_core::slots::{self, SLOTS};
use cairn_linear::kv::{Op, Output};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Happening, World};
use crate::edge::{Answer, Caller, Work};
use crate::invariants::history::{Begun, History};

/// The counter.
const KEY: &[u8] = b"striped0";
/// Which keys may be counters.
const DECLARED: &str = "striped=3";
/// How many clients there are, and the first of them among all callers and in histories.
const TALLIES: usize = 3;
pub(super) const FIRST_TALLY: usize = 500;
/// One seed in so many has them, this one.
const SEEDS: u64 = 5;
const SEED: u64 = 2;
/// When a call is given up.
const GIVE_UP: Micros = Micros::from_millis(1_500);

/// What the evaluators are told.
pub(crate) fn declared() -> Declared {
    Declared::parse(DECLARED).unwrap_or_default()
}

/// All of them.
#[derive(Debug)]
pub(super) struct Tallies {
    rng: StdRng,
    clients: Vec<Tally>,
    pub(super) history: History,
    /// What is under way, by the number of the try.
    tries: BTreeMap<u64, Try>,
    attempts: u64,
    value: i64,
}

#[derive(Debug, Default)]
struct Tally {
    /// How many requests it has made: answers to those before are void.
    run: u64,
    running: Option<Running>,
    cached: Option<cairn_core::counters::machine::Learned>,
}

#[derive(Debug)]
struct Running {
    machine: Machine,
    began: Micros,
    meant: Meant,
}

/// What a request means to the history.
#[derive(Debug)]
enum Meant {
    Nothing,
    Read,
    Write(Begun, Op),
}

/// A call on its way.
#[derive(Clone, Debug)]
struct Try {
    client: usize,
    run: u64,
    token: u16,
    call: Call,
    until: Micros,
    /// Where the next try goes.
    hint: Option<NodeId>,
}

impl Tallies {
    pub(super) fn new(seed: u64) -> Self {
        let count = if seed % SEEDS == SEED { TALLIES } else { 0 };
        Self {
            rng: StdRng::seed_from_u64(seed ^ 0x7374_7269_7065_7300),
            clients: (0..count).map(|_| Tally::default()).collect(),
            history: History::default(),
            tries: BTreeMap::new(),
            attempts: 0,
            value: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }
}

fn set(value: i64) -> WriteOp {
    WriteOp::Set {
        key: Bytes::from_static(KEY),
        value: Bytes::from(value.to_string()),
        condition: Condition::Always,
        expiry: Expiry::Never,
        return_previous: false,
    }
}

fn delete() -> WriteOp {
    WriteOp::Delete {
        key: Bytes::from_static(KEY),
        condition: Condition::Always,
    }
}

impl World {
    /// The partition of a key, by its slot.
    fn partition_of(&self, key: &[u8]) -> PartitionId {
        let (slot, count) = (u32::from(slots::slot(key)), self.partitions.count());
        let ranges = (0..count).map(|id| (id, slots::range_of_partition(id, count)));
        let mut holding = ranges.filter(|(_, range)| range.contains(slot as u16));
        debug_assert!(slot < u32::from(SLOTS));
        PartitionId(holding.next().map_or(0, |(id, _)| id))
    }

    /// A client of the counter begins a request.
    pub(super) fn tally(&mut self, client: usize) -> Result<(), String> {
        if self.partitions.ids().any(|of| self.is_hushed(of)) {
            // Its stripes are on any of them.
            self.at(10_000, Happening::TallyBegins(client));
            return Ok(());
        }
        let called = self.now.0;
        let tallies = &mut self.tallies;
        let (nonce, stripes) = (tallies.rng.random(), tallies.rng.random_range(0..=4));
        let key = Bytes::from_static(KEY);
        let drawn = tallies.rng.random_range(0..20);
        let begin = |history: &mut History, op| {
            let who = (FIRST_TALLY + client) as u32;
            Meant::Write(history.begin(who, called, vec![(key.clone(), op)]), op)
        };
        let (machine, meant) = match drawn {
            0..=9 => {
                let meant = begin(&mut tallies.history, Op::Add(1));
                let cached = tallies.clients[client].cached;
                let cached = cached.filter(|_| tallies.rng.random_bool(0.8));
                let stripes = stripes.max(1);
                (Machine::add(key, 1, stripes, nonce, cached), meant)
            }
            10..=14 => (Machine::read(key, stripes, nonce), Meant::Read),
            15 => {
                tallies.value += 1_000;
                let value = tallies.value;
                let meant = begin(&mut tallies.history, Op::Set(value));
                (Machine::change(key, set(value), stripes, nonce), meant)
            }
            16 => {
                let meant = begin(&mut tallies.history, Op::Delete);
                (Machine::change(key, delete(), stripes, nonce), meant)
            }
            _ => (Machine::recount(key, 0, stripes, nonce), Meant::Nothing),
        };
        let tally = &mut tallies.clients[client];
        tally.run += 1;
        tally.running = Some(Running {
            machine,
            began: self.now,
            meant,
        });
        self.tally_step(client, None)
    }

    /// The machine of a client goes on.
    fn tally_step(
        &mut self,
        client: usize,
        answer: Option<(u16, MachineAnswer)>,
    ) -> Result<(), String> {
        let now_ms = self.now.0 / 1_000;
        let draw: u64 = self.tallies.rng.random();
        let tally = &mut self.tallies.clients[client];
        let run = tally.run;
        let Some(running) = &mut tally.running else {
            return Ok(());
        };
        let with = Environment {
            now_ms,
            is_near: &|slot| u64::from(slot) % 7 < draw % 4,
            draw,
        };
        match running.machine.step(&with, answer) {
            Step::Ask(asked) => {
                for Asked { token, call } in asked {
                    let until = self.now.plus(GIVE_UP);
                    let attempt = Try {
                        client,
                        run,
                        token,
                        call,
                        until,
                        hint: None,
                    };
                    self.tally_try(attempt)?;
                }
                Ok(())
            }
            Step::Done(done) => {
                self.tally_done(client, done);
                Ok(())
            }
        }
    }

    /// Makes one try of a call.
    fn tally_try(&mut self, mut attempt: Try) -> Result<(), String> {
        self.tallies.attempts += 1;
        let number = self.tallies.attempts;
        let key = match &attempt.call {
            Call::Pause(ms) => {
                let after = u64::from(*ms) * 1_000;
                self.tallies.tries.insert(number, attempt);
                self.at(after, Happening::Tally(number, Some(MachineAnswer::Paused)));
                return Ok(());
            }
            Call::Read(key) => key.clone(),
            Call::Write(op) => op.keys().next().cloned().unwrap_or_default(),
        };
        let partition = self.partition_of(&key);
        let primary = self.record(partition).and_then(|record| record.primary);
        let count = self.nodes.len() as u64;
        let id = match (attempt.hint.take(), primary) {
            (Some(hint), _) => hint,
            (_, Some(primary)) if self.tallies.rng.random_bool(0.9) => primary.node,
            _ => NodeId(self.tallies.rng.random_range(1..=count)),
        };
        let patience = self.tallies.rng.random_range(100_000..600_000);
        self.at(patience, Happening::Tally(number, None));
        let after = self.tallies.rng.random_range(50..800);
        let call = attempt.call.clone();
        self.tallies.tries.insert(number, attempt);
        match call {
            Call::Read(key) => self.begin_tally_read(number, id, partition, key, after),
            Call::Write(op) => {
                let caller = Caller {
                    client: FIRST_TALLY,
                    attempt: number,
                };
                let request = WriteRequest {
                    op,
                    sequenced: None,
                };
                let work = Work::Write(caller, request);
                self.at(after, Happening::Request(id, partition, work));
            }
            Call::Pause(_) => {}
        }
        Ok(())
    }

    /// An answer to a write comes, or none does.
    pub(super) fn tally_answered(&mut self, number: u64, answer: Answer) -> Result<(), String> {
        let answer = match answer {
            Answer::Done(reply) => Some(MachineAnswer::Wrote(reply.outcome, reply.position)),
            Answer::IsCounter => Some(MachineAnswer::Failed(RequestError::IsCounter)),
            Answer::Unknown | Answer::Unjudged(_) => None,
            Answer::Refused => return self.tally_elsewhere(number),
        };
        self.tally_told(number, answer)
    }

    /// A strong read of the counter's returned, or was turned away.
    pub(super) fn tally_read(
        &mut self,
        number: u64,
        read: Option<Option<VersionedValue>>,
    ) -> Result<(), String> {
        let Some(found) = read else {
            return self.tally_elsewhere(number);
        };
        let found = found.map(|stored| Value::of(stored.version, stored.value));
        let found = found.transpose().map_err(|error| error.to_string())?;
        self.tally_told(number, Some(MachineAnswer::Found(found)))
    }

    /// Nothing was done there.
    fn tally_elsewhere(&mut self, number: u64) -> Result<(), String> {
        let Some(attempt) = self.tallies.tries.get(&number).cloned() else {
            return Ok(());
        };
        if self.now >= attempt.until {
            let partition = PartitionId(0);
            let failed = MachineAnswer::Failed(RequestError::NotReady { partition });
            return self.tally_told(number, Some(failed));
        }
        // As one that is to be tried again after a pause.
        let after = self.tallies.rng.random_range(2_000..40_000);
        self.at(after, Happening::TallyAgain(number));
        Ok(())
    }

    /// A call that was turned away is tried again.
    pub(super) fn tally_again(&mut self, number: u64) -> Result<(), String> {
        match self.tallies.tries.remove(&number) {
            Some(attempt) => self.tally_try(attempt),
            None => Ok(()),
        }
    }

    /// What came of a try; `None`: nothing, for long enough, or nobody knows.
    pub(super) fn tally_told(
        &mut self,
        number: u64,
        answer: Option<MachineAnswer>,
    ) -> Result<(), String> {
        let Some(attempt) = self.tallies.tries.remove(&number) else {
            return Ok(());
        };
        if self.tallies.clients[attempt.client].run != attempt.run {
            return Ok(());
        }
        let answer = match answer {
            Some(answer) => answer,
            // Whoever tries these again does no harm.
            None if self.now < attempt.until
                && matches!(
                    attempt.call,
                    Call::Read(_) | Call::Write(WriteOp::Seal { .. })
                ) =>
            {
                return self.tally_try(attempt);
            }
            None => MachineAnswer::Failed(RequestError::Unknown),
        };
        self.tally_step(attempt.client, Some((attempt.token, answer)))
    }

    fn tally_done(&mut self, client: usize, done: Result<Done, RequestError>) {
        let now = self.now.0;
        let tallies = &mut self.tallies;
        let tally = &mut tallies.clients[client];
        let Some(running) = tally.running.take() else {
            return;
        };
        // Answers that are still to come are for nobody.
        tally.run += 1;
        tally.cached = running.machine.learned().filter(|l| l.may_be_kept());
        let how = match (&running.meant, &done) {
            (Meant::Read, Ok(Done::Read(found))) => {
                let text = found
                    .as_ref()
                    .and_then(|v| std::str::from_utf8(&v.data).ok());
                let value = text.and_then(|text| text.parse().ok());
                let times = (running.began.0, now);
                let (who, key) = ((FIRST_TALLY + client) as u32, Bytes::from_static(KEY));
                tallies.history.read(who, &key, times, value);
                "counter read"
            }
            (Meant::Write(begun, op), Ok(Done::Wrote { outcome, .. })) => {
                let output = match (op, outcome) {
                    (Op::Add(_), WriteOutcome::Integer(_)) => Some(Output::Added),
                    (Op::Set(_), WriteOutcome::Set { .. }) => Some(Output::Done),
                    (Op::Delete, WriteOutcome::Deleted { count }) => {
                        Some(Output::Changed(*count > 0))
                    }
                    _ => None,
                };
                tallies.history.end(begun, now, &[output]);
                match op {
                    Op::Add(_) => "counter added to",
                    Op::Delete => "counter deleted",
                    _ => "counter set",
                }
            }
            (Meant::Write(..), Err(RequestError::Unknown)) => "counter's write given up",
            (Meant::Write(begun, _), _) => {
                tallies.history.end(begun, now, &[None]);
                "counter's write refused"
            }
            (Meant::Nothing, Ok(_)) => "counter added up",
            (Meant::Nothing | Meant::Read, _) => "counter's request given up",
        };
        self.coverage.count(how);
        self.say(|| format!("tally {client}: {how}: {done:?}"));
        let after = self.tallies.rng.random_range(2_000..60_000) * self.leisure();
        self.at(after, Happening::TallyBegins(client));
    }

    /// Judges what the counter's clients saw.
    pub(super) fn judge_tallies(&mut self) -> Result<(), String> {
        let mut partitions = self.partitions.ids();
        if partitions.any(|partition| self.partitions[partition].invariants.history.is_lost()) {
            // A stripe may have lost additions.
            return Ok(());
        }
        let undecided = self.tallies.history.judge()?;
        self.coverage
            .add("history that the search cannot decide", undecided);
        Ok(())
    }
}
