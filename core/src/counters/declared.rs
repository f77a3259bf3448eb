//! Which keys may become striped counters: agreed by the cluster, by prefix.

use std::collections::BTreeMap;

use super::name::{COUNTER_KEY_BYTES_MAX, is_reserved};

/// The most stripes of a counter.
pub const STRIPES_MAX: u16 = 64;
/// The most prefixes.
pub const PREFIXES_MAX: usize = 64;
/// The longest prefix.
pub const PREFIX_BYTES_MAX: usize = 256;

/// Over how many stripes the keys of a prefix are spread, by prefix. The longest prefix that
/// a key begins with counts. 0: no longer; what is striped is put together again with the
/// next addition. A prefix is never taken out, since its counters may still be striped.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Declared {
    prefixes: BTreeMap<String, u16>,
    /// Nobody knows which: any key may be one.
    unknown: bool,
}

/// What is wrong with a declaration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeclaredError {
    /// Not of the form `PREFIX=STRIPES`.
    #[error("{0:?} is not PREFIX=STRIPES")]
    Form(String),
    /// The prefix cannot be one.
    #[error(
        "the prefix {0:?} of counters is not 1 to {PREFIX_BYTES_MAX} bytes of printable \
         characters other than a comma, an equals sign and a space"
    )]
    Prefix(String),
    /// Too many stripes.
    #[error("{stripes} stripes for counters {prefix:?}: at most {STRIPES_MAX}, 0 to give them up")]
    Stripes {
        /// Whose.
        prefix: String,
        /// How many were asked for.
        stripes: u64,
    },
    /// Twice.
    #[error("the prefix {0:?} of counters is named twice")]
    Twice(String),
    /// Too many prefixes.
    #[error("{0} prefixes of counters: at most {PREFIXES_MAX}")]
    TooMany(usize),
    /// One that was declared is missing.
    #[error(
        "counters {0:?} were declared and may be striped: give them 0 stripes instead of \
         leaving them out"
    )]
    TakenOut(String),
}

impl Declared {
    /// Where the settings in force may be newer than those that are known: any key may be a
    /// counter, and none is made.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            prefixes: BTreeMap::new(),
            unknown: true,
        }
    }

    /// Whether the key may be a counter already, so that nothing can be done to it blindly.
    #[must_use]
    pub fn may_count(&self, key: &[u8]) -> bool {
        self.unknown || self.stripes(key).is_some()
    }

    /// From a map of prefixes, as it is kept.
    ///
    /// # Errors
    /// See [`DeclaredError`].
    pub fn new(prefixes: BTreeMap<String, u16>) -> Result<Self, DeclaredError> {
        if prefixes.len() > PREFIXES_MAX {
            return Err(DeclaredError::TooMany(prefixes.len()));
        }
        for (prefix, stripes) in &prefixes {
            check(prefix, u64::from(*stripes))?;
        }
        Ok(Self {
            prefixes,
            unknown: false,
        })
    }

    /// From `views:=16,likes:=8`, as settings spell it; empty: none.
    ///
    /// # Errors
    /// See [`DeclaredError`].
    pub fn parse(text: &str) -> Result<Self, DeclaredError> {
        let mut prefixes = BTreeMap::new();
        for item in text.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            let form = || DeclaredError::Form(item.to_owned());
            let (prefix, stripes) = item.rsplit_once('=').ok_or_else(form)?;
            let stripes: u64 = stripes.parse().map_err(|_| form())?;
            check(prefix, stripes)?;
            if prefixes.insert(prefix.to_owned(), stripes as u16).is_some() {
                return Err(DeclaredError::Twice(prefix.to_owned()));
            }
        }
        Self::new(prefixes)
    }

    /// As [`Self::parse`] reads it.
    #[must_use]
    pub fn spell(&self) -> String {
        let items = self.prefixes.iter();
        let items = items.map(|(prefix, stripes)| format!("{prefix}={stripes}"));
        items.collect::<Vec<_>>().join(",")
    }

    /// The prefixes, with their stripes.
    #[must_use]
    pub fn prefixes(&self) -> &BTreeMap<String, u16> {
        &self.prefixes
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// How many stripes the key has as a counter; `None` where it cannot be one that is
    /// striped.
    #[must_use]
    pub fn stripes(&self, key: &[u8]) -> Option<u16> {
        if self.prefixes.is_empty() || key.len() > COUNTER_KEY_BYTES_MAX || is_reserved(key) {
            return None;
        }
        let matching = self
            .prefixes
            .iter()
            .filter(|(prefix, _)| key.starts_with(prefix.as_bytes()));
        matching
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, stripes)| *stripes)
    }

    /// Whether these may follow on `before`.
    ///
    /// # Errors
    /// [`DeclaredError::TakenOut`].
    pub fn may_follow(&self, before: &Self) -> Result<(), DeclaredError> {
        let missing = before.prefixes.keys();
        match missing
            .into_iter()
            .find(|p| !self.prefixes.contains_key(*p))
        {
            Some(prefix) => Err(DeclaredError::TakenOut(prefix.clone())),
            None => Ok(()),
        }
    }
}

