//! What the cluster says of itself, asked as `cairn status` asks.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_client::admin::Admin;
use cairn_client::transport::Dialer;
use cairn_client::{ClusterMap, Options};
use cairn_core::cluster::status::{ClusterStatus, PartitionState};
use cairn_core::ids::ReplicaId;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::cluster::{BOUND, Cluster};
use crate::node::Node;
use crate::waiting;

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// How long a node may take to tell its map.
const PATIENCE: Duration = Duration::from_secs(2);

/// The map: the newest that a majority of the nodes tell, or as many as answer. One that is
/// cut off knows an old one.
///
/// # Errors
/// Where none answers.
pub fn map(cluster: &Cluster) -> Result<ClusterMap> {
    runtime()?.block_on(async {
        let addresses = cluster.client_addresses();
        let enough = addresses.len() / 2 + 1;
        let ask = |address| async move {
            let options = Options {
                deadline: PATIENCE,
                ..Options::default()
            };
            let client = cairn_client::Client::connect([address], options).await?;
            anyhow::Ok(client.map().as_ref().clone())
        };
        let asked: FuturesUnordered<_> = addresses.into_iter().map(ask).collect();
        let told = asked.filter_map(|map: Result<ClusterMap>| std::future::ready(map.ok()));
        let maps: Vec<ClusterMap> = told.take(enough).collect().await;
        let newest = maps.into_iter().max_by_key(|map| map.version);
        newest.context("no node tells its map")
    })
}

/// Waits until every data node has the present map on its disk: without coordinators it
/// knows no newer one when it starts, and a map is saved a while after it came.
///
/// # Errors
/// Where that does not come in time.
pub fn await_saved_maps(cluster: &Cluster) -> Result<()> {
    // A magic number, a format and a checksum stand before the JSON.
    const HEADER: usize = 16;
    let version = map(cluster)?.version.0;
    waiting::until("the map to be on every disk", BOUND, || {
        for node in &cluster.data {
            let Ok(bytes) = std::fs::read(node.data.join("map.json")) else {
                return Ok(None);
            };
            let json = bytes.get(HEADER..).context("a map file without a map")?;
            let saved: serde_json::Value = serde_json::from_slice(json)?;
            let saved = saved["version"].as_u64().context("a version")?;
            if saved < version {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// Each partition's epoch.
///
/// # Errors
/// Where no node answers.
pub fn epochs(cluster: &Cluster) -> Result<Vec<u64>> {
    let map = map(cluster)?;
    ensure!(
        map.partitions.len() == cluster.partitions() as usize,
        "the map has {} partitions",
        map.partitions.len()
    );
    Ok(map.partitions.iter().map(|record| record.epoch.0).collect())
}

/// A partition's epoch, and which data node of the cluster is its primary.
///
/// # Errors
/// Where no node answers, or there is no primary at the time.
pub fn primary(cluster: &Cluster, partition: u32) -> Result<(u64, usize)> {
    let map = map(cluster)?;
    let record = map.partitions.get(partition as usize);
    let record = record.with_context(|| format!("partition {partition}"))?;
    let primary = record.primary.as_ref();
    let primary = primary.with_context(|| format!("partition {partition} has no primary"))?;
    let name = map.nodes.get(&primary.node).map(|node| &node.name);
    let index = cluster
        .data
        .iter()
        .position(|node| Some(&node.name) == name);
    Ok((record.epoch.0, index.context("a data node of the test")?))
}

/// A coordinator that leads, other than `but`: one that is cut off may think that it still
/// does.
///
/// # Errors
/// Where none does, in time.
pub fn leader(cluster: &Cluster, but: Option<usize>) -> Result<usize> {
    waiting::until("a leader of the coordinators", BOUND, || {
        let nodes = cluster.coordinators.iter().enumerate();
        for (index, node) in nodes.filter(|(index, _)| Some(*index) != but) {
            let leading = node.metric("cairn_coordinator_leading");
            if leading.is_ok_and(|leading| leading > 0.0) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    })
}

/// The data nodes of the cluster that hold no replica of a partition.
///
/// # Errors
/// Where no node answers.
pub fn without(cluster: &Cluster, partition: u32) -> Result<Vec<usize>> {
    let map = map(cluster)?;
    let record = map.partitions.get(partition as usize);
    let record = record.with_context(|| format!("partition {partition}"))?;
    let members = record.config.replicas();
    let holders: Vec<&str> = members
        .iter()
        .filter_map(|member| map.nodes.get(&member.node))
        .map(|node| node.name.as_str())
        .collect();
    let nodes = cluster.data.iter().enumerate();
    let others = nodes.filter(|(_, node)| !holders.contains(&node.name.as_str()));
    Ok(others.map(|(index, _)| index).collect())
}

/// The replicas that the map places on the node of this name.
///
/// # Errors
/// Where no node answers.
pub fn replicas_on(cluster: &Cluster, name: &str) -> Result<Vec<ReplicaId>> {
    let map = map(cluster)?;
    let members = map
        .partitions
        .iter()
        .flat_map(|record| record.config.replicas());
    Ok(members
        .filter(|member| {
            map.nodes
                .get(&member.node)
                .is_some_and(|node| node.name == name)
        })
        .map(|member| member.replica)
        .collect())
}

/// What the coordinators' leader says.
fn document(cluster: &Cluster) -> Result<String> {
    let coordinators = cluster.coordinators.iter().map(Node::client);
    let admin = Admin::new(coordinators, Dialer::default()).deadline(Duration::from_secs(5));
    Ok(runtime()?.block_on(admin.status())?)
}

/// How the coordinators see everything.
///
/// # Errors
/// Where they have no leader.
pub fn cluster(cluster: &Cluster) -> Result<ClusterStatus> {
    serde_json::from_str(&document(cluster)?).context("read the status")
}

/// The Raft ids of the coordinators that vote, by name.
///
/// # Errors
/// Where they have no leader.
pub fn voters(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let document: serde_json::Value = serde_json::from_str(&document(cluster)?)?;
    let coordinators = document["coordinators"].as_array().context("a list")?;
    let voters = coordinators.iter().filter(|c| c["voter"] == true);
    let text = |of: &serde_json::Value, field: &str| -> Result<String> {
        Ok(of[field].as_str().context("a text")?.to_owned())
    };
    voters
        .map(|c| Ok((text(c, "name")?, text(c, "raftId")?)))
        .collect()
}

/// Waits until every partition has all its replicas, answering and whole, and nothing
/// is moving. Repairs take a while: the bound is that of several of them.
///
/// # Errors
/// Where that does not come in time; names what is not as it should be.
pub fn await_healthy(of: &Cluster) -> Result<()> {
    waiting::until("every partition to be healthy", BOUND * 2, || {
        let status = cluster(of)?;
        let ill: Vec<_> = status
            .partitions
            .iter()
            .filter(|health| health.state != PartitionState::Healthy)
            .map(|health| (health.partition, health.state))
            .collect();
        ensure!(
            ill.is_empty(),
            "{} partitions are not healthy: {:?}",
            ill.len(),
            &ill[..ill.len().min(8)]
        );
        Ok(Some(()))
    })
}
