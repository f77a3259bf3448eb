//! Users, as an operator and their clients meet them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::{ports, waiting};
use tempfile::TempDir;

use crate::dev::{Dev, cairn, command};

const PATIENCE: Duration = Duration::from_secs(10);
const REFUSED: i32 = 5;

/// Runs a command with something on its standard input.
fn run(words: &[&str], environment: &[(&str, &str)], input: &str) -> Result<Output> {
    let mut child = cairn(words)?
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("an input")?
        .write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

fn printed(words: &[&str], input: &str) -> Result<String> {
    let done = run(words, &[], input)?;
    ensure!(done.status.success(), "{words:?}: {done:?}");
    Ok(String::from_utf8(done.stdout)?)
}

/// A users file made by the command, and the token of `bot`.
fn write_users(path: &Path, bot: &str) -> Result<()> {
    let password = |secret: &str| printed(&["user", "hash"], secret);
    let user = |name: &str, role: &str, keys: &str, secrets: &str| {
        format!("[[user]]\nname = \"{name}\"\nrole = \"{role}\"\nkeys = [\"{keys}\"]\n{secrets}\n")
    };
    let text = user("app", "writer", "app:*", &password("the app's\n")?)
        + &user("look", "reader", "*", &password("looks only")?)
        + &user("root", "admin", "*", &password("the admin's")?)
        + &user("bot", "writer", "*", bot);
    // As a kubelet replaces it: whole or not at all.
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)?;
    fs::rename(fresh, path)?;
    Ok(())
}

#[test]
fn users_are_let_in_by_what_the_file_says_while_it_says_so() -> Result<()> {
    let files = TempDir::with_prefix("cairn-users-")?;
    let path = files.path().join("users.toml");
    let made = printed(&["user", "token"], "")?;
    let mut lines = made.lines();
    let token = lines.next().context("a token")?.to_owned();
    let line = lines
        .find(|line| line.starts_with("tokens"))
        .context("its line")?;
    write_users(&path, line)?;
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 8,
        ..Spec::default()
    }
    .with("CAIRN_USERS_FILE", path.display());
    let mut cluster = Cluster::lay_out(spec)?;
    cluster.start_all()?;
    cluster.await_ready()?;
    let endpoints = cluster.client_addresses().join(",");
    let at = ("CAIRN_ENDPOINTS", endpoints.as_str());
    let root = [
        at,
        ("CAIRN_USER", "root"),
        ("CAIRN_PASSWORD", "the admin's"),
    ];
    waiting::until("a write", BOUND, || {
        let done = run(&["put", "app:greeting", "hello"], &root, "")?;
        ensure!(done.status.success(), "{done:?}");
        Ok(Some(()))
    })?;

    // Whoever says nothing, or what is wrong, is refused at once and told what to do.
    let wrong = [at, ("CAIRN_USER", "root"), ("CAIRN_PASSWORD", "the app's")];
    for environment in [&[at][..], &wrong] {
        for words in [&["get", "app:greeting"][..], &["status"]] {
            let done = run(words, environment, "")?;
            let said = String::from_utf8_lossy(&done.stderr);
            ensure!(done.status.code() == Some(REFUSED), "{words:?}: {done:?}");
            ensure!(said.contains("--password-file"), "{said}");
        }
    }

    // Each may do what it is for. The password is a file's first line, as `user hash` read it.
    let secret = files.path().join("secret");
    fs::write(&secret, "the app's\n")?;
    let secret = secret.display().to_string();
    let as_app = ["--user", "app", "--password-file", &secret];
    let app = |words: &[&str]| run(&[words, &as_app].concat(), &[at], "");
    let done = app(&["get", "app:greeting"])?;
    ensure!(done.status.success() && done.stdout == b"hello", "{done:?}");
    let done = app(&["put", "other", "x"])?;
    ensure!(done.status.code() == Some(REFUSED), "{done:?}");
    let look = [at, ("CAIRN_USER", "look"), ("CAIRN_PASSWORD", "looks only")];
    let done = run(&["put", "app:greeting", "x"], &look, "")?;
    ensure!(done.status.code() == Some(REFUSED), "{done:?}");
    let done = run(&["status"], &look, "")?;
    ensure!(
        done.status.success(),
        "any user may see how the cluster is: {done:?}"
    );
    let bot = [at, ("CAIRN_TOKEN", token.as_str())];
    let done = run(&["incr", "count"], &bot, "")?;
    ensure!(done.status.success(), "{done:?}");

    // The load generator logs in, over both protocols.
    for more in [&[][..], &["--native"]] {
        let words = [
            "bench",
            "--requests",
            "200",
            "--keys",
            "50",
            "-c",
            "4",
            "-o",
            "json",
        ];
        let done = run(&[&words, more].concat(), &bot, "")?;
        ensure!(done.status.success(), "{done:?}");
        let report: serde_json::Value = serde_json::from_slice(&done.stdout)?;
        ensure!(report.to_string().contains("\"errors\":{}"), "{report}");
    }

    // A new file puts one out, whose connection was open.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut open = runtime.block_on(Connection::open(&cluster.data[0].resp(), PATIENCE))?;
    let reply = runtime.block_on(open.call(&[b"AUTH", token.as_bytes()]))?;
    ensure!(reply == Reply::Simple("OK".to_owned()), "{reply:?}");
    let other = printed(&["user", "token"], "")?;
    let other = other
        .lines()
        .find(|line| line.starts_with("tokens"))
        .context("its line")?;
    write_users(&path, other)?;
    waiting::until("the user to be put out", BOUND, || {
        let reply = runtime.block_on(open.call(&[b"ACL", b"WHOAMI"]))?;
        Ok(matches!(&reply, Reply::Error(words) if words.starts_with("NOAUTH")).then_some(()))
    })?;
    for node in cluster
        .nodes()
        .map(|node| node.client())
        .collect::<Vec<_>>()
    {
        waiting::until("every node to put the user out", BOUND, || {
            let environment = [("CAIRN_ENDPOINTS", node.as_str()), bot[1]];
            let done = run(&["get", "count"], &environment, "")?;
            Ok((done.status.code() == Some(REFUSED)).then_some(()))
        })?;
    }

    // A broken one puts nobody out, and is counted.
    fs::write(&path, "[[user]]\nname = \"app\"")?;
    waiting::until("the broken file to be counted", BOUND, || {
        let failed = cluster.data[0].metric("cairn_users_reloads_failed_total")?;
        Ok((failed > 0.0).then_some(()))
    })?;
    let done = app(&["get", "app:greeting"])?;
    ensure!(done.status.success(), "{done:?}");
    for node in &cluster.data {
        let log = node.log_text();
        ensure!(
            !log.contains(&token) && !log.contains("the app's"),
            "a secret is logged"
        );
    }
    ensure!(cluster.data[0].metric("cairn_logins_failed_total")? > 0.0);
    cluster.check_running()
}

