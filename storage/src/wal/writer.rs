//! Writes the log: batches, flushes, segments.

use std::fmt;

use cairn_core::ids::{Index, PartitionId};
use cairn_core::replication::{DurableRecord, Generation, PartitionMeta};

use super::fold::Fold;
use super::ledger::Ledger;
use super::recovery::{Continuation, Recovery, recover};
use super::{PREPARING_PREFIX, SPARE_PREFIX, WalError, WalOptions, is_structural, segment_name};
use crate::disk::{Disk, DiskFile, Preallocation};
use crate::format::batch::{
    ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, BatchKind, encode_batch_header,
};
use crate::format::meta::{CheckpointRow, put_row};
use crate::format::record::{put_frame, put_record, size_hint};
use crate::format::segment_header::{
    HEADER_BYTES, LogIdentity, Predecessor, SegmentHeader, encode_header,
};
use crate::store::Store;

/// Kept free at a segment's end for the empty batch.
const CLOSING_BYTES: u64 = BATCH_HEADER_BYTES as u64;

/// The room behind the checkpoint of a segment on a disk that is nearly full.
const SHORT_BYTES: u64 = 256 << 10;

/// The segment that is written to.
struct Active<F> {
    file: F,
    name: String,
    number: u64,
    /// Its random id.
    id: u64,
    /// The length of its file.
    capacity: u64,
    /// Where the next batch goes.
    end: u64,
    /// Everything before it is flushed.
    flushed: u64,
    /// Whether the last batch says that all before it is flushed.
    confirmed: bool,
}

/// The write-ahead log of one node.
///
/// After an error nothing more may be asked of it but to be dropped, and nothing
/// that was not acknowledged before may be acknowledged (rule 12).
pub struct Wal<D: Disk> {
    disk: D,
    options: WalOptions,
    identity: LogIdentity,
    random: Box<dyn FnMut() -> u64 + Send>,
    active: Active<D::File>,
    fold: Fold,
    ledger: Ledger,
    batch_sequence: u64,
    /// The number of the last record appended since the log was opened.
    records: u64,
    spares: Vec<String>,
    buffer: Vec<u8>,
}

