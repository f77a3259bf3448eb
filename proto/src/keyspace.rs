//! Scans and watches of clients, and what they are answered.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::{PartitionId, Position};
use cairn_core::kv::request::Value;
use cairn_core::kv::scan::{Row, ScanPage, ScanQuery};
use cairn_core::kv::watch::{KeyEvent, KeyFilter};

use crate::kv::{KvError, check_key};
use crate::limits;
use crate::malformed::{Malformed, bounded, list, required};
use crate::map::{partition, position};
use crate::pb::kv::v1 as pb;

const SCAN_ROWS_DEFAULT: u32 = 1000;
const SCAN_BYTES_DEFAULT: u32 = 1 << 20;
/// How often positions are told where the caller does not say.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(1);
const HEARTBEAT_MS_MIN: u32 = 100;
const HEARTBEAT_MS_MAX: u32 = 60_000;

impl From<ScanQuery> for pb::ScanRequest {
    fn from(
        ScanQuery {
            partition,
            prefix,
            after,
            limit,
            bytes,
            keys_only,
        }: ScanQuery,
    ) -> Self {
        Self {
            partition: partition.0,
            prefix,
            after,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            keys_only,
        }
    }
}

/// A bound that a caller gives: 0 stands for the default.
fn bound(given: u32, default: u32, max: usize, field: &str) -> Result<usize, Malformed> {
    let wanted = if given == 0 { default } else { given };
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    if wanted > max {
        return Err(Malformed::new(
            field,
            format!("is {wanted}, and {max} is the most"),
        ));
    }
    Ok(wanted)
}

impl TryFrom<pb::ScanRequest> for ScanQuery {
    type Error = Malformed;

    fn try_from(
        pb::ScanRequest {
            partition: id,
            prefix,
            after,
            limit,
            bytes,
            keys_only,
        }: pb::ScanRequest,
    ) -> Result<Self, Malformed> {
        bounded(prefix.len(), limits::KEY_BYTES, "prefix")?;
        if let Some(after) = &after {
            bounded(after.len(), limits::KEY_BYTES, "after")?;
        }
        Ok(Self {
            partition: partition(id, "partition")?,
            prefix,
            after,
            limit: bound(limit, SCAN_ROWS_DEFAULT, limits::SCAN_ROWS, "limit")?,
            bytes: bound(bytes, SCAN_BYTES_DEFAULT, limits::SCAN_BYTES, "bytes")?,
            keys_only,
        })
    }
}

impl From<Row> for pb::Row {
    fn from(Row { key, value }: Row) -> Self {
        Self {
            key,
            value: Some(value.into()),
        }
    }
}

impl TryFrom<pb::Row> for Row {
    type Error = Malformed;

    fn try_from(pb::Row { key, value }: pb::Row) -> Result<Self, Malformed> {
        // The empty key is one that Redis clients may set.
        bounded(key.len(), limits::KEY_BYTES, "key")?;
        Ok(Self {
            key,
            value: required(value, "value")?,
        })
    }
}

impl From<ScanPage> for pb::ScanReply {
    fn from(ScanPage { rows, next }: ScanPage) -> Self {
        Self {
            rows: rows.into_iter().map(Into::into).collect(),
            next,
        }
    }
}

impl TryFrom<pb::ScanReply> for ScanPage {
    type Error = Malformed;

    fn try_from(pb::ScanReply { rows, next }: pb::ScanReply) -> Result<Self, Malformed> {
        if let Some(next) = &next {
            bounded(next.len(), limits::KEY_BYTES, "next")?;
        }
        Ok(Self {
            rows: list(rows, limits::SCAN_ROWS, "rows")?,
            next,
        })
    }
}

/// What is to be watched, and from where on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchQuery {
    /// Which keys.
    pub filter: KeyFilter,
    /// In which partitions, each once, and after which position; `None`: from now on.
    pub from: Vec<(PartitionId, Option<Position>)>,
    /// How often positions are told.
    pub heartbeat: Duration,
}

