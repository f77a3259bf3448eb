//! A digest of a replica's whole state, kept up with what changes: clients' keys, the
//! idempotence table, the expiry index, the number of keys. Equal states have equal ones
//! whatever their generation.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use cairn_core::replication::Generation;
use cairn_storage::sim::MemStore;
use cairn_storage::state::{self, ApplyObserver};
use cairn_storage::store::{Store, StoreChange};

/// The sum of its rows' hashes.
pub type Digest = u64;

/// The digests of the generations of a store, as far as somebody asked.
#[derive(Debug, Default)]
pub struct Digests(BTreeMap<Generation, Digest>);

/// Follows what is applied.
#[derive(Debug)]
pub struct Following<'a> {
    digests: &'a mut Digests,
    store: &'a MemStore,
}

/// The hash of a row, whose key is without its generation.
fn row(key: &[u8], value: &[u8]) -> Digest {
    // Which epochs a state remembers depends on how it came about.
    if state::is_metadata(key) && !key.ends_with(b"keys") {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

fn split(key: &[u8]) -> Option<(Generation, &[u8])> {
    let (generation, rest) = key.split_first_chunk::<8>()?;
    Some((Generation(u64::from_be_bytes(*generation)), rest))
}

impl Digests {
    /// The digest of a generation.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn of(&mut self, store: &MemStore, generation: Generation) -> Result<Digest, String> {
        if let Some(known) = self.0.get(&generation) {
            return Ok(*known);
        }
        let (from, to) = state::generation_range(generation);
        let mut digest: Digest = 0;
        store
            .scan(&from, to.as_deref(), &mut |key, value| {
                let (_, rest) = split(&key).unwrap_or((generation, &[]));
                digest = digest.wrapping_add(row(rest, &value));
                true
            })
            .map_err(|error| format!("scan: {error}"))?;
        self.0.insert(generation, digest);
        Ok(digest)
    }

    /// The generation is another one now, or none.
    pub fn forget(&mut self, generation: Generation) {
        self.0.remove(&generation);
    }

    /// Follows what is applied to the store.
    pub fn observe<'a>(&'a mut self, store: &'a MemStore) -> Following<'a> {
        Following {
            digests: self,
            store,
        }
    }
}

impl ApplyObserver for Following<'_> {
    fn before(&mut self, changes: &[StoreChange]) {
        for (key, value) in changes {
            let Some((generation, rest)) = split(key) else {
                continue;
            };
            let Some(digest) = self.digests.0.get_mut(&generation) else {
                continue;
            };
            let old: Option<Bytes> = self.store.get(key).ok().flatten();
            if let Some(old) = old {
                *digest = digest.wrapping_sub(row(rest, &old));
            }
            if let Some(new) = value {
                *digest = digest.wrapping_add(row(rest, new));
            }
        }
    }
}