impl<D: Disk> fmt::Debug for Wal<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("segment", &self.active.name)
            .field("end", &self.active.end)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl<D: Disk> Wal<D> {
    /// Recovers the log of `disk`, or begins one where there is none, and opens a new
    /// segment. When it returns, all that it reports is durable.
    ///
    /// The store is persisted first, so that the applied marks read from it are
    /// durable. `random` gives the segments' ids.
    ///
    /// # Errors
    /// See [`WalError`].
    pub fn open(
        disk: D,
        identity: LogIdentity,
        options: WalOptions,
        store: &dyn Store,
        mut random: Box<dyn FnMut() -> u64 + Send>,
    ) -> Result<(Self, Recovery), WalError> {
        let (recovery, continuation) = recover(&disk, &identity, &options, store)?;
        let mut spares = tidy(&disk, &options)?;
        let Continuation {
            fold,
            checkpoint,
            structural,
            tail,
            mut ledger,
            predecessor,
            batch_sequence,
            next_number,
            cut,
        } = continuation;
        let image = Image::build(&ImageParts {
            identity: &identity,
            number: next_number,
            segment: random(),
            predecessor,
            batch_sequence,
            structural,
            checkpoint: &checkpoint,
            tail: &tail,
            batch_bytes: options.batch_bytes,
        });
        let active = place(&disk, &options, &mut spares, &image)?;
        if let Some((name, end)) = cut {
            // The new segment's header has cut it already; this returns its space.
            shorten(&disk, &name, end)?;
        }
        for record in &tail {
            ledger.take(record);
        }
        let wal = Self {
            disk,
            options,
            identity,
            random,
            active,
            fold,
            ledger,
            batch_sequence: image.batch_sequence,
            records: 0,
            spares,
            buffer: Vec::new(),
        };
        Ok((wal, recovery))
    }

    /// Appends records and flushes them. Returns the number of the last one, counted
    /// from 1 for the first since the log was opened.
    ///
    /// # Errors
    /// See [`WalError`].
    pub fn append(&mut self, records: &[DurableRecord]) -> Result<u64, WalError> {
        let mut left = records;
        while !left.is_empty() {
            let mut bytes = 0;
            let count = left
                .iter()
                .take_while(|record| {
                    let first = bytes == 0;
                    bytes += size_hint(record);
                    first || bytes <= self.options.batch_bytes
                })
                .count();
            let (batch, rest) = left.split_at(count);
            self.append_batch(batch)?;
            left = rest;
        }
        self.flush()?;
        self.records += records.len() as u64;
        Ok(self.records)
    }

    fn append_batch(&mut self, records: &[DurableRecord]) -> Result<(), WalError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        // The body comes first, so that its length decides whether it still fits;
        // the header is filled in when its segment is certain.
        let begun = begin_batch(&mut buffer);
        for record in records {
            put_frame(&mut buffer, |out| put_record(out, record));
        }
        let needed = (buffer.len() as u64).next_multiple_of(ALIGNMENT);
        if self.active.end + needed + CLOSING_BYTES > self.active.capacity {
            self.roll(needed)?;
        }
        let structural = self.fold.structural;
        for record in records {
            self.fold.take(record)?;
            self.ledger.take(record);
        }
        self.batch_sequence += 1;
        end_batch(
            &mut buffer,
            begun,
            &BatchStart {
                kind: BatchKind::Records,
                segment: self.active.id,
                sequence: self.batch_sequence,
                known_flushed: self.active.flushed,
                structural,
            },
            records.len(),
        );
        self.write(&buffer)?;
        self.active.confirmed = false;
        if self.fold.structural > structural {
            self.append_rows(records, &mut buffer)?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Repeats what structural records made of their partitions.
    fn append_rows(
        &mut self,
        records: &[DurableRecord],
        buffer: &mut Vec<u8>,
    ) -> Result<(), WalError> {
        let mut changed: Vec<PartitionId> = records
            .iter()
            .filter(|record| is_structural(record))
            .map(DurableRecord::partition)
            .collect();
        changed.sort_unstable();
        changed.dedup();
        buffer.clear();
        let begun = begin_batch(buffer);
        for row in changed.iter().filter_map(|p| self.fold.row(*p)) {
            put_frame(buffer, |out| put_row(out, row));
        }
        let needed = (buffer.len() as u64).next_multiple_of(ALIGNMENT);
        if self.active.end + needed + CLOSING_BYTES > self.active.capacity {
            // The next segment's checkpoint repeats them as well.
            return self.roll(0);
        }
        self.batch_sequence += 1;
        end_batch(
            buffer,
            begun,
            &BatchStart {
                kind: BatchKind::Rows,
                segment: self.active.id,
                sequence: self.batch_sequence,
                known_flushed: self.active.flushed,
                structural: self.fold.structural,
            },
            changed.len(),
        );
        self.write(buffer)
    }

    fn write(&mut self, batch: &[u8]) -> Result<(), WalError> {
        self.active
            .file
            .write_at(self.active.end, batch)
            .map_err(WalError::io("write", &self.active.name))?;
        self.active.end += batch.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WalError> {
        if self.active.flushed < self.active.end {
            self.active
                .file
                .sync_data()
                .map_err(WalError::io("flush", &self.active.name))?;
            self.active.flushed = self.active.end;
        }
        Ok(())
    }

    /// To be called when nothing came for a while, and before the process ends: says
    /// on the disk that all before is flushed, so that damage to it is told from a
    /// torn tail. Does nothing where that has been said.
    ///
    /// # Errors
    /// See [`WalError`].
    pub fn confirm(&mut self) -> Result<(), WalError> {
        if self.active.confirmed {
            return Ok(());
        }
        self.flush()?;
        self.batch_sequence += 1;
        let mut buffer = Vec::with_capacity(BATCH_HEADER_BYTES);
        let begun = begin_batch(&mut buffer);
        end_batch(
            &mut buffer,
            begun,
            &BatchStart {
                kind: BatchKind::Empty,
                segment: self.active.id,
                sequence: self.batch_sequence,
                known_flushed: self.active.flushed,
                structural: self.fold.structural,
            },
            0,
        );
        if self.active.end + buffer.len() as u64 <= self.active.capacity {
            self.write(&buffer)?;
            self.flush()?;
        }
        self.active.confirmed = true;
        Ok(())
    }

    /// Closes the segment and opens the next, with room for `needed` bytes.
    fn roll(&mut self, needed: u64) -> Result<(), WalError> {
        self.flush()?;
        let checkpoint: Vec<CheckpointRow> = self.fold.rows().cloned().collect();
        let mut image = Image::build(&ImageParts {
            identity: &self.identity,
            number: self.active.number + 1,
            segment: (self.random)(),
            predecessor: Some(Predecessor {
                segment: self.active.id,
                end: self.active.end,
            }),
            batch_sequence: self.batch_sequence,
            structural: self.fold.structural,
            checkpoint: &checkpoint,
            tail: &[],
            batch_bytes: self.options.batch_bytes,
        });
        image.room = needed;
        let next = place(&self.disk, &self.options, &mut self.spares, &image)?;
        let old = std::mem::replace(&mut self.active, next);
        self.batch_sequence = image.batch_sequence;
        self.ledger.close(
            old.number,
            old.capacity,
            old.capacity == self.options.segment_bytes,
        );
        Ok(())
    }

    /// From replication: no replica needs the log up to here.
    pub fn set_reclaimable(&mut self, partition: PartitionId, index: Index) {
        self.ledger.set_reclaimable(partition, index);
    }

    /// From the store: it durably holds the partition up to here.
    pub fn set_store_durable(
        &mut self,
        partition: PartitionId,
        generation: Generation,
        index: Index,
    ) {
        self.ledger.set_durable(partition, (generation, index));
    }

    /// Lets go of the oldest segment if it may go; `true` if it went.
    ///
    /// # Errors
    /// See [`WalError`].
    pub fn reclaim(&mut self) -> Result<bool, WalError> {
        let pressed = self.bytes() > self.options.total_bytes;
        let Some(oldest) = self.ledger.oldest_to_go(&self.fold, pressed) else {
            return Ok(false);
        };
        let name = segment_name(oldest.number);
        if oldest.reusable && self.spares.len() < self.options.spares {
            let spare = spare_name((self.random)());
            self.disk
                .rename(&name, &spare)
                .map_err(WalError::io("rename", &name))?;
            self.spares.push(spare);
        } else {
            self.disk
                .remove(&name)
                .map_err(WalError::io("remove", &name))?;
        }
        // Durable one by one: a gap in the numbers would look like a lost segment,
        // and a file is not written to under two names.
        self.disk
            .sync_directory()
            .map_err(WalError::io("flush", "the log's directory"))?;
        self.ledger.remove_oldest();
        Ok(true)
    }

    /// The length of all segments together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ledger.closed_bytes() + self.active.capacity
    }

    /// How many segments there are.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.ledger.closed_count() + 1
    }

    /// The metadata of every partition, with all that was appended.
    pub fn metas(&self) -> impl Iterator<Item = &PartitionMeta> {
        self.fold.rows().map(|row| &row.meta)
    }

    /// Whether the next roll, which is not far, would have to make a file: one may be
    /// prepared beside with [`prepare_spare`] and handed over with
    /// [`Self::add_spare`].
    #[must_use]
    pub fn wants_spare(&self) -> bool {
        self.options.spares > 0
            && self.spares.is_empty()
            && self.active.end > self.active.capacity / 2
    }

    /// Takes a file that [`prepare_spare`] made.
    pub fn add_spare(&mut self, name: String) {
        self.spares.push(name);
    }

    /// The cluster that admitted the node, for the headers of segments to come.
    pub fn set_cluster(&mut self, cluster: String) {
        self.identity.cluster = cluster;
    }
}