impl From<WatchQuery> for pb::WatchRequest {
    fn from(
        WatchQuery {
            filter,
            from,
            heartbeat,
        }: WatchQuery,
    ) -> Self {
        use pb::watch_request::What;
        Self {
            what: Some(match filter {
                KeyFilter::Key(key) => What::Key(key),
                KeyFilter::Prefix(prefix) => What::Prefix(prefix),
            }),
            from: from
                .into_iter()
                .map(|(partition, after)| pb::WatchFrom {
                    partition: partition.0,
                    after: after.map(Into::into),
                })
                .collect(),
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<pb::WatchRequest> for WatchQuery {
    type Error = Malformed;

    fn try_from(
        pb::WatchRequest {
            what,
            from,
            heartbeat_ms,
        }: pb::WatchRequest,
    ) -> Result<Self, Malformed> {
        use pb::watch_request::What;
        let filter = match what.ok_or_else(|| Malformed::missing("what"))? {
            What::Key(key) => {
                check_key(&key)?;
                KeyFilter::Key(Bytes::copy_from_slice(&key))
            }
            What::Prefix(prefix) => {
                bounded(prefix.len(), limits::KEY_BYTES, "prefix")?;
                KeyFilter::Prefix(Bytes::copy_from_slice(&prefix))
            }
        };
        if from.is_empty() {
            return Err(Malformed::new("from", "names no partition"));
        }
        bounded(from.len(), limits::PARTITIONS, "from")?;
        let mut seen = BTreeSet::new();
        let from = from
            .into_iter()
            .map(
                |pb::WatchFrom {
                     partition: id,
                     after,
                 }| {
                    let id = partition(id, "from.partition")?;
                    if !seen.insert(id) {
                        return Err(Malformed::new(
                            "from.partition",
                            format!("{id} stands there twice"),
                        ));
                    }
                    let after = after
                        .map(|at| position(Some(at), "from.after"))
                        .transpose()?;
                    Ok((id, after))
                },
            )
            .collect::<Result<_, _>>()?;
        let heartbeat = match heartbeat_ms {
            0 => HEARTBEAT_DEFAULT,
            ms if (HEARTBEAT_MS_MIN..=HEARTBEAT_MS_MAX).contains(&ms) => {
                Duration::from_millis(ms.into())
            }
            ms => {
                return Err(Malformed::new(
                    "heartbeat_ms",
                    format!("is {ms}, not from {HEARTBEAT_MS_MIN} to {HEARTBEAT_MS_MAX}"),
                ));
            }
        };
        Ok(Self {
            filter,
            from,
            heartbeat,
        })
    }
}

impl From<KeyEvent> for pb::WatchEvent {
    fn from(event: KeyEvent) -> Self {
        use pb::watch_event::Change;
        match event {
            KeyEvent::Put { key, value } => Self {
                key,
                change: Some(Change::Put(value.into())),
            },
            KeyEvent::Deleted { key, version } => Self {
                key,
                change: Some(Change::Deleted(version.into())),
            },
        }
    }
}

impl TryFrom<pb::WatchEvent> for KeyEvent {
    type Error = Malformed;

    fn try_from(pb::WatchEvent { key, change }: pb::WatchEvent) -> Result<Self, Malformed> {
        use pb::watch_event::Change;
        bounded(key.len(), limits::KEY_BYTES, "key")?;
        Ok(match change.ok_or_else(|| Malformed::missing("change"))? {
            Change::Put(value) => Self::Put {
                key,
                value: Value::try_from(value).map_err(|e| e.within("put"))?,
            },
            Change::Deleted(at) => Self::Deleted {
                key,
                version: position(Some(at), "deleted")?,
            },
        })
    }
}

/// Why the watch of a partition ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEnd {
    /// The log no longer holds what followed the position.
    Compacted,
    /// As for any other request.
    Refused(KvError),
}

/// What a watch tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchUpdate {
    /// What happened in a partition, up to a position.
    Events {
        /// Which partition.
        partition: PartitionId,
        /// In the order of its log.
        events: Vec<KeyEvent>,
        /// Everything up to here was told.
        position: Position,
    },
    /// How far partitions have come.
    Positions(Vec<(PartitionId, Position)>),
    /// The watch of a partition ended.
    End {
        /// Which partition.
        partition: PartitionId,
        /// Why.
        why: WatchEnd,
    },
}

impl From<WatchUpdate> for pb::WatchReply {
    fn from(update: WatchUpdate) -> Self {
        use pb::watch_reply::Update;
        let update = match update {
            WatchUpdate::Events {
                partition,
                events,
                position,
            } => Update::Events(pb::WatchEvents {
                partition: partition.0,
                events: events.into_iter().map(Into::into).collect(),
                position: Some(position.into()),
            }),
            WatchUpdate::Positions(positions) => Update::Positions(pb::WatchPositions {
                positions: positions
                    .into_iter()
                    .map(|(partition, position)| pb::PartitionPosition {
                        partition: partition.0,
                        position: Some(position.into()),
                    })
                    .collect(),
            }),
            WatchUpdate::End { partition, why } => Update::End(pb::WatchEnd {
                partition: partition.0,
                why: Some(match why {
                    WatchEnd::Compacted => pb::watch_end::Why::Compacted(pb::Compacted {}),
                    WatchEnd::Refused(error) => pb::watch_end::Why::Refused(error.into()),
                }),
            }),
        };
        Self {
            update: Some(update),
        }
    }
}

impl TryFrom<pb::WatchReply> for WatchUpdate {
    type Error = Malformed;

    fn try_from(pb::WatchReply { update }: pb::WatchReply) -> Result<Self, Malformed> {
        use pb::watch_reply::Update;
        Ok(match update.ok_or_else(|| Malformed::missing("update"))? {
            Update::Events(pb::WatchEvents {
                partition: id,
                events,
                position: at,
            }) => Self::Events {
                partition: partition(id, "events.partition")?,
                events: list(events, limits::WATCH_EVENTS, "events")?,
                position: position(at, "events.position")?,
            },
            Update::Positions(pb::WatchPositions { positions }) => {
                bounded(positions.len(), limits::PARTITIONS, "positions")?;
                let positions = positions.into_iter().map(|one| {
                    let id = partition(one.partition, "positions.partition")?;
                    Ok((id, position(one.position, "positions.position")?))
                });
                Self::Positions(positions.collect::<Result<_, Malformed>>()?)
            }
            Update::End(pb::WatchEnd { partition: id, why }) => Self::End {
                partition: partition(id, "end.partition")?,
                why: match why.ok_or_else(|| Malformed::missing("end.why"))? {
                    pb::watch_end::Why::Compacted(pb::Compacted {}) => WatchEnd::Compacted,
                    pb::watch_end::Why::Refused(error) => WatchEnd::Refused(
                        KvError::try_from(error).map_err(|e| e.within("end.refused"))?,
                    ),
                },
            },
        })
    }
}
