//! Golden transcripts of replication: each file under `tests/replication/` is a
//! scenario that a person can read. `UPDATE_TRANSCRIPTS=1 cargo test -p cairn-core
//! --test transcripts` rewrites what follows each `----`; read the difference.

#![allow(
    clippy::disallowed_methods,
    reason = "the test reads its transcripts from files"
)]

mod harness;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use harness::Cluster;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replication");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("list transcripts")
        .map(|entry| entry.expect("read folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    files
}

/// Plays a file: a command per paragraph, its output after `----`.
fn play(text: &str) -> String {
    let mut cluster = Cluster::default();
    let mut played = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            let _ = writeln!(played, "{line}");
            continue;
        }
        let _ = writeln!(played, "{line}");
        let mut commands = vec![line.to_owned()];
        while let Some(next) = lines.peek() {
            if *next == "----" || next.is_empty() {
                break;
            }
            let _ = writeln!(played, "{next}");
            commands.push((*next).to_owned());
            lines.next();
        }
        if lines.peek() == Some(&"----") {
            lines.next();
            while lines.peek().is_some_and(|l| !l.is_empty()) {
                lines.next();
            }
        }
        let _ = writeln!(played, "----");
        for command in commands.iter().filter(|c| !c.starts_with('#')) {
            cluster.command(command, &mut played);
        }
    }
    played
}

#[test]
fn every_transcript_plays_as_written() {
    let files = files();
    assert!(
        files.len() >= 8,
        "transcripts are missing: found {}",
        files.len()
    );
    let mut different = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).expect("read transcript");
        let played = play(&written);
        if played == written {
            continue;
        }
        if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
            std::fs::write(&file, &played).expect("write transcript");
        } else {
            different.push(format!("{}\n--- played:\n{played}", file.display()));
        }
    }
    assert!(
        different.is_empty(),
        "these play differently:\n{}",
        different.join("\n")
    );
}