#[test]
fn cairn_dev_comes_up_with_users_whoever_starts_it() -> Result<()> {
    let files = TempDir::with_prefix("cairn-users-")?;
    let path = files.path().join("users.toml");
    let made = printed(&["user", "token"], "")?;
    let line = made
        .lines()
        .find(|line| line.starts_with("tokens"))
        .context("its line")?;
    write_users(&path, line)?;
    let file = path.display().to_string();
    let words = [
        "--coordinators",
        "1",
        "--data-nodes",
        "3",
        "--users-file",
        &file,
    ];
    for environment in [
        &[][..],
        &[("CAIRN_USER", "root"), ("CAIRN_PASSWORD", "the admin's")],
    ] {
        let directory = TempDir::with_prefix("cairn-dev-")?;
        let port = ports::free_run(5)?;
        let mut start = command(directory.path(), port, &words)?;
        start.envs(environment.iter().copied());
        let dev = Dev::run(start, port)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let reply = runtime.block_on(async {
            let mut open = Connection::open(&format!("127.0.0.1:{port}"), PATIENCE).await?;
            open.call(&[b"PING"]).await
        })?;
        ensure!(
            reply == Reply::Error("NOAUTH Authentication required.".to_owned()),
            "{reply:?}"
        );
        ensure!(dev.stop()?.success());
    }
    // One that cannot be read is refused before anything is made.
    fs::write(&path, "[[user]]\nname = \"app\"\nrole = \"king\"")?;
    let directory = TempDir::with_prefix("cairn-dev-")?;
    let done = run(
        &[
            "dev",
            "--users-file",
            &file,
            "--data-dir",
            &directory.path().display().to_string(),
        ],
        &[],
        "",
    )?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.code() == Some(2) && said.contains("line 3"),
        "{said}"
    );
    ensure!(
        fs::read_dir(directory.path())?.next().is_none(),
        "something was made"
    );
    Ok(())
}
