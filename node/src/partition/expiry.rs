//! The active expirer: it finds the keys whose time is past in the partitions that this
//! node leads, and has them deleted by entries (rule 6).
//!
//! Each partition's expiry index ([`cairn_core::kv::expiry`]) names what is due. A
//! cell of the board holds the second before which its index has no row, so that a
//! partition where nothing is due costs a look at a number, and one where nothing
//! expires nothing else ever.
//!
//! # That no row is missed
//! Whoever sweeps takes the number away, sees to it that the store has applied the head
//! that is published *afterwards*, and reads the index. The engine lowers the number
//! for an entry only after it published a head that covers the entry. So either the
//! entry's row is read, or the number is lowered after it was taken.
//!
//! # What it costs
//! At most [`ROWS_PER_SECOND`] rows in a second, read from [`READS_AT_ONCE`] indexes at a
//! time. A row is looked at once: it leaves with the key, or because the key no longer
//! needs it. The key's value is read, though not kept: the store has no other way to tell
//! whether it expires.
//!
//! No partition waits for another: one without a quorum waits alone, for its lease, and
//! holds nothing meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::{Micros, PartitionId};
use cairn_core::kv::request::{RequestError, WriteLevel, WriteReply};
use cairn_core::kv::{DueKey, ExpiryRow};
use cairn_core::replication::Generation;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::admission::Place;
use super::board::{Cell, NEVER, Published};
use super::clock;
use super::inbox::{Input, Submission, Work};
use super::reply::ReplyQueue;
use super::shared::Shared;
use crate::peer::Throttle;
use crate::store::{Due, DueBounds};

/// How often the numbers are looked at.
const EVERY: Duration = Duration::from_millis(250);
/// How many indexes are read at a time: each keeps a thread busy.
const READS_AT_ONCE: usize = 4;
/// The most rows that are looked at in a second: as many as writes could bring, and
/// a burst of keys that expire together leaves room for clients.
const ROWS_PER_SECOND: u64 = 50_000;
/// What one entry deletes at most: a client's write of one of its keys waits for it.
const PER_ENTRY: DueBounds = DueBounds {
    rows: 256,
    bytes: 256 << 10,
};

/// Why a sweep ended early. It is made again.
#[derive(Debug, thiserror::Error)]
enum Unswept {
    #[error("this node does not serve the partition")]
    NotServing,
    #[error("the store has not come far enough")]
    Behind,
    #[error("the clock was set back")]
    ClockBack,
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Sweeps for as long as it is polled.
pub(super) async fn run(shared: Arc<Shared>) {
    let sweeper = Sweeper {
        shared,
        throttle: Throttle::new(ROWS_PER_SECOND),
        reading: Semaphore::new(READS_AT_ONCE),
    };
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeps = FuturesUnordered::new();
    // One sweep at a time of each: whoever takes the number away is alone with the index.
    let mut swept = BTreeSet::new();
    loop {
        tokio::select! {
            _ = rounds.tick() => {
                let now = clock::wall_ms() / 1000;
                for partition in sweeper.due(now) {
                    if swept.insert(partition) {
                        sweeps.push(sweeper.sweep(partition, now).map(move |()| partition));
                    }
                }
            }
            Some(partition) = sweeps.next() => {
                swept.remove(&partition);
            }
        }
    }
}

/// How the primary here stands. Whether it holds the lease is the engine's question,
/// when it evaluates: of a partition that nobody asks, renewals are not told.
fn serving(cell: &Cell) -> Option<Published> {
    cell.load().filter(|published| published.serving)
}

struct Sweeper {
    shared: Arc<Shared>,
    throttle: Throttle,
    reading: Semaphore,
}

impl Sweeper {
    /// The partitions that this node serves where something is due by the second `now`.
    fn due(&self, now: u64) -> impl Iterator<Item = PartitionId> {
        let cells = self.shared.board.cells();
        cells
            .filter(move |(_, cell)| cell.next_expiry() <= now && serving(cell).is_some())
            .map(|(partition, _)| partition)
    }

