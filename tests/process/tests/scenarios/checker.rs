//! The checker against a stand-in for a cluster that breaks promises on purpose: a
//! checker that nobody saw fail proves nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail, ensure};
use cairn_process_tests::cluster::Target;
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::seed;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// How the stand-in breaks its promises, now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// Not at all.
    None,
    /// Acknowledges a SET that it does not do.
    LosesWrites,
    /// Answers a GET with the value before the last.
    ServesStale,
    /// Applies an increment twice.
    IncrementsTwice,
    /// Says that nothing was done, and does it.
    RefusesAndWrites,
    /// Closes the connection before or after it did what was asked, which is allowed.
    DropsConnections,
}

#[derive(Default)]
struct State {
    values: BTreeMap<String, (String, String)>,
    requests: u64,
}

struct StandIn {
    runtime: Runtime,
    target: Target,
}

impl StandIn {
    fn start(fault: Fault) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State::default()));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(
                    Connection::accepted(stream),
                    state.clone(),
                    fault,
                    port,
                ));
            }
        });
        Ok(Self {
            runtime,
            target: Target {
                resp: vec![format!("127.0.0.1:{port}")],
                clients: Vec::new(),
                partitions: 16,
                access: None,
            },
        })
    }

    /// Runs load against it and returns the promises that the checker saw broken.
    fn broken(&self) -> Result<Vec<String>> {
        let (seed, _) = seed::draw("stand-in");
        let plan = Plan {
            native: 0,
            ..Plan::default()
        };
        let load = Load::start(&self.target, plan, seed)?;
        load.await_acknowledged(20_000)?;
        let stopped = load.stop()?;
        println!("{stopped}");
        stopped.broken(&self.target)
    }
}

async fn serve(mut connection: Connection, state: Arc<Mutex<State>>, fault: Fault, port: u16) {
    while let Ok(Reply::Array(words)) = connection.receive().await {
        let words: Vec<String> = words.iter().filter_map(Reply::text).collect();
        let reply = answer(&words, &state, fault, port);
        let Ok(Some(reply)) = reply else {
            return;
        };
        if connection.write(&reply).await.is_err() {
            return;
        }
    }
}

/// The reply, or `None` to close the connection without one.
fn answer(
    words: &[String],
    state: &Mutex<State>,
    fault: Fault,
    port: u16,
) -> Result<Option<Vec<u8>>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut state = state.lock().expect("not poisoned");
    state.requests += 1;
    let strikes = state.requests.is_multiple_of(1000);
    let text = match words.as_slice() {
        ["CLUSTER", "SLOTS"] => {
            format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n")
        }
        _ if strikes && fault == Fault::DropsConnections && state.requests.is_multiple_of(2000) => {
            return Ok(None);
        }
        ["SET", key, value] => {
            if !(strikes && fault == Fault::LosesWrites) {
                let old = state.values.remove(*key).map(|(new, _)| new);
                let entry = ((*value).to_owned(), old.unwrap_or_default());
                state.values.insert((*key).to_owned(), entry);
            }
            match fault {
                Fault::DropsConnections if strikes => return Ok(None),
                Fault::RefusesAndWrites if strikes => "-TRYAGAIN nothing was done\r\n".to_owned(),
                _ => "+OK\r\n".to_owned(),
            }
        }
        ["INCR", key] => {
            let now: u64 = state
                .values
                .get(*key)
                .map_or(Ok(0), |(value, _)| value.parse())?;
            let new = now
                + if strikes && fault == Fault::IncrementsTwice {
                    2
                } else {
                    1
                };
            state
                .values
                .insert((*key).to_owned(), (new.to_string(), now.to_string()));
            format!(":{new}\r\n")
        }
        ["GET", key] => match state.values.get(*key) {
            Some((_, old)) if strikes && fault == Fault::ServesStale && !old.is_empty() => {
                bulk(old)
            }
            Some((value, _)) => bulk(value),
            None => "$-1\r\n".to_owned(),
        },
        other => bail!("{other:?}"),
    };
    Ok(Some(text.into_bytes()))
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[test]
fn the_checker_finds_nothing_where_nothing_is_broken() -> Result<()> {
    for fault in [Fault::None, Fault::DropsConnections] {
        let stand_in = StandIn::start(fault)?;
        let broken = stand_in.broken()?;
        ensure!(broken.is_empty(), "{fault:?}: {broken:?}");
        stand_in.runtime.shutdown_background();
    }
    Ok(())
}

#[test]
fn the_checker_finds_every_kind_of_broken_promise() -> Result<()> {
    for (fault, kind) in [
        (Fault::LosesWrites, "Lost"),
        (Fault::ServesStale, "Lost"),
        (Fault::IncrementsTwice, "Invented"),
        (Fault::RefusesAndWrites, "RefusedHappened"),
    ] {
        let stand_in = StandIn::start(fault)?;
        let broken = stand_in.broken()?;
        ensure!(
            broken.iter().any(|line| line.contains(kind)),
            "{fault:?} went unnoticed: {broken:?}"
        );
        stand_in.runtime.shutdown_background();
    }
    Ok(())
}
