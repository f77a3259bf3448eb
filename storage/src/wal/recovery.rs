//! What the log says when the process starts again (rule 12).
//!
//! The segments are read in order and folded. Three things may be found:
//!
//! - A *torn tail*: something broken past everything that is known to have been
//!   flushed. It was never acknowledged and is dropped; every replica on the node
//!   that may have had entries there says so.
//! - An *uncertain tail*: intact batches past what is known to have been flushed.
//!   They may have been read from the page cache alone, so they are copied into the
//!   next segment, whose header cuts this one, before anything is reported.
//! - *Corruption*: something broken below what is known to have been flushed.
//!
//! After corruption every partition is in doubt until something shows that nothing
//! of it was lost: an entry that continues its log by checksum, a record that begins
//! its log anew, or a later checkpoint with the same head. Batches count the
//! structural records before them, so that an equal count on both sides of the
//! broken place proves that it held entries and promises alone. If it held others,
//! the rows behind it or a later checkpoint must repeat what they made: a node that
//! does not know which replicas it had is not started, since it would make them
//! anew, empty. Entries that are
//! lost and durably in the store are no loss. A promise that is lost is no loss
//! either, where a later record of its partition says what was promised by then.
//! What stays in doubt is corrupt, and the next checkpoint says so, so that the
//! next start does not forget it.
//!
//! Last, every log is held against the store: the store must hold what stood before
//! the log's first entry, and the same entries where both have them. What one broken
//! place took out of a log, with head and promise provably intact, is named as a
//! missing range, which other replicas may fill; until then the old segments stay.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_core::ids::{Index, Mark, PartitionId};
use cairn_core::replication::{
    DurableRecord, LogEntry, MissingRange, PartitionMeta, RecoveredPartition,
};

use super::fold::{Fold, head};
use super::history::Catalog;
use super::image::TailBatch;
use super::ledger::Ledger;
use super::scan::{Item, scan};
use super::segments::{SegmentFile, length_of, read_all, segment_files};
use super::{WalError, WalOptions, is_structural};
use crate::disk::Disk;
use crate::format::batch::{BatchHeader, BatchKind};
use crate::format::meta::{CheckpointRow, decode_row};
use crate::format::record::{Logged, decode_record, take_frame};
use crate::format::segment_header::{HEADER_BYTES, LogIdentity, Predecessor};
use crate::state;
use crate::store::Store;

/// How far past every generation that is known the next one is drawn where the store
/// cannot list them all: further than any node ever comes, and still small enough to
/// be done at many starts.
const UNLISTED_GENERATIONS: u64 = 1 << 32;

/// What recovery found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Every partition that the log knows, replicas deleted since included.
    pub partitions: Vec<RecoveredPartition>,
    /// Above every generation that the log or the store names.
    pub next_generation: u64,
    /// Whether a torn tail was dropped.
    pub dropped_tail: bool,
    /// The segments in which something broken was found below what was flushed, in
    /// words for the log.
    pub damage: Vec<String>,
    /// How many entries were read.
    pub entries_read: u64,
}

/// What the writer goes on from.
#[derive(Debug, Default)]
pub(super) struct Continuation {
    /// The fold with everything in it.
    pub(super) fold: Fold,
    /// The rows that the next segment's checkpoint holds: before `tail`.
    pub(super) checkpoint: Vec<CheckpointRow>,
    /// Structural records before `tail`.
    pub(super) structural: u64,
    /// The uncertain tail, to be copied, batch by batch.
    pub(super) tail: Vec<TailBatch>,
    pub(super) ledger: Ledger,
    pub(super) catalog: Catalog,
    /// Where the next segment goes on from.
    pub(super) predecessor: Option<Predecessor>,
    pub(super) batch_sequence: u64,
    /// The number of the next segment.
    pub(super) next_number: u64,
    /// The last segment's name and where it is cut.
    pub(super) cut: Option<(String, u64)>,
}

/// Whether a partition may have lost something to a broken place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doubt {
    None,
    /// Entries or promises.
    Entries,
    /// Anything.
    Structural,
}

