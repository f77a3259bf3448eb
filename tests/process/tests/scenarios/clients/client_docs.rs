//! The examples of docs/client.md, run. Each block of Rust there is taken from here, which
//! the test checks, so that what people copy is what was compiled and works.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{Cluster, Spec};

const DOCS: &str = include_str!("../../../../../docs/client.md");
const SOURCE: &str = include_str!("client_docs.rs");

mod connect {
    use cairn_client::{Client, Options};
    use std::time::Duration;

    pub(super) async fn connect(endpoints: Vec<String>) -> Result<Client, cairn_client::Error> {
        let options = Options {
            // How long a call may take in all, with its retries.
            deadline: Duration::from_secs(5),
            ..Options::default()
        };
        Client::connect(endpoints, options).await
    }
}

mod values {
    use cairn_client::Client;

    pub(super) async fn values(client: &Client) -> Result<(), cairn_client::Error> {
        client.put("greeting", "hello").await?;
        let value = client.get("greeting").await?.expect("it was just put");
        assert_eq!(value.data, "hello");
        assert!(client.delete("greeting").await?);
        assert!(client.get("greeting").await?.is_none());

        assert_eq!(client.increment("visits", 1).await?, 1);
        assert_eq!(client.increment("visits", 41).await?, 42);
        Ok(())
    }
}

mod near {
    use cairn_client::{Client, NearCacheOptions, Options};
    use std::time::Duration;

    pub(super) async fn connect(endpoints: Vec<String>) -> Result<Client, cairn_client::Error> {
        let options = Options {
            near_cache: Some(NearCacheOptions::default()),
            ..Options::default()
        };
        Client::connect(endpoints, options).await
    }

    pub(super) async fn read(client: &Client) -> Result<(), cairn_client::Error> {
        let max_age = Duration::from_secs(1);
        let banner = client.get_within("banner", max_age).await?;
        assert!(banner.age <= max_age);
        assert!(banner.value.is_none());
        Ok(())
    }
}

mod traces {
    use cairn_client::Client;

    pub(super) async fn put(client: &Client) -> Result<(), cairn_client::Error> {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        cairn_client::trace::within(traceparent, client.put("greeting", "hello")).await?;
        Ok(())
    }
}

mod conditions {
    use cairn_client::{Client, Condition, PutOptions, PutOutcome};

    /// Appends to a value, whoever else does so at the same time.
    pub(super) async fn append(
        client: &Client,
        key: &str,
        more: &str,
    ) -> Result<(), cairn_client::Error> {
        loop {
            let (condition, mut text) = match client.get(key.to_owned()).await? {
                Some(value) => (Condition::Version(value.version), value.data.to_vec()),
                None => (Condition::Absent, Vec::new()),
            };
            text.extend_from_slice(more.as_bytes());
            let options = PutOptions {
                condition,
                ..PutOptions::default()
            };
            match client.put_with(key.to_owned(), text, options).await? {
                PutOutcome::Applied { .. } => return Ok(()),
                // Somebody else was faster: read what is there now.
                PutOutcome::ConditionFailed { .. } => {}
            }
        }
    }
}

mod expiry {
    use cairn_client::{Client, Expiry, PutOptions};

    pub(super) async fn session(client: &Client, now_ms: u64) -> Result<(), cairn_client::Error> {
        let options = PutOptions {
            // Milliseconds since 1970.
            expiry: Expiry::AtMillis(now_ms + 60_000),
            ..PutOptions::default()
        };
        client.put_with("session:17", "alice", options).await?;
        Ok(())
    }
}

mod sharded {
    use cairn_client::sharded::{Rule, Sharded, Spread};
    use cairn_client::{Client, Error};

    pub(super) async fn watching(client: Client) -> Result<(), Error> {
        let spread = Spread {
            rule: Rule::ByMember,
            shards: 16,
            before: None,
            after: None,
        };
        let watching = Sharded::new(client.clone(), "watching:final", spread)?;
        watching.put("alice", "since 20:15").await?;
        watching.put("bob", "since 20:45").await?;
        // One shard is asked.
        assert!(watching.get("alice").await?.is_some());
        // All are, a few at a time.
        let everybody = watching.all(100_000).await?;
        let names: Vec<_> = everybody.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, [b"alice".as_slice(), b"bob"]);

        // Twice as many shards: items are looked for in both, and moved.
        let wider = Spread {
            shards: 32,
            before: Some(16),
            ..spread
        };
        let watching = Sharded::new(client, "watching:final", wider)?;
        assert!(watching.get("bob").await?.is_some());
        while watching.move_over(1_000).await? > 0 {}
        assert_eq!(watching.all(100_000).await?.len(), 2);
        assert!(watching.delete("bob").await?);
        Ok(())
    }
}

