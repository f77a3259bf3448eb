//! Clients that keep what they read: the shipped cache at the client and the shipped table of
//! who is told, over streams in order, with nodes that apply a batch for a while before it
//! shows.
//!
//! Everything here is drawn from randomness of its own: seeds are to mean what they meant.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, Micros, NodeId, PartitionId};
use cairn_core::kv::request::Value;
use cairn_core::kv::{EntryBody, VersionedValue};
use cairn_core::replication::{EntryKind, Generation, LogEntry};
use cairn_core::tracking::{
    BatchStage, Letters, LettersBounds, NearBounds, NearCache, ReaderId, Seen, Source, Taken,
    Ticket, Tracked, Vouch, VouchLook,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::clients::Clients;
use super::{Happening, World};

/// How many clients keep what they read.
const KEEPERS: usize = 3;
/// This one reads of any replica, asks nobody to vouch, and reads again what it is told to have
/// changed, at once: as a Redis client that reads at the level `any`.
const CARELESS: usize = 2;
/// How long a node tries to answer.
const PATIENCE: Micros = Micros::from_millis(400);
/// How long a client waits for a node to vouch before it gives the stream up.
const SILENCE: Micros = Micros::from_millis(1_000);
/// What a node remembers: so little that it forgets.
const TRACKED_BYTES: usize = 12 * 120;

/// All that has to do with them.
#[derive(Debug)]
pub(super) struct Keepers {
    rng: StdRng,
    keepers: Vec<Keeper>,
    /// The nodes' ends of the streams.
    streams: BTreeMap<Source, Stream>,
    tracked: BTreeMap<(NodeId, u64), Tracked>,
    hidden: BTreeMap<(NodeId, u64, PartitionId, Generation), VecDeque<Hidden>>,
    seen: BTreeMap<(NodeId, u64, PartitionId), Seen>,
    numbers: u64,
}

#[derive(Debug)]
struct Keeper {
    cache: NearCache,
    max_age: Micros,
    links: BTreeMap<NodeId, Source>,
    /// What is kept of which state.
    of: BTreeMap<Bytes, (PartitionId, Index, Option<VersionedValue>)>,
    /// Questions that are not answered, and when they were put.
    asked: BTreeMap<Source, (u64, Micros)>,
}

#[derive(Debug)]
struct Stream {
    keeper: usize,
    node: NodeId,
    session: u64,
    letters: Letters,
    partitions: BTreeSet<PartitionId>,
    /// When its last message arrives.
    last: Micros,
}

/// A batch that is being applied, and what those read meanwhile who do not see it yet.
#[derive(Debug)]
struct Hidden {
    before: Index,
    upto: Index,
    old: BTreeMap<Bytes, Option<VersionedValue>>,
}

/// A read over a stream.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    node: NodeId,
    source: Source,
    ticket: Ticket,
    partition: PartitionId,
    key: Bytes,
    careless: bool,
    arrived: Option<Micros>,
    covers: Option<(Epoch, Index)>,
}

/// A question whether what is kept is current.
#[derive(Clone, Debug)]
pub(super) struct Question {
    node: NodeId,
    source: Source,
    number: u64,
    arrived: Option<Micros>,
    /// Of which partitions it is not known yet, and what must be told of each.
    open: BTreeMap<PartitionId, Option<(Epoch, Index)>>,
}

/// What happens to clients that keep what they read.
#[derive(Debug)]
pub(super) enum Happens {
    /// A client serves, asks, and has its nodes vouch.
    Turn(usize),
    /// A read is at its node.
    Read(Asking),
    /// A question is at its node.
    Vouch(Question),
    /// An answer is at its client.
    Found(Source, Asking, Option<(Index, Option<VersionedValue>)>),
    /// What was told is at its client.
    Told(Source, Taken),
}

impl Happens {
    /// The node that it happens at.
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Read(asking) => Some(asking.node),
            Self::Vouch(question) => Some(question.node),
            Self::Turn(_) | Self::Found(..) | Self::Told(..) => None,
        }
    }
}

impl Keepers {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x006e_6561_7200);
        let keepers = (0..KEEPERS).map(|number| Keeper {
            cache: NearCache::new(NearBounds {
                entries: rng.random_range(4..20),
                bytes: 1 << 20,
            }),
            max_age: match number {
                CARELESS => Micros(u64::MAX),
                _ => Micros::from_millis(rng.random_range(20..400)),
            },
            links: BTreeMap::new(),
            of: BTreeMap::new(),
            asked: BTreeMap::new(),
        });
        Self {
            keepers: keepers.collect(),
            rng,
            streams: BTreeMap::new(),
            tracked: BTreeMap::new(),
            hidden: BTreeMap::new(),
            seen: BTreeMap::new(),
            numbers: 0,
        }
    }
}

