//! Redis clients of other languages, unchanged, in cluster mode. `tests/clients` has a
//! program for each and says what it does; `ci/install-clients` builds them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, bail, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::{seed, skip, waiting};
use rand::Rng;
use rand::rngs::StdRng;

/// Where `ci/install-clients` puts what it builds: beside this test's own profile.
fn installed() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("no target directory")?;
    Ok(target.join("clients"))
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients")
}

/// A client library.
struct Client {
    name: &'static str,
    /// Its folder below `target/clients`.
    folder: &'static str,
    command: fn(&Path) -> Result<Command>,
}

const CLIENTS: [Client; 5] = [
    Client {
        name: "redis-py",
        folder: "python",
        command: |folder| {
            let mut command = Command::new("python3");
            command
                .arg(sources().join("python/client.py"))
                .env("PYTHONPATH", folder);
            Ok(command)
        },
    },
    Client {
        name: "go-redis",
        folder: "go",
        command: |folder| Ok(Command::new(folder.join("client"))),
    },
    Client {
        name: "node-redis",
        folder: "node",
        command: |folder| {
            // Modules are looked for beside the program.
            let program = folder.join("client.js");
            fs::copy(sources().join("node/client.js"), &program)?;
            let mut command = Command::new("node");
            command.arg(program);
            Ok(command)
        },
    },
    Client {
        name: "jedis",
        folder: "java",
        command: |folder| Ok(java(folder, "JedisTest")),
    },
    Client {
        name: "lettuce",
        folder: "java",
        command: |folder| Ok(java(folder, "LettuceTest")),
    },
];

fn java(folder: &Path, class: &str) -> Command {
    let mut command = Command::new("java");
    let (classes, libraries) = (folder.join("classes"), folder.join("lib/*"));
    command
        .args(["-XX:TieredStopAtLevel=1", "-cp"])
        .arg(format!("{}:{}", classes.display(), libraries.display()));
    command.arg(class);
    command
}

/// A program that is killed where the test ends early.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end and kills a data node when it asks for that, which is dead
/// until then. Returns which one was killed.
fn run(client: &Client, cluster: &mut Cluster, rng: &mut StdRng) -> Result<usize> {
    let mut command = (client.command)(&installed()?.join(client.folder))?;
    // A node that stays alive is the one seed.
    let victim = rng.random_range(1..cluster.data.len());
    let seed = &cluster.data[0];
    let child = command
        .args(["127.0.0.1", &seed.ports.resp.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let mut program = Program(child);
    let output = program.0.stdout.take().context("its output")?;
    let mut input = program.0.stdin.take().context("its input")?;
    let errors = program.0.stderr.take().context("its errors")?;
    let name = client.name;
    let errors = std::thread::spawn(move || {
        let mut last = String::new();
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            eprintln!("{name}: {line}");
            last = line;
        }
        last
    });
    let (lines, arrived) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    let (mut killed, mut last) = (false, String::new());
    loop {
        match arrived.recv_timeout(BOUND * 2) {
            Ok(line) if line == "kill" => {
                ensure!(!killed, "it asks for a second kill");
                cluster.data[victim].kill()?;
                killed = true;
                input.write_all(b"killed\n")?;
                input.flush()?;
            }
            Ok(line) => {
                println!("{}: {line}", client.name);
                last = line;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("it says nothing more after `{last}`"),
        }
    }
    let status = waiting::until("its end", BOUND, || Ok(program.0.try_wait()?))?;
    let error = errors.join().unwrap_or_default();
    ensure!(
        status.success() && last == "passed",
        "{status}: {last}: {error}"
    );
    ensure!(killed, "it never asked for the kill");
    Ok(victim)
}

#[test]
fn clients_of_five_languages_pass_in_cluster_mode_and_outlive_a_killed_node() -> Result<()> {
    let installed = installed()?;
    let (missing, present): (Vec<_>, Vec<_>) = CLIENTS
        .iter()
        .partition(|client| !installed.join(client.folder).join("complete").is_file());
    for client in missing {
        skip::without(&format!(
            "{} is not installed (see ci/install-clients)",
            client.name
        ))?;
    }
    if present.is_empty() {
        return Ok(());
    }
    let (_, mut rng) = seed::draw("clients of other languages");
    let mut cluster = Cluster::start(Spec::default())?;
    let mut failed = Vec::new();
    for client in present {
        match run(client, &mut cluster, &mut rng) {
            Ok(victim) => {
                println!(
                    "{}: passed, {} was killed",
                    client.name, cluster.data[victim].name
                );
            }
            Err(error) => failed.push(format!("{}: {error:#}", client.name)),
        }
        cluster.start_all()?;
        cluster.await_ready()?;
        cluster.await_serving()?;
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    cluster.check_running()
}
