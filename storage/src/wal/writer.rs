//! Writes the log: batches, flushes, segments.

use std::fmt;

use cairn_core::ids::{Index, PartitionId};
use cairn_core::replication::{DurableRecord, Generation, PartitionMeta};

use super::fold::{Fold, Misplaced, head, rewound};
use super::history::{History, LogReader};
use super::image::{
    Active, BatchStart, CLOSING_BYTES, Image, ImageParts, TailBatch, begin_batch, end_batch, place,
    shorten, spare_name, tidy,
};
use super::ledger::Ledger;
use super::recovery::{Continuation, Recovery, recover};
use super::unapplied::Unapplied;
use super::{WalError, WalOptions, is_structural, segment_name};
use crate::disk::{Disk, DiskFile};
use crate::format::batch::{BATCH_HEADER_BYTES, BatchKind, SECTOR_BYTES};
use crate::format::meta::{CheckpointRow, put_row};
use crate::format::record::{Logged, put_frame, put_record, size_hint};
use crate::format::segment_header::{LogIdentity, Predecessor};
use crate::store::Store;

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
    history: History,
    unapplied: Unapplied,
    /// What was found wrong with records since it was last asked.
    misplaced: Vec<Misplaced>,
    batch_sequence: u64,
    /// The number of the last record appended since the log was opened.
    records: u64,
    spares: Vec<String>,
    /// Whether [`WalOptions::kept_bytes`] counts.
    keeping: bool,
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
            catalog,
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
        });
        let active = place(&disk, &options, &mut spares, &image)?;
        if let Some((name, end)) = cut {
            // The new segment's header has cut it already; this returns its space.
            shorten(&disk, &name, end)?;
            ledger.shortened(end);
        }
        let history = History::new(catalog);
        note_image(&history, &image, &tail);
        for logged in tail.iter().flat_map(|batch| &batch.records) {
            ledger.take(&logged.record);
        }
        let mut unapplied = Unapplied::default();
        for found in &recovery.partitions {
            unapplied.recover(found);
        }
        let wal = Self {
            disk,
            options,
            identity,
            random,
            active,
            fold,
            ledger,
            history,
            unapplied,
            misplaced: Vec::new(),
            batch_sequence: image.batch_sequence,
            records: 0,
            spares,
            keeping: true,
            buffer: Vec::new(),
        };
        Ok((wal, recovery))
    }

    /// Appends records and flushes them. Returns the number of the last one, counted
    /// from 1 for the first since the log was opened.
    ///
    /// A record that does not follow from those before it is not written: its replica
    /// is put down as corrupt in its place, and [`Self::take_misplaced`] names it.
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
            self.append_batch(batch, rest.is_empty())?;
            left = rest;
        }
        self.flush()?;
        self.records += records.len() as u64;
        Ok(self.records)
    }

    /// What [`Self::append`] found wrong since this was last called. To be told to
    /// replication before anything of that append counts as flushed.
    pub fn take_misplaced(&mut self) -> Vec<Misplaced> {
        std::mem::take(&mut self.misplaced)
    }

    /// Goes over to another segment unless that many bytes fit, with the filling behind
    /// them and the closing batch.
    fn make_room(&mut self, bytes: u64) -> Result<(), WalError> {
        let end = (self.active.end + bytes).next_multiple_of(SECTOR_BYTES);
        if end + CLOSING_BYTES > self.active.capacity {
            self.roll(bytes.next_multiple_of(SECTOR_BYTES))?;
        }
        Ok(())
    }

    /// `last`: a flush follows.
    fn append_batch(&mut self, records: &[DurableRecord], last: bool) -> Result<(), WalError> {
        let most: usize = records.iter().map(size_hint).sum();
        // First, since a new segment begins with what was true before these records.
        self.make_room((BATCH_HEADER_BYTES + most) as u64)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let begun = begin_batch(&mut buffer);
        let structural = self.fold.structural;
        let mut written = 0;
        let (history, offset) = (self.history.clone(), self.active.end);
        let mut catalog = history.lock();
        for record in records {
            let taken = self.fold.take(record);
            let instead = taken.err().map(|error| self.misplace(error));
            let record = match &instead {
                None => record,
                Some(Some(instead)) => instead,
                Some(None) => continue,
            };
            self.ledger.take(record);
            catalog.note(offset, record);
            // Nothing but mending cuts a log with a missing range.
            let mends = matches!(record, DurableRecord::Truncate { .. })
                && self.unapplied.is_broken(record.partition());
            self.unapplied.take(record);
            let promised = self.fold.promised(record.partition());
            put_frame(&mut buffer, |out| put_record(out, record, promised, mends));
            written += 1;
        }
        let changed = self.fold.structural > structural;
        drop(catalog);
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
            written,
            (last && !changed).then_some(self.active.end),
        );
        self.write(&buffer)?;
        self.active.confirmed = false;
        self.active.empty = None;
        if changed {
            self.append_rows(records, &mut buffer, last)?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Puts the replica down as corrupt whose record does not follow: no other one on
    /// the node is to suffer for it. Returns what is written in the record's place.
    fn misplace(&mut self, error: Misplaced) -> Option<DurableRecord> {
        let partition = error.partition;
        let row = self.fold.row(partition);
        let known = row.is_some_and(|row| row.corrupt);
        let replica = row.and_then(|row| row.meta.replica);
        if !known {
            self.misplaced.push(error);
        }
        let corrupt = DurableRecord::Corrupt {
            partition,
            replica: replica?,
        };
        self.fold.take(&corrupt).ok()?;
        Some(corrupt)
    }

    /// Repeats what structural records made of their partitions.
    fn append_rows(
        &mut self,
        records: &[DurableRecord],
        buffer: &mut Vec<u8>,
        last: bool,
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
        let mut written = 0;
        for row in changed.iter().filter_map(|p| self.fold.row(*p)) {
            put_frame(buffer, |out| put_row(out, row));
            written += 1;
        }
        let end = (self.active.end + buffer.len() as u64).next_multiple_of(SECTOR_BYTES);
        if end + CLOSING_BYTES > self.active.capacity {
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
            written,
            last.then_some(self.active.end),
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
            self.history.lock().flushed(self.active.end);
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
        self.append_empty()?;
        self.active.confirmed = true;
        Ok(())
    }

    /// Writes to the disk and flushes, to find out whether that still works, and
    /// leaves the log as it is: the empty batch at its end is written once more, byte
    /// for byte, or one is written where there is none.
    ///
    /// # Errors
    /// See [`WalError`].
    pub fn probe(&mut self) -> Result<u64, WalError> {
        self.confirm()?;
        match &self.active.empty {
            Some((at, batch)) => self
                .active
                .file
                .write_at(*at, batch)
                .and_then(|()| self.active.file.sync_data())
                .map_err(WalError::io("probe", &self.active.name))?,
            None => self.append_empty()?,
        }
        Ok(self.records)
    }

    /// Writes and flushes an empty batch, where there is room.
    fn append_empty(&mut self) -> Result<(), WalError> {
        let at = self.active.end;
        let mut buffer = Vec::with_capacity(CLOSING_BYTES as usize);
        let begun = begin_batch(&mut buffer);
        end_batch(
            &mut buffer,
            begun,
            &BatchStart {
                kind: BatchKind::Empty,
                segment: self.active.id,
                sequence: self.batch_sequence + 1,
                known_flushed: self.active.flushed,
                structural: self.fold.structural,
            },
            0,
            Some(at),
        );
        if at + buffer.len() as u64 > self.active.capacity {
            return Ok(());
        }
        self.batch_sequence += 1;
        self.write(&buffer)?;
        self.flush()?;
        self.active.empty = Some((at, buffer));
        Ok(())
    }

    /// Closes the segment and opens the next, with room for `needed` bytes.
    fn roll(&mut self, needed: u64) -> Result<(), WalError> {
        self.flush()?;
        let checkpoint: Vec<CheckpointRow> = self.fold.rows().cloned().collect();
        let mut image = self.next_image(&checkpoint, &[]);
        image.room = needed;
        self.go_over_to(&image, &[])?;
        Ok(())
    }

    fn next_image(&mut self, checkpoint: &[CheckpointRow], tail: &[TailBatch]) -> Image {
        Image::build(&ImageParts {
            identity: &self.identity,
            number: self.active.number + 1,
            segment: (self.random)(),
            predecessor: Some(Predecessor {
                segment: self.active.id,
                end: self.active.end,
            }),
            batch_sequence: self.batch_sequence,
            structural: self.fold.structural,
            checkpoint,
            tail,
        })
    }

    /// Returns the name of the segment that was left.
    fn go_over_to(&mut self, image: &Image, tail: &[TailBatch]) -> Result<String, WalError> {
        let next = place(&self.disk, &self.options, &mut self.spares, image)?;
        let old = std::mem::replace(&mut self.active, next);
        self.batch_sequence = image.batch_sequence;
        note_image(&self.history, image, tail);
        self.ledger.close(
            old.number,
            old.capacity,
            old.capacity == self.options.segment_bytes,
        );
        Ok(old.name)
    }

    /// Where the log is too large and little keeps its oldest segment: goes over to a
    /// segment that begins with that. Its checkpoint says how the log stood before what
    /// is carried, so that recovery reads both like any log.
    fn unpin_oldest(&mut self) -> Result<(), WalError> {
        let Some((oldest, mut pins)) = self.ledger.pins_of_oldest(&self.fold) else {
            return Ok(());
        };
        let (broken, whole): (Vec<_>, Vec<_>) =
            pins.drain(..).partition(|p| self.unapplied.is_broken(*p));
        if !broken.is_empty() {
            self.give_up(&broken)?;
        }
        let bytes: u64 = whole.iter().map(|p| self.unapplied.bytes(*p)).sum();
        let most = (self.options.segment_bytes / 2).min(oldest / 4 * 3);
        if whole.is_empty() || bytes > most {
            return Ok(());
        }
        self.flush()?;
        let mut checkpoint: Vec<CheckpointRow> = self.fold.rows().cloned().collect();
        let mut tail = vec![TailBatch::default()];
        let mut taken = 0;
        for row in &mut checkpoint {
            let partition = row.meta.partition;
            if !whole.contains(&partition) {
                continue;
            }
            let Some((before, entries)) = self.unapplied.of(partition, head(&row.meta)) else {
                return Ok(());
            };
            let promised = row.meta.promised;
            *row = rewound(row, before);
            for entry in entries {
                let record = DurableRecord::Entry { partition, entry };
                taken += size_hint(&record);
                if taken > self.options.batch_bytes {
                    taken = 0;
                    tail.push(TailBatch::default());
                }
                if let Some(batch) = tail.last_mut() {
                    batch.records.push(Logged {
                        record,
                        promised,
                        mends: false,
                    });
                }
            }
        }
        tail.retain(|batch| !batch.records.is_empty());
        let image = self.next_image(&checkpoint, &tail);
        if image.bytes.len() as u64 > oldest / 4 * 3 {
            // Nothing would be won: the log would only be written again and again.
            return Ok(());
        }
        let end = self.active.end;
        let left = self.go_over_to(&image, &tail)?;
        for partition in whole {
            if let Some(row) = self.fold.row(partition) {
                self.ledger.carried(partition, head(&row.meta).index());
            }
        }
        // The segment that was left before it was full keeps no space for what never
        // came.
        shorten(&self.disk, &left, end)?;
        self.ledger.shortened(end);
        Ok(())
    }

    /// Gives up the hope to mend logs with a missing range: the disk needs the room.
    fn give_up(&mut self, partitions: &[PartitionId]) -> Result<(), WalError> {
        let mut records = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let row = self.fold.row(*partition);
            if let Some(replica) = row.and_then(|row| row.meta.replica) {
                self.misplaced.push(Misplaced {
                    partition: *partition,
                    reason: "what stands behind the missing range has to go",
                });
                records.push(DurableRecord::Corrupt {
                    partition: *partition,
                    replica,
                });
            }
        }
        self.append_batch(&records, true)?;
        self.flush()
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
        let current = self
            .fold
            .row(partition)
            .is_some_and(|row| row.meta.generation == generation);
        if current {
            self.unapplied.applied(partition, index);
        }
    }

    /// Whether what nobody needs may stay for a while, as it does at first: the disk has
    /// the room.
    pub fn set_keeping(&mut self, keeping: bool) {
        self.keeping = keeping;
    }

    /// Lets go of the oldest segment if it may go; `true` if it went. Where the log is
    /// larger than it may be, the little that keeps it is carried forward first.
    ///
    /// # Errors
    /// See [`WalError`].
    pub fn reclaim(&mut self) -> Result<bool, WalError> {
        let pressed = self.bytes() > self.options.total_bytes;
        if pressed {
            self.unpin_oldest()?;
        }
        let Some(oldest) = self.ledger.oldest_to_go(&self.fold, pressed) else {
            return Ok(false);
        };
        let closed = self.ledger.closed_bytes();
        let keeps = self.keeping && !pressed;
        if keeps && closed.saturating_sub(oldest.bytes) < self.options.kept_bytes {
            return Ok(false);
        }
        let name = segment_name(oldest.number);
        self.history.lock().remove(oldest.number);
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

    /// For reading committed entries back, on another thread if need be.
    #[must_use]
    pub fn reader(&self) -> LogReader<D>
    where
        D: Clone,
    {
        LogReader::new(self.disk.clone(), self.history.clone())
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
    /// prepared beside with [`prepare_spare`](super::prepare_spare) and handed over with
    /// [`Self::add_spare`].
    #[must_use]
    pub fn wants_spare(&self) -> bool {
        self.options.spares > 0
            && self.spares.is_empty()
            && self.active.end > self.active.capacity / 2
    }

    /// Takes a file that [`prepare_spare`](super::prepare_spare) made.
    pub fn add_spare(&mut self, name: String) {
        self.spares.push(name);
    }

    /// The cluster that admitted the node, for the headers of segments to come.
    pub fn set_cluster(&mut self, cluster: String) {
        self.identity.cluster = cluster;
    }
}

/// Puts down where the entries stand that a new segment begins with.
fn note_image(history: &History, image: &Image, tail: &[TailBatch]) {
    let mut catalog = history.lock();
    catalog.begin(image.number, image.segment, image.bytes.len() as u64);
    for (offset, batch) in image.tail_at.iter().zip(tail) {
        for logged in &batch.records {
            catalog.note(*offset, &logged.record);
        }
    }
}