impl World {
    pub(super) fn begin_to_keep(&mut self) {
        for keeper in 0..KEEPERS {
            self.at(2_000, Happening::Near(Happens::Turn(keeper)));
        }
    }

    pub(super) fn near(&mut self, happens: Happens) -> Result<(), String> {
        match happens {
            Happens::Turn(keeper) => self.keep(keeper),
            Happens::Read(asking) => self.near_read(asking),
            Happens::Vouch(question) => self.near_vouch(question),
            Happens::Found(source, asking, found) => {
                self.near_found(source, asking, found);
                Ok(())
            }
            Happens::Told(source, taken) => {
                self.near_told(source, taken);
                Ok(())
            }
        }
    }

    fn near_number(&mut self) -> u64 {
        self.near.numbers += 1;
        self.near.numbers
    }

    /// A client's end of a stream is closed.
    fn close(&mut self, keeper: usize, node: NodeId) {
        let this = &mut self.near.keepers[keeper];
        if let Some(source) = this.links.remove(&node) {
            this.cache.closed(source);
            this.asked.remove(&source);
            self.near.streams.remove(&source);
        }
    }

    fn keep(&mut self, keeper: usize) -> Result<(), String> {
        let leisure = self.leisure();
        let after = self.near.rng.random_range(1_000..12_000) * leisure;
        self.at(after, Happening::Near(Happens::Turn(keeper)));
        let now = self.now;
        let links = self.near.keepers[keeper].links.clone();
        for (node, source) in links {
            let session = self.near.streams.get(&source).map(|stream| stream.session);
            let lives = session.is_some_and(|session| self.alive(node, session));
            let asked = self.near.keepers[keeper].asked.get(&source).copied();
            let silent = asked.is_some_and(|(_, at)| now.minus(at) > SILENCE);
            let hears = self.near.rng.random_bool(0.3);
            if silent || (!lives && hears) || self.near.rng.random_bool(0.002) {
                self.close(keeper, node);
            } else if asked.is_none() && keeper != CARELESS {
                let number = self.near_number();
                self.near.keepers[keeper]
                    .asked
                    .insert(source, (number, now));
                let question = Question {
                    node,
                    source,
                    number,
                    arrived: None,
                    open: BTreeMap::new(),
                };
                let after = self.near.rng.random_range(50..800);
                self.at(after, Happening::Near(Happens::Vouch(question)));
            }
        }
        if self.quiet {
            return Ok(());
        }
        if keeper != CARELESS && !self.may_lose_writes() {
            self.serve_all(keeper)?;
        }
        let partition = self.partitions.draw(&mut self.near.rng);
        let key = Clients::any_key(&self.partitions[partition].prefix, &mut self.near.rng);
        let this = &mut self.near.keepers[keeper];
        if this.cache.serve(now, &key, this.max_age).is_some() {
            return Ok(());
        }
        if keeper == CARELESS {
            let node = self.near.rng.random_range(0..self.nodes.len());
            self.ask_to_keep(keeper, self.nodes[node].id, partition, key);
            return Ok(());
        }
        let primary = self.record(partition).and_then(|record| record.primary);
        if let Some(primary) = primary {
            self.ask_to_keep(keeper, primary.node, partition, key);
        }
        Ok(())
    }

    /// Whatever a client would answer from its cache is as new as it says.
    fn serve_all(&mut self, keeper: usize) -> Result<(), String> {
        let now = self.now;
        let of = std::mem::take(&mut self.near.keepers[keeper].of);
        for (key, (partition, seen, _)) in &of {
            let this = &mut self.near.keepers[keeper];
            let Some(served) = this.cache.serve(now, key, this.max_age) else {
                continue;
            };
            self.coverage.count("kept value served");
            let (age, since) = (served.age, now.minus(served.age));
            self.say(|| format!("keeper {keeper} serves {key:?} as of {seen}, {age:?} old"));
            let near = &self.partitions[*partition].invariants.near;
            let serves = near.serves(keeper, key, *seen, since);
            serves.map_err(self.partitions.broken(*partition))?;
        }
        self.near.keepers[keeper].of = of;
        Ok(())
    }

