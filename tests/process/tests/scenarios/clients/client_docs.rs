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
    ensure!(blocks == 7, "{blocks} blocks");

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

        Ok(())
    })
}