/// The entries of one partition's log while it is read.
#[derive(Debug)]
struct Log {
    entries: VecDeque<LogEntry>,
    doubt: Doubt,
    /// Entries before the first one are lost: the store must hold them, and
    /// `PartitionMeta::base` does not say their mark.
    gap: bool,
    /// What stood before entries that were lost.
    before: Option<Before>,
    /// The log is being mended, and was like this before: counts again where what was
    /// written for it was torn.
    unmended: Option<Box<Unmended>>,
}

/// A log with a missing range as it was before it was written anew.
#[derive(Debug)]
struct Unmended {
    log: Log,
    base: Mark,
    lineage: Vec<Mark>,
    head: Mark,
}

/// A log up to the first entry that was lost.
#[derive(Clone, Debug)]
struct Before {
    base: Mark,
    entries: VecDeque<LogEntry>,
    head: Mark,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            doubt: Doubt::None,
            gap: false,
            before: None,
            unmended: None,
        }
    }
}

impl Log {
    /// Keeps what stands before lost entries, the first time: what lies between two
    /// broken places counts as lost with them.
    fn keep_before(&mut self, base: Mark, head: Mark) {
        let entries = std::mem::take(&mut self.entries);
        if self.before.is_none() && !self.gap {
            self.before = Some(Before {
                base,
                entries,
                head,
            });
        }
    }
}

struct Reading<'a> {
    store: &'a dyn Store,
    options: &'a WalOptions,
    fold: Fold,
    logs: BTreeMap<PartitionId, Log>,
    ledger: Ledger,
    catalog: Catalog,
    sequence: u64,
    /// A broken place was passed and no intact batch was seen since.
    hole: bool,
    /// The last intact batch held structural records: the rows that they made follow.
    rows_follow: bool,
    /// Structural records were lost, and no whole checkpoint came since.
    structure_lost: Option<String>,
    /// The checkpoint being read is whole so far.
    checkpoint_whole: bool,
    checkpoint_seen: bool,
    report: Recovery,
}

/// Reads the whole log of `disk`.
///
/// # Errors
/// See [`WalError`].
pub(super) fn recover<D: Disk>(
    disk: &D,
    identity: &LogIdentity,
    options: &WalOptions,
    store: &dyn Store,
) -> Result<(Recovery, Continuation), WalError> {
    // What the store lets us read it must also be able to keep: from here on its
    // applied marks are durable ones.
    store.persist()?;
    let segments = segment_files(disk, identity)?;
    let mut reading = Reading {
        store,
        options,
        fold: Fold::default(),
        logs: BTreeMap::new(),
        ledger: Ledger::default(),
        catalog: Catalog::new(options.segment_bytes),
        sequence: 0,
        hole: false,
        rows_follow: false,
        structure_lost: None,
        checkpoint_whole: false,
        checkpoint_seen: false,
        report: Recovery::default(),
    };
    let mut continuation = Continuation {
        next_number: 1,
        ..Continuation::default()
    };
    for (at, segment) in segments.iter().enumerate() {
        let before = at.checked_sub(1).map(|b| &segments[b]);
        let next = segments.get(at + 1);
        reading.segment(disk, before, segment, next, &mut continuation)?;
        reading.trim(options.recovered_bytes);
        continuation.next_number = segment.number + 1;
    }
    if !segments.is_empty() && !reading.checkpoint_seen {
        return Err(WalError::Unreadable);
    }
    reading.finish(options, continuation)
}

