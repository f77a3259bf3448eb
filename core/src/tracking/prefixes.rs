//! Readers that are told of all keys that begin in some way, whether they read them or not.

use bytes::Bytes;

/// The beginnings of keys. All keys begin with the empty one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Prefixes(Vec<Bytes>);

/// Two prefixes of which one begins with the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collision {
    /// One that is new.
    pub prefix: Bytes,
    /// One that was there before, or comes later among the new ones.
    pub other: Bytes,
    /// Whether it was there before.
    pub is_old: bool,
}

impl Prefixes {
    /// These, and those that were there before.
    ///
    /// # Errors
    /// Where one begins with another: a key would be told twice.
    pub fn with(&self, more: &[Bytes]) -> Result<Self, Collision> {
        for (at, prefix) in more.iter().enumerate() {
            let old = self.0.iter().map(|other| (other, true));
            let new = more[at + 1..].iter().map(|other| (other, false));
            let clash = |(other, _): &(&Bytes, bool)| {
                prefix.starts_with(other) || other.starts_with(prefix)
            };
            if let Some((other, is_old)) = old.chain(new).find(clash) {
                return Err(Collision {
                    prefix: prefix.clone(),
                    other: other.clone(),
                    is_old,
                });
            }
        }
        let all = self.0.iter().chain(more);
        Ok(Self(all.map(|one| Bytes::copy_from_slice(one)).collect()))
    }

    /// Whether a key is meant.
    #[must_use]
    pub fn match_key(&self, key: &[u8]) -> bool {
        self.0.iter().any(|prefix| key.starts_with(prefix))
    }

    /// Each of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Bytes] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[&'static str]) -> Vec<Bytes> {
        words.iter().map(|word| Bytes::from(*word)).collect()
    }

    #[test]
    fn prefixes_match_and_do_not_overlap() {
        let none = Prefixes::default();
        assert!(!none.match_key(b"x"));
        let every = none.with(&bytes(&[""])).unwrap();
        assert!(every.match_key(b"") && every.match_key(b"x"));
        let some = none.with(&bytes(&["a:", "b:"])).unwrap();
        assert!(some.match_key(b"a:1") && some.match_key(b"b:") && !some.match_key(b"c"));
        let more = some.with(&bytes(&["c", "d"])).unwrap();
        assert!(more.match_key(b"a:") && more.match_key(b"d1"));
        let clash = some.with(&bytes(&["a:1"])).unwrap_err();
        assert_eq!((&clash.other[..], clash.is_old), (&b"a:"[..], true));
        let clash = some.with(&bytes(&["c:", "c"])).unwrap_err();
        assert_eq!((&clash.prefix[..], clash.is_old), (&b"c:"[..], false));
    }
}
