//! The engine: the one task that owns the replication core and every lane.
//!
//! A turn of its loop takes everything that waits, steps the core for each, and
//! then, once: hands records to the log, messages to the peers, entries to the store,
//! publishes what changed, and answers. Under load one turn serves hundreds of
//! writes; at rest a turn is a tick. It runs beside the connections, on their threads: what it
//! answers and sends is taken by tasks of the same thread, and nobody has to be woken for that
//! (ADR 264).
//!
//! # Order within a turn
//! The board is written before any message leaves and before any answer is given
//! (see [`super::board`]). A panic here ends the process: nothing of what the core
//! holds could be trusted after it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::cluster::report::NodeFigures;
use cairn_core::counters::Declared;
use cairn_core::ids::{Index, MapVersion, Micros, NodeId, PartitionId};
use cairn_core::kv::{Table, VersionedValue};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::{
    DiskRoom, DurableRecord, Effect, Event, Generation, NodeCore, PeerMessage, Standing, Timing,
    Unproved,
};
use cairn_core::slots::SLOTS;
use tokio::runtime;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::back::Return;
use super::board::Published;
use super::clock;
use super::copies::{Copied, Copies};
use super::figures::Figures;
use super::inbox::{Found, Input, LoadedTable, Submission, Work};
use super::lane::{Lane, Lookup, TableLoad, Turn};
use super::links::Links;
use super::load::Rate;
use super::read::Unreadable;
use super::renewals::Renewals;
use super::shared::Shared;
use super::snapshot::Fetcher;
use super::traces::Traces;
use crate::disk::WalHandle;
use crate::store::{ApplyHandle, StateReader, TableRows};

/// How many sequenced writes a partition remembers where no map says so.
const WINDOW_DEFAULT: u32 = 4096;
/// How often the figures of the node are told, and its load is judged.
const FIGURES_EVERY: Micros = Micros::from_millis(1000);

/// The engine.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) core: NodeCore,
    pub(super) wal: WalHandle,
    pub(super) apply: ApplyHandle,
    pub(super) reader: StateReader,
    pub(super) links: Links,
    pub(super) fetcher: Fetcher,
    pub(super) runtime: runtime::Handle,
    lanes: Vec<Option<Box<Lane>>>,
    /// Where fetched generations begin, until they are switched to.
    fetched: HashMap<Generation, Index>,
    /// To be dropped once this turn has published what takes their place.
    dropped: Vec<Generation>,
    /// Reads that arrived in this turn and wait for a proof.
    unproved: Vec<Unproved>,
    renewals: Renewals,
    window: u32,
    /// The version of the map that was taken last, and the newest one of which a record came.
    map_taken: MapVersion,
    decided_at: MapVersion,
    turn: Turn,
    records: Vec<DurableRecord>,
    outgoing: Vec<(NodeId, Vec<PeerMessage>)>,
    wakers: Vec<Waker>,
    submitted: u64,
    /// When the record of each number was handed to the log, to time its flush.
    flushing: VecDeque<(u64, Micros)>,
    next_tick: Micros,
    back: Return,
    next_figures: Micros,
    /// When they were told last.
    figures_at: Micros,
    writes_since: u64,
    /// Bytes of the writes that came since.
    write_bytes_since: u64,
    rates: Rates,
    /// Bytes that went to the log since the figures were told.
    written_since: u64,
    copies: Copies,
    figures: Figures,
    traces: Traces,
}

/// What clients ask of the node.
#[derive(Debug, Default)]
struct Rates {
    reads: Rate,
    writes: Rate,
    bytes: Rate,
}

/// What the engine is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) core: NodeCore,
    pub(super) wal: WalHandle,
    pub(super) apply: ApplyHandle,
    pub(super) reader: StateReader,
    pub(super) links: Links,
    pub(super) fetcher: Fetcher,
    pub(super) runtime: runtime::Handle,
    /// Where the state of each partition stands that recovery found.
    pub(super) applied: Vec<(PartitionId, Generation, Index)>,
}

