//! Reads entries of one partition back while the log is being written: for watchers that
//! are further behind than what memory holds.
//!
//! # What is known of where
//! For each segment, and for each stretch of it that holds entries of a partition: where
//! the first batch with one begins, and between which indexes they lie. The writer notes
//! that as it writes, recovery as it reads. It says where to look and vouches for
//! nothing: what was cut, or was another replica's, stands there as well.
//!
//! # What is given
//! Entries that stand in flushed, intact batches, follow each other without a gap, and
//! are of the line that the caller names. An epoch's entries come from one primary, so
//! that an entry that is of the line by its position is the line's entry at its index,
//! wherever it was found. The first such entry is taken, in the order of the log: the
//! entries of a log stand there one behind the other, whatever stands between.
//!
//! # What may happen meanwhile
//! The writer reclaims segments, and uses their files again. Either is found out: the
//! name is gone, or a batch carries another segment's id or has a wrong checksum. What
//! was in the segment is then not given, nor anything behind it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_core::ids::{Index, PartitionId};
use cairn_core::replication::{DurableRecord, Line, LogEntry};

use super::scan::{intact_body, own_header};
use super::{WalError, segment_name};
use crate::disk::{Disk, DiskFile};
use crate::format::batch::{BATCH_HEADER_BYTES, BatchKind};
use crate::format::record::{decode_record, entry_of, take_frame};

/// Into how many stretches a segment is divided: more cost memory, fewer cost reading
/// what is of other partitions.
const STRETCHES: u64 = 16;
/// How much of the log is looked through at once, where that gave anything.
const EXAMINED_BYTES: u64 = 16 << 20;
/// How much of a segment is read at once.
const WINDOW_BYTES: usize = 256 << 10;
/// What an entry counts beside its body.
const ENTRY_OVERHEAD: usize = 96;

/// A partition's entries in one stretch of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    /// Of the first batch with any.
    offset: u64,
    /// The lowest and the highest index among them.
    first: Index,
    last: Index,
}

#[derive(Clone, Debug)]
struct Segment {
    number: u64,
    /// Its random id.
    id: u64,
    /// Up to where it may be read: what stands behind was not flushed, or is void.
    end: u64,
    stretches: BTreeMap<PartitionId, Vec<Stretch>>,
}

/// Where the entries of each partition stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    stretch_bytes: u64,
    /// Oldest first.
    segments: Vec<Segment>,
}

/// A stretch of a segment that is to be read.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    id: u64,
    stretch: Stretch,
    /// Where the last batch to look at begins before.
    until: u64,
    /// Where what may be read ends.
    end: u64,
}

impl Catalog {
    pub(super) fn new(segment_bytes: u64) -> Self {
        Self {
            stretch_bytes: (segment_bytes / STRETCHES).max(1),
            segments: Vec::new(),
        }
    }

    /// From here on entries stand in this segment, which is flushed up to `end`.
    pub(super) fn begin(&mut self, number: u64, id: u64, end: u64) {
        self.segments.push(Segment {
            number,
            id,
            end,
            stretches: BTreeMap::new(),
        });
    }

    /// A batch at that offset of the newest segment holds this record.
    pub(super) fn note(&mut self, offset: u64, record: &DurableRecord) {
        match record {
            DurableRecord::Entry { partition, entry } => {
                self.entry(offset, *partition, entry.position.index);
            }
            DurableRecord::Create { partition, .. } | DurableRecord::Delete { partition, .. } => {
                for segment in &mut self.segments {
                    segment.stretches.remove(partition);
                }
            }
            DurableRecord::Promise { .. }
            | DurableRecord::Configure { .. }
            | DurableRecord::Corrupt { .. }
            | DurableRecord::Truncate { .. }
            | DurableRecord::Installed { .. } => {}
        }
    }

    fn entry(&mut self, offset: u64, partition: PartitionId, index: Index) {
        let stretch_bytes = self.stretch_bytes;
        let Some(segment) = self.segments.last_mut() else {
            return;
        };
        let stretches = segment.stretches.entry(partition).or_default();
        match stretches.last_mut() {
            Some(last) if last.offset / stretch_bytes == offset / stretch_bytes => {
                last.first = last.first.min(index);
                last.last = last.last.max(index);
            }
            _ => stretches.push(Stretch {
                offset,
                first: index,
                last: index,
            }),
        }
    }

    /// The newest segment is flushed up to there.
    pub(super) fn flushed(&mut self, end: u64) {
        if let Some(segment) = self.segments.last_mut() {
            segment.end = segment.end.max(end);
        }
    }

    /// The segment goes.
    pub(super) fn remove(&mut self, number: u64) {
        self.segments.retain(|segment| segment.number != number);
    }

    /// Where entries of a partition past an index may stand, in the order of the log.
    fn places(&self, partition: PartitionId, after: Index) -> Vec<Place> {
        let mut places = Vec::new();
        for segment in &self.segments {
            let stretches = segment.stretches.get(&partition).into_iter().flatten();
            for stretch in stretches.filter(|stretch| stretch.last > after) {
                let next = (stretch.offset / self.stretch_bytes + 1) * self.stretch_bytes;
                places.push(Place {
                    number: segment.number,
                    id: segment.id,
                    stretch: *stretch,
                    until: next.min(segment.end),
                    end: segment.end,
                });
            }
        }
        places
    }
}

/// The catalog as the writer and the readers share it.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    catalog: Arc<Mutex<Catalog>>,
}

