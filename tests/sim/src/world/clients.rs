//! Clients: writes of every kind over a few keys, tried again at other nodes under one
//! sequence, until they are answered or given up.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::ids::{Micros, NodeId, PartitionId, Position};
use cairn_core::kv::request::{
    BatchAction, BatchOperation, Condition, Expiry, Sequenced, WriteOp, WriteOutcome, WriteReply,
    WriteRequest,
};
use rand::Rng;
use rand::rngs::StdRng;

use super::tallies::FIRST_TALLY;
use super::{Happening, World};
use crate::edge::{Answer, At, Caller, Work};
use crate::invariants::history::Begun;
use crate::plan::Noise;
use crate::report::OPERATIONS;
use cairn_linear::kv::{Op, Output};

/// How many clients there are. The first one has no sequences, as a Redis client.
const CLIENTS: usize = 4;
/// How many keys of each kind.
const REGISTERS: usize = 4;
const COUNTERS: usize = 2;
const EXPIRING: usize = 2;
/// For how long an increment is gathered, in microseconds; 0: not at all.
const GATHERED_FOR: [u64; 4] = [0, 2_000, 15_000, 60_000];
/// When a client gives a write up.
const GIVE_UP: Micros = Micros::from_millis(2_500);

/// All clients, and what they share.
#[derive(Debug)]
pub(super) struct Clients {
    clients: Vec<Client>,
    attempts: u64,
    /// The last value that was drawn: no two writes set the same one.
    value: i64,
    /// How many sequenced writes the table keeps.
    window: u32,
    /// A value and its version that somebody saw, by key.
    versions: BTreeMap<Bytes, (i64, Position)>,
}

#[derive(Debug, Default)]
struct Client {
    /// One for all partitions.
    sequence: u64,
    known: BTreeMap<PartitionId, Position>,
    /// Who answered it last, of each partition: it goes on there until it is told better.
    leaders: BTreeMap<PartitionId, NodeId>,
    call: Option<Call>,
}

impl Client {
    /// It learned of a position of a partition's log.
    fn knows(&mut self, partition: PartitionId, position: Position) {
        let known = self.known.entry(partition).or_default();
        *known = (*known).max(position);
    }
}

/// A write on its way.
#[derive(Debug)]
struct Call {
    began: Micros,
    partition: PartitionId,
    attempt: u64,
    to: NodeId,
    tries: u64,
    /// Where some try may have been taken without an answer.
    unsure: bool,
    request: WriteRequest,
    ops: Vec<(Bytes, Op)>,
    begun: Begun,
}

/// A partition's keys, by what they begin with.
fn key(prefix: &str, kind: &str, number: usize) -> Bytes {
    Bytes::from(format!("{prefix}{kind}{number}"))
}

/// All keys of a partition.
pub(super) fn keys(prefix: &str) -> impl Iterator<Item = Bytes> {
    let kinds = [
        ("register", REGISTERS),
        ("counter", COUNTERS),
        ("expiring", EXPIRING),
    ];
    kinds.into_iter().flat_map(move |(kind, count)| {
        let numbers = 0..count;
        numbers.map(move |number| key(prefix, kind, number))
    })
}

/// The decimal that stands for a value.
fn decimal(value: i64) -> Bytes {
    Bytes::from(value.to_string())
}