impl Engine {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            shared,
            core,
            wal,
            apply,
            reader,
            links,
            fetcher,
            runtime,
            applied,
        } = parts;
        let waiting_max = shared.config.partition_pending_max;
        let copies = Copies::new(shared.config.snapshot_rates);
        let traces = Traces::new(shared.config.tracer.clone());
        let mut engine = Self {
            shared,
            core,
            wal,
            apply,
            reader,
            links,
            fetcher,
            runtime,
            lanes: Vec::new(),
            fetched: HashMap::new(),
            dropped: Vec::new(),
            unproved: Vec::new(),
            renewals: Renewals::default(),
            window: WINDOW_DEFAULT,
            map_taken: MapVersion::ZERO,
            decided_at: MapVersion::ZERO,
            turn: Turn::new(waiting_max),
            records: Vec::new(),
            outgoing: Vec::new(),
            wakers: Vec::new(),
            submitted: 0,
            flushing: VecDeque::new(),
            next_tick: Micros(0),
            back: Return::begin(clock::boottime()),
            next_figures: Micros(0),
            figures_at: clock::boottime(),
            writes_since: 0,
            write_bytes_since: 0,
            rates: Rates::default(),
            written_since: 0,
            copies,
            figures: Figures::new(),
            traces,
        };
        for (partition, generation, index) in applied {
            if let Some(lane) = engine.lane(partition) {
                lane.set_generation(generation, index);
                engine.turn.touched.push(partition);
            }
        }
        engine.take_map();
        engine.look_back(clock::boottime());
        engine
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut inputs = Vec::new();
        let mut stop = false;
        while !stop {
            let now = clock::boottime();
            let patience = Duration::from_micros(self.next_tick.minus(now).0);
            let shared = Arc::clone(&self.shared);
            if timeout(patience, shared.inbox.filled()).await.is_ok() {
                // Whoever else has something to do does it first: what it brings is of this
                // turn too.
                yield_now().await;
            }
            let wanted = shared.inbox.take(&mut inputs);
            // Taken after the inputs: a grant counts from their receipt (rule 5).
            self.turn.now = clock::boottime();
            self.turn.wall_ms = clock::wall_ms();
            self.turn.overloaded = self.overloaded();
            self.turn.samples.begin();
            let waited = wanted.map(|since| self.turn.now.minus(since));
            self.figures.turn(inputs.len(), waited);
            for input in inputs.drain(..) {
                stop |= self.take(input);
            }
            self.prove();
            if self.turn.now >= self.next_tick {
                self.tick();
            }
            self.finish();
            self.turn.samples.end(&shared.heat);
        }
        self.shared.inbox.close();
        self.shared.reader.store(None);
        self.shared.log.store(None);
    }

    fn overloaded(&self) -> bool {
        let max = self.shared.config.backlog_bytes_max;
        self.wal.backlog_bytes() > max || self.apply.backlog_bytes() > max
    }

    /// The lane of a partition, made if it was not there.
    fn lane(&mut self, partition: PartitionId) -> Option<&mut Lane> {
        lane_of(&mut self.lanes, partition)
    }

    /// Takes one input. Whether it is the last.
    fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Submit(write) => self.submit(write),
            Input::SubmitMany(writes) => {
                for write in writes {
                    self.submit(write);
                }
            }
            Input::Peer {
                from,
                messages,
                bytes,
            } => {
                self.shared.peer_backlog.take(messages.len(), bytes);
                for message in messages {
                    self.turn.samples.message(&message);
                    if let PeerMessage::MapVersion(version) = message {
                        self.links.agent.peer_map(from, version);
                    } else {
                        self.step(Event::Peer { from, message });
                    }
                }
            }
            Input::Traced(entries) => self.traces.told(self.turn.now, entries),
            Input::Event(event) => self.event(event),
            Input::Applied(all) => {
                for applied in all {
                    let (partition, generation) = (applied.partition, applied.generation);
                    let index = applied.index;
                    if let Some(lane) = self.lane(partition) {
                        lane.set_applied(generation, index);
                    }
                    self.step(Event::Applied {
                        partition,
                        generation,
                        index,
                    });
                }
            }
            Input::Found {
                partition,
                term,
                ticket,
                found,
            } => {
                if let Some(lane) = lane_of(&mut self.lanes, partition) {
                    let (core, turn) = (&mut self.core, &mut self.turn);
                    lane.found(core, turn, &self.reader, (term, ticket), found);
                }
            }
            Input::Table {
                partition,
                term,
                loaded,
            } => {
                if let Some(lane) = lane_of(&mut self.lanes, partition) {
                    let (core, turn) = (&mut self.core, &mut self.turn);
                    lane.table_loaded(core, turn, &self.reader, self.window, term, loaded);
                }
            }
            Input::Statuses { full, reply } => {
                // Whoever asked may be gone.
                let _ = reply.send(self.core.statuses(self.turn.now, full));
            }
            Input::GiveSnapshot { wanted, reply } => {
                let (now, effects) = (self.turn.now, &mut self.turn.effects);
                let _ = reply.send(self.core.give_snapshot(now, &wanted, effects));
            }
            Input::Metas { reply } => {
                let _ = reply.send(self.core.metas());
            }
            Input::Committed {
                partition,
                after,
                bytes,
                reply,
            } => {
                let _ = reply.send(self.core.committed_after(partition, after, bytes));
            }
            Input::HurryLease(partition) => {
                if let Some(cell) = self.shared.board.cell(partition) {
                    cell.hurried();
                }
                let (now, effects) = (self.turn.now, &mut self.turn.effects);
                let lapsed = self.core.want_lease(now, partition, effects);
                self.figures.lease_lapses.increment(u64::from(lapsed));
            }
            Input::Prove(partition, level) => {
                if let Some(cell) = self.shared.board.cell(partition) {
                    self.unproved.push(Unproved {
                        partition,
                        level,
                        before: cell.arrived(level),
                    });
                }
            }
            Input::MapChanged => self.take_map(),
            Input::Stop => return true,
        }
        false
    }

    /// Asks for the proofs that the reads of this turn wait for, all at once.
    fn prove(&mut self) {
        if !self.unproved.is_empty() {
            // They arrived since the turn began: what is proved has to hold after that.
            self.turn.now = self.turn.now.max(clock::boottime());
            let (now, effects) = (self.turn.now, &mut self.turn.effects);
            self.core.prove(now, &self.unproved, effects);
            self.unproved.clear();
        }
    }

    /// A partition's record may come before the map that it is of, from another member too.
    /// Until that map is here its primary may meet counters of prefixes that it does not know.
    fn heed(&mut self, record: &PartitionRecord) {
        self.decided_at = self.decided_at.max(record.changed_at);
        if record.changed_at > self.map_taken {
            self.set_counters(Declared::unknown());
        }
    }

    fn set_counters(&mut self, declared: Declared) {
        if *self.turn.counters != declared {
            self.turn.counters = Arc::new(declared);
            for lane in self.lanes.iter_mut().flatten() {
                lane.set_counters(&self.turn.counters);
            }
        }
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::Record { record }
            | Event::Peer {
                message: PeerMessage::Record(record),
                ..
            } => self.heed(record),
            Event::Flushed { number } => self.time_flush(*number),
            Event::DiskRoom { room } => {
                let full = *room != DiskRoom::Ample;
                self.shared.disk_full.store(full, Ordering::Relaxed);
                self.links.agent.disk_full(full);
            }
            Event::SnapshotFetched {
                generation, mark, ..
            } => {
                self.fetched.insert(*generation, mark.index());
            }
            Event::Corrupt { partitions } => {
                for partition in partitions {
                    if let Some(standing) = self.core.standing(*partition)
                        && self.shared.set_damaged(*partition, standing.replica)
                    {
                        metrics::counter!("cairn_corrupt_replicas_total").increment(1);
                        self.shared.tracker.flush(*partition);
                    }
                }
                self.links.agent.urge();
            }
            _ => {}
        }
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        self.core.step(self.turn.now, event, &mut self.turn.effects);
    }

    fn time_flush(&mut self, number: u64) {
        while self.flushing.front().is_some_and(|(n, _)| *n <= number) {
            if let Some((_, since)) = self.flushing.pop_front() {
                let waited = self.turn.now.minus(since);
                self.figures.flush_seconds.record(seconds(waited));
            }
        }
    }

    fn submit(&mut self, mut write: Submission) {
        write.arrived = self.turn.now;
        self.writes_since += 1;
        self.write_bytes_since += write.place.bytes as u64;
        let partition = write.partition;
        let known = self.lanes.get_mut(partition.0 as usize);
        let Some(lane) = known.and_then(Option::as_mut).filter(|l| l.is_primary()) else {
            let published = self.shared.board.load(partition);
            let error = self.shared.moved(partition, published.as_ref());
            self.turn.answer(write.reply, write.place, Err(error));
            return;
        };
        if let Work::Write(request) = &write.work {
            let heat = &self.shared.heat;
            heat.write(partition, &request.op);
        }
        self.turn.samples.note(partition);
        let (core, turn) = (&mut self.core, &mut self.turn);
        if !lane.leads_until(turn.now.plus(Micros(core.timing().lease.0 / 4))) {
            // The renewals of a partition that nobody asks are not told; this write is
            // held until the end of the turn, if not for longer.
            core.want_lease(turn.now, partition, &mut turn.effects);
        }
        lane.submit(core, turn, &self.reader, self.window, write);
    }

    fn tick(&mut self) {
        let tick = self.core.timing().tick;
        self.next_tick = self.turn.now.plus(tick);
        self.traces.tick(self.turn.now);
        self.step(Event::Tick);
        self.look_back(self.turn.now);
        let (now, effects) = (self.turn.now, &mut self.turn.effects);
        let reads = self.renewals.reads(&self.shared.board, now);
        self.core.renew_reads(now, reads, effects);
        let timeout = self.shared.config.request_timeout_micros();
        let since = self.turn.now.minus(timeout);
        for (partition, lane) in (0..).map(PartitionId).zip(&mut self.lanes) {
            let Some(lane) = lane else { continue };
            if lane.unanswered() > 0 {
                lane.expire(&mut self.turn, since);
                // Held writes look again whether the primary serves, here or elsewhere.
                self.turn.touched.push(partition);
            }
        }
        if self.turn.now >= self.next_figures {
            self.next_figures = self.turn.now.plus(FIGURES_EVERY);
            self.tell_figures();
        }
        self.judge_copies();
    }

    fn look_back(&mut self, now: Micros) {
        self.back.look(&self.core, now, &self.shared.away);
    }

    fn tell_figures(&mut self) {
        let writes = std::mem::take(&mut self.writes_since);
        self.figures.writes.increment(writes);
        let waiting = self.shared.admission.waiting();
        self.figures.waiting.set(waiting as f64);
        let flushing = self.flushing.front();
        let awaited = flushing.map_or(Micros(0), |(_, since)| self.turn.now.minus(*since));
        self.figures.flush_awaited.set(seconds(awaited));
        let serving = self.lanes.iter().flatten().filter(|l| l.serves()).count();
        self.figures.serving.set(serving as f64);
        let slowing = self.lanes.iter().flatten().filter(|l| l.pushes_back());
        self.figures.pushing_back.set(slowing.count() as f64);
        let pushed_back = std::mem::take(&mut self.turn.pushed_back);
        self.figures.pushed_back.increment(pushed_back);
        let expired = std::mem::take(&mut self.turn.expired);
        self.figures.expired.increment(expired);
        self.shared.expired.fetch_add(expired, Ordering::Relaxed);
        let combined = std::mem::take(&mut self.turn.combined);
        self.figures.combined.increment(combined);
        self.tell_load(writes);
        let written = std::mem::take(&mut self.written_since);
        self.copies.second(writes, written);
    }

    /// Has copies give way to clients.
    fn judge_copies(&mut self) {
        let copied = Copied {
            snapshots: self.shared.serving_throttle.passed(),
            log: self.core.catch_up_sent(),
            received: self.fetcher.throttle.passed(),
        };
        if let Some(rates) = self.copies.judge(self.turn.now, copied) {
            self.shared.serving_throttle.set_rate(rates.snapshots);
            self.core.set_catch_up_rate(rates.log);
            self.fetcher.throttle.set_rate(rates.receive);
            self.figures.copy_rate.set(rates.snapshots as f64);
        }
    }

    /// Tells the coordinators of the node's disk and load.
    fn tell_load(&mut self, writes: u64) {
        let passed = self.turn.now.minus(self.figures_at);
        self.figures_at = self.turn.now;
        let (reads, read_bytes) = self.shared.load.take();
        let bytes = read_bytes + std::mem::take(&mut self.write_bytes_since);
        self.rates.reads.observe(reads, passed);
        self.rates.writes.observe(writes, passed);
        self.rates.bytes.observe(bytes, passed);
        let space = *self.shared.disk_space.lock();
        self.links.agent.figures(NodeFigures {
            disk_total_bytes: space.map_or(0, |space| space.total_bytes),
            disk_free_bytes: space.map_or(0, |space| space.free_bytes),
            reads_per_second: self.rates.reads.per_second(),
            writes_per_second: self.rates.writes.per_second(),
            bytes_per_second: self.rates.bytes.per_second(),
        });
    }

    fn take_map(&mut self) {
        let map = self.shared.map.load_full();
        self.map_taken = map.version;
        if let Some(settings) = &map.settings {
            self.window = settings.idempotence_window;
            let is_behind = map.version < self.decided_at;
            let declared = if is_behind {
                Declared::unknown()
            } else {
                settings.declared_counters()
            };
            self.set_counters(declared);
            self.core.set_read_quorum(usize::from(settings.read_quorum));
            let timing = Timing {
                lease: Micros::from_millis(settings.lease_ms),
                lease_longest: Micros::from_millis(settings.lease_ms_longest),
                ..*self.core.timing()
            };
            if timing != *self.core.timing() {
                self.core.set_timing(timing);
            }
        }
        for lane in self.lanes.iter_mut().flatten() {
            lane.set_window(self.window);
        }
    }

    /// Carries out everything of this turn.
    fn finish(&mut self) {
        self.let_go();
        // Publishing a standing may let held writes go, which has effects again.
        while !self.turn.effects.is_empty() || !self.turn.touched.is_empty() {
            let mut touched = std::mem::take(&mut self.turn.touched);
            for (entry, above) in self.turn.traced.drain(..) {
                self.traces.proposed(self.turn.now, entry, above);
            }
            let mut effects = std::mem::take(&mut self.turn.effects);
            for effect in effects.drain(..) {
                self.carry_out(effect, &mut touched);
            }
            if self.turn.effects.is_empty() {
                self.turn.effects = effects;
            }
            touched.sort_unstable();
            touched.dedup();
            for partition in &touched {
                self.publish(*partition);
            }
            let now = clock::boottime();
            for partition in touched {
                self.answer_committed(partition, now);
            }
            self.let_go();
        }
        self.hand_over();
    }

    /// Has the increments that were gathered become entries, except those that wait for a flush.
    fn let_go(&mut self) {
        let mut gathering = std::mem::take(&mut self.turn.gathering);
        gathering.sort_unstable();
        gathering.dedup();
        gathering.retain(|partition| {
            let Some(lane) = lane_of(&mut self.lanes, *partition) else {
                return false;
            };
            let flushed = self.core.flushed_to(*partition);
            let (core, turn) = (&mut self.core, &mut self.turn);
            lane.let_go(core, turn, &self.reader, flushed);
            lane.gathers()
        });
        gathering.append(&mut self.turn.gathering);
        self.turn.gathering = gathering;
    }

    fn carry_out(&mut self, effect: Effect, touched: &mut Vec<PartitionId>) {
        match effect {
            Effect::Append(record) => self.records.push(record),
            Effect::ProbeLog => self.wal.probe(),
            Effect::Send { to, message } => {
                if !self.traces.is_idle() {
                    self.traces.sending(to, &message);
                }
                match self.outgoing.iter_mut().find(|(node, _)| *node == to) {
                    Some((_, messages)) => messages.push(message),
                    None => self.outgoing.push((to, vec![message])),
                }
            }
            Effect::Apply {
                partition,
                generation,
                entries,
            } => {
                self.apply.submit(partition, generation, entries);
                // A follower's commit index moved.
                touched.push(partition);
            }
            Effect::Committed { partition, index } => {
                if !self.traces.is_idle() {
                    self.traces.committed(partition, index);
                }
                if let Some(lane) = self.lane(partition) {
                    lane.committed(index);
                }
                touched.push(partition);
            }
            Effect::Everywhere { partition, index } => {
                if let Some(lane) = self.lane(partition) {
                    lane.everywhere(index);
                }
                touched.push(partition);
            }
            Effect::Proved {
                partition,
                level,
                before,
                proof,
            } => {
                if let Some(cell) = self.shared.board.cell(partition) {
                    cell.prove(level, before, proof);
                }
            }
            Effect::Standing { partition } => touched.push(partition),
            Effect::Deposed { partition, epoch } => {
                tracing::info!(%partition, %epoch, "no longer primary");
                self.figures.depositions.increment(1);
                self.answer_committed(partition, clock::boottime());
                self.depose(partition);
                touched.push(partition);
            }
            Effect::Mended { partition } => {
                if let Some(standing) = self.core.standing(partition) {
                    tracing::info!(%partition, "the log was mended");
                    self.shared.set_mended(partition, standing.replica);
                }
            }
            Effect::Report(report) => self.links.agent.report(report),
            Effect::FetchSnapshot {
                from,
                wanted,
                generation,
            } => {
                let fetch = self.fetcher.clone().run(from, wanted, generation);
                self.runtime.spawn(fetch);
            }
            Effect::DropGeneration { generation, .. } => {
                self.fetched.remove(&generation);
                self.dropped.push(generation);
            }
            Effect::Reclaimable { partition, index } => {
                self.wal.set_reclaimable(partition, index);
            }
        }
    }

    fn depose(&mut self, partition: PartitionId) {
        let published = self.core.standing(partition).map(|s| to_published(&s));
        let error = self.shared.moved(partition, published.as_ref());
        if let Some(lane) = lane_of(&mut self.lanes, partition) {
            lane.depose(&mut self.turn, &error);
        }
    }

    /// Publishes how a replica stands, and lets go or turns away what was held for
    /// it.
    fn publish(&mut self, partition: PartitionId) {
        let Some(standing) = self.core.standing(partition) else {
            if let Some(cell) = self.shared.board.cell(partition) {
                cell.clear();
            }
            self.shared.tracker.flush(partition);
            self.depose(partition);
            return;
        };
        let begins = self.fetched.remove(&standing.generation);
        let Some(lane) = lane_of(&mut self.lanes, partition) else {
            tracing::error!(%partition, "a partition past the last slot");
            return;
        };
        lane.set_generation(standing.generation, begins.unwrap_or(Index::ZERO));
        if let Some(cell) = self.shared.board.cell_or_new(partition) {
            let before = cell.load();
            cell.publish(&standing, lane.applied());
            if before.is_some_and(|before| before.seen().ends(Some((&standing).into()))) {
                self.shared.tracker.flush(partition);
            }
            // Only now, see the expirer. Of what it inherits a new primary knows nothing.
            let begins = standing.serving && !lane.serves();
            cell.expires(if begins { 0 } else { lane.take_next_expiry() });
        }
        self.renewals
            .leased(partition, standing.reads_until, self.turn.now);
        let published = to_published(&standing);
        let is_primary = published.is_primary(self.shared.config.node);
        let slowed = lane.pushes_back();
        let turned = lane.stands(&standing, is_primary);
        if turned {
            self.links.agent.urge();
            tracing::info!(%partition, epoch = %standing.epoch, serving = standing.serving, "standing changed");
        }
        if slowed != lane.pushes_back() {
            let slowing = lane.pushes_back();
            tracing::info!(%partition, slowing, "writes are slowed for a replica that catches up, or no longer");
        }
        if lane.has_held() {
            if is_primary {
                let (core, turn) = (&mut self.core, &mut self.turn);
                lane.release_held(core, turn, &self.reader, self.window);
            } else {
                let error = self.shared.moved(partition, Some(&published));
                lane.turn_away(&mut self.turn, &error);
            }
        }
    }

    fn answer_committed(&mut self, partition: PartitionId, now: Micros) {
        if let Some(lane) = lane_of(&mut self.lanes, partition)
            && let Some(waited) = lane.answer_committed(&mut self.turn, now)
        {
            self.figures.commit_seconds.record(seconds(waited));
            self.copies.waited(waited);
        }
    }

    /// Hands over what this turn gathered, each receiver's share at once.
    fn hand_over(&mut self) {
        // Only now does the board say that the state is another one: a read that
        // looks at it afterwards knows what it read from.
        for generation in self.dropped.drain(..) {
            self.apply.drop_generation(generation);
        }
        if !self.records.is_empty() {
            self.submitted += self.records.len() as u64;
            self.flushing.push_back((self.submitted, self.turn.now));
            self.written_since += self.wal.submit_from(&mut self.records);
        }
        if self.traces.has_to_tell() {
            for (to, entries) in self.traces.take_to_tell() {
                self.links.peers.tell_traced(to, entries);
            }
        }
        for (to, messages) in self.outgoing.drain(..) {
            self.links.peers.send(to, messages);
        }
        if !self.turn.answers.is_empty() {
            for (reply, result) in self.turn.answers.drain(..) {
                reply.answer(result, &mut self.wakers);
            }
            let freed = std::mem::take(&mut self.turn.freed);
            self.shared.admission.release(freed);
            self.wakers.drain(..).for_each(Waker::wake);
        }
        for lookup in std::mem::take(&mut self.turn.lookups) {
            self.figures.lookups.increment(lookup.keys.len() as u64);
            self.look_up(lookup);
        }
        for load in std::mem::take(&mut self.turn.table_loads) {
            self.load_table(load);
        }
    }

    fn look_up(&self, lookup: Lookup) {
        let (reader, shared) = (self.reader.clone(), Arc::clone(&self.shared));
        self.runtime.spawn(async move {
            let Lookup {
                partition,
                term,
                ticket,
                generation,
                keys,
                without_data,
            } = lookup;
            let found = match read_values(&reader, generation, keys, without_data).await {
                Ok(found) => Some(found),
                Err(error) => {
                    shared.unreadable(partition, &error);
                    None
                }
            };
            shared.inbox.push(Input::Found {
                partition,
                term,
                ticket,
                found,
            });
        });
    }

    fn load_table(&self, load: TableLoad) {
        let (reader, shared) = (self.reader.clone(), Arc::clone(&self.shared));
        self.runtime.spawn_blocking(move || {
            let TableLoad {
                partition,
                term,
                generation,
            } = load;
            let loaded = match read_table(&reader, generation) {
                Ok(loaded) => Some(loaded),
                Err(error) => {
                    shared.unreadable(partition, &error);
                    None
                }
            };
            shared.inbox.push(Input::Table {
                partition,
                term,
                loaded,
            });
        });
    }
}