/// What the page does not show of keys that are spread over several.
async fn spread_otherwise(client: &cairn_client::Client) -> Result<()> {
    use cairn_client::sharded::{Rule, Sharded, Spread};
    use cairn_client::{Error, Expiry};

    let spread = |rule, shards, before, after| Spread {
        rule,
        shards,
        before,
        after,
    };
    // By turns: every shard is written, and all are read together.
    let by_turns = spread(Rule::RoundRobin, 4, None, None);
    let events = Sharded::new(client.clone(), "events", by_turns)?;
    for number in 0..8 {
        events.put(format!("event {number}"), "happened").await?;
    }
    for prefix in events.prefixes() {
        let mut scan = client.scan(cairn_client::ScanOptions {
            prefix,
            ..cairn_client::ScanOptions::default()
        });
        let mut rows = 0;
        while scan.next().await?.is_some() {
            rows += 1;
        }
        ensure!(rows == 2, "{rows} of 8 events in one of four shards");
    }
    ensure!(events.get("event 5").await?.is_some());
    ensure!(events.all(8).await?.len() == 8);
    ensure!(matches!(events.all(7).await, Err(Error::Invalid { .. })));
    ensure!(events.delete("event 5").await? && !events.delete("event 5").await?);
    // By time.
    let by_time = spread(Rule::ByTime { period_ms: 1_000 }, 4, None, None);
    let visits = Sharded::new(client.clone(), "visits by time", by_time)?;
    let never = Expiry::Never;
    visits.put_at(61_500, "alice", "home", never).await?;
    ensure!(visits.get_at(61_999, "alice").await?.is_some());
    ensure!(visits.get_at(62_000, "alice").await?.is_none());
    ensure!(visits.get("alice").await?.is_some(), "all are asked");
    ensure!(visits.put("bob", "home").await.is_err(), "of when is it?");
    // From four to six, step by step, by members.
    let steps = [
        spread(Rule::ByMember, 4, None, None),
        spread(Rule::ByMember, 4, None, Some(6)),
        spread(Rule::ByMember, 6, Some(4), None),
        spread(Rule::ByMember, 6, None, None),
    ];
    let [old, reads_both, writes_new, new] =
        steps.map(|spread| Sharded::new(client.clone(), "members", spread));
    let (old, reads_both, writes_new, new) = (old?, reads_both?, writes_new?, new?);
    for number in 0..20 {
        old.put(format!("member {number:02}"), "first").await?;
    }
    writes_new.put("member 03", "second").await?;
    writes_new.put("another", "second").await?;
    for sharded in [&reads_both, &writes_new] {
        ensure!(sharded.all(100).await?.len() == 21);
        let third = sharded.get("member 03").await?.context("member 03")?;
        ensure!(third.data == "second", "{third:?}");
        ensure!(sharded.get("member 04").await?.is_some());
    }
    ensure!(writes_new.move_over(5).await? == 5);
    ensure!(reads_both.all(100).await?.len() == 21);
    while writes_new.move_over(7).await? > 0 {}
    ensure!(new.all(100).await?.len() == 21);
    ensure!(old.all(100).await?.is_empty());
    Ok(())
}

mod errors {
    use cairn_client::{Client, Error};

    pub(super) async fn count(client: &Client) -> Result<Option<i64>, Error> {
        match client.increment("orders", 1).await {
            Ok(sum) => Ok(Some(sum)),
            // It may have been applied, and never twice: read the key, or tell the caller.
            Err(Error::OutcomeUnknown { .. }) => Ok(None),
            // After any other error nothing was changed.
            Err(error) => Err(error),
        }
    }
}

#[test]
fn the_examples_of_the_client_page_are_these_and_work() -> Result<()> {
    let flat = |text: &str| {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines
            .collect::<Vec<_>>()
            .join("\n")
            .replace("pub(super) ", "")
    };
    let source = flat(SOURCE);
    let mut blocks = 0;
    for part in DOCS.split("```rust\n").skip(1) {
        let (block, _) = part.split_once("```").context("a block without an end")?;
        ensure!(source.contains(&flat(block)), "not in this file:\n{block}");
        blocks += 1;
    }
    ensure!(blocks == 8, "{blocks} blocks");

    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 16,
        ..Spec::default()
    };
    let cluster = Cluster::start(spec)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = connect::connect(cluster.client_addresses()).await?;
        values::values(&client).await?;
        let keeping = near::connect(cluster.client_addresses()).await?;
        near::read(&keeping).await?;
        let (one, other) = tokio::join!(
            conditions::append(&client, "log", "a"),
            conditions::append(&client, "log", "b")
        );
        one?;
        other?;
        let log = client.get("log").await?.context("the log")?;
        ensure!(log.data.len() == 2, "{log:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now_ms = u64::try_from(now.as_millis())?;
        expiry::session(&client, now_ms).await?;
        let session = client.get("session:17").await?.context("the session")?;
        let expires = session.expires_at.context("an expiry")?;
        ensure!(expires == now_ms + 60_000, "{expires}");
        ensure!(errors::count(&client).await? == Some(1));
        traces::put(&client).await?;
        let greeting = client.get("greeting").await?.context("the greeting")?;
        ensure!(greeting.data == "hello", "{greeting:?}");
        sharded::watching(client.clone()).await?;
        spread_otherwise(&client).await?;
        Ok(())
    })
}
