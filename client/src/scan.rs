//! Walking through keys, page by page, over one partition after another.

use std::fmt;
use std::str::FromStr;

use crate::transport::Channel;
use bytes::Bytes;
use cairn_core::ids::PartitionId;
use cairn_core::kv::scan::{Row, ScanPage, ScanQuery};
use cairn_core::slots::slot_of_prefix;
use cairn_proto::kv::KvError;
use cairn_proto::limits;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::keyspace_client::KeyspaceClient;
use futures::Stream;
use tokio::time::timeout_at;
use tonic::{Code, Status};

use crate::answer::final_refusal;
use crate::client::{Client, Inner, Trial};
use crate::error::Error;
use crate::hex;

/// Which keys are walked through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanOptions {
    /// What the keys begin with; empty: all.
    pub prefix: Bytes,
    /// Where an earlier scan of the same prefix stopped.
    pub from: Option<ScanToken>,
    /// Only the keys of this partition.
    pub partition: Option<PartitionId>,
    /// Leave the values empty.
    pub keys_only: bool,
    /// The most keys that are fetched at once, up to 10,000.
    pub page: usize,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            prefix: Bytes::new(),
            from: None,
            partition: None,
            keys_only: false,
            page: 1000,
        }
    }
}

/// Where a scan goes on: in a partition, after a key. It means the same to every node
/// and outlives all of them. As text, `PARTITION` or `PARTITION:KEY`, the key in
/// hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanToken {
    /// In which partition.
    pub partition: PartitionId,
    /// After which key; `None`: from the first on.
    pub after: Option<Bytes>,
}

impl fmt::Display for ScanToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.partition.0)?;
        match &self.after {
            None => Ok(()),
            Some(after) => write!(f, ":{}", hex::encode(after)),
        }
    }
}

/// A text that is no token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is no token of a {0}")]
pub struct TokenError(pub(crate) &'static str);

impl FromStr for ScanToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let wrong = TokenError("scan");
        let (partition, after) = match text.split_once(':') {
            None => (text, None),
            Some((partition, after)) => (partition, Some(hex::decode(after).ok_or(wrong)?)),
        };
        Ok(Self {
            partition: PartitionId(partition.parse().map_err(|_| wrong)?),
            after,
        })
    }
}

/// A walk through keys: of each partition in ascending order, one partition after the
/// other. Each page is a strong read of its own moment; a key that is there throughout
/// is given exactly once, whatever fails meanwhile.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    prefix: Bytes,
    keys_only: bool,
    page: usize,
    /// The last partition to be walked through.
    last: PartitionId,
    /// Where the next page begins; `None` at the end.
    next: Option<ScanToken>,
    /// Fetched and not given yet, in reverse.
    rows: Vec<Row>,
    /// Where [`Self::token`] goes on while there are rows left.
    given: ScanToken,
}

impl Client {
    /// Begins to walk through keys. Nothing is asked before the first row is.
    #[must_use]
    pub fn scan(&self, options: ScanOptions) -> Scan {
        let ScanOptions {
            prefix,
            from,
            partition,
            keys_only,
            page,
        } = options;
        let map = self.map();
        // All keys of a prefix with a hash tag are in one partition.
        let tagged = slot_of_prefix(&prefix)
            .and_then(|slot| map.partition_of_slot(slot))
            .map(|record| record.id);
        let only = partition.or(tagged);
        let end = u32::try_from(map.partitions.len()).unwrap_or(u32::MAX);
        let last = only.unwrap_or(PartitionId(end.saturating_sub(1)));
        let first = ScanToken {
            partition: only.unwrap_or(PartitionId(0)),
            after: None,
        };
        let begin = match from {
            Some(from) if from.partition >= first.partition => from,
            _ => first,
        };
        Scan {
            client: self.clone(),
            prefix,
            keys_only,
            page: page.clamp(1, limits::SCAN_ROWS),
            last,
            next: (begin.partition <= last && end > 0).then(|| begin.clone()),
            rows: Vec::new(),
            given: begin,
        }
    }
}

