//! Through the Rust client, as an application does: all connections of the driver share one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use cairn_client::{Client, Error, NearCacheOptions, Options};
use cairn_proto::kv::Consistency;
use cairn_workload::operation::{Random, Values};
use futures::future::join_all;

use super::{Answer, Call, Found, Level, Verb};

/// How old what is read near may be.
const NEAR: Duration = Duration::from_secs(1);

pub(super) struct Shared(Client, Level);

impl Shared {
    pub(super) async fn open(endpoints: Vec<String>, level: Level) -> Result<Self> {
        let options = Options {
            consistency: match level {
                Level::Primary | Level::Near => Consistency::Primary,
                Level::Replica => Consistency::Replica,
            },
            near_cache: (level == Level::Near).then(NearCacheOptions::default),
            ..Options::default()
        };
        let client = Client::connect(endpoints, options).await;
        Ok(Self(client.context("connect the Rust client")?, level))
    }

    pub(super) fn connect(&self) -> Connection {
        Connection(self.0.clone(), self.1)
    }
}

pub(super) struct Connection(Client, Level);

impl Connection {
    pub(super) async fn exchange(
        &mut self,
        calls: &[Call],
        values: &Values,
        random: &mut Random,
    ) -> Vec<Answer> {
        let calls = calls.iter().map(|call| {
            let key = Bytes::copy_from_slice(&call.key);
            let value = match call.verb {
                Verb::Set => Bytes::copy_from_slice(values.cut(random)),
                Verb::Get | Verb::Increment => Bytes::new(),
            };
            let (client, level, verb) = (self.0.clone(), self.1, call.verb);
            async move {
                let outcome = call_one(&client, level, verb, key, value).await;
                (Instant::now(), outcome.map_err(|error| name(&error)))
            }
        });
        join_all(calls).await
    }
}

async fn call_one(
    client: &Client,
    level: Level,
    verb: Verb,
    key: Bytes,
    value: Bytes,
) -> Result<Found, Error> {
    match verb {
        Verb::Get if level == Level::Near => Ok(match client.get_within(key, NEAR).await?.value {
            Some(_) => Found::Good,
            None => Found::Missing,
        }),
        Verb::Get => Ok(match client.get(key).await? {
            Some(_) => Found::Good,
            None => Found::Missing,
        }),
        Verb::Set => client.put(key, value).await.map(|_| Found::Good),
        Verb::Increment => client.increment(key, 1).await.map(|_| Found::Good),
    }
}

/// An error's kind, without what differs from call to call.
fn name(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_owned()
}
