//! A store in memory that keeps, of what was not persisted, a first part.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::store::{Store, StoreChange, StoreError};

#[derive(Debug, Default)]
struct Inner {
    map: BTreeMap<Bytes, Bytes>,
    persisted: BTreeMap<Bytes, Bytes>,
    /// Batches since the last persist.
    unpersisted: Vec<Vec<StoreChange>>,
    fail_persist: bool,
}

fn apply(map: &mut BTreeMap<Bytes, Bytes>, changes: &[StoreChange]) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

/// A store in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemStore {
    inner: Arc<Mutex<Inner>>,
}

impl MemStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a test's store")
    }

    /// Cuts the power: of the batches that were not persisted a first part stays,
    /// `choose(n)` (below `n`) of them.
    pub fn lose_power(&self, choose: &mut dyn FnMut(u64) -> u64) {
        let mut inner = self.inner();
        let batches = std::mem::take(&mut inner.unpersisted);
        let kept = choose(batches.len() as u64 + 1) as usize;
        let mut map = inner.persisted.clone();
        for batch in batches.iter().take(kept) {
            apply(&mut map, batch);
        }
        inner.persisted.clone_from(&map);
        inner.map = map;
    }

    /// Lets the next persist fail.
    pub fn fail_next_persist(&self) {
        self.inner().fail_persist = true;
    }
}

impl Store for MemStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.inner().map.get(key).cloned())
    }

    fn write(&self, changes: &[StoreChange]) -> Result<(), StoreError> {
        let mut inner = self.inner();
        apply(&mut inner.map, changes);
        inner.unpersisted.push(changes.to_vec());
        Ok(())
    }

    fn persist(&self) -> Result<(), StoreError> {
        let mut inner = self.inner();
        if std::mem::take(&mut inner.fail_persist) {
            return Err(StoreError {
                action: "persist",
                reason: "the flush failed".to_owned(),
                damaged: false,
            });
        }
        for batch in std::mem::take(&mut inner.unpersisted) {
            apply(&mut inner.persisted, &batch);
        }
        Ok(())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), StoreError> {
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        let rows: Vec<(Bytes, Bytes)> = {
            let inner = self.inner();
            let rows = inner.map.range::<[u8], _>((Bound::Included(from), upper));
            rows.map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        for (key, value) in rows {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}
