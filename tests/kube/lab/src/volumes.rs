//! Local volumes: each node has so many, and one whose claim is gone is replaced by a new,
//! empty one.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::layout::{Layout, NodeId};
use crate::node;
use crate::process::output;
use crate::template;

/// Volumes of each node.
const PER_NODE: u8 = 12;
/// After this long without news there is a look all the same: a watch may have ended.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps every node that is on supplied with volumes, for as long as the process runs.
pub fn supply(layout: &Layout, is_on: impl Fn(NodeId) -> bool) {
    let mut watch = None;
    loop {
        if let Err(error) = replace(layout, &is_on) {
            eprintln!("volumes: {error:#}");
        }
        wait_for_news(layout, &mut watch);
    }
}

/// Makes what is missing and replaces what was released.
///
/// # Errors
/// Where the API server or a folder refuses.
pub fn replace(layout: &Layout, is_on: impl Fn(NodeId) -> bool) -> Result<()> {
    let mut volumes = list(layout)?;
    let mut wanted = String::new();
    for node in NodeId::all(layout.nodes).filter(|node| is_on(*node)) {
        for number in 1..=PER_NODE {
            let slot = format!("{}-disk-{number}", node.name());
            match volumes.remove(&slot) {
                Some(volume) if !volume.is_used_up() => continue,
                Some(volume) => {
                    // The folder stays for a pod that has not noticed yet; nobody else gets it.
                    output(&mut layout.kubectl(&["delete", "pv", "--timeout=20s", &volume.name]))?;
                }
                None => {}
            }
            wanted.push_str(&make(layout, node, &slot)?);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    create(layout, &wanted)
}

struct Volume {
    name: String,
    phase: String,
}

impl Volume {
    fn is_used_up(&self) -> bool {
        ["Released", "Failed"].contains(&self.phase.as_str())
    }
}

/// All volumes of the lab, by their slot.
fn list(layout: &Layout) -> Result<HashMap<String, Volume>> {
    let columns = "custom-columns=S:.metadata.labels.cairn\\.dev/lab-slot,\
                   N:.metadata.name,P:.status.phase";
    let arguments = [
        "get",
        "pv",
        "--no-headers",
        "--request-timeout=20s",
        "-l",
        "cairn.dev/lab-slot",
        "-o",
        columns,
    ];
    let listing = output(&mut layout.kubectl(&arguments))?;
    Ok(parse(&listing))
}

fn parse(listing: &str) -> HashMap<String, Volume> {
    let mut volumes = HashMap::new();
    for line in listing.lines() {
        if let [slot, name, phase] = line.split_whitespace().collect::<Vec<_>>().as_slice() {
            let volume = Volume {
                name: (*name).to_owned(),
                phase: (*phase).to_owned(),
            };
            volumes.insert((*slot).to_owned(), volume);
        }
    }
    volumes
}

/// A new, empty folder for a slot, and the manifest of its volume.
fn make(layout: &Layout, node: NodeId, slot: &str) -> Result<String> {
    let folders = node::disk(layout, node).join(node::VOLUMES.trim_start_matches("/var/"));
    let name = (1_u32..)
        .map(|generation| format!("{slot}-{generation}"))
        .find(|name| !folders.join(name).exists())
        .context("a number for a volume")?;
    fs::create_dir_all(folders.join(&name)).context("make a volume's folder")?;
    let path = format!("{}/{name}", node::VOLUMES);
    let node = node.name();
    template::fill(
        include_str!("../templates/volume.yaml"),
        &[
            ("VOLUME", &name),
            ("SLOT", slot),
            ("PATH", &path),
            ("NODE", &node),
        ],
    )
}

fn create(layout: &Layout, manifests: &str) -> Result<()> {
    let mut child = layout
        .kubectl(&["create", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut input = child.stdin.take().context("standard input")?;
    // Where it ended early, how it ended tells more than that it no longer reads.
    let written = input.write_all(manifests.as_bytes());
    drop(input);
    let status = child.wait()?;
    ensure!(status.success(), "create volumes: {status}");
    written.context("create volumes")
}

/// A `kubectl get --watch` that says when something happened.
struct Watch {
    child: Child,
    lines: Receiver<()>,
}

impl Watch {
    fn start(layout: &Layout) -> Result<Self> {
        let mut command: Command = layout.kubectl(&["get", "pv", "--watch-only", "-o", "name"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("standard output")?);
        let (news, lines) = channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            for () in lines.map(drop) {
                if news.send(()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }
}

fn wait_for_news(layout: &Layout, watch: &mut Option<Watch>) {
    if watch.is_none() {
        *watch = Watch::start(layout).ok();
    }
    let ended = match watch.as_ref().map(|watch| watch.lines.recv_timeout(LOOK)) {
        Some(Ok(())) => {
            // One look answers all news that there are.
            if let Some(watch) = watch {
                while watch.lines.try_recv().is_ok() {}
            }
            false
        }
        Some(Err(RecvTimeoutError::Timeout)) => false,
        Some(Err(RecvTimeoutError::Disconnected)) | None => {
            std::thread::sleep(LOOK);
            true
        }
    };
    if ended && let Some(mut watch) = watch.take() {
        // It has ended already; this takes its entry out of the process table.
        let _ = watch.child.kill();
        let _ = watch.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_released_is_replaced_and_what_is_used_is_not() {
        let volumes = parse(
            "node-1-disk-1   node-1-disk-1-1   Bound\n\
             node-1-disk-2   node-1-disk-2-3   Released\n\
             node-1-disk-3   node-1-disk-3-1   Available\n",
        );
        let used_up: Vec<_> = volumes
            .values()
            .filter(|volume| volume.is_used_up())
            .collect();
        assert_eq!(used_up.len(), 1);
        assert_eq!(used_up[0].name, "node-1-disk-2-3");
    }
}
