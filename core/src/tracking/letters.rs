//! What waits to be told.

use bytes::Bytes;

use crate::ids::{PartitionId, Position};
use crate::seeded::{Bug, is_seeded};

/// A key that has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The partition of the key.
    pub partition: PartitionId,
    /// The key.
    pub key: Bytes,
    /// The version of its new value. `None`: it is gone, or nobody knows.
    pub version: Option<Position>,
}

/// How far a batch of changes has come in the store.
///
/// Whoever is told of a change reads the key again: told too early it would read, and keep,
/// the old value. Told after the applied index of the batch was published, who relies on that
/// index could be ahead of what it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchStage {
    /// It is about to be written: nobody may rely on seeing it.
    Begun,
    /// Everybody who reads here sees it, and nobody was shown its applied index yet.
    Seen,
}

impl BatchStage {
    /// Whether now is when its changes are told.
    #[must_use]
    pub fn tells(self) -> bool {
        if is_seeded(Bug::TellBeforeApplied) {
            return self == Self::Begun;
        }
        self == Self::Seen
    }
}

/// How much waits at most to be told to one reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LettersBounds {
    /// Keys.
    pub keys: usize,
    /// Bytes of keys.
    pub bytes: usize,
}

impl Default for LettersBounds {
    fn default() -> Self {
        Self {
            keys: 8192,
            bytes: 1 << 20,
        }
    }
}

/// What waits to be told to one reader. Past its bounds all that is left to say is that
/// everything may have changed.
#[derive(Debug, Default)]
pub struct Letters {
    keys: Vec<(Bytes, Option<Position>)>,
    bytes: usize,
    all: bool,
    vouched: Option<u64>,
}

/// What is told, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// Everything may have changed.
    pub all: bool,
    /// These keys have changed, with the version of the new value.
    pub keys: Vec<(Bytes, Option<Position>)>,
    /// What was not told to have changed was current when the reader asked under this
    /// number.
    pub vouched: Option<u64>,
}

impl Taken {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.keys.is_empty() && self.vouched.is_none()
    }
}

impl Letters {
    /// A key has changed.
    pub fn changed(&mut self, key: &Bytes, version: Option<Position>, bounds: LettersBounds) {
        if self.all {
            return;
        }
        if self.keys.len() >= bounds.keys || self.bytes + key.len() > bounds.bytes {
            self.all();
            return;
        }
        self.bytes += key.len();
        self.keys.push((key.clone(), version));
    }

    /// Everything may have changed.
    pub fn all(&mut self) {
        self.all = true;
        self.keys = Vec::new();
        self.bytes = 0;
    }

    /// What is not told to have changed was current when the reader asked so. What comes
    /// to be told before this is taken is told with it: less is current then, not more.
    pub fn vouch(&mut self, number: u64) {
        self.vouched = Some(number);
    }

    /// Takes what waits.
    #[must_use]
    pub fn take(&mut self) -> Taken {
        let Self {
            keys, all, vouched, ..
        } = std::mem::take(self);
        Taken { all, keys, vouched }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.keys.is_empty() && self.vouched.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_to_tell_becomes_everything() {
        let bounds = LettersBounds { keys: 2, bytes: 5 };
        let key = Bytes::from_static(b"ab");
        let mut letters = Letters::default();
        letters.changed(&key, None, bounds);
        letters.changed(&key, None, bounds);
        letters.vouch(7);
        let taken = letters.take();
        assert_eq!((taken.keys.len(), taken.vouched), (2, Some(7)));
        assert!(letters.is_empty() && letters.take().is_empty());
        for length in [3, 6] {
            let mut letters = Letters::default();
            letters.changed(&key, None, bounds);
            letters.vouch(8);
            let long = Bytes::from(vec![b'x'; length]);
            letters.changed(&long, None, bounds);
            letters.changed(&key, None, bounds);
            let taken = letters.take();
            let expected = Taken {
                all: true,
                keys: Vec::new(),
                vouched: Some(8),
            };
            assert_eq!(taken, expected);
        }
    }
}