impl Reading<'_> {
    fn segment<D: Disk>(
        &mut self,
        disk: &D,
        before: Option<&SegmentFile>,
        segment: &SegmentFile,
        next: Option<&SegmentFile>,
        continuation: &mut Continuation,
    ) -> Result<(), WalError> {
        let Some(header) = &segment.header else {
            self.damage(&format!("{}: its header is broken", segment.name));
            let bytes = length_of(disk, &segment.name)?;
            self.ledger.close(segment.number, bytes, false);
            self.before_tail(continuation);
            continuation.predecessor = None;
            continuation.cut = None;
            return Ok(());
        };
        let follows = match before {
            None => true,
            Some(before) => {
                before.number + 1 == segment.number
                    && before.header.as_ref().map(|h| h.segment)
                        == header.predecessor.map(|p| p.segment)
            }
        };
        if !follows {
            self.damage(&format!(
                "{}: the segment before it is missing",
                segment.name
            ));
        }
        self.after_hole(header.structural, false);
        self.rows_follow = false;
        self.checkpoint_whole = true;
        self.sequence = self.sequence.max(header.batch_sequence);

        let bytes = read_all(disk, &segment.name, self.options)?;
        let end = next
            .and_then(|n| n.header.as_ref())
            .and_then(|n| n.predecessor)
            .filter(|p| p.segment == header.segment)
            .map(|p| p.end);
        let limit = end.unwrap_or(bytes.len() as u64);
        let found = scan(
            &bytes,
            header.segment,
            HEADER_BYTES as u64,
            limit,
            self.sequence,
        );
        // A segment that has a successor was flushed to its end before that was used.
        let known = match (end, next) {
            (Some(end), _) => end,
            (None, Some(_)) => limit,
            (None, None) => header.prepared_end.max(found.known_flushed),
        };
        self.catalog.begin(segment.number, header.segment, known);
        let mut tail_from = None;
        for item in &found.items {
            match item {
                Item::Broken { offset } if *offset < known => {
                    self.damage(&format!(
                        "{}: broken at offset {offset}, though flushed up to {known}",
                        segment.name
                    ));
                }
                Item::Broken { .. } => {
                    self.report.dropped_tail = true;
                    break;
                }
                Item::Batch {
                    offset,
                    header,
                    body,
                } => {
                    let uncertain = *offset >= known;
                    if uncertain && tail_from.is_none() {
                        tail_from = Some(*offset);
                        self.before_tail(continuation);
                    }
                    let tail = uncertain.then_some(&mut continuation.tail);
                    self.batch(&segment.name, *offset, header, &bytes[body.clone()], tail)?;
                }
            }
        }
        if found.end < known && !self.hole {
            self.damage(&format!(
                "{}: ends at {}, though flushed up to {known}",
                segment.name, found.end
            ));
        }
        if tail_from.is_none() {
            self.before_tail(continuation);
        }
        let length = bytes.len() as u64;
        let reusable = next.is_some() && length == self.options.segment_bytes;
        self.ledger.close(segment.number, length, reusable);
        continuation.predecessor = Some(Predecessor {
            segment: header.segment,
            end: known,
        });
        continuation.cut = Some((segment.name.clone(), known));
        Ok(())
    }

    /// Keeps what the next segment's checkpoint will say.
    fn before_tail(&mut self, continuation: &mut Continuation) {
        continuation.checkpoint = self.fold.rows().cloned().collect();
        continuation.structural = self.fold.structural;
        continuation.batch_sequence = self.sequence;
    }

    fn damage(&mut self, words: &str) {
        self.report.damage.push(words.to_owned());
        self.hole = true;
    }

    fn doubt_all(&mut self, doubt: Doubt) {
        for row in self.fold.rows() {
            if row.meta.replica.is_some() {
                let log = self.logs.entry(row.meta.partition).or_default();
                if log.doubt != Doubt::Structural {
                    log.doubt = doubt;
                }
            }
        }
    }

    /// Judges the broken place that was passed, if one was, now that something intact
    /// says how many structural records stand before it. `repeated`: what comes next
    /// repeats what the broken place held of them.
    fn after_hole(&mut self, structural: u64, repeated: bool) {
        let hole = std::mem::take(&mut self.hole);
        let same = structural == self.fold.structural;
        self.fold.structural = structural;
        let first = !self.checkpoint_seen && self.fold.rows().next().is_none();
        if first && !hole {
            return;
        }
        if hole {
            self.checkpoint_whole = false;
        }
        if same || repeated {
            if hole {
                self.doubt_all(Doubt::Entries);
            }
            return;
        }
        self.doubt_all(Doubt::Structural);
        let place = self.report.damage.last().cloned().unwrap_or_default();
        self.structure_lost = Some(place);
    }

    fn batch(
        &mut self,
        name: &str,
        offset: u64,
        header: &BatchHeader,
        body: &[u8],
        tail: Option<&mut Vec<TailBatch>>,
    ) -> Result<(), WalError> {
        let lost = header.sequence.saturating_sub(self.sequence + 1);
        if self.hole && lost == 1 && self.rows_follow {
            // Only the repetition of what was read is lost.
            self.hole = false;
        }
        self.after_hole(
            header.structural,
            lost == 1 && header.kind == BatchKind::Rows,
        );
        self.sequence = header.sequence;
        let structural = self.fold.structural;
        let mut read = TailBatch::default();
        let mut left = body;
        for _ in 0..header.frames {
            let format = |source| WalError::Format {
                name: name.to_owned(),
                source,
            };
            // The batch's checksum held, so that a frame that does not decode is a
            // format that this build lacks, not damage.
            let payload = take_frame(&mut left).map_err(format)?;
            match header.kind {
                BatchKind::Records => {
                    let logged = decode_record(payload).map_err(format)?;
                    self.record(&logged);
                    self.catalog.note(offset, &logged.record);
                    let partition = logged.record.partition();
                    self.fold.prove(partition, logged.promised);
                    if tail.is_some() {
                        read.records.push(logged);
                    }
                }
                BatchKind::Checkpoint | BatchKind::CheckpointEnd | BatchKind::Rows => {
                    self.row(decode_row(payload).map_err(format)?);
                }
                BatchKind::Empty => {}
            }
        }
        if header.kind == BatchKind::CheckpointEnd {
            self.checkpoint_seen = true;
            if self.checkpoint_whole {
                // It names every replica, so that nothing structural is missing.
                self.structure_lost = None;
            }
        }
        self.rows_follow = self.fold.structural > structural;
        if let Some(tail) = tail
            && !read.records.is_empty()
        {
            if self.rows_follow {
                read.rows = self.rows_of(&read.records);
            }
            tail.push(read);
        }
        Ok(())
    }

    /// The rows that the structural ones among these records made.
    fn rows_of(&self, records: &[Logged]) -> Vec<CheckpointRow> {
        let changed: BTreeSet<PartitionId> = records
            .iter()
            .filter(|logged| is_structural(&logged.record))
            .map(|logged| logged.record.partition())
            .collect();
        let rows = changed.iter().filter_map(|p| self.fold.row(*p));
        rows.cloned().collect()
    }

    /// Holds a checkpoint's row against what was read before it.
    fn row(&mut self, mut row: CheckpointRow) {
        let partition = row.meta.partition;
        let said = head(&row.meta);
        let log = self.logs.entry(partition).or_default();
        let known = self.fold.row(partition).filter(|known| {
            row.meta.replica.is_some()
                && known.meta.replica == row.meta.replica
                && known.meta.generation == row.meta.generation
        });
        match known {
            Some(_) if log.unmended.as_ref().is_some_and(|u| u.head == said) => {
                // An earlier start found it torn and went back.
                if let Some(unmended) = log.unmended.take() {
                    row.meta.base = unmended.base;
                    *log = unmended.log;
                }
            }
            Some(known) if head(&known.meta) == said => {
                // The same head by checksum: nothing of this log was lost.
                row.meta.base = known.meta.base;
            }
            Some(known) if head(&known.meta).index() < said.index() => {
                // What was between is lost. The store must hold it, which `finish` sees
                // to, or another replica.
                log.keep_before(known.meta.base, head(&known.meta));
                log.gap = false;
                row.meta.base = said;
            }
            Some(_) | None => {
                // The log begins here, anew or again: what is carried forward follows.
                *log = Log::default();
                row.meta.base = said;
            }
        }
        log.doubt = Doubt::None;
        self.fold.replace(row);
    }

    fn record(&mut self, logged: &Logged) {
        let record = &logged.record;
        let partition = record.partition();
        self.ledger.take(record);
        if let DurableRecord::Entry { entry, .. } = record {
            self.report.entries_read += 1;
            self.entry(partition, entry);
            return;
        }
        let log = self.logs.entry(partition).or_default();
        if let DurableRecord::Truncate { to, .. } = record {
            self.truncate(partition, *to, logged);
            return;
        }
        if self.fold.take(record).is_err() {
            // A record of a replica that is not there: its creation was lost.
            log.doubt = Doubt::Structural;
            self.fold.structural += u64::from(is_structural(record));
            return;
        }
        match record {
            DurableRecord::Create { .. } | DurableRecord::Delete { .. } => *log = Log::default(),
            DurableRecord::Installed {
                mark, keep_tail, ..
            } => {
                if *keep_tail {
                    log.entries.retain(|e| e.position.index > mark.index());
                    let continues = log.entries.front().is_none_or(|e| e.follows(*mark));
                    if !continues {
                        log.doubt = Doubt::Structural;
                    }
                } else {
                    log.entries.clear();
                    log.doubt = Doubt::None;
                }
                log.gap = false;
                log.before = None;
                log.unmended = None;
            }
            DurableRecord::Promise { .. }
            | DurableRecord::Configure { .. }
            | DurableRecord::Corrupt { .. } => {}
            DurableRecord::Entry { .. } | DurableRecord::Truncate { .. } => {}
        }
    }

    fn entry(&mut self, partition: PartitionId, entry: &LogEntry) {
        let log = self.logs.entry(partition).or_default();
        let Some(row) = self
            .fold
            .row(partition)
            .filter(|r| r.meta.replica.is_some())
        else {
            log.doubt = Doubt::Structural;
            return;
        };
        let head = head(&row.meta);
        if entry.follows(head) {
            let record = DurableRecord::Entry {
                partition,
                entry: entry.clone(),
            };
            if self.fold.take(&record).is_err() {
                log.doubt = Doubt::Structural;
                return;
            }
            if log.doubt == Doubt::Entries {
                log.doubt = Doubt::None;
            }
            log.entries.push_back(entry.clone());
            if log
                .unmended
                .as_ref()
                .is_some_and(|u| u.head == entry.mark())
            {
                // All of it is there.
                log.unmended = None;
            }
            return;
        }
        // A gap after a broken place is what was lost there; anything else is not
        // explained by lost entries.
        let skips = entry.position.index > head.index().next();
        if log.doubt == Doubt::Entries && skips {
            log.doubt = Doubt::None;
            log.keep_before(row.meta.base, head);
        } else {
            log.doubt = Doubt::Structural;
            log.before = None;
        }
        log.gap = true;
        log.entries.clear();
        log.entries.push_back(entry.clone());
        self.fold.jump(partition, entry.mark());
    }

    fn truncate(&mut self, partition: PartitionId, to: Mark, logged: &Logged) {
        let log = self.logs.entry(partition).or_default();
        let meta = self.fold.row(partition).map(|row| row.meta.clone());
        let fitting = self.fold.take(&logged.record).is_ok();
        if !fitting {
            match log.doubt {
                // The entry at the cut was lost: the log is empty from there on.
                Doubt::Entries => {
                    self.fold.jump(partition, to);
                    if let Some(row) = self.fold.row_mut(partition) {
                        row.meta.base = to;
                    }
                    self.fold.structural += 1;
                    *log = Log::default();
                }
                Doubt::None | Doubt::Structural => {
                    self.fold.structural += 1;
                    log.doubt = Doubt::Structural;
                }
            }
            return;
        }
        let Some(row) = self.fold.row_mut(partition) else {
            return;
        };
        if logged.mends
            && log.before.is_some()
            && log.doubt == Doubt::None
            && let Some(meta) = meta
        {
            // What it had counts until all that mends it is there. The bodies are shared.
            log.unmended = Some(Box::new(Unmended {
                head: head(&meta),
                base: meta.base,
                lineage: meta.lineage,
                log: Log {
                    entries: log.entries.clone(),
                    doubt: Doubt::None,
                    gap: log.gap,
                    before: log.before.clone(),
                    unmended: None,
                },
            }));
        }
        if let Some(before) = log.before.take()
            && to.index() <= before.head.index()
        {
            // The log ends before what was lost, as where the range was mended.
            log.entries = before.entries;
            log.gap = false;
            row.meta.base = before.base;
        }
        log.entries.retain(|e| e.position.index <= to.index());
        let last = log.entries.back().map(LogEntry::mark);
        if last.is_none() && (log.gap || to.index() < row.meta.base.index()) {
            // What was before is lost or in the store; the cut names its mark anew.
            row.meta.base = to;
            log.gap = false;
        }
        if last.unwrap_or(row.meta.base) != to {
            log.doubt = Doubt::Structural;
        } else if log.doubt == Doubt::Entries {
            // What a broken place may have held of this log is void.
            log.doubt = Doubt::None;
        }
    }

    /// What the store has applied of a partition. One whose mark cannot be read is
    /// damaged, which is no reason not to start with the others.
    fn applied(&self, row: &CheckpointRow) -> Option<Mark> {
        match row.meta.replica {
            Some(_) => state::applied(self.store, row.meta.generation).ok(),
            None => Some(Mark::ZERO),
        }
    }

    /// Drops entries that the store durably holds, where there are more than are to
    /// be kept in memory.
    fn trim(&mut self, bytes: usize) {
        let held = |log: &Log| -> usize { log.entries.iter().map(|e| e.body.len() + 64).sum() };
        let mut total: usize = self.logs.values().map(held).sum();
        if total <= bytes {
            return;
        }
        let partitions: Vec<PartitionId> = self.logs.keys().copied().collect();
        for partition in partitions {
            if total <= bytes {
                break;
            }
            let Some(row) = self.fold.row(partition) else {
                continue;
            };
            let Some(applied) = self.applied(row) else {
                continue;
            };
            let Some(log) = self.logs.get_mut(&partition) else {
                continue;
            };
            let before = held(log);
            if drop_applied(log, applied) {
                if let Some(row) = self.fold.row_mut(partition) {
                    row.meta.base = applied;
                }
                total -= before - held(log);
            }
        }
    }

    fn finish(
        mut self,
        options: &WalOptions,
        mut continuation: Continuation,
    ) -> Result<(Recovery, Continuation), WalError> {
        if self.hole {
            // Nothing intact came after the last broken place to say what it held.
            self.structure_lost = self.report.damage.last().cloned();
        }
        if let Some(place) = self.structure_lost {
            return Err(WalError::StructureLost(place));
        }
        let partitions: Vec<PartitionId> = self.fold.rows().map(|row| row.meta.partition).collect();
        for partition in partitions {
            let recovered = self.partition(partition);
            // What the next segment says of the same replica must not forget it.
            let corrupt = self.fold.row(partition).is_some_and(|row| row.corrupt);
            let tail = continuation.tail.iter_mut().flat_map(|b| &mut b.rows);
            for row in continuation.checkpoint.iter_mut().chain(tail) {
                if row.meta.partition == partition && row.meta.replica == recovered.meta.replica {
                    row.corrupt |= corrupt;
                    row.dropped_tail |= recovered.dropped_tail;
                }
            }
            self.report.partitions.push(recovered);
        }
        self.trim_recovered(options.recovered_bytes);
        let known = self.fold.generation_max;
        self.report.next_generation = match state::generations(self.store) {
            Ok(in_store) => known.max(in_store.last().map_or(0, |g| g.0)) + 1,
            Err(error) => {
                let words = format!("the store cannot be listed: {error}");
                self.report.damage.push(words);
                known + UNLISTED_GENERATIONS
            }
        };
        continuation.fold = self.fold;
        continuation.ledger = self.ledger;
        continuation.catalog = self.catalog;
        Ok((self.report, continuation))
    }

    /// The verdict on one partition.
    fn partition(&mut self, partition: PartitionId) -> RecoveredPartition {
        let mut log = self.logs.remove(&partition).unwrap_or_default();
        let row = self.fold.row(partition).expect("a row of the fold").clone();
        let read = self.applied(&row);
        let applied = read.unwrap_or(Mark::ZERO);
        let mut meta = row.meta;
        if let Some(unmended) = log.unmended.take() {
            // What was to mend it was torn: back to what it was to mend.
            self.ledger.pin(partition, unmended.head.index());
            meta.base = unmended.base;
            meta.lineage = unmended.lineage;
            log = unmended.log;
        }
        let sound = !row.corrupt && log.doubt == Doubt::None && read.is_some();
        let whole =
            meta.replica.is_none() || (sound && agrees_with_store(&mut log, &mut meta, applied));
        let missing = if sound && !whole {
            missing_range(&mut log, &mut meta, applied)
        } else {
            None
        };
        let dropped_tail = meta.replica.is_some() && (self.report.dropped_tail || row.dropped_tail);
        if whole || missing.is_some() {
            if meta.replica.is_some() {
                self.ledger
                    .set_durable(partition, (meta.generation, applied.index()));
            }
        } else {
            // Its entries vouch for nothing; the head is kept to be looked at.
            log.entries.clear();
            meta.base = head(&meta);
            self.ledger.forget(partition);
        }
        if let Some(row) = self.fold.row_mut(partition) {
            row.meta.base = meta.base;
            row.meta.lineage.clone_from(&meta.lineage);
            // Of a missing range the old segments tell again at the next start.
            row.corrupt = !whole && missing.is_none();
            row.dropped_tail = dropped_tail;
        }
        RecoveredPartition {
            meta,
            entries: log.entries.into(),
            applied,
            corrupt: !whole,
            dropped_tail,
            missing,
        }
    }

    /// As [`Self::trim`], once the marks are verified.
    fn trim_recovered(&mut self, bytes: usize) {
        let held =
            |p: &RecoveredPartition| -> usize { p.entries.iter().map(|e| e.body.len() + 64).sum() };
        let mut total: usize = self.report.partitions.iter().map(held).sum();
        for recovered in &mut self.report.partitions {
            if total <= bytes {
                break;
            }
            let before = held(recovered);
            let mut log = Log {
                entries: std::mem::take(&mut recovered.entries).into(),
                ..Log::default()
            };
            if drop_applied(&mut log, recovered.applied) {
                recovered.meta.base = recovered.applied;
                if let Some(row) = self.fold.row_mut(recovered.meta.partition) {
                    row.meta.base = recovered.applied;
                }
            }
            recovered.entries = log.entries.into();
            total -= before - held(recovered);
        }
    }
}