    /// Nothing is on its way any more: what the careless one keeps of a node is what the node
    /// has.
    pub(super) fn check_kept(&mut self) -> Result<(), String> {
        let now = self.now;
        for (id, source) in self.near.keepers[CARELESS].links.clone() {
            if !self.lives(source) {
                self.close(CARELESS, id);
            }
        }
        let of = self.near.keepers[CARELESS].of.clone();
        for (key, (partition, seen, value)) in of {
            let this = &mut self.near.keepers[CARELESS];
            let Some(source) = this.cache.source(&key) else {
                continue;
            };
            let kept = this.cache.serve(now, &key, Micros(u64::MAX)).is_some();
            let node = this.links.iter().find(|(_, own)| **own == source);
            let Some((id, _)) = node.filter(|_| kept) else {
                continue;
            };
            let id = *id;
            let standing = self.standing(id, partition);
            let has = match standing {
                Some(standing) => {
                    self.shown(id, partition, standing.generation, Some(&key))?
                        .1
                }
                None => None,
            };
            if has != value {
                return Err(format!(
                    "who keeps a key is told of its change (rule 6): {key:?} of {partition} was \
                     read on {id} as of {seen}, is still kept as {value:?}, and is {has:?}"
                ));
            }
        }
        Ok(())
    }

    fn ask_to_keep(&mut self, keeper: usize, node: NodeId, partition: PartitionId, key: Bytes) {
        let now = self.now;
        let source = match self.near.keepers[keeper].links.get(&node) {
            Some(source) => *source,
            None => {
                if self.node(node).core.is_none() {
                    return;
                }
                let session = self.node(node).session;
                let source = Source(self.near_number());
                let this = &mut self.near.keepers[keeper];
                this.links.insert(node, source);
                this.cache.opened(source);
                let stream = Stream {
                    keeper,
                    node,
                    session,
                    letters: Letters::default(),
                    partitions: BTreeSet::new(),
                    last: now,
                };
                self.near.streams.insert(source, stream);
                source
            }
        };
        if let Some(ticket) = self.near.keepers[keeper].cache.ask(now, source, &key) {
            let asking = Asking {
                node,
                source,
                ticket,
                partition,
                key,
                careless: keeper == CARELESS,
                arrived: None,
                covers: None,
            };
            let after = self.near.rng.random_range(50..800);
            self.at(after, Happening::Near(Happens::Read(asking)));
        }
    }

    /// Sends something to the client, in order.
    fn tell_keeper(&mut self, source: Source, happens: Happens) {
        let after = self.near.rng.random_range(50..800);
        let now = self.now;
        if let Some(stream) = self.near.streams.get_mut(&source) {
            let at = stream.last.0.max(now.0 + after) + 1;
            stream.last = Micros(at);
            self.at(at - now.0, Happening::Near(happens));
        }
    }

    /// Sends what waits to be told.
    fn send_letters(&mut self, source: Source) {
        let Some(stream) = self.near.streams.get_mut(&source) else {
            return;
        };
        let taken = stream.letters.take();
        if !taken.is_empty() {
            self.tell_keeper(source, Happens::Told(source, taken));
        }
    }

    /// The stream, if the process that it led to still runs.
    fn lives(&self, source: Source) -> bool {
        let stream = self.near.streams.get(&source);
        stream.is_some_and(|stream| self.alive(stream.node, stream.session))
    }

    fn near_read(&mut self, mut asking: Asking) -> Result<(), String> {
        let (id, partition, source) = (asking.node, asking.partition, asking.source);
        if !self.lives(source) {
            return Ok(());
        }
        let (now, session) = (self.now, self.node(id).session);
        if asking.arrived.is_none() {
            // Before anything is looked at.
            asking.arrived = Some(now);
            if let Some(stream) = self.near.streams.get_mut(&source) {
                stream.partitions.insert(partition);
            }
            let streams: BTreeSet<u64> = self.near.streams.keys().map(|s| s.0).collect();
            let tracked = self.near.tracked.entry((id, session));
            let tracked = tracked.or_insert_with(|| Tracked::new(TRACKED_BYTES));
            let lives = |reader: ReaderId| streams.contains(&reader.0);
            let forgotten = tracked.remember(partition, &asking.key, ReaderId(source.0), &lives);
            for (key, readers) in forgotten {
                self.coverage.count("kept key forgotten");
                self.tell_readers(&key, &readers);
            }
        }
        let clock = self.node(id).clock(now);
        let standing = self.standing(id, partition);
        if asking.careless {
            let mut found = None;
            if let Some(standing) = standing {
                let found_here =
                    self.shown(id, partition, standing.generation, Some(&asking.key))?;
                let readable = !self.node(id).corrupt.contains(&partition);
                found = Some(found_here).filter(|(shown, _)| readable && *shown > Index::ZERO);
            }
            self.tell_keeper(source, Happens::Found(source, asking, found));
            return Ok(());
        }
        let Some(standing) = standing.filter(|s| s.serving && clock < s.lease_until) else {
            self.tell_keeper(source, Happens::Found(source, asking, None));
            return Ok(());
        };
        if asking
            .covers
            .is_none_or(|(epoch, _)| epoch != standing.epoch)
        {
            asking.covers = Some((standing.epoch, standing.commit));
        }
        let covers = asking.covers.map_or(standing.commit, |(_, index)| index);
        let (shown, value) = self.shown(id, partition, standing.generation, Some(&asking.key))?;
        if shown < covers {
            if asking.arrived.is_some_and(|at| now.minus(at) > PATIENCE) {
                self.tell_keeper(source, Happens::Found(source, asking, None));
            } else {
                let after = self.near.rng.random_range(50..1_000);
                self.at(after, Happening::Near(Happens::Read(asking)));
            }
            return Ok(());
        }
        self.tell_keeper(source, Happens::Found(source, asking, Some((shown, value))));
        Ok(())
    }