fn spare_name(random: u64) -> String {
    format!("{SPARE_PREFIX}{random:016x}")
}

/// Writes a file of zeroes for a later segment, away from the log's own thread, and
/// returns its name. `random` must not repeat.
///
/// # Errors
/// See [`WalError`].
pub fn prepare_spare<D: Disk>(disk: &D, bytes: u64, random: u64) -> Result<String, WalError> {
    let preparing = format!("{PREPARING_PREFIX}{random:016x}");
    let file = disk
        .create(&preparing)
        .map_err(WalError::io("create", &preparing))?;
    file.preallocate(bytes, Preallocation::Zeroed)
        .and_then(|()| file.sync_data())
        .map_err(WalError::io("fill", &preparing))?;
    let name = spare_name(random);
    disk.rename(&preparing, &name)
        .map_err(WalError::io("rename", &preparing))?;
    disk.sync_directory()
        .map_err(WalError::io("flush", "the log's directory"))?;
    Ok(name)
}

/// Removes what an earlier process left half made; returns the spares.
fn tidy<D: Disk>(disk: &D, options: &WalOptions) -> Result<Vec<String>, WalError> {
    let mut spares = Vec::new();
    for name in disk.list().map_err(WalError::io("list", "the log"))? {
        let spare = name.starts_with(SPARE_PREFIX);
        if !spare && !name.starts_with(PREPARING_PREFIX) {
            continue;
        }
        let fits = spare
            && spares.len() < options.spares
            && disk
                .open(&name)
                .and_then(|file| file.length())
                .map_err(WalError::io("measure", &name))?
                == options.segment_bytes;
        if fits {
            spares.push(name);
        } else {
            disk.remove(&name).map_err(WalError::io("remove", &name))?;
        }
    }
    Ok(spares)
}

