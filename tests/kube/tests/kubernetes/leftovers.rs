//! A lab leaves nothing, however it ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cairn_kube_lab::lab::{self, Lab, Lifetime};
use cairn_kube_lab::{Layout, NotHere};
use cairn_kube_tests::program;
use cairn_process_tests::skip;
use tempfile::TempDir;

/// Folders of the machine that parts of Kubernetes would use.
const FOLDERS: [&str; 8] = [
    "/run",
    "/run/netns",
    "/opt",
    "/var/lib",
    "/var/log",
    "/usr/libexec",
    "/etc",
    "/root",
];

/// Settings of the machine that they would change.
const SETTINGS: [&str; 5] = [
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/hostname",
];

/// A folder for a lab of the test's own, and what it runs; nothing where it is skipped.
fn place() -> Result<Option<(TempDir, PathBuf)>> {
    match lab::build() {
        Ok(programs) => {
            // Neither in /var nor in /run, which a node has of its own.
            let folder = TempDir::new_in(program::kube_lab()?.parent().context("a folder")?)?;
            Ok(Some((folder, programs)))
        }
        Err(error) => match error.downcast::<NotHere>() {
            Ok(reason) => skip::without(&reason.to_string()).map(|()| None),
            Err(error) => Err(error),
        },
    }
}

/// What a lab could leave on the machine, a line for each thing.
fn machine(state: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let commands: [&[&str]; 4] = [
        &["ip", "-oneline", "link"],
        &["ip", "-oneline", "address"],
        &["ip", "route"],
        &["iptables", "-w", "-S"],
    ];
    for words in commands {
        lines.push(words.join(" "));
        lines.extend(told_by(words)?);
    }
    lines.extend(
        fs::read_to_string("/proc/self/mounts")?
            .lines()
            .map(str::to_owned),
    );
    for setting in SETTINGS {
        let value = fs::read_to_string(Path::new("/proc/sys").join(setting))?;
        lines.push(format!("{setting} = {}", value.trim_end()));
    }
    for folder in FOLDERS {
        lines.extend(names_in(Path::new(folder))?);
    }
    for hierarchy in names_in(Path::new("/sys/fs/cgroup"))? {
        lines.extend(
            names_in(Path::new(&hierarchy))?
                .into_iter()
                .filter(|path| Path::new(path).is_dir()),
        );
    }
    lines.extend(processes(state)?);
    if state.exists() {
        lines.push(state.display().to_string());
    }
    Ok(lines)
}

fn told_by(words: &[&str]) -> Result<Vec<String>> {
    let done = Command::new(words[0]).args(&words[1..]).output()?;
    ensure!(done.status.success(), "{words:?}: {}", done.status);
    Ok(String::from_utf8(done.stdout)?
        .lines()
        .map(str::to_owned)
        .collect())
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let paths = entries.map(|entry| Ok(entry?.path().display().to_string()));
    let mut names = paths.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Processes whose command line names the lab's folder.
fn processes(state: &Path) -> Result<Vec<String>> {
    let state = state.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path().join("cmdline");
        let Ok(line) = fs::read(path) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&*state) {
            found.push(line);
        }
    }
    Ok(found)
}

fn ensure_nothing_is_left(state: &Path, before: &[String]) -> Result<()> {
    let after = machine(state)?;
    let left: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    ensure!(left.is_empty(), "left behind: {left:#?}");
    let lost: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    ensure!(lost.is_empty(), "taken away: {lost:#?}");
    Ok(())
}

#[test]
fn a_lab_that_was_up_leaves_nothing() -> Result<()> {
    let Some((folder, programs)) = place()? else {
        return Ok(());
    };
    let state = folder.path().join("lab");
    let before = machine(&state)?;
    let layout = Layout::new(&state, &programs, 2)?;
    let program = program::kube_lab()?;
    let up = || {
        Lab::up(&program, &layout, Lifetime::Detached, |line| {
            println!("lab: {line}")
        })
    };
    let lab = up()?;
    ensure!(!processes(&state)?.is_empty(), "a lab without a process");
    // What is up already is taken as it is, unless it is another one.
    ensure!(up()?.nodes() == ["node-1", "node-2"], "another lab");
    let larger = Layout::new(&state, &programs, 3)?;
    ensure!(
        Lab::up(&program, &larger, Lifetime::Detached, |_| ()).is_err(),
        "two labs in one"
    );

    lab.power_off("node-2")?;
    ensure!(lab.power_off("node-2")?.contains("was off"), "it was on");
    ensure!(lab.power_off("node-3").is_err(), "there is no such node");
    lab.power_on("node-2")?;
    lab.power_off("node-1")?;
    lab::down(&state)?;
    ensure_nothing_is_left(&state, &before)?;
    // There is nothing to do the second time.
    lab::down(&state)?;
    ensure!(lab.status().is_err(), "a lab that is down answers");
    Ok(())
}

#[test]
fn a_lab_whose_start_was_cut_short_leaves_nothing_once_it_is_down() -> Result<()> {
    let Some((folder, programs)) = place()? else {
        return Ok(());
    };
    let state = folder.path().join("lab");
    let before = machine(&state)?;
    let mut keeper = Command::new(program::kube_lab()?)
        .arg("keep")
        .arg("--state")
        .arg(&state)
        .arg("--programs")
        .arg(&programs)
        .args(["--nodes", "1"])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(keeper.stdout.take().context("its output")?);
    let is_half_way = output
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("waiting for the nodes"));
    ensure!(is_half_way, "it ended early");
    keeper.kill()?;
    keeper.wait()?;
    lab::down(&state)?;
    ensure_nothing_is_left(&state, &before)
}

#[test]
fn a_lab_that_does_not_start_names_the_part_and_leaves_nothing() -> Result<()> {
    let Some((folder, programs)) = place()? else {
        return Ok(());
    };
    let state = folder.path().join("lab");
    let broken = folder.path().join("programs");
    fs::create_dir(&broken)?;
    let kube = broken.join("kube");
    let real = programs.join("kube");
    fs::write(
        &kube,
        format!(
            "#!/bin/sh\n[ \"$1\" != apiserver ] || {{ echo 'no port is free' >&2; exit 1; }}\n\
             exec {} \"$@\"\n",
            real.display()
        ),
    )?;
    fs::set_permissions(&kube, fs::Permissions::from_mode(0o755))?;
    let before = machine(&state)?;
    let layout = Layout::new(&state, &broken, 1)?;
    let told = Lab::up(&program::kube_lab()?, &layout, Lifetime::Leased, |_| ())
        .err()
        .context("it started without an API server")?;
    let told = format!("{told:#}");
    ensure!(told.contains("apiserver ended"), "{told}");
    ensure!(told.contains("no port is free"), "{told}");
    ensure_nothing_is_left(&state, &before)
}