/// Drops the entries up to the applied mark, if that mark is among them.
fn drop_applied(log: &mut Log, applied: Mark) -> bool {
    let Some(at) = log.entries.iter().position(|e| e.mark() == applied) else {
        return false;
    };
    log.entries.drain(..=at);
    log.gap = false;
    log.before = None;
    true
}

/// Whether the log and the state are of one history, and nothing is missing between.
/// Where the log's beginning was lost, it is made to begin after the applied mark.
fn agrees_with_store(log: &mut Log, meta: &mut PartitionMeta, applied: Mark) -> bool {
    if log.gap {
        let continues =
            drop_applied(log, applied) || log.entries.front().is_some_and(|e| e.follows(applied));
        if continues {
            meta.base = applied;
            meta.lineage.retain(|m| m.index() > applied.index());
            let newest_of_its_epoch = meta
                .lineage
                .first()
                .is_none_or(|m| m.epoch() != applied.epoch());
            if newest_of_its_epoch && applied != Mark::ZERO {
                meta.lineage.insert(0, applied);
            }
            log.gap = false;
        }
        return continues;
    }
    // Below the base the store lost what the log no longer has; past the head the
    // log lost what the store was given.
    mark_at(meta.base, &log.entries, applied.index()) == Some(applied)
}

/// The mark at an index of the log that begins behind `base`.
fn mark_at(base: Mark, entries: &VecDeque<LogEntry>, index: Index) -> Option<Mark> {
    if index == base.index() {
        return Some(base);
    }
    let offset = index.0.checked_sub(base.index().0 + 1)?;
    entries
        .get(usize::try_from(offset).ok()?)
        .map(LogEntry::mark)
}

/// What is missing, where that is one range of entries and the store agrees with what
/// stands before it. The log then ends before the range.
fn missing_range(log: &mut Log, meta: &mut PartitionMeta, applied: Mark) -> Option<MissingRange> {
    let before = log.before.take()?;
    // Where a checkpoint named the end of the range, what is read since goes on from it.
    let end = (!log.gap).then_some(meta.base);
    let until = match end {
        Some(end) => end.index(),
        None => Index(log.entries.front()?.position.index.0 - 1),
    };
    let kept: Vec<LogEntry> = std::mem::take(&mut log.entries).into();
    let after = if applied.index() > before.head.index() {
        // The store has entries of the range: what it applied was committed.
        meta.base = applied;
        applied
    } else {
        if mark_at(before.base, &before.entries, applied.index()) != Some(applied) {
            return None;
        }
        meta.base = before.base;
        log.entries = before.entries;
        before.head
    };
    (after.index() < until).then_some(MissingRange {
        after,
        until,
        end,
        kept,
    })
}