impl Clients {
    pub(super) fn new(rng: &mut StdRng) -> Self {
        let clients = (0..CLIENTS).map(|_| Client::default()).collect();
        Self {
            clients,
            attempts: 0,
            value: 0,
            window: [6, 40, 1_000][rng.random_range(0..3)],
            versions: BTreeMap::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    /// Some key of a partition, to be read.
    pub(super) fn any_key(prefix: &str, rng: &mut StdRng) -> Bytes {
        let number = rng.random_range(0..REGISTERS + COUNTERS + EXPIRING);
        keys(prefix).nth(number).unwrap_or_default()
    }

    /// A strong read saw a value of a key: a later write may be conditional on it.
    pub(super) fn saw(&mut self, key: &Bytes, value: i64, version: Position) {
        self.versions.insert(key.clone(), (value, version));
    }

    fn fresh(&mut self) -> i64 {
        self.value += 1;
        self.value
    }

    fn call(&mut self, caller: Caller) -> Option<&mut Call> {
        let call = self.clients.get_mut(caller.client)?.call.as_mut()?;
        (call.attempt == caller.attempt).then_some(call)
    }

    /// Draws a write to a partition, and what it means to the history of each of its keys.
    fn draw(
        &mut self,
        prefix: &str,
        rng: &mut StdRng,
        wall_ms: u64,
    ) -> (WriteOp, Vec<(Bytes, Op)>) {
        match rng.random_range(0..10) {
            0..=3 => self.draw_register(prefix, rng),
            4..=5 => {
                let key = key(prefix, "counter", rng.random_range(0..COUNTERS));
                let delta = rng.random_range(1..5);
                let op = Op::Add(delta);
                let write = WriteOp::Increment {
                    key: key.clone(),
                    delta,
                };
                (write, vec![(key, op)])
            }
            6 => {
                let key = key(prefix, "expiring", rng.random_range(0..EXPIRING));
                let value = self.fresh();
                let at = wall_ms + rng.random_range(50..1_500);
                let write = WriteOp::Set {
                    key: key.clone(),
                    value: decimal(value),
                    condition: Condition::Always,
                    expiry: Expiry::AtMillis(at),
                    return_previous: false,
                };
                (write, vec![(key, Op::Set(value))])
            }
            7 => {
                let kind = ["register", "counter", "expiring"][rng.random_range(0..3)];
                let key = key(prefix, kind, rng.random_range(0..2));
                let write = WriteOp::Delete {
                    key: key.clone(),
                    condition: Condition::Always,
                };
                (write, vec![(key, Op::Delete)])
            }
            _ => self.draw_batch(prefix, rng),
        }
    }

    fn draw_register(&mut self, prefix: &str, rng: &mut StdRng) -> (WriteOp, Vec<(Bytes, Op)>) {
        let key = key(prefix, "register", rng.random_range(0..REGISTERS));
        let value = self.fresh();
        let seen = self.versions.get(&key).copied();
        let (condition, op) = match rng.random_range(0..4) {
            0 => (Condition::Absent, Op::SetIf(None, value)),
            1 => match seen {
                // No two writes set the same value, so that it stands for its version.
                Some((seen, version)) => {
                    (Condition::Version(version), Op::SetIf(Some(seen), value))
                }
                None => (Condition::Always, Op::Set(value)),
            },
            _ => (Condition::Always, Op::Set(value)),
        };
        let write = WriteOp::Set {
            key: key.clone(),
            value: decimal(value),
            condition,
            expiry: Expiry::Never,
            return_previous: false,
        };
        (write, vec![(key, op)])
    }

    fn draw_batch(&mut self, prefix: &str, rng: &mut StdRng) -> (WriteOp, Vec<(Bytes, Op)>) {
        let key = |kind, number| key(prefix, kind, number);
        let mut operations = Vec::new();
        let mut ops = Vec::new();
        for number in 0..rng.random_range(2..=REGISTERS) {
            let (condition, action, op, key) = match rng.random_range(0..8) {
                0 => {
                    let value = self.fresh();
                    let action = put(value);
                    let op = Op::SetIf(None, value);
                    (Condition::Absent, action, op, key("register", number))
                }
                1 => {
                    let key = key("register", number);
                    (Condition::Always, BatchAction::Delete, Op::Delete, key)
                }
                2 if number < COUNTERS => {
                    let action = BatchAction::Increment { delta: 1 };
                    (
                        Condition::Always,
                        action,
                        Op::Add(1),
                        key("counter", number),
                    )
                }
                _ => {
                    let value = self.fresh();
                    let key = key("register", number);
                    (Condition::Always, put(value), Op::Set(value), key)
                }
            };
            operations.push(BatchOperation {
                key: key.clone(),
                condition,
                action,
            });
            ops.push((key, op));
        }
        (WriteOp::Batch { operations }, ops)
    }
}

fn put(value: i64) -> BatchAction {
    BatchAction::Put {
        value: decimal(value),
        expiry: Expiry::Never,
    }
}

/// What an answer says of each key's operation; `None`: it did nothing, and saw nothing.
fn outputs(ops: &[(Bytes, Op)], outcome: &WriteOutcome) -> Vec<Option<Output>> {
    match outcome {
        WriteOutcome::Batch(outcomes) => {
            let each = ops.iter().zip(outcomes);
            each.map(|((_, op), outcome)| output(*op, outcome))
                .collect()
        }
        WriteOutcome::BatchRefused { at, why } => {
            let each = ops.iter().enumerate();
            each.map(|(n, (_, op))| (n == *at).then(|| output(*op, why)).flatten())
                .collect()
        }
        one => ops.iter().map(|(_, op)| output(*op, one)).collect(),
    }
}

fn output(op: Op, outcome: &WriteOutcome) -> Option<Output> {
    Some(match outcome {
        WriteOutcome::Set { .. } => match op {
            Op::SetIf(..) => Output::Changed(true),
            _ => Output::Done,
        },
        WriteOutcome::ConditionFailed { .. } => Output::Changed(false),
        WriteOutcome::Deleted { count } => Output::Changed(*count > 0),
        WriteOutcome::Integer(sum) => Output::Sum(*sum),
        WriteOutcome::NotAnInteger
        | WriteOutcome::Overflow
        | WriteOutcome::TooLong
        | WriteOutcome::Batch(_)
        | WriteOutcome::BatchRefused { .. } => return None,
    })
}

impl World {
    /// A client begins a write.
    pub(super) fn client(&mut self, client: usize) -> Result<(), String> {
        if self.quiet {
            return Ok(());
        }
        let wall_ms = self.now.0 / 1_000;
        let partition = match self.healing {
            // None waits for what is still wrong with another partition.
            true => PartitionId(client as u32 % self.partitions.count()),
            false => self.partitions.draw(&mut self.rng),
        };
        if self.is_hushed(partition) {
            let after = self.rng.random_range(1_000..4_000);
            self.at(after, Happening::Client(client));
            return Ok(());
        }
        let prefix = &self.partitions[partition].prefix;
        let (op, ops) = self.clients.draw(prefix, &mut self.rng, wall_ms);
        if matches!(op, WriteOp::Batch { .. }) {
            self.coverage.count("batch");
        }
        let called = self.now.0;
        let history = &mut self.partitions[partition].invariants.history;
        let begun = history.begin(client as u32, called, ops.clone());
        if let WriteOp::Set {
            key,
            expiry: Expiry::AtMillis(at),
            ..
        } = &op
            && let [(_, Op::Set(value))] = ops[..]
        {
            // A calendar may be ahead of the least one by so much, never behind it.
            let ahead = crate::node::CALENDARS_MS + 1;
            let from = at.saturating_sub(ahead) * 1_000;
            history.may_expire(key, value, from.max(called));
        }
        let now = self.now;
        let me = &mut self.clients.clients[client];
        let sequenced = (client > 0).then(|| {
            me.sequence += 1;
            Sequenced {
                client: client as u128,
                sequence: me.sequence,
                known: me.known.get(&partition).copied().unwrap_or_default(),
            }
        });
        me.call = Some(Call {
            began: now,
            partition,
            attempt: 0,
            to: NodeId(0),
            tries: 0,
            unsure: false,
            request: WriteRequest { op, sequenced },
            ops,
            begun,
        });
        self.attempt(client)
    }

    /// A client sends its write to some node.
    fn attempt(&mut self, client: usize) -> Result<(), String> {
        let me = &self.clients.clients[client];
        let Some(partition) = me.call.as_ref().map(|call| call.partition) else {
            return Ok(());
        };
        let leader = me.leaders.get(&partition).copied();
        let primary = self.record(partition).and_then(|record| record.primary);
        let count = self.nodes.len() as u64;
        let id = match (leader, primary) {
            (Some(leader), _) if self.rng.random_bool(0.8) => leader,
            (_, Some(primary)) if self.rng.random_bool(0.8) => primary.node,
            _ => NodeId(self.rng.random_range(1..=count)),
        };
        self.clients.attempts += 1;
        let attempt = self.clients.attempts;
        let caller = Caller { client, attempt };
        let Some(call) = &mut self.clients.clients[client].call else {
            return Ok(());
        };
        call.attempt = attempt;
        call.to = id;
        call.tries += 1;
        let request = call.request.clone();
        if call.tries == 2 {
            self.coverage.count("write tried again");
        }
        let patience = self.rng.random_range(100_000..600_000);
        self.at(patience, Happening::Patience(caller));
        if self.noise(Noise::Requests, 0.01) {
            return Ok(());
        }
        let mut after = self.rng.random_range(50..800);
        if self.noise(Noise::Requests, 0.01) {
            // So late that another try may have been answered by then.
            after += self.rng.random_range(100_000..1_500_000);
            self.coverage.count("late request");
        }
        let work = Work::Write(caller, request);
        self.at(after, Happening::Request(id, partition, work));
        Ok(())
    }

    /// A write reaches a node.
    pub(super) fn request(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        work: Work,
    ) -> Result<(), String> {
        let (now, window) = (self.now, self.clients.window);
        let node = &mut self.nodes[(id.0 - 1) as usize];
        if node.core.is_none() {
            return Ok(());
        }
        self.say_work(id, partition, &work);
        let lapsed = {
            let clock = self.node(id).clock(now);
            let standing = self.standing(id, partition);
            standing.is_some_and(|s| s.serving && s.lease_until <= clock)
        };
        if lapsed {
            self.coverage.count("lease lapsed");
            self.want_lease(id, partition)?;
        }
        // Not drawn: seeds are to mean what they meant.
        let gathered_for = match &work {
            Work::Write(Caller { attempt, .. }, _) => GATHERED_FOR[(attempt % 4) as usize],
            Work::Expire(_) => 0,
        };
        let at = At {
            partition,
            now,
            window,
            gathers: gathered_for > 0,
        };
        let edge = self.edges.entry((id, partition)).or_default();
        let node = &mut self.nodes[(id.0 - 1) as usize];
        let session = node.session;
        let outcome = edge.submit(node, at, work)?;
        if outcome.gathers {
            let let_go = Happening::LetGo(id, session, partition);
            self.at(gathered_for, let_go);
        }
        self.conclude(id, partition, outcome)
    }

    /// A node lets the increments go that it gathered.
    pub(super) fn let_go(&mut self, id: NodeId, partition: PartitionId) -> Result<(), String> {
        let at = At {
            partition,
            now: self.now,
            window: self.clients.window,
            gathers: false,
        };
        let Some(edge) = self.edges.get_mut(&(id, partition)) else {
            return Ok(());
        };
        let node = &mut self.nodes[(id.0 - 1) as usize];
        let outcome = edge.let_go(node, at)?;
        self.conclude(id, partition, outcome)
    }

    fn say_work(&mut self, id: NodeId, partition: PartitionId, work: &Work) {
        let of = self.partitions.of(partition);
        self.say(|| match work {
            Work::Write(Caller { client, attempt }, request) => {
                format!("{id} <- client {client}, try {attempt}{of}: {request:?}")
            }
            Work::Expire(due) => format!("{id} <- expire{of} {due:?}"),
        });
    }

    /// Somebody found the lease of a primary lapsed.
    fn want_lease(&mut self, id: NodeId, partition: PartitionId) -> Result<(), String> {
        let now = self.now;
        let node = self.node(id);
        let clock = node.clock(now);
        let mut effects = Vec::new();
        if let Some(core) = &mut node.core {
            core.want_lease(clock, partition, &mut effects);
        }
        self.carry_out(id, effects)
    }

    /// The primary looks for keys whose time is past.
    pub(super) fn expire_due(&mut self, id: NodeId) -> Result<(), String> {
        let now = self.now;
        for partition in self.partitions.ids() {
            let Some(standing) = self.standing(id, partition).filter(|s| s.serving) else {
                continue;
            };
            let due = self.node(id).due(standing.generation, now)?;
            if !due.is_empty() {
                self.request(id, partition, Work::Expire(due))?;
            }
        }
        Ok(())
    }

    /// An answer reaches a client.
    pub(super) fn reply(&mut self, caller: Caller, answer: Answer) -> Result<(), String> {
        if caller.client >= FIRST_TALLY {
            return self.tally_answered(caller.attempt, answer);
        }
        let sequenced = caller.client > 0;
        let Some(call) = self.clients.call(caller) else {
            // It has tried elsewhere since, or given up.
            return Ok(());
        };
        match answer {
            Answer::Done(reply) => self.answered(caller.client, reply),
            Answer::Refused if sequenced || !call.unsure => {
                let after = self.rng.random_range(2_000..40_000);
                self.at(after, Happening::Retry(caller));
            }
            Answer::Unknown if sequenced => {
                call.unsure = true;
                let after = self.rng.random_range(2_000..40_000);
                self.at(after, Happening::Retry(caller));
            }
            Answer::Unjudged(position) => {
                let (partition, begun) = (call.partition, call.begun.clone());
                if !call.unsure {
                    let nothing = vec![None; call.ops.len()];
                    let history = &mut self.partitions[partition].invariants.history;
                    history.end(&begun, self.now.0, &nothing);
                }
                let me = &mut self.clients.clients[caller.client];
                me.knows(partition, position);
                self.done(caller.client, "write that nobody can judge");
            }
            Answer::Refused | Answer::Unknown | Answer::IsCounter => {
                self.done(caller.client, "write given up")
            }
        }
        Ok(())
    }

    fn answered(&mut self, client: usize, reply: WriteReply) {
        let me = &mut self.clients.clients[client];
        let Some(call) = me.call.take() else { return };
        me.leaders.insert(call.partition, call.to);
        me.knows(call.partition, reply.position);
        let outputs = outputs(&call.ops, &reply.outcome);
        let history = &mut self.partitions[call.partition].invariants.history;
        history.end(&call.begun, self.now.0, &outputs);
        if let ([(key, Op::Set(value) | Op::SetIf(_, value))], WriteOutcome::Set { .. }) =
            (&call.ops[..], &reply.outcome)
        {
            self.clients.saw(key, *value, reply.position);
        }
        let refused = matches!(
            reply.outcome,
            WriteOutcome::ConditionFailed { .. } | WriteOutcome::BatchRefused { .. }
        );
        if refused {
            self.coverage.count("conditional write refused");
        }
        self.done(client, OPERATIONS);
    }

    /// A client is done with a write, whatever came of it, and thinks of the next.
    fn done(&mut self, client: usize, how: &'static str) {
        self.clients.clients[client].call = None;
        self.coverage.count(how);
        self.say(|| format!("client {client}: {how}"));
        let after = self.rng.random_range(500..14_000) * self.leisure();
        self.at(after, Happening::Client(client));
    }

    /// No answer came to a try.
    pub(super) fn out_of_patience(&mut self, caller: Caller) -> Result<(), String> {
        let Some(call) = self.clients.call(caller) else {
            return Ok(());
        };
        call.unsure = true;
        if caller.client == 0 {
            // A retry would be another write.
            self.done(caller.client, "write given up");
            return Ok(());
        }
        self.retry(caller)
    }

    /// A client tries again, unless it has had enough.
    pub(super) fn retry(&mut self, caller: Caller) -> Result<(), String> {
        if self.quiet {
            return Ok(());
        }
        let now = self.now;
        if self.rng.random_bool(0.5)
            && let Some(me) = self.clients.clients.get_mut(caller.client)
            && let Some(call) = &me.call
        {
            me.leaders.remove(&call.partition);
        }
        let Some(call) = self.clients.call(caller) else {
            return Ok(());
        };
        if now >= call.began.plus(GIVE_UP) {
            self.done(caller.client, "write given up");
            return Ok(());
        }
        self.attempt(caller.client)
    }
}