    /// How far the state has come that those see who read, and the value in it.
    fn shown(
        &self,
        id: NodeId,
        partition: PartitionId,
        generation: Generation,
        key: Option<&Bytes>,
    ) -> Result<(Index, Option<VersionedValue>), String> {
        let node = &self.nodes[(id.0 - 1) as usize];
        let place = (id, node.session, partition, generation);
        let hidden = self.near.hidden.get(&place);
        let first = hidden.and_then(VecDeque::front);
        let shown = match first {
            Some(hidden) => hidden.before,
            None => node.applied(generation)?,
        };
        let Some(key) = key else {
            return Ok((shown, None));
        };
        let old = hidden.and_then(|all| all.iter().find_map(|batch| batch.old.get(key)));
        match old {
            Some(old) => Ok((shown, old.clone())),
            None => Ok((shown, node.value(generation, key)?)),
        }
    }

    fn near_vouch(&mut self, mut question: Question) -> Result<(), String> {
        let (id, source) = (question.node, question.source);
        if !self.lives(source) {
            return Ok(());
        }
        let now = self.now;
        let clock = self.node(id).clock(now);
        if question.arrived.is_none() {
            question.arrived = Some(now);
            if let Some(stream) = self.near.streams.get(&source) {
                question.open = stream.partitions.iter().map(|p| (*p, None)).collect();
            }
        }
        let late = question.arrived.is_some_and(|at| now.minus(at) > PATIENCE);
        let mut doubted = Vec::new();
        for (partition, mut covers) in std::mem::take(&mut question.open) {
            let Some(standing) = self.standing(id, partition) else {
                doubted.push(partition);
                continue;
            };
            let leads = standing.serving && clock < standing.lease_until;
            if leads && covers.is_none_or(|(epoch, _)| epoch != standing.epoch) {
                covers = Some((standing.epoch, standing.commit));
            }
            let (applied, _) = self.shown(id, partition, standing.generation, None)?;
            let look = VouchLook {
                serving: standing.serving,
                clock,
                lease_until: standing.lease_until,
                covers: covers.map_or(standing.commit, |(_, index)| index),
                applied,
            };
            match look.vouches() {
                Vouch::Yes => {}
                Vouch::Wait if !late => {
                    question.open.insert(partition, covers);
                }
                Vouch::Wait | Vouch::No => doubted.push(partition),
            }
        }
        for partition in doubted {
            self.coverage.count("kept values doubted");
            if let Some(stream) = self.near.streams.get_mut(&source) {
                stream.partitions.remove(&partition);
                stream.letters.all();
            }
            self.send_letters(source);
        }
        if question.open.is_empty() {
            if let Some(stream) = self.near.streams.get_mut(&source) {
                stream.letters.vouch(question.number);
            }
            self.send_letters(source);
        } else {
            let after = self.near.rng.random_range(50..2_000);
            self.at(after, Happening::Near(Happens::Vouch(question)));
        }
        Ok(())
    }

    fn near_found(
        &mut self,
        source: Source,
        asking: Asking,
        found: Option<(Index, Option<VersionedValue>)>,
    ) {
        let Some(stream) = self.near.streams.get(&source) else {
            return;
        };
        let this = &mut self.near.keepers[stream.keeper];
        let Some((seen, value)) = found else {
            this.cache.give_up(asking.ticket);
            return;
        };
        let found = value.clone();
        let found = found.map(|stored| Value::string(stored.value.data, stored.version, None));
        if this.cache.answer(asking.ticket, found) {
            let of = (asking.partition, seen, value);
            this.of.insert(asking.key, of);
            self.coverage.count("value kept");
        }
    }

