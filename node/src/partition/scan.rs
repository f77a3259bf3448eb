//! Keys in order, and how many there are: strong reads of many keys at once (rule 6).
//!
//! As with a read of one key, the partition's cell is looked at before and after: what
//! is answered comes from a state that had applied the commit index of the first look,
//! under the lease at both. The store is read on a thread that may block, a bounded
//! number of rows at a time, so that neither a view of the store nor a thread is kept
//! for long; what stands between two pages is the last key alone.
//!
//! Keys past their expiry are left out and not removed: the sweep for them, and reads of
//! single keys, write the entries that do.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::counters::name::is_reserved;
use cairn_core::ids::PartitionId;
use cairn_core::kv::VersionedValue;
use cairn_core::kv::request::{RequestError, Value};
use cairn_core::kv::scan::{Row, ScanPage, ScanQuery};
use cairn_core::replication::Generation;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::board::Published;
use super::clock;
use super::handle::Handle;
use super::read::Unreadable;
use super::shared::Shared;
use crate::store::{KeyRange, StateReader};

/// The most rows that one page looks at, whatever it takes of them.
const EXAMINED_MAX: usize = 16_384;
/// The most bytes of keys and values, wanted or not, that are read at once.
const EXAMINED_BYTES_MAX: usize = 64 << 20;
/// What a row costs beside its bytes.
const ROW_BYTES: usize = 64;

/// What a visit does with a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    /// Goes on.
    Continue,
    /// Goes no further; the key counts as examined.
    Stop,
}

/// How far a visit came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Examined {
    /// Every key of the range.
    All,
    /// Those up to this one.
    Through(Bytes),
}

impl Handle {
    /// A page of a partition's keys.
    ///
    /// # Errors
    /// As [`Handle::read`]; [`RequestError::Overloaded`] where too many scans wait.
    pub async fn scan(&self, query: ScanQuery) -> Result<ScanPage, RequestError> {
        let ScanQuery {
            partition,
            prefix,
            after,
            limit,
            bytes,
            keys_only,
        } = query;
        let range = KeyRange::new(&prefix, after.as_deref());
        let visited = self.visit(partition, range, move || {
            let mut taken = 0;
            let take = move |rows: &mut Vec<Row>, key: &Bytes, mut value: Value| {
                if keys_only {
                    value.data = Bytes::new();
                }
                taken += key.len() + value.data.len() + ROW_BYTES;
                rows.push(Row {
                    key: key.clone(),
                    value,
                });
                if rows.len() >= limit || taken >= bytes {
                    Visit::Stop
                } else {
                    Visit::Continue
                }
            };
            (Vec::new(), take)
        });
        let (rows, examined) = visited.await?;
        let bytes = rows.iter().map(|row| row.key.len() + row.value.data.len());
        self.shared.load.read(bytes.sum());
        let next = match examined {
            Examined::All => None,
            Examined::Through(key) => Some(key),
        };
        Ok(ScanPage { rows, next })
    }