    /// Sweeps one partition of what is due by the second `through`.
    async fn sweep(&self, partition: PartitionId, through: u64) {
        let Some(cell) = self.shared.board.cell(partition) else {
            return;
        };
        let taken = cell.take_next_expiry();
        match self.sweep_cell(partition, cell, taken, through).await {
            Ok(next) => cell.expires(next.map_or(NEVER, |row| row.second)),
            Err(error) => {
                tracing::debug!(%partition, %error, "a sweep for expired keys ended early");
                cell.expires(taken);
            }
        }
    }

    /// Returns the first row that is left.
    async fn sweep_cell(
        &self,
        partition: PartitionId,
        cell: &Cell,
        first: u64,
        through: u64,
    ) -> Result<Option<ExpiryRow>, Unswept> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.config.request_timeout;
        // Without the lease there may be no quorum: what were written then would hold its
        // place among the writes that wait, and clients' writes would find none.
        shared
            .may_read(partition, cell, &mut None, deadline)
            .await?;
        let published = applied_to_head(cell, deadline).await?;
        let mut from = ExpiryRow {
            second: first,
            key: Bytes::new(),
        };
        loop {
            // Few sweeps hold what they read while they wait for their turn. Never closed.
            let reading = self.reading.acquire().await;
            let Due { rows, next } = self
                .read(partition, published.generation, from, through)
                .await?;
            if rows.is_empty() {
                return Ok(next);
            }
            self.throttle.pass(rows.len()).await;
            drop(reading);
            let due = rows.into_iter().map(DueKey::from).collect();
            shared.expire(partition, due).await?;
            // What was due by the clock of this sweep may not have been by the engine's.
            if clock::wall_ms() / 1000 < through {
                return Err(Unswept::ClockBack);
            }
            match next {
                Some(row) if row.second <= through => from = row,
                next => return Ok(next),
            }
        }
    }

    /// Reads of the index what one entry deletes.
    async fn read(
        &self,
        partition: PartitionId,
        generation: Generation,
        from: ExpiryRow,
        through: u64,
    ) -> Result<Due, Unswept> {
        let reader = self.shared.reader(partition)?;
        let read = tokio::task::spawn_blocking(move || {
            reader.due_blocking(generation, &from, through, PER_ENTRY)
        });
        // The reader ends by a panic only where the process is about to.
        let read = read.await.map_err(|_| Unswept::Behind)?;
        Ok(read.map_err(|error| self.shared.unreadable(partition, &error.into()))?)
    }
}

/// Waits until the store has applied what is published as the head now.
async fn applied_to_head(cell: &Cell, deadline: Instant) -> Result<Published, Unswept> {
    let first = serving(cell).ok_or(Unswept::NotServing)?;
    loop {
        let watching = cell.watch();
        let mut changed = std::pin::pin!(watching.changed());
        changed.as_mut().enable();
        let now = serving(cell)
            .filter(|now| (now.epoch, now.generation) == (first.epoch, first.generation))
            .ok_or(Unswept::NotServing)?;
        if now.applied >= first.head {
            return Ok(now);
        }
        timeout_at(deadline, changed)
            .await
            .map_err(|_| Unswept::Behind)?;
    }
}

impl Shared {
    /// Has those keys deleted whose time is past, and waits until that has committed.
    pub(super) async fn expire(
        &self,
        partition: PartitionId,
        due: Vec<DueKey>,
    ) -> Result<WriteReply, RequestError> {
        let mut queue = ReplyQueue::with_capacity(1);
        let bytes = due.iter().map(|due| due.key.len() + 64).sum();
        let place = Place {
            level: WriteLevel::Quorum,
            bytes,
        };
        self.admission.admit(place)?;
        self.inbox.push(Input::Submit(Submission {
            partition,
            work: Work::Expire(due),
            reply: queue.reply_to(0),
            place,
            arrived: Micros(0),
        }));
        match queue.take(1).await.pop() {
            Some((_, Ok(reply))) => Ok(reply),
            // An expiry changes nothing that anyone could miss.
            Some((_, Err(RequestError::Unknown))) | None => {
                Err(RequestError::NotReady { partition })
            }
            Some((_, Err(error))) => Err(error),
        }
    }
}