fn shorten<D: Disk>(disk: &D, name: &str, length: u64) -> Result<(), WalError> {
    let file = disk.open(name).map_err(WalError::io("open", name))?;
    if file.length().map_err(WalError::io("measure", name))? > length {
        file.set_length(length)
            .map_err(WalError::io("shorten", name))?;
    }
    Ok(())
}

/// What a new segment holds before it is used.
struct Image {
    bytes: Vec<u8>,
    number: u64,
    segment: u64,
    batch_sequence: u64,
    /// How much must fit behind it.
    room: u64,
}

struct ImageParts<'a> {
    identity: &'a LogIdentity,
    number: u64,
    segment: u64,
    predecessor: Option<Predecessor>,
    batch_sequence: u64,
    structural: u64,
    checkpoint: &'a [CheckpointRow],
    tail: &'a [DurableRecord],
    batch_bytes: usize,
}

/// Rows to a checkpoint's batch.
const CHECKPOINT_ROWS: usize = 1024;

impl Image {
    fn build(parts: &ImageParts<'_>) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        let mut sequence = parts.batch_sequence;
        let mut structural = parts.structural;
        let mut start = |kind: BatchKind, structural: u64| {
            sequence += 1;
            BatchStart {
                kind,
                segment: parts.segment,
                sequence,
                known_flushed: 0,
                structural,
            }
        };
        let mut rows = parts.checkpoint;
        loop {
            let (now, later) = rows.split_at(rows.len().min(CHECKPOINT_ROWS));
            let begun = begin_batch(&mut bytes);
            for row in now {
                put_frame(&mut bytes, |out| put_row(out, row));
            }
            let kind = if later.is_empty() {
                BatchKind::CheckpointEnd
            } else {
                BatchKind::Checkpoint
            };
            end_batch(&mut bytes, begun, &start(kind, structural), now.len());
            rows = later;
            if rows.is_empty() {
                break;
            }
        }
        let mut tail = parts.tail;
        while !tail.is_empty() {
            let before = structural;
            let begun = begin_batch(&mut bytes);
            let mut count = 0;
            while count < tail.len() && bytes.len() - begun <= parts.batch_bytes {
                put_frame(&mut bytes, |out| put_record(out, &tail[count]));
                structural += u64::from(is_structural(&tail[count]));
                count += 1;
            }
            end_batch(&mut bytes, begun, &start(BatchKind::Records, before), count);
            tail = &tail[count..];
        }
        let header = encode_header(&SegmentHeader {
            identity: parts.identity.clone(),
            number: parts.number,
            segment: parts.segment,
            predecessor: parts.predecessor,
            batch_sequence: parts.batch_sequence,
            structural: parts.structural,
            prepared_end: bytes.len() as u64,
        });
        bytes[..HEADER_BYTES].copy_from_slice(&header);
        Self {
            bytes,
            number: parts.number,
            segment: parts.segment,
            batch_sequence: sequence,
            room: 0,
        }
    }
}

