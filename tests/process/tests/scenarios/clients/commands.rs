//! The `cairn` command against `cairn dev`, as a newcomer types it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_client::{
    Batch, BatchOutcome, BatchRefusal, BatchResult, Client, Condition, Error, Expiry, Options,
};
use cairn_process_tests::certificates::Authority;
use cairn_process_tests::cluster::BOUND;
use cairn_process_tests::resp::{ClusterClient, Connection, Patience, Reply, Routes};
use cairn_process_tests::{ports, waiting};
use serde_json::Value;
use tempfile::TempDir;

use crate::dev::{Dev, cairn, command, parent, refused};

/// Somebody's home, with a folder to type commands in.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Result<Self> {
        let directory = TempDir::with_prefix("cairn-home-")?;
        for folder in ["home", "share", "work", "tls"] {
            fs::create_dir(directory.path().join(folder))?;
        }
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn cairn(&self, words: &[&str]) -> Result<Command> {
        let mut command = cairn(words)?;
        command
            .current_dir(self.path("work"))
            .env("HOME", self.path("home"))
            .env("XDG_DATA_HOME", self.path("share"));
        Ok(command)
    }

    /// Runs a command that is to end with `code`, and returns what it printed.
    fn run(&self, code: i32, words: &[&str]) -> Result<String> {
        let done = self.cairn(words)?.output()?;
        ensure!(
            done.status.code() == Some(code),
            "cairn {words:?} ended with {}, not with {code}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(String::from_utf8(done.stdout)?)
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.run(0, &[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} printed {text}"))
    }
}

fn entries(directory: &Path) -> Result<usize> {
    Ok(fs::read_dir(directory)?.count())
}

fn variable(pid: u32, name: &str) -> Result<Option<String>> {
    let text = fs::read(format!("/proc/{pid}/environ"))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let found = text
        .split('\0')
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    Ok(found.map(str::to_owned))
}

/// One start serves all of this: it takes most of the time.
#[test]
fn a_newcomer_runs_cairn_dev_and_every_command_finds_it() -> Result<()> {
    let home = Home::new()?;
    let port = ports::free_run(3)?;
    let mut start = home.cairn(&[
        "dev",
        "--coordinators",
        "1",
        "--data-nodes",
        "3",
        "--partitions",
        "32",
        "--resp-port",
        &port.to_string(),
    ])?;
    // Somebody's other cluster has TLS; this one is on loopback and has not.
    let authority = Authority::new(&home.path("tls"))?;
    authority.issue()?;
    start.envs(authority.environment());
    let dev = Dev::run(start, port)?;
    for words in [
        "warning: one coordinator",
        "CAIRN_TLS_CERT_FILE is not passed on",
        "stores and serves data",
        &format!("redis-cli -c -p {port}"),
    ] {
        ensure!(
            dev.said.contains(words),
            "`{words}` is not in:\n{}",
            dev.said
        );
    }

    let children = dev.children()?;
    let mut roles = Vec::new();
    for &pid in &children {
        roles.push(variable(pid, "CAIRN_ROLE")?.unwrap_or_default());
        ensure!(variable(pid, "CAIRN_TLS_CERT_FILE")?.is_none());
    }
    roles.sort();
    ensure!(
        roles == ["coordinator", "data", "data", "data"],
        "the children's roles are {roles:?}"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for port in port..port + 3 {
        let pong = runtime.block_on(async {
            let mut node = Connection::open(&format!("127.0.0.1:{port}"), BOUND).await?;
            node.call(&[b"PING"]).await
        })?;
        ensure!(pong == Reply::Simple("PONG".to_owned()), "{pong:?}");
    }

    keys(&home)?;
    many_keys(&home)?;
    runtime.block_on(redis_writes(port))?;
    runtime.block_on(batches(&home.json(&["nodes"])?))?;
    views(&home)?;
    configuration(&home)?;
    for workload in ["write", "read", "mix", "a", "d", "F"] {
        let report = home.json(&[
            "bench",
            "--workload",
            workload,
            "--requests",
            "300",
            "-c",
            "8",
            "--keys",
            "100",
            "--warmup",
            "0",
        ])?;
        ensure!(
            report["operations"].as_u64() >= Some(300),
            "{workload}: {report}"
        );
        let wanted = match workload {
            "d" => ["insert", "read"].as_slice(),
            "F" => &["read", "read-modify-write"],
            "a" => &["read", "update"],
            _ => continue,
        };
        for operation in wanted {
            let of = &report["byOperation"][operation];
            ensure!(of["operations"].as_u64() > Some(0), "{workload}: {report}");
        }
        ensure!(report["missingKeys"] == 0, "{workload}: {report}");
    }
    // An open loop, over both protocols.
    for more in [["--workload", "b"].as_slice(), &["--native", "-w", "f"]] {
        let words = ["bench", "--rate", "300", "--duration", "1", "--keys", "100"];
        let report = home.json(&[&words, more].concat())?;
        ensure!(
            report["rate"] == 300.0 && report["unanswered"].is_u64(),
            "{report}"
        );
        let operations = report["operations"].as_u64();
        ensure!((1..=301).contains(&operations.unwrap_or(0)), "{report}");
    }
    let report = home.run(
        0,
        &[
            "bench",
            "--native",
            "--requests",
            "100",
            "-c",
            "4",
            "--keys",
            "9",
        ],
    )?;
    ensure!(report.contains("4 connections"), "{report}");

    // The same ports in another directory: it says who has them.
    let other = home.path("other");
    let said = refused(command(&other, port, &["--coordinators", "1"])?)?;
    let holder = children
        .iter()
        .find(|pid| said.contains(&format!("process {pid} (")));
    ensure!(
        holder.is_some() && said.contains(&format!("{port}, Redis of data-1")),
        "it does not say who has the ports: {said}"
    );

    // All of it is in the user's data directory and nothing anywhere else.
    ensure!(home.path("share/cairn/dev/dev.json").is_file());
    ensure!(entries(&home.path("work"))? == 0 && entries(&home.path("home"))? == 0);

    let status = dev.stop()?;
    ensure!(status.success(), "it ended with {status}");
    ensure!(children.iter().all(|&pid| parent(pid).is_none()));
    home.run(3, &["--timeout", "1", "get", "greeting"])?;

    // Without XDG_DATA_HOME it is where the specification says.
    let mut reset = home.cairn(&["dev", "reset", "--yes"])?;
    let said = refused({
        reset.env_remove("XDG_DATA_HOME");
        reset
    })?;
    let usual = home.path("home/.local/share/cairn/dev");
    ensure!(said.contains(&usual.display().to_string()), "{said}");
    home.run(0, &["dev", "reset", "--yes"])?;
    ensure!(!home.path("share/cairn/dev").exists());
    Ok(())
}

fn keys(home: &Home) -> Result<()> {
    home.run(0, &["put", "greeting", "hello"])?;
    ensure!(home.run(0, &["get", "greeting"])? == "hello");
    let put = home.json(&["put", "greeting", "hello again"])?;
    let got = home.json(&["get", "greeting"])?;
    ensure!(
        got["value"] == "hello again" && got["version"] == put["version"],
        "put {put}, got {got}"
    );
    home.run(1, &["put", "greeting", "never", "--if-absent"])?;
    ensure!(home.run(0, &["incr", "visits"])? == "1\n");
    ensure!(home.json(&["incr", "visits", "--by", "41"])?["value"] == 42);
    ensure!(home.json(&["del", "greeting", "visits", "nothing"])?["deleted"] == 2);
    home.run(1, &["get", "greeting"])?;
    home.run(1, &["del", "greeting"])?;
    Ok(())
}

/// What Redis clients write beside `SET` and `INCR`, over all nodes.
async fn redis_writes(port: u16) -> Result<()> {
    let seeds = (port..port + 3).map(|port| format!("127.0.0.1:{port}"));
    let routes = Routes::new(seeds.collect());
    let mut client = ClusterClient::new(routes, Patience::default());
    let ok = || Reply::Simple("OK".to_owned());
    let bulk = |text: &str| Reply::Bulk(Some(text.as_bytes().to_vec()));
    for number in 0..12 {
        let tag = format!("{{redis-{number}}}");
        let script = [
            ("MSET $a 1 $b 2", ok()),
            ("MSETNX $b 3 $c 3", Reply::Integer(0)),
            ("MSETNX $c 3 $d 4", Reply::Integer(1)),
            ("APPEND $a 0", Reply::Integer(2)),
            ("INCRBY $a 5", Reply::Integer(15)),
            ("SETRANGE $a 2 !", Reply::Integer(3)),
            ("GETRANGE $a 1 -1", bulk("5!")),
            ("EXPIRE $a 1000", Reply::Integer(1)),
            ("EXPIRE $a 500 GT", Reply::Integer(0)),
            ("TTL $a", Reply::Integer(1000)),
            ("GETEX $a PERSIST", bulk("15!")),
            ("PERSIST $a", Reply::Integer(0)),
            ("GETDEL $a", bulk("15!")),
            ("GETDEL $a", Reply::Bulk(None)),
            ("DEL $a $b $c", Reply::Integer(2)),
            ("PEXPIRE $d 300", Reply::Integer(1)),
        ];
        for (command, expected) in script {
            let line = command.replace('$', &tag);
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let reply = client.call(&tag, &words).await?;
            ensure!(reply == expected, "{line}: {reply:?}, not {expected:?}");
        }
    }
    // They go by themselves, and a read does not wait for that to be so.
    for number in 0..12 {
        let tag = format!("{{redis-{number}}}");
        let key = format!("{tag}d");
        let deadline = Instant::now() + BOUND;
        while client.call(&tag, &[b"EXISTS", key.as_bytes()]).await? != Reply::Integer(0) {
            ensure!(Instant::now() < deadline, "{key} does not expire");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ttl = client.call(&tag, &[b"PTTL", key.as_bytes()]).await?;
        ensure!(ttl == Reply::Integer(-2), "the TTL of {key} is {ttl:?}");
    }
    Ok(())
}

/// Scans, and a watch that goes on from a token that was printed.
fn many_keys(home: &Home) -> Result<()> {
    for (key, value) in [
        ("fruit:apple", "1"),
        ("fruit:pear", "a\tb\n"),
        ("bread", "x"),
    ] {
        home.run(0, &["put", key, value])?;
    }
    let lines = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let printed = lines(home.run(0, &["scan", "fruit:"])?);
    ensure!(
        printed == ["fruit:apple\t1", "fruit:pear\ta\\tb\\n"],
        "{printed:?}"
    );
    let printed = lines(home.run(0, &["scan", "--keys-only"])?);
    ensure!(
        printed == ["bread", "fruit:apple", "fruit:pear"],
        "{printed:?}"
    );
    let first = home
        .cairn(&["scan", "--limit", "1", "--keys-only"])?
        .output()?;
    let said = String::from_utf8(first.stderr)?;
    let token = said.rsplit(' ').next().context("a token")?.trim();
    let rest = home.run(0, &["scan", "--keys-only", "--from", token])?;
    ensure!(rest.lines().count() == 2, "{said}: {rest}");
    let row: Value = serde_json::from_str(&home.run(0, &["scan", "bread", "-o", "json"])?)?;
    ensure!(row["key"] == "bread" && row["value"] == "x", "{row}");

    let mut watch = home.cairn(&["watch", "--prefix", "fruit:", "--limit", "2", "-o", "json"])?;
    let mut watch = watch
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let stderr = watch.stderr.take().context("its errors")?;
    let mut said = String::new();
    // It says so once it has begun.
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut said)?;
    ensure!(said.starts_with("watching: --from "), "{said}");
    home.run(0, &["put", "fruit:pear", "2"])?;
    home.run(0, &["put", "bread", "y"])?;
    home.run(0, &["del", "fruit:pear"])?;
    let done = watch.wait_with_output()?;
    let events: Vec<Value> = String::from_utf8(done.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(
        events.len() == 2
            && events[0]["event"] == "put"
            && events[0]["value"] == "2"
            && events[1]["event"] == "deleted"
            && events.iter().all(|event| event["key"] == "fruit:pear"),
        "{events:?}"
    );
    let token = events[0]["token"].as_str().context("a token")?;
    let words = ["watch", "fruit:pear", "--limit", "1", "--from", token];
    let again = home.run(0, &words)?;
    ensure!(again.starts_with("deleted\tfruit:pear\t"), "{again}");
    for key in ["fruit:apple", "bread"] {
        home.run(0, &["del", key])?;
    }
    Ok(())
}

/// Batches through the Rust client.
async fn batches(nodes: &Value) -> Result<()> {
    let addresses = nodes["coordinators"].as_array().into_iter().flatten();
    let addresses = addresses.filter_map(|node| node["client"].as_str());
    let client = Client::connect(addresses, Options::default()).await?;
    let batch = Batch::new()
        .put_with("{b}state", "new", Condition::Absent, Expiry::Never)
        .increment("{b}changes", 1)
        .delete("{b}old");
    let Ok(BatchOutcome::Applied { version, results }) = client.batch(batch.clone()).await else {
        bail!("the first batch is not applied");
    };
    let expected = [
        BatchResult::Put,
        BatchResult::Integer(1),
        BatchResult::Deleted(false),
    ];
    ensure!(results == expected, "{results:?}");
    let state = client.get("{b}state").await?.context("it was put")?;
    ensure!(state.version == version && state.data == "new", "{state:?}");
    // The same again, as a write of its own: the condition does not hold.
    let refused = client.batch(batch).await?;
    let reason = BatchRefusal::ConditionFailed {
        existing: Some(version),
    };
    ensure!(
        refused
            == BatchOutcome::Refused {
                operation: 0,
                reason
            },
        "{refused:?}"
    );
    ensure!(client.increment("{b}changes", 0).await? == 1);
    let apart = Batch::new().put("{1}a", "").put("{2}a", "").put("{3}a", "");
    match client.batch(apart).await {
        Err(Error::Invalid { problem, .. }) if problem.contains("different partitions") => Ok(()),
        other => bail!("keys of several partitions came to {other:?}"),
    }
}

/// The file below variables and flags, and completion.
fn configuration(home: &Home) -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(0, &["completion", shell])?;
        ensure!(script.contains("partitions"), "{shell}: {script}");
    }
    let nodes = home.json(&["nodes"])?;
    let address = nodes["coordinators"][0]["client"]
        .as_str()
        .with_context(|| format!("a client address in {nodes}"))?;
    let folder = home.path("home/.config/cairn");
    fs::create_dir_all(&folder)?;
    let file = folder.join("config.toml");
    fs::write(&file, "endpoints = ['127.0.0.1:1']\n")?;
    home.run(0, &["put", "configured", "yes", "--endpoints", address])?;
    let said = refused(home.cairn(&["--timeout", "1", "get", "configured"])?)?;
    ensure!(said.contains("127.0.0.1:1"), "{said}");
    fs::write(&file, format!("endpoints = ['{address}']\n"))?;
    ensure!(home.run(0, &["get", "configured"])? == "yes");
    let other = home.path("other.toml");
    fs::write(&other, "endpoint = 'x'\n")?;
    let mut wrong = home.cairn(&["get", "configured"])?;
    wrong.env("CAIRN_CONFIG", &other);
    let said = refused(wrong)?;
    ensure!(
        said.contains("other.toml") && said.contains("It may have: endpoints"),
        "{said}"
    );
    fs::remove_dir_all(home.path("home/.config"))?;
    home.run(0, &["del", "configured"])?;
    Ok(())
}

fn views(home: &Home) -> Result<()> {
    let status = waiting::until("everything to be up", BOUND, || {
        let status = home.run(0, &["status"])?;
        Ok(status.contains("32 of 32 serve").then_some(status))
    })?;
    for words in [
        "3 of 3 up",
        "replication factor 3, write quorum 2",
        "leader coordinator-1",
    ] {
        ensure!(status.contains(words), "`{words}` is not in:\n{status}");
    }
    ensure!(home.json(&["status"])?["summary"]["partitions"] == 32);

    let ring = home.run(0, &["ring"])?;
    let nodes = home.run(0, &["nodes"])?;
    for name in ["data-1", "data-2", "data-3"] {
        ensure!(
            ring.contains(name) && nodes.contains(name),
            "{name}:\n{ring}\n{nodes}"
        );
    }
    ensure!(nodes.contains("leader"), "{nodes}");
    let ring = home.json(&["ring"])?;
    let points = ring["points"].as_array().map_or(0, Vec::len);
    ensure!(points == 3 * 64, "the ring has {points} points");
    let nodes = home.json(&["nodes"])?;
    ensure!(
        nodes["nodes"].as_array().map(Vec::len) == Some(3),
        "{nodes}"
    );

    let partitions = home.run(0, &["partitions"])?;
    ensure!(partitions.contains("PRIMARY") && partitions.lines().count() > 32);
    let partitions = home.json(&["partitions", "--node", "data-2"])?;
    // Three replicas on three nodes: every partition has one there.
    ensure!(
        partitions.as_array().map(Vec::len) == Some(32),
        "{partitions}"
    );
    Ok(())
}