async fn read_values(
    reader: &StateReader,
    generation: Generation,
    keys: Vec<Bytes>,
    without_data: bool,
) -> Result<Found, Unreadable> {
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let stored = reader.get(generation, key.clone()).await?;
        let mut value = stored.map(VersionedValue::decode).transpose()?;
        if let Some(stored) = value.as_mut().filter(|_| without_data) {
            stored.value.data = Bytes::new();
        }
        found.push((key, value));
    }
    Ok(found)
}

/// What the log holds past the applied index is not in the rows.
fn read_table(reader: &StateReader, generation: Generation) -> Result<LoadedTable, Unreadable> {
    let TableRows { applied, rows } = reader.table(generation)?;
    Ok(LoadedTable {
        table: Table::from_rows(rows)?,
        applied: applied.index(),
    })
}

fn lane_of(lanes: &mut Vec<Option<Box<Lane>>>, partition: PartitionId) -> Option<&mut Lane> {
    if partition.0 >= u32::from(SLOTS) {
        return None;
    }
    let at = partition.0 as usize;
    if lanes.len() <= at {
        lanes.resize_with(at + 1, || None);
    }
    let lane = lanes[at].get_or_insert_with(|| Box::new(Lane::new(partition)));
    Some(lane)
}

fn to_published(standing: &Standing) -> Published {
    Published {
        replica: standing.replica,
        epoch: standing.epoch,
        generation: standing.generation,
        serving: standing.serving,
        write_blocked_by_disk: standing.write_blocked_by_disk,
        lease_until: standing.lease_until,
        commit: standing.commit,
        applied: Index::ZERO,
        head: standing.head,
        primary: standing.primary,
        reads_until: standing.reads_until,
    }
}

fn seconds(micros: Micros) -> f64 {
    micros.0 as f64 / 1e6
}