/// Makes a segment of an image: durable under another name first, then named, then
/// the name durable.
fn place<D: Disk>(
    disk: &D,
    options: &WalOptions,
    spares: &mut Vec<String>,
    image: &Image,
) -> Result<Active<D::File>, WalError> {
    let end = image.bytes.len() as u64;
    let least = end + image.room + CLOSING_BYTES;
    let mut capacity = options.segment_bytes.max(least);
    let usual = capacity == options.segment_bytes;
    let (from, file) = match spares.pop_if(|_| usual) {
        Some(spare) => {
            let file = disk.open(&spare).map_err(WalError::io("open", &spare))?;
            (spare, file)
        }
        None => {
            let name = format!("{PREPARING_PREFIX}{:016x}", image.segment);
            let file = disk.create(&name).map_err(WalError::io("create", &name))?;
            let reserved = file.preallocate(capacity, Preallocation::Reserved);
            if let Err(error) = reserved {
                if error.kind() != std::io::ErrorKind::StorageFull {
                    return Err(WalError::io("preallocate", &name)(error));
                }
                // A short segment keeps epochs, barriers and deletes going until
                // there is room again.
                capacity = least.max(end + SHORT_BYTES);
                file.set_length(0)
                    .and_then(|()| file.preallocate(capacity, Preallocation::Reserved))
                    .map_err(WalError::io("preallocate", &name))?;
            }
            (name, file)
        }
    };
    let name = segment_name(image.number);
    file.write_at(0, &image.bytes)
        .map_err(WalError::io("write", &from))?;
    file.sync_data().map_err(WalError::io("flush", &from))?;
    disk.rename(&from, &name)
        .map_err(WalError::io("rename", &from))?;
    disk.sync_directory()
        .map_err(WalError::io("flush", "the log's directory"))?;
    Ok(Active {
        file,
        name,
        number: image.number,
        id: image.segment,
        capacity,
        end,
        flushed: end,
        confirmed: true,
    })
}

/// What a batch's header says before its body is known.
struct BatchStart {
    kind: BatchKind,
    segment: u64,
    sequence: u64,
    known_flushed: u64,
    structural: u64,
}

/// Leaves room for a header; returns where.
fn begin_batch(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.resize(at + BATCH_HEADER_BYTES, 0);
    at
}

/// Fills in the header of the batch that began at `begun` and pads its body.
fn end_batch(out: &mut Vec<u8>, begun: usize, start: &BatchStart, frames: usize) {
    let body = begun + BATCH_HEADER_BYTES;
    let header = encode_batch_header(&BatchHeader {
        kind: start.kind,
        segment: start.segment,
        sequence: start.sequence,
        known_flushed: start.known_flushed,
        structural: start.structural,
        frames: frames as u32,
        body_bytes: u32::try_from(out.len() - body).expect("a batch of 4 GiB"),
        body_checksum: crc32c::crc32c(&out[body..]),
    });
    out[begun..body].copy_from_slice(&header);
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
}
