//! What a log entry means to someone who watches keys (rule 19).

use bytes::Bytes;

use super::body::EntryBody;
use super::request::Value;
use super::wire::DecodeError;
use crate::counters::name::is_reserved;
use crate::ids::Position;
use crate::replication::{EntryKind, LogEntry};

/// Which keys are watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyFilter {
    /// This one.
    Key(Bytes),
    /// All that begin so.
    Prefix(Bytes),
}

impl KeyFilter {
    /// Whether a key is watched.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(watched) => watched == key,
            Self::Prefix(prefix) => key.starts_with(prefix) && !is_reserved(key),
        }
    }
}

/// What happened to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyEvent {
    /// It was set.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value; the version is that of the entry.
        value: Value,
    },
    /// It was deleted, or expired: an expiry is an entry of the primary's, like a
    /// delete.
    Deleted {
        /// The key.
        key: Bytes,
        /// The position of the entry that deleted it.
        version: Position,
    },
}

impl KeyEvent {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Deleted { key, .. } => key,
        }
    }

    /// The position of the entry that it came from.
    #[must_use]
    pub fn version(&self) -> Position {
        match self {
            Self::Put { value, .. } => value.version,
            Self::Deleted { version, .. } => *version,
        }
    }
}

/// What an entry did to the watched keys, in its own order. A barrier, and a write that
/// was refused, did nothing.
///
/// # Errors
/// Where its body cannot be decoded.
pub fn events(entry: &LogEntry, filter: &KeyFilter) -> Result<Vec<KeyEvent>, DecodeError> {
    match entry.kind {
        EntryKind::Barrier => return Ok(Vec::new()),
        EntryKind::Write => {}
    }
    let version = entry.position;
    let body = EntryBody::decode(entry.body.clone())?;
    let watched = body
        .writes
        .into_iter()
        .filter(|(key, _)| filter.matches(key));
    let events = watched.map(|(key, value)| match value {
        Some(value) => Ok(KeyEvent::Put {
            key,
            value: Value::of(version, value)?,
        }),
        None => Ok(KeyEvent::Deleted { key, version }),
    });
    events.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Mark};
    use crate::kv::body::{KIND_STRING, StoredValue};

    fn entry(kind: EntryKind, writes: Vec<(&'static str, Option<&'static str>)>) -> LogEntry {
        let stored = |data: &'static str| StoredValue {
            expires_at: Some(9),
            kind: KIND_STRING,
            data: Bytes::from_static(data.as_bytes()),
        };
        let body = EntryBody {
            writes: writes
                .into_iter()
                .map(|(key, value)| (Bytes::from_static(key.as_bytes()), value.map(stored)))
                .collect(),
            ..EntryBody::default()
        };
        let body = match kind {
            EntryKind::Write => body.encode(),
            EntryKind::Barrier => Bytes::new(),
        };
        LogEntry::after(Mark::ZERO, Epoch(3), kind, body)
    }

    #[test]
    fn an_entry_tells_of_the_watched_keys_alone_in_its_own_order() {
        let entry = entry(
            EntryKind::Write,
            vec![("ab", Some("1")), ("b", None), ("a", None), ("ac", None)],
        );
        let told = |filter: KeyFilter| -> Vec<(Bytes, Option<Bytes>)> {
            let events = events(&entry, &filter).unwrap();
            assert!(events.iter().all(|e| e.version() == entry.position));
            events
                .into_iter()
                .map(|event| match event {
                    KeyEvent::Put { key, value } => {
                        assert_eq!(value.expires_at, Some(9));
                        (key, Some(value.data))
                    }
                    KeyEvent::Deleted { key, .. } => (key, None),
                })
                .collect()
        };
        let (ab, a, ac) = (Bytes::from("ab"), Bytes::from("a"), Bytes::from("ac"));
        let put = Some(Bytes::from("1"));
        assert_eq!(told(KeyFilter::Key(a.clone())), [(a.clone(), None)]);
        assert_eq!(
            told(KeyFilter::Prefix(a.clone())),
            [(ab, put), (a, None), (ac, None)]
        );
        assert_eq!(told(KeyFilter::Key(Bytes::from("c"))), []);
        assert_eq!(told(KeyFilter::Prefix(Bytes::new())).len(), 4);
    }

    #[test]
    fn a_barrier_tells_nothing() {
        let barrier = entry(EntryKind::Barrier, Vec::new());
        let all = KeyFilter::Prefix(Bytes::new());
        assert_eq!(events(&barrier, &all), Ok(Vec::new()));
    }
}
