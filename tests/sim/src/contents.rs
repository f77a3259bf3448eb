//! Rule 17: what a store holds of a partition is what the entries up to its applied index
//! made of it. Data and index go back together in a crash, or not at all.

use std::collections::BTreeMap;

use cairn_core::ids::{Index, PartitionId};
use cairn_core::kv::EntryBody;
use cairn_core::kv::body::encode_stored;
use cairn_core::replication::{EntryKind, LogEntry};
use cairn_storage::state::Kind;

use crate::node::Node;

/// Every entry that any node applied, with its body.
#[derive(Debug, Default)]
pub struct Contents {
    entries: BTreeMap<Index, LogEntry>,
}

impl Contents {
    /// Notes an entry that is applied.
    pub fn note(&mut self, entry: &LogEntry) {
        let index = entry.position.index;
        self.entries.entry(index).or_insert_with(|| entry.clone());
    }

    /// Holds what a node has stored against the log.
    ///
    /// # Errors
    /// Where they differ, or the store refuses.
    pub fn check(&self, node: &Node, partition: PartitionId) -> Result<(), String> {
        let standing = node.core.as_ref().and_then(|core| core.standing(partition));
        let Some(standing) = standing else {
            return Ok(());
        };
        let (mark, rows) = node.snapshot(standing.generation)?;
        let is_data = |row: &[u8]| row.first() == Some(&(Kind::Data as u8));
        let held: BTreeMap<&[u8], &[u8]> = rows
            .iter()
            .filter(|(key, _)| is_data(key))
            .map(|(key, value)| (&key[1..], &value[..]))
            .collect();
        let mut made = BTreeMap::new();
        for entry in self.entries.range(..=mark.index()).map(|(_, e)| e) {
            if entry.kind == EntryKind::Write {
                let body = EntryBody::decode(entry.body.clone()).map_err(|e| e.to_string())?;
                for (key, value) in body.writes {
                    match value {
                        Some(value) => made.insert(key, encode_stored(entry.position, &value)),
                        None => made.remove(&key),
                    };
                }
            }
        }
        let made = made.iter().map(|(key, value)| (&key[..], &value[..]));
        if held.into_iter().eq(made) {
            return Ok(());
        }
        Err(format!(
            "the store of {} does not hold what was applied up to {}",
            node.id,
            mark.index()
        ))
    }
}
