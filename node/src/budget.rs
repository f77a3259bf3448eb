//! Room in memory that many connections share.
//!
//! Whoever is to hold many bytes for a client takes room for them first, in the order of
//! asking, and gives it back by dropping the [`Room`]. What is short is not accounted
//! for: it is bounded by the number of connections.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room is counted in units of so many bytes, since a permit counts in 32 bits.
const UNIT: usize = 1024;

/// Bytes that may be held at a time.
#[derive(Clone, Debug)]
pub struct Budget {
    room: Arc<Semaphore>,
    units: usize,
}

/// Bytes that are held. An empty one holds none.
#[derive(Debug, Default)]
pub struct Room {
    permit: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// Room for so many bytes, rounded up to whole KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = bytes
            .div_ceil(UNIT)
            .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            room: Arc::new(Semaphore::new(units)),
            units,
        }
    }

    /// Waits for so many bytes, after all who asked before. Who asks for more than there
    /// is in all gets everything.
    pub fn take(&self, bytes: usize) -> impl Future<Output = Room> + Send + use<> {
        let units = u32::try_from(bytes.div_ceil(UNIT).min(self.units)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room);
        async move {
            Room {
                // Never closed.
                permit: room.acquire_many_owned(units).await.ok(),
            }
        }
    }

    /// Takes so many bytes if they are there and nobody waits for some.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<Room> {
        let units = u32::try_from(bytes.div_ceil(UNIT).min(self.units)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).try_acquire_many_owned(units).ok()?;
        Some(Room {
            permit: Some(permit),
        })
    }

    /// How many bytes there are in all.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.units * UNIT
    }

    /// How many bytes are free.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.room.available_permits() * UNIT
    }
}

impl Room {
    /// How many bytes are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit
            .as_ref()
            .map_or(0, |permit| permit.num_permits() * UNIT)
    }

    /// Whether none are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.permit.is_none()
    }

    /// Adds what another one holds.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.permit, other.permit) {
            (Some(own), Some(more)) => own.merge(more),
            (own @ None, more) => *own = more,
            (Some(_), None) => {}
        }
    }

    /// Gives back what is held beyond so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            let spare = permit.num_permits().saturating_sub(bytes.div_ceil(UNIT));
            drop(permit.split(spare));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_given_in_turn_and_comes_back() {
        let budget = Budget::new(10 << 10);
        let mut first = budget.take(4000).await;
        assert_eq!((first.bytes(), budget.free_bytes()), (4096, 6 << 10));
        let large = tokio::spawn(budget.take(8 << 10));
        tokio::task::yield_now().await;
        // There is room for a small one, but it came later.
        assert!(budget.try_take(1024).is_none());
        first.shrink_to(1024);
        assert_eq!(first.bytes(), 1024);
        drop(first);
        let mut large = large.await.expect("it ends");
        assert_eq!(large.bytes(), 8 << 10);
        large.merge(budget.try_take(1).expect("there is room"));
        assert_eq!((large.bytes(), budget.free_bytes()), (9 << 10, 1 << 10));
        drop(large);
        assert_eq!(budget.free_bytes(), 10 << 10);
    }

    #[tokio::test]
    async fn who_asks_for_more_than_there_is_gets_all() {
        let budget = Budget::new(10 << 10);
        let all = budget.take(1 << 40).await;
        assert_eq!((all.bytes(), budget.free_bytes()), (10 << 10, 0));
    }
}