    fn near_told(&mut self, source: Source, taken: Taken) {
        let Some(stream) = self.near.streams.get(&source) else {
            return;
        };
        let (keeper, node) = (stream.keeper, stream.node);
        let this = &mut self.near.keepers[keeper];
        if taken.all {
            this.cache.all(source);
        }
        for (key, _) in &taken.keys {
            this.cache.changed(key);
        }
        if keeper == CARELESS && !self.quiet {
            for (key, _) in taken.keys {
                let of = self.near.keepers[keeper].of.get(&key);
                if let Some((partition, ..)) = of.cloned() {
                    self.ask_to_keep(keeper, node, partition, key);
                }
            }
            return;
        }
        let this = &mut self.near.keepers[keeper];
        let asked = this.asked.get(&source).copied();
        if let Some((number, at)) = asked
            && taken.vouched == Some(number)
        {
            this.asked.remove(&source);
            this.cache.vouched(source, at);
        }
    }

    fn tell_readers(&mut self, key: &Bytes, readers: &[ReaderId]) {
        for reader in readers {
            let source = Source(reader.0);
            if let Some(stream) = self.near.streams.get_mut(&source) {
                stream.letters.changed(key, None, LettersBounds::default());
                self.send_letters(source);
            }
        }
    }

    fn tell_changes(&mut self, id: NodeId, partition: PartitionId, keys: &[Bytes]) {
        let session = self.node(id).session;
        for key in keys {
            let Some(tracked) = self.near.tracked.get_mut(&(id, session)) else {
                return;
            };
            let readers = tracked.changed(partition, key, &|_| false);
            if !readers.is_empty() {
                self.coverage.count("kept key told");
            }
            self.tell_readers(key, &readers);
        }
    }

    /// A node is about to apply entries: for a while those who read do not see them.
    pub(super) fn near_begins(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        generation: Generation,
        entries: &[LogEntry],
    ) -> Result<(), String> {
        let session = self.node(id).session;
        let before = self.node(id).applied(generation)?;
        let mut old = BTreeMap::new();
        let mut upto = before;
        for entry in entries.iter().filter(|e| e.position.index > before) {
            upto = entry.position.index;
            if entry.kind == EntryKind::Barrier {
                continue;
            }
            let body = EntryBody::decode(entry.body.clone());
            let body = body.map_err(|error| format!("{id}: read an entry: {error}"))?;
            for (key, _) in body.writes {
                let near = &mut self.partitions[partition].invariants.near;
                near.changes(&key, upto);
                let value = self.node(id).value(generation, &key)?;
                old.entry(key).or_insert(value);
            }
        }
        let keys: Vec<Bytes> = old.keys().cloned().collect();
        let place = (id, session, partition, generation);
        self.near
            .hidden
            .entry(place)
            .or_default()
            .push_back(Hidden { before, upto, old });
        if BatchStage::Begun.tells() {
            self.tell_changes(id, partition, &keys);
        }
        Ok(())
    }

    /// What a node applied shows.
    pub(super) fn near_shows(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        generation: Generation,
        index: Index,
    ) {
        let place = (id, self.node(id).session, partition, generation);
        let mut shown = Vec::new();
        if let Some(hidden) = self.near.hidden.get_mut(&place) {
            while let Some(batch) = hidden.pop_front_if(|batch| batch.upto <= index) {
                shown.extend(batch.old.into_keys());
            }
        }
        if BatchStage::Seen.tells() {
            self.tell_changes(id, partition, &shown);
        }
    }

    /// A node was stepped: it may stand otherwise.
    pub(super) fn near_stepped(&mut self, id: NodeId, partition: PartitionId) {
        let session = self.node(id).session;
        let now = self.standing(id, partition).map(|s| Seen::from(&s));
        let place = (id, session, partition);
        let before = match now {
            Some(now) => self.near.seen.insert(place, now),
            None => self.near.seen.remove(&place),
        };
        if !before.is_some_and(|before| before.ends(now)) {
            return;
        }
        let Some(tracked) = self.near.tracked.get_mut(&(id, session)) else {
            return;
        };
        for (key, readers) in tracked.flush(partition) {
            self.coverage.count("kept keys of a partition flushed");
            self.tell_readers(&key, &readers);
        }
    }
}