impl History {
    pub(super) fn new(catalog: Catalog) -> Self {
        Self {
            catalog: Arc::new(Mutex::new(catalog)),
        }
    }

    /// Nobody holds it for longer than a look at it, or the notes of one batch.
    pub(super) fn lock(&self) -> MutexGuard<'_, Catalog> {
        // Whoever panicked left a hint that may be wrong, which readers allow for.
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads committed entries back from the log on disk, beside its writer. Clones share
/// what is known of the log.
#[derive(Clone, Debug)]
pub struct LogReader<D> {
    disk: D,
    pub(super) history: History,
}

impl<D: Disk> LogReader<D> {
    pub(super) fn new(disk: D, history: History) -> Self {
        Self { disk, history }
    }

    /// The entries of a partition past `after`, ascending and without a gap, up to the
    /// base of a line that holds `after`, and of that line alone; as many as fit into
    /// `bytes` bytes, at least one if there is any. None where the log on disk does not
    /// hold the first of them any more. Blocks while it reads.
    ///
    /// # Errors
    /// [`WalError::Io`] where the disk does not give what stands there,
    /// [`WalError::Format`] where this build does not read it.
    pub fn read(
        &self,
        partition: PartitionId,
        after: Index,
        line: &Line,
        bytes: usize,
    ) -> Result<Vec<LogEntry>, WalError> {
        let places = self.history.lock().places(partition, after);
        let mut wanted = Wanted {
            partition,
            line,
            next: after.next(),
            room: bytes,
            full: after >= line.base.index(),
            taken: Vec::new(),
        };
        let mut examined = 0;
        for place in places {
            if wanted.full || (examined >= EXAMINED_BYTES && !wanted.taken.is_empty()) {
                break;
            }
            let Stretch { first, last, .. } = place.stretch;
            if first <= wanted.next && wanted.next <= last {
                examined += self.read_place(&place, &mut wanted)?;
            }
        }
        Ok(wanted.taken)
    }

    /// Looks through one stretch; returns how much of it that was.
    fn read_place(&self, place: &Place, wanted: &mut Wanted<'_>) -> Result<u64, WalError> {
        let name = segment_name(place.number);
        let file = match self.disk.open(&name) {
            Ok(file) => file,
            // It was reclaimed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(WalError::io("open", &name)(error)),
        };
        let mut window = Window {
            file,
            end: place.end,
            start: 0,
            bytes: Vec::new(),
        };
        let mut offset = place.stretch.offset;
        while offset < place.until && !wanted.full {
            let read = window.get(offset, BATCH_HEADER_BYTES);
            let read = read.map_err(WalError::io("read", &name))?;
            let Some(header) = read.and_then(|bytes| own_header(bytes, place.id)) else {
                break;
            };
            if header.kind == BatchKind::Records {
                let body = offset + BATCH_HEADER_BYTES as u64;
                let read = window.get(body, header.body_bytes as usize);
                let read = read.map_err(WalError::io("read", &name))?;
                let Some(body) = read.filter(|body| intact_body(&header, body)) else {
                    break;
                };
                wanted
                    .take_from(body, header.frames)
                    .map_err(|source| WalError::Format {
                        name: name.clone(),
                        source,
                    })?;
            }
            offset = header.next_offset(offset);
        }
        Ok(offset - place.stretch.offset)
    }
}

/// What is looked for, and what was found of it.
struct Wanted<'a> {
    partition: PartitionId,
    line: &'a Line,
    next: Index,
    /// How many more bytes may be taken.
    room: usize,
    /// Nothing more is to be taken.
    full: bool,
    taken: Vec<LogEntry>,
}

impl Wanted<'_> {
    fn take_from(
        &mut self,
        mut frames: &[u8],
        count: u32,
    ) -> Result<(), crate::format::DecodeError> {
        for _ in 0..count {
            let payload = take_frame(&mut frames)?;
            if entry_of(payload) != Some(self.partition) {
                continue;
            }
            if let DurableRecord::Entry { entry, .. } = decode_record(payload)?.record {
                self.take(entry);
            }
            if self.full {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: LogEntry) {
        let base = self.line.base;
        let follows = self
            .taken
            .last()
            .is_none_or(|last| entry.follows(last.mark()));
        let is_next = entry.position.index == self.next && self.line.holds(entry.position);
        let is_base = entry.position.index == base.index();
        if !is_next || !follows || (is_base && entry.mark() != base) {
            return;
        }
        let size = entry.body.len() + ENTRY_OVERHEAD;
        if size > self.room && !self.taken.is_empty() {
            self.full = true;
            return;
        }
        self.room = self.room.saturating_sub(size);
        self.next = self.next.next();
        self.full = is_base;
        self.taken.push(entry);
    }
}

/// A part of a segment in memory.
struct Window<F> {
    file: F,
    /// Where what may be read ends.
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<F: DiskFile> Window<F> {
    /// The bytes at an offset; `None` where they do not all lie before the end.
    fn get(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let end = offset + length as u64;
        if end > self.end {
            return Ok(None);
        }
        let held = self.start..=self.start + self.bytes.len() as u64;
        if !held.contains(&offset) || !held.contains(&end) {
            let left = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
            self.start = offset;
            self.bytes.resize(length.max(WINDOW_BYTES).min(left), 0);
            let read = self.file.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(read);
        }
        // A file that was cut meanwhile gives less.
        let at = (offset - self.start) as usize;
        Ok(self.bytes.get(at..at + length))
    }
}
