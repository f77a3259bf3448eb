//! `cairn debug bundle` of a cluster in which something is wrong: who does not answer is named,
//! and nothing of what clients wrote, nor any password, is in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cli;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use flate2::read::GzDecoder;
use serde_json::Value;
use tempfile::TempDir;

/// Written as a key, as a value, and known as a password: none of it may be found.
const KEY: &str = "canary-key-7d1f";
const VALUE: &str = "canary-value-93ab";
const PASSWORD: &str = "canary-password-5e20";

fn files(archive: &Path) -> Result<BTreeMap<String, String>> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(archive)?));
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).context(name.clone())?;
        files.insert(name, text);
    }
    Ok(files)
}

/// Whether anything holds these bytes, as text or as Rust prints bytes that are none.
fn holds(files: &BTreeMap<String, String>, canary: &str) -> Vec<String> {
    let found = files.iter().filter(|(_, text)| text.contains(canary));
    found.map(|(name, _)| name.clone()).collect()
}

#[test]
fn a_bundle_names_who_does_not_answer_and_holds_nothing_that_clients_wrote() -> Result<()> {
    let folder = TempDir::with_prefix("cairn-bundle-")?;
    let users = folder.path().join("users.toml");
    let password = folder.path().join("password");
    std::fs::write(&password, PASSWORD)?;
    let hash = cli::done(
        cli::cairn(&["user", "hash", "--file", &password.display().to_string()])?,
        BOUND,
    )?;
    let entry = |name: &str, role: &str| {
        format!("[[user]]\nname = {name:?}\nrole = {role:?}\nkeys = [\"*\"]\n{hash}\n")
    };
    std::fs::write(
        &users,
        entry("boss", "admin") + &entry("reporter", "reader"),
    )?;
    let spec = Spec {
        coordinators: 3,
        data_nodes: 3,
        partitions: 8,
        ..Spec::default()
    }
    .with("CAIRN_LOG", "debug,h2=info,openraft=info");
    let mut cluster = Cluster::start(spec)?;
    let put = cluster.cairn(&["put", KEY, VALUE])?;
    cli::done(put, BOUND)?;
    // A value that a command fails on, and one that is taken for a command.
    for words in [["incr", KEY], ["get", KEY]] {
        cluster.cairn(&words)?.output()?;
    }
    for node in cluster.nodes() {
        node.set("CAIRN_USERS_FILE", users.display());
        node.terminate(BOUND)?;
    }
    cluster.start_all()?;
    cluster.await_ready()?;
    cluster.data[2].kill()?;

    let as_user = |name: &str, output: &Path| -> Result<std::process::Command> {
        let output = output.display().to_string();
        let mut command = cluster.cairn(&["debug", "bundle", "-o", "json", "--file", &output])?;
        command.args(["--user", name, "--password-file"]);
        command.arg(&password);
        Ok(command)
    };
    let archive = folder.path().join("bundle.tar.gz");
    let printed = cli::done(as_user("boss", &archive)?, BOUND)?;
    let told: Value = serde_json::from_str(&printed)?;
    let nodes = told["contents"]["nodes"].as_array().context("nodes")?;
    let silent: Vec<&str> = nodes
        .iter()
        .filter(|node| node["notReached"].is_string())
        .filter_map(|node| node["name"].as_str())
        .collect();
    ensure!(nodes.len() == 6 && silent == ["data-2"], "{printed}");

    let files = files(&archive)?;
    let names: Vec<&String> = files.keys().collect();
    for file in ["contents.json", "status.json", "map.json"] {
        ensure!(
            files.contains_key(&format!("cairn-bundle/{file}")),
            "{names:?}"
        );
    }
    for (name, says) in [
        ("metrics.txt", "cairn_build_info"),
        ("log.txt", "recovered the write-ahead log"),
        ("node.json", "CAIRN_USERS_FILE"),
    ] {
        let of_first = files
            .iter()
            .find(|(path, _)| path.ends_with(&format!("-data-0/{name}")));
        let (_, text) = of_first.with_context(|| format!("{name}: {names:?}"))?;
        ensure!(text.contains(says), "{name} does not say {says:?}: {text}");
    }
    ensure!(names.len() == 3 + 5 * 3, "{names:?}");
    let secret = hash.split('$').next_back().context("a hash")?;
    let secret = secret.trim_end_matches(['"', ']', '\n']);
    for canary in [KEY, VALUE, PASSWORD, secret] {
        let found = holds(&files, canary);
        ensure!(found.is_empty(), "{canary} is in {found:?}");
    }
    // The test would see it: what is in it is found.
    ensure!(!holds(&files, "data-0").is_empty());

    // No other file's place is taken, and who may not look is told so.
    cli::refused(as_user("boss", &archive)?, BOUND)?;
    let other = folder.path().join("other.tar.gz");
    let printed = cli::done(as_user("reporter", &other)?, BOUND)?;
    ensure!(printed.contains("takes the role admin"), "{printed}");
    for node in cluster.nodes().filter(|node| node.is_started()) {
        node.kill()?;
    }
    let nowhere = folder.path().join("nowhere.tar.gz");
    let output = nowhere.display().to_string();
    let command = cluster.cairn(&["debug", "bundle", "--file", &output, "--timeout", "2"])?;
    let said = cli::refused(command, BOUND)?;
    ensure!(
        said.contains("nobody answers") && !nowhere.exists(),
        "{said}"
    );
    Ok(())
}
