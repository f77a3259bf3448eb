//! The partition table as `cairn partitions -o json` prints it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{BOUND, Cluster};
use crate::{binary, waiting};

/// One partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its number.
    pub id: u32,
    /// Its epoch.
    pub epoch: u64,
    /// The name of the primary's node.
    pub primary: Option<String>,
    /// The names of the nodes that hold voting replicas.
    pub replicas: Vec<String>,
    /// Whether it has fewer replicas, or a lower W, than it should, or is joint or
    /// has learners: whether a repair is under way.
    pub degraded: bool,
}

/// Runs `cairn` as a person would, and returns what it printed.
///
/// # Errors
/// Where it fails; names what it said.
pub fn cairn(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let done = std::process::Command::new(binary::cairn()?)
        .arg("--endpoints")
        .arg(cluster.client_addresses().join(","))
        .args(words)
        .env_remove("CAIRN_ROLE")
        .output()?;
    ensure!(
        done.status.success(),
        "cairn {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8(done.stdout)?)
}

/// The table, as any node that answers knows it.
///
/// # Errors
/// Where none answers.
pub fn partitions(cluster: &Cluster) -> Result<Vec<Partition>> {
    let text = cairn(cluster, &["partitions", "-o", "json"])?;
    let rows: Vec<Value> = serde_json::from_str(&text).context("read the table")?;
    let table: Vec<Partition> = rows
        .iter()
        .map(|row| partition(row).with_context(|| format!("a row like {row}")))
        .collect::<Result<_>>()?;
    ensure!(
        table.len() == cluster.partitions() as usize,
        "the table has {} partitions",
        table.len()
    );
    Ok(table)
}

fn partition(row: &Value) -> Option<Partition> {
    let names = |value: &Value| -> Option<Vec<String>> {
        value
            .as_array()?
            .iter()
            .map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    };
    Some(Partition {
        id: u32::try_from(row["id"].as_u64()?).ok()?,
        epoch: row["epoch"].as_u64()?,
        primary: row["primary"].as_str().map(str::to_owned),
        replicas: names(&row["replicas"])?,
        degraded: row["degraded"].as_bool()?,
    })
}

/// Waits until no partition lacks a replica and nothing is being repaired.
///
/// # Errors
/// Where that does not come in time.
pub fn await_whole(cluster: &Cluster) -> Result<()> {
    let bound: Duration = BOUND * 2;
    waiting::until("every partition to be whole again", bound, || {
        let table = partitions(cluster)?;
        let degraded: Vec<u32> = table.iter().filter(|p| p.degraded).map(|p| p.id).collect();
        ensure!(degraded.is_empty(), "degraded: {degraded:?}");
        Ok(Some(()))
    })
}
