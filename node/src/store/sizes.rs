//! About how many bytes each generation of the state takes on the disk.
//!
//! fjall knows the size and the first and last key of each of its tables, and reads nothing
//! for that: a table that lies within one generation is its own, and what several share is
//! spread over them by their keys. So the estimate is rough for small states and close for
//! large ones, whose tables are theirs alone.

use cairn_core::replication::Generation;
use fjall::AbstractTree;

use super::FjallStore;

/// A run of keys, and what it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    first: Generation,
    last: Generation,
    bytes: u64,
}

/// What the estimate was last made from: where it is the same, so is the estimate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Basis {
    version: u64,
    memtable_bytes: u64,
    generations: usize,
}

/// Estimates sizes, and says which are news.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    basis: Option<Basis>,
    /// As told, ascending.
    told: Vec<(Generation, u64)>,
}

/// A change that is smaller than this is no news.
const NEWS_BYTES: u64 = 64 << 10;
/// So is one by less than this part.
const NEWS_PART: u64 = 8;

impl Sizes {
    /// The generations of `keys`, which tells how many keys each holds, ascending, whose
    /// size is not about what was told of them.
    pub(super) fn measure(
        &mut self,
        store: &FjallStore,
        keys: &[(Generation, u64)],
    ) -> Vec<(Generation, u64)> {
        let tree = store.tree();
        let version = tree.current_version();
        let memtable_bytes = tree.active_memtable().size();
        let basis = Basis {
            version: version.id(),
            memtable_bytes,
            generations: keys.len(),
        };
        if self.basis.replace(basis) == Some(basis) {
            return Vec::new();
        }
        let tables = version.iter_tables().map(|table| {
            let range = &table.metadata.key_range;
            Extent {
                first: generation_of(range.min()),
                last: generation_of(range.max()),
                bytes: table.metadata.file_size,
            }
        });
        // Who wrote what is in memory is not known.
        let memtable = Extent {
            first: Generation(0),
            last: Generation(u64::MAX),
            bytes: memtable_bytes,
        };
        self.news(spread(keys, tables.chain([memtable])))
    }

    fn news(&mut self, sizes: Vec<(Generation, u64)>) -> Vec<(Generation, u64)> {
        let mut told = std::mem::take(&mut self.told).into_iter().peekable();
        let mut news = Vec::new();
        for (generation, bytes) in sizes {
            while told.next_if(|(older, _)| *older < generation).is_some() {}
            let before = told.next_if(|(same, _)| *same == generation);
            let known = before
                .filter(|(_, before)| bytes.abs_diff(*before) < NEWS_BYTES.max(before / NEWS_PART));
            let kept = known.unwrap_or((generation, bytes));
            if known.is_none() {
                news.push(kept);
            }
            self.told.push(kept);
        }
        news
    }
}

/// Spreads what each extent takes over the generations that it reaches over, by keys.
fn spread(
    keys: &[(Generation, u64)],
    extents: impl Iterator<Item = Extent>,
) -> Vec<(Generation, u64)> {
    let mut sizes: Vec<(Generation, u64)> = keys.iter().map(|(g, _)| (*g, 0)).collect();
    for extent in extents {
        let from = keys.partition_point(|(g, _)| *g < extent.first);
        let to = keys.partition_point(|(g, _)| *g <= extent.last);
        let all: u64 = keys[from..to].iter().map(|(_, keys)| *keys).sum();
        for at in from..to {
            let share = match all {
                0 => 0,
                all => u128::from(extent.bytes) * u128::from(keys[at].1) / u128::from(all),
            };
            sizes[at].1 += u64::try_from(share).unwrap_or(u64::MAX);
        }
    }
    sizes
}

/// The generation that a key of the store begins with.
fn generation_of(key: &[u8]) -> Generation {
    let number = key
        .first_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes));
    Generation(number.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(of: &[(u64, u64)]) -> Vec<(Generation, u64)> {
        of.iter()
            .map(|(g, bytes)| (Generation(*g), *bytes))
            .collect()
    }

    #[test]
    fn what_several_states_share_is_spread_by_their_keys() {
        let extent = |first, last, bytes| Extent {
            first: Generation(first),
            last: Generation(last),
            bytes,
        };
        let keys = sizes(&[(3, 10), (5, 30), (9, 0)]);
        let extents = [
            extent(5, 5, 1000),
            extent(0, u64::MAX, 400),
            // Of a state that is going or not finished.
            extent(7, 7, 5000),
        ];
        let spread = spread(&keys, extents.into_iter());
        assert_eq!(spread, sizes(&[(3, 100), (5, 1300), (9, 0)]));
    }

    #[test]
    fn only_a_change_by_much_is_news() {
        let mut known = Sizes::default();
        let first = sizes(&[(1, 0), (2, 8 << 20)]);
        assert_eq!(known.news(first.clone()), first);
        assert_eq!(known.news(first), []);
        let little = sizes(&[(1, NEWS_BYTES - 1), (2, 9 << 20), (3, 5)]);
        assert_eq!(known.news(little), sizes(&[(2, 9 << 20), (3, 5)]));
        // Judged against what was told, so that many small changes are news in the end.
        let more = sizes(&[(1, NEWS_BYTES), (2, (9 << 20) + 1), (3, 5)]);
        assert_eq!(known.news(more), sizes(&[(1, NEWS_BYTES)]));
        // One that went and came back is told again.
        assert_eq!(known.news(sizes(&[(2, 9 << 20)])), []);
        assert_eq!(known.news(sizes(&[(1, 1), (2, 9 << 20)])), sizes(&[(1, 1)]));
    }
}