fn check(prefix: &str, stripes: u64) -> Result<(), DeclaredError> {
    let printable = |c: char| !c.is_control() && !c.is_whitespace() && c != ',' && c != '=';
    if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.chars().all(printable) {
        return Err(DeclaredError::Prefix(prefix.to_owned()));
    }
    if stripes > u64::from(STRIPES_MAX) {
        return Err(DeclaredError::Stripes {
            prefix: prefix.to_owned(),
            stripes,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_counts() {
        let declared = Declared::parse("v:=4, v:hot:=16,old:=0").unwrap();
        assert_eq!(declared.stripes(b"v:a"), Some(4));
        assert_eq!(declared.stripes(b"v:hot:a"), Some(16));
        assert_eq!(declared.stripes(b"old:a"), Some(0));
        assert_eq!(declared.stripes(b"w:a"), None);
        assert_eq!(
            declared.stripes(&[b"v:".as_slice(), &[b'a'; 4095]].concat()),
            None
        );
        assert_eq!(declared.spell(), "old:=0,v:=4,v:hot:=16");
        assert_eq!(Declared::parse(&declared.spell()), Ok(declared));
        assert_eq!(Declared::parse(""), Ok(Declared::default()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| Declared::parse(text).unwrap_err();
        assert_eq!(error("v"), DeclaredError::Form("v".into()));
        assert_eq!(error("v=x"), DeclaredError::Form("v=x".into()));
        assert_eq!(error("=4"), DeclaredError::Prefix(String::new()));
        assert_eq!(error("a=b=4"), DeclaredError::Prefix("a=b".into()));
        assert_eq!(error("v=1,v=2"), DeclaredError::Twice("v".into()));
        let many = DeclaredError::Stripes {
            prefix: "v".into(),
            stripes: 65,
        };
        assert_eq!(error("v=65"), many);
        let prefixes: Vec<String> = (0..65).map(|n| format!("p{n}=1")).collect();
        assert_eq!(error(&prefixes.join(",")), DeclaredError::TooMany(65));
    }

    #[test]
    fn what_is_not_known_may_count_and_has_no_stripes() {
        let unknown = Declared::unknown();
        assert!(unknown.may_count(b"views:a") && unknown.may_count(b""));
        assert_eq!(unknown.stripes(b"views:a"), None);
        assert!(!Declared::default().may_count(b"views:a"));
    }

    #[test]
    fn none_is_taken_out() {
        let before = Declared::parse("a=4,b=2").unwrap();
        let taken_out = Declared::parse("a=8").unwrap();
        assert_eq!(
            taken_out.may_follow(&before),
            Err(DeclaredError::TakenOut("b".into()))
        );
        let given_up = Declared::parse("a=8,b=0,c=1").unwrap();
        assert_eq!(given_up.may_follow(&before), Ok(()));
    }
}
