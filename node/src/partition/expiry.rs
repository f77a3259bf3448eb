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
//! At most [`ROWS_PER_SECOND`] rows in a second, [`AT_ONCE`] partitions at a time. A
//! row is looked at once: it leaves with the key, or because the key no longer needs
//! it. The key's value is read, though not kept: the store has no other way to tell
//! whether it expires.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::{Micros, PartitionId};
use cairn_core::kv::request::{RequestError, WriteLevel, WriteReply};
use cairn_core::kv::{DueKey, ExpiryRow};
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::board::{Cell, NEVER, Published};
use super::clock;
use super::inbox::{Input, Submission, Work};
use super::reply::ReplyQueue;
use super::shared::Shared;
use crate::peer::Throttle;
use crate::store::{Due, DueBounds};

/// How often the numbers are looked at.
const EVERY: Duration = Duration::from_millis(250);
/// How many partitions are swept at a time.
const AT_ONCE: usize = 4;
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
    let throttle = Throttle::new(ROWS_PER_SECOND);
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let now = clock::wall_ms() / 1000;
        let due: Vec<PartitionId> = shared
            .board
            .cells()
            .filter(|(_, cell)| cell.next_expiry() <= now && serving(cell).is_some())
            .map(|(partition, _)| partition)
            .collect();
        let sweeps = due
            .into_iter()
            .map(|partition| sweep(&shared, &throttle, partition, now));
        futures::stream::iter(sweeps)
            .for_each_concurrent(AT_ONCE, |sweep| sweep)
            .await;
    }
}

/// How the primary here stands. Whether it holds the lease is the engine's question,
/// when it evaluates: of a partition that nobody asks, renewals are not told.
fn serving(cell: &Cell) -> Option<Published> {
    cell.load().filter(|published| published.serving)
}

/// Sweeps one partition of what is due by the second `through`.
async fn sweep(shared: &Arc<Shared>, throttle: &Throttle, partition: PartitionId, through: u64) {
    let Some(cell) = shared.board.cell(partition) else {
        return;
    };
    let taken = cell.take_next_expiry();
    match sweep_cell(shared, throttle, partition, cell, taken, through).await {
        Ok(next) => cell.expires(next.map_or(NEVER, |row| row.second)),
        Err(error) => {
            tracing::debug!(%partition, %error, "a sweep for expired keys ended early");
            cell.expires(taken);
        }
    }
}

/// Returns the first row that is left.
async fn sweep_cell(
    shared: &Arc<Shared>,
    throttle: &Throttle,
    partition: PartitionId,
    cell: &Cell,
    first: u64,
    through: u64,
) -> Result<Option<ExpiryRow>, Unswept> {
    let published = applied_to_head(cell, Instant::now() + shared.config.request_timeout).await?;
    let mut from = ExpiryRow {
        second: first,
        key: Bytes::new(),
    };
    loop {
        let reader = shared.reader(partition)?;
        let generation = published.generation;
        let read = tokio::task::spawn_blocking(move || {
            reader.due_blocking(generation, &from, through, PER_ENTRY)
        });
        // The reader ends by a panic only where the process is about to.
        let Due { rows, next } = read
            .await
            .map_err(|_| Unswept::Behind)?
            .map_err(|error| shared.unreadable(partition, &error.into()))?;
        if rows.is_empty() {
            return Ok(next);
        }
        throttle.pass(rows.len()).await;
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
        self.admission.admit(bytes)?;
        self.inbox.push(Input::Submit(Submission {
            partition,
            work: Work::Expire(due),
            reply: queue.reply_to(0),
            level: WriteLevel::Quorum,
            bytes,
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