    /// Visits the keys of a range that have not expired, as of one moment that is not
    /// before the call: at most some thousands, ascending. `begin` makes what is
    /// gathered and what is done with each key; it is called again where the lease was
    /// lost meanwhile.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub async fn visit<T, V>(
        &self,
        partition: PartitionId,
        range: KeyRange,
        begin: impl Fn() -> (T, V),
    ) -> Result<(T, Examined), RequestError>
    where
        T: Send + 'static,
        V: FnMut(&mut T, &Bytes, Value) -> Visit + Send + 'static,
    {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.config.request_timeout;
        loop {
            let first = shared.settled(partition, deadline).await?;
            let visit = begin();
            let visited = shared.examine(partition, first.generation, &range, visit, deadline);
            let visited = visited.await?;
            let cell = shared.board.cell(partition);
            if cell.is_some_and(|cell| shared.still_leads(cell, &first)) {
                return Ok(visited);
            }
            if Instant::now() >= deadline {
                return Err(RequestError::NotReady { partition });
            }
        }
    }

    /// As [`Self::visit`], in this replica's own state, whatever its role and however old.
    ///
    /// # Errors
    /// [`RequestError::Moved`] where no replica lives here whose state is whole.
    pub async fn visit_any<T, V>(
        &self,
        partition: PartitionId,
        range: KeyRange,
        visit: (T, V),
    ) -> Result<(T, Examined), RequestError>
    where
        T: Send + 'static,
        V: FnMut(&mut T, &Bytes, Value) -> Visit + Send + 'static,
    {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.config.request_timeout;
        let first = shared.readable(partition)?;
        let visited = shared.examine(partition, first.generation, &range, visit, deadline);
        let visited = visited.await;
        // A state that was given up meanwhile may have been read half deleted.
        if shared.still_readable(partition, &first)?.is_none() {
            return Err(RequestError::NotReady { partition });
        }
        visited
    }

    /// How many keys a partition holds, those past their expiry that are not removed yet
    /// included, as of one moment that is not before the call.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn count(&self, partition: PartitionId) -> Result<u64, RequestError> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.config.request_timeout;
        loop {
            let first = shared.settled(partition, deadline).await?;
            let keys = shared.reader(partition)?.keys(first.generation);
            let cell = shared.board.cell(partition);
            if cell.is_some_and(|cell| shared.still_leads(cell, &first)) {
                return Ok(keys);
            }
            if Instant::now() >= deadline {
                return Err(RequestError::NotReady { partition });
            }
        }
    }

    /// The partitions that this node is primary of, ascending.
    #[must_use]
    pub fn led(&self) -> Vec<PartitionId> {
        let map = self.shared.map.load();
        let led = map.partitions.iter().map(|record| record.id);
        led.filter(|partition| self.leads(*partition)).collect()
    }

    /// Whether this node is primary of a partition, able to serve it just now or not.
    #[must_use]
    pub fn leads(&self, partition: PartitionId) -> bool {
        let here = self.shared.board.load(partition);
        here.is_some_and(|here| here.is_primary(self.shared.config.node))
    }

    /// How many keys the partitions hold that this node is primary of, as far as they
    /// are applied here.
    #[must_use]
    pub fn keys(&self) -> Option<u64> {
        let reader = self.shared.reader.load_full()?;
        let node = self.shared.config.node;
        let map = self.shared.map.load();
        let here = map
            .partitions
            .iter()
            .filter_map(|record| self.shared.board.load(record.id))
            .filter(|here| here.is_primary(node));
        Some(here.map(|here| reader.keys(here.generation)).sum())
    }
}

impl Shared {
    /// Waits until the partition may be answered for from a state that has applied what
    /// was committed when it was asked for.
    async fn settled(
        &self,
        partition: PartitionId,
        deadline: Instant,
    ) -> Result<Published, RequestError> {
        let Some(cell) = self.board.cell(partition) else {
            return Err(self.moved(partition, None));
        };
        self.may_read(partition, cell, &mut None, deadline).await
    }

    /// Reads rows of a generation, on a thread that may block.
    async fn examine<T, V>(
        &self,
        partition: PartitionId,
        generation: Generation,
        range: &KeyRange,
        (mut gathered, mut visit): (T, V),
        deadline: Instant,
    ) -> Result<(T, Examined), RequestError>
    where
        T: Send + 'static,
        V: FnMut(&mut T, &Bytes, Value) -> Visit + Send + 'static,
    {
        let permit = Arc::clone(&self.scanning).acquire_owned();
        let Ok(Ok(permit)) = timeout_at(deadline, permit).await else {
            return Err(RequestError::Overloaded);
        };
        let reader: Arc<StateReader> = self.reader(partition)?;
        let range = range.clone();
        let examined = spawn_blocking(move || {
            // Whoever asked may have gone: the thread works on and keeps its place.
            let _permit = permit;
            let examined = read_rows(&reader, generation, &range, deadline, &mut |key, value| {
                visit(&mut gathered, key, value)
            })?;
            Ok::<_, Unreadable>((gathered, examined))
        });
        match examined.await {
            Ok(Ok(examined)) => Ok(examined),
            Ok(Err(error)) => Err(self.unreadable(partition, &error)),
            // It panicked, and has printed why, or the node stops.
            Err(_) => Err(RequestError::NotReady { partition }),
        }
    }
}

fn read_rows(
    reader: &StateReader,
    generation: Generation,
    range: &KeyRange,
    deadline: Instant,
    visit: &mut dyn FnMut(&Bytes, Value) -> Visit,
) -> Result<Examined, Unreadable> {
    let now = clock::wall_ms();
    let (mut examined, mut bytes, mut through, mut strange) = (0, 0, None, None);
    reader.visit_blocking(generation, range, &mut |key, stored| {
        examined += 1;
        bytes += key.len() + stored.len();
        let value = match VersionedValue::decode(stored) {
            Ok(value) => value,
            Err(error) => {
                strange = Some(error);
                return false;
            }
        };
        let stop = examined >= EXAMINED_MAX
            || bytes >= EXAMINED_BYTES_MAX
            || Instant::now() >= deadline
            || (!value.value.expired(now)
                && !is_reserved(&key)
                && visit(&key, super::read::to_value(value)) == Visit::Stop);
        if stop {
            through = Some(key);
        }
        !stop
    })?;
    if let Some(error) = strange {
        return Err(error.into());
    }
    Ok(through.map_or(Examined::All, Examined::Through))
}