impl Scan {
    /// The next key; `None` after the last.
    ///
    /// # Errors
    /// See [`Error`]. The scan may be gone on with after an error.
    pub async fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            if let Some(row) = self.rows.pop() {
                self.given.after = Some(row.key.clone());
                return Ok(Some(row));
            }
            let Some(token) = self.next.clone() else {
                return Ok(None);
            };
            self.given = token.clone();
            self.fetch(token).await?;
        }
    }

    /// Where a later scan goes on after the last key that was given; `None` at the end.
    #[must_use]
    pub fn token(&self) -> Option<&ScanToken> {
        if self.rows.is_empty() {
            self.next.as_ref()
        } else {
            Some(&self.given)
        }
    }

    /// The keys as a stream. It ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Row, Error>> + Send {
        futures::stream::try_unfold(self, |mut scan| async move {
            Ok(scan.next().await?.map(|row| (row, scan)))
        })
    }

    async fn fetch(&mut self, token: ScanToken) -> Result<(), Error> {
        let query = ScanQuery {
            partition: token.partition,
            prefix: self.prefix.clone(),
            after: token.after,
            limit: self.page,
            bytes: 0,
            keys_only: self.keys_only,
        };
        let ScanPage { rows, next } = self.client.inner.scan_page(query).await?;
        self.rows = rows;
        self.rows.reverse();
        self.next = match next {
            Some(after) => Some(ScanToken {
                partition: token.partition,
                after: Some(after),
            }),
            None if token.partition < self.last => Some(ScanToken {
                partition: PartitionId(token.partition.0 + 1),
                after: None,
            }),
            None => None,
        };
        Ok(())
    }
}

/// A client for the keys of one node.
pub(crate) fn keyspace(channel: Channel) -> KeyspaceClient<Channel> {
    KeyspaceClient::new(channel)
        .max_encoding_message_size(limits::CLIENT_MESSAGE_BYTES)
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
}

impl Inner {
    async fn scan_page(&self, query: ScanQuery) -> Result<ScanPage, Error> {
        let map = self.topology.map();
        let record = usize::try_from(query.partition.0)
            .ok()
            .and_then(|at| map.partitions.get(at));
        let Some(record) = record else {
            return Err(Error::Invalid {
                field: "partition".to_owned(),
                problem: format!("{} is none of this cluster", query.partition),
            });
        };
        let mut trial = Trial::of_slot(self, record.slots.first);
        while let Some(route) = trial.route().await {
            let until = trial.begin();
            let asked = self.ask_for_page(&route.address, query.clone());
            let status = match timeout_at(until.into(), asked).await {
                Ok(Ok(page)) => return Ok(page),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            match KvError::from_status(&status) {
                Some(refusal) => match final_refusal(&refusal) {
                    Some(error) => return Err(error),
                    None => trial.refused(&route, &refusal).await,
                },
                None if status.code() == Code::Unauthenticated => {
                    return Err(Error::Unauthenticated {
                        reason: status.message().to_owned(),
                    });
                }
                None => trial.unanswered(&route, status.message()).await,
            }
        }
        Err(trial.unavailable())
    }

    async fn ask_for_page(&self, address: &str, query: ScanQuery) -> Result<ScanPage, Status> {
        let channel = self.connections.channel(address);
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = keyspace(channel);
        let reply = client.scan(pb::ScanRequest::from(query)).await?;
        Ok(ScanPage::try_from(reply.into_inner())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_printed() {
        for (text, after) in [
            ("7", None),
            ("7:", Some("")),
            ("7:006bff", Some("\0k\u{7f}")),
        ] {
            let token: ScanToken = text.parse().unwrap();
            assert_eq!(token.partition, PartitionId(7));
            assert_eq!(token.after.is_some(), after.is_some());
            assert_eq!(token.to_string(), text);
        }
        for text in ["", "x", "7:0", "7:0g", "-1", "7:00:00"] {
            assert!(text.parse::<ScanToken>().is_err(), "{text}");
        }
    }
}
