//! A change of who holds the data, under load: what it cost clients, and what it copied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_core::cluster::status::{ClusterStatus, PartitionState};
use cairn_core::ids::NodeId;
use cairn_core::record::NodeStanding;

use crate::cluster::{BOUND, Cluster, Target};
use crate::gaps::Gaps;
use crate::load::Load;
use crate::{cli, status, waiting};

/// How long a change may take: several repairs, one after another, on a slow machine.
const CHANGE_BOUND: Duration = BOUND.saturating_mul(3);
/// Values of the data that lies there while the load goes on, in bytes.
const VALUE_BYTES: usize = 2048;

/// Data that was acknowledged before the load began and that nobody touches: it makes copies
/// worth measuring, and must be there in the end.
#[derive(Debug)]
pub struct Dataset {
    keys: Vec<String>,
}

impl Dataset {
    /// Writes so many values.
    ///
    /// # Errors
    /// Where one is not acknowledged.
    pub fn write(target: &Target, count: usize) -> Result<Self> {
        let keys: Vec<String> = (0..count).map(|n| format!("dataset:{n}")).collect();
        with_client(target, async |client| {
            for key in &keys {
                let value = value_of(key);
                client.put(key.clone(), value).await?;
            }
            Ok(())
        })?;
        Ok(Self { keys })
    }

    /// Reads them all back.
    ///
    /// # Errors
    /// Where one is gone or is not what was written.
    pub fn verify(&self, target: &Target) -> Result<()> {
        with_client(target, async |client| {
            for key in &self.keys {
                let found = client.get(key.clone()).await?;
                let found = found.with_context(|| format!("{key} is lost"))?;
                ensure!(found.data == value_of(key), "{key} has another value");
            }
            Ok(())
        })
    }
}

fn value_of(key: &str) -> Vec<u8> {
    key.bytes().cycle().take(VALUE_BYTES).collect()
}

fn with_client(
    target: &Target,
    act: impl AsyncFnOnce(cairn_client::Client) -> Result<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let options = cairn_client::Options {
            deadline: BOUND,
            ..cairn_client::Options::default()
        };
        let client = cairn_client::Client::connect(target.clients.clone(), options).await?;
        act(client).await
    })
}

/// Who holds which partition.
#[derive(Debug)]
struct Placement {
    /// The members of each partition's configuration.
    holders: Vec<BTreeSet<NodeId>>,
    /// The nodes that are to hold some.
    members: BTreeSet<NodeId>,
}

impl Placement {
    fn of(cluster: &Cluster) -> Result<Self> {
        let map = status::map(cluster)?;
        let holders = map.partitions.iter().map(|record| {
            let members = record.config.current.members.iter();
            members.map(|member| member.node).collect()
        });
        let shown = status::cluster(cluster)?;
        let members = shown
            .nodes
            .iter()
            .filter(|node| node.standing == NodeStanding::Member && node.leaving.is_none());
        Ok(Self {
            holders: holders.collect(),
            members: members.map(|node| node.id).collect(),
        })
    }

    fn load(&self, node: NodeId) -> usize {
        self.holders.iter().filter(|h| h.contains(&node)).count()
    }

    /// Copies that are here and were not there before.
    fn copies_since(&self, before: &Self) -> usize {
        let pairs = self.holders.iter().zip(&before.holders);
        pairs.map(|(now, then)| now.difference(then).count()).sum()
    }

    /// Copies without which the bounds of placement cannot be kept, by counting; for nodes
    /// of equal weight without zones. A node that joined gets its share, one that was there
    /// nine tenths of it at least, nobody more than 1.05 of it.
    fn least_copies_for(&self, members: &BTreeSet<NodeId>, replicas: usize) -> usize {
        let share = Share {
            replicas,
            nodes: members.len(),
        };
        let loads = members.iter().map(|node| {
            let has_joined = !self.members.contains(node);
            (self.load(*node), has_joined)
        });
        let (mut wanted, mut staying) = (0, 0);
        for (load, has_joined) in loads {
            let least = if has_joined {
                share.percent_down(100)
            } else {
                share.percent_down(90)
            };
            wanted += least.saturating_sub(load);
            staying += load.min(share.most());
        }
        wanted.max(replicas.saturating_sub(staying))
    }
}

/// What each of some equal nodes gets of all replicas.
#[derive(Clone, Copy)]
struct Share {
    replicas: usize,
    nodes: usize,
}

impl Share {
    fn percent_down(self, percent: usize) -> usize {
        self.replicas * percent / (self.nodes * 100)
    }

    /// The most that a node may hold: 1.05 of its share, rounded up.
    fn most(self) -> usize {
        (self.replicas * 105).div_ceil(self.nodes * 100)
    }
}

/// How things are while nothing changes, to compare with.
#[derive(Clone, Debug)]
pub struct Rest {
    p99: Duration,
    longest: Gaps,
}

impl Rest {
    /// Observes so many acknowledged writes.
    ///
    /// # Errors
    /// Where they do not come.
    pub fn observe(load: &Load, writes: u64) -> Result<Self> {
        load.await_every_partition()?;
        let from = load.now_ms();
        load.await_acknowledged(writes)?;
        let to = load.now_ms();
        Ok(Self {
            p99: load.latencies().percentile(99, from, to),
            longest: load.latencies().longest(from, to),
        })
    }
}

/// A change that began.
#[derive(Debug)]
pub struct Change {
    name: String,
    began: Instant,
    from_ms: u32,
    failed: u64,
    errors: BTreeMap<String, u64>,
    placement: Placement,
    received: BTreeMap<String, f64>,
}

impl Change {
    /// Looks how things are before it.
    ///
    /// # Errors
    /// Where nobody tells.
    pub fn begin(name: &str, cluster: &Cluster, load: &Load) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            placement: Placement::of(cluster)?,
            received: received_bytes(cluster),
            failed: load.unanswered(),
            errors: load.errors(),
            from_ms: load.now_ms(),
            began: Instant::now(),
        })
    }

    /// Waits until everything is where it belongs and answers, and says what it took.
    ///
    /// # Errors
    /// Where that does not come, where something acknowledged was not read meanwhile, and
    /// where a node holds more than its bound.
    pub fn end(self, cluster: &mut Cluster, load: &Load, rest: &Rest) -> Result<Report> {
        let settled = await_settled(cluster)?;
        let took = self.began.elapsed();
        load.await_every_partition()?;
        let to_ms = load.now_ms();
        cluster.check_running()?;
        let broken = load.broken();
        ensure!(broken.is_empty(), "{}: {broken:#?}", self.name);

        let after = Placement::of(cluster)?;
        let factor = settled.replication_factor;
        let replicas = after.holders.len() * factor;
        let held: usize = after.holders.iter().map(BTreeSet::len).sum();
        ensure!(held == replicas, "{held} replicas instead of {replicas}");
        let share = Share {
            replicas,
            nodes: after.members.len(),
        };
        for node in &after.members {
            let load = after.load(*node);
            ensure!(
                load <= share.most() && load >= share.percent_down(90),
                "{}: {node} holds {load} of {replicas} replicas on {} nodes",
                self.name,
                share.nodes
            );
        }
        let now = received_bytes(cluster);
        let bytes = now.iter().map(|(name, now)| {
            let before = self.received.get(name).copied().unwrap_or(0.0);
            // A process that was started meanwhile counts from zero.
            if *now < before { *now } else { now - before }
        });
        let least = self.placement.least_copies_for(&after.members, replicas);
        let bytes = bytes.sum::<f64>() as u64;
        let moved = after.copies_since(&self.placement);
        // A copy that is made of the log alone counts in no snapshot.
        let copied = bytes.max(settled.replica_bytes * u64::try_from(moved)?);
        Ok(Report {
            disk: flush(&cluster.directory(), copied)?,
            failed: load.unanswered() - self.failed,
            errors: load.errors_since(&self.errors),
            longest: load.latencies().longest(self.from_ms, to_ms),
            p99: load.latencies().percentile(99, self.from_ms, to_ms),
            rest: rest.clone(),
            moved,
            least,
            bytes,
            bytes_each: settled.replica_bytes,
            took,
            name: self.name,
        })
    }
}

/// Bytes of new replicas that each running data node received since it was started.
fn received_bytes(cluster: &Cluster) -> BTreeMap<String, f64> {
    const METRIC: &str = "cairn_snapshot_copied_bytes_total";
    let labels = ["direction=\"received\"", "reason=\"new_replica\""];
    let running = cluster.data.iter().filter(|node| node.is_started());
    running
        .filter_map(|node| Some((node.name.clone(), node.metric_with(METRIC, &labels).ok()?)))
        .collect()
}

/// How long this disk takes to have so many bytes written in one piece and flushed, beside
/// the load: what all those new replicas take at the least, since the nodes share it.
fn flush(directory: &Path, bytes: u64) -> Result<Duration> {
    const PIECE: u64 = 1 << 20;
    let mut file = tempfile::tempfile_in(directory)?;
    // Not zeros, of which a file system may make a hole.
    let piece: Vec<u8> = (0..PIECE).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    let began = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE);
        file.write_all(&piece[..now as usize])?;
        left -= now;
    }
    file.sync_all()?;
    Ok(began.elapsed())
}

struct Settled {
    replication_factor: usize,
    /// About how many bytes a replica has.
    replica_bytes: u64,
}

/// Waits until nothing is to be copied any more and every partition is healthy.
fn await_settled(cluster: &Cluster) -> Result<Settled> {
    let shown = waiting::until("everything to be where it belongs", CHANGE_BOUND, || {
        let shown = status::cluster(cluster)?;
        let ill = ill(&shown);
        if shown.rebalance.is_settled() && ill.is_empty() {
            return Ok(Some(shown));
        }
        bail!("{:?}; not healthy: {ill:?}", shown.rebalance);
    })?;
    let map = status::map(cluster)?;
    let settings = map.settings.as_ref().context("settings")?;
    let replicas = shown.partitions.iter().flat_map(|health| &health.replicas);
    let sizes: Vec<u64> = replicas.filter_map(|replica| replica.bytes).collect();
    let count = u64::try_from(sizes.len().max(1))?;
    Ok(Settled {
        replication_factor: usize::from(settings.replication_factor),
        replica_bytes: sizes.iter().sum::<u64>() / count,
    })
}

fn ill(shown: &ClusterStatus) -> Vec<(u32, PartitionState)> {
    let partitions = shown.partitions.iter();
    partitions
        .filter(|health| health.state != PartitionState::Healthy)
        .map(|health| (health.partition.0, health.state))
        .collect()
}

/// What a change took.
#[derive(Debug)]
pub struct Report {
    name: String,
    failed: u64,
    errors: BTreeMap<String, u64>,
    longest: Gaps,
    p99: Duration,
    rest: Rest,
    moved: usize,
    least: usize,
    bytes: u64,
    bytes_each: u64,
    disk: Duration,
    took: Duration,
}

impl Report {
    /// Checks that no more was copied than a tenth above the least.
    ///
    /// # Errors
    /// Where it was.
    pub fn check_copies(&self) -> Result<&Self> {
        let most = (self.least * 11).div_ceil(10);
        ensure!(
            self.moved <= most,
            "{}: {} copies moved where {} do",
            self.name,
            self.moved,
            self.least
        );
        Ok(self)
    }

    /// Checks that no client's request failed for good.
    ///
    /// # Errors
    /// Where one did.
    pub fn check_no_failures(&self) -> Result<&Self> {
        ensure!(
            self.failed == 0,
            "{}: {} requests failed: {:#?}",
            self.name,
            self.failed,
            self.errors
        );
        Ok(self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {}", self.name)?;
        writeln!(f, "failed requests: {} {:?}", self.failed, self.errors)?;
        writeln!(f, "longest request of a partition: {}", self.longest)?;
        writeln!(f, "                       at rest: {}", self.rest.longest)?;
        writeln!(f, "p99: {:.1?}, at rest {:.1?}", self.p99, self.rest.p99)?;
        writeln!(
            f,
            "copies moved: {}, the least is {}; of about {} bytes each; by snapshot: {} bytes",
            self.moved, self.least, self.bytes_each, self.bytes
        )?;
        write!(
            f,
            "everything where it belongs after {:.1?}; the disk alone takes {:.1?} for those bytes",
            self.took, self.disk
        )
    }
}

/// Has something done by the command line, as a person would.
///
/// # Errors
/// Where it is refused or does not end.
pub fn cairn(cluster: &Cluster, words: &[&str]) -> Result<String> {
    cli::done(cluster.cairn(words)?, CHANGE_BOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(holders: &[&[u64]], members: &[u64]) -> Placement {
        let nodes = |of: &[u64]| of.iter().copied().map(NodeId).collect();
        Placement {
            holders: holders.iter().map(|of| nodes(of)).collect(),
            members: nodes(members),
        }
    }

    #[test]
    fn the_least_is_what_the_bounds_ask_for() {
        let nodes = |of: &[u64]| of.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let whole: [&[u64]; 12] = [&[1, 2, 3]; 12];
        let before = placement(&whole, &[1, 2, 3]);
        // 36 replicas: two that join get 7 each, three that stay keep 8 each at most.
        assert_eq!(before.least_copies_for(&nodes(&[1, 2, 3, 4, 5]), 36), 14);
        assert_eq!(before.least_copies_for(&nodes(&[1, 2, 3]), 36), 0);
        // What the one that leaves held.
        assert_eq!(before.least_copies_for(&nodes(&[2, 3, 4]), 36), 12);
        // A higher factor on four nodes of which one is new.
        assert_eq!(before.least_copies_for(&nodes(&[1, 2, 3, 4]), 48), 12);

        let after = placement(&[&[1, 2, 4], &[2, 3, 4]], &[1, 2, 3, 4]);
        let before = placement(&[&[1, 2, 3], &[2, 3, 4]], &[1, 2, 3, 4]);
        assert_eq!(after.copies_since(&before), 1);
        assert_eq!((after.load(NodeId(4)), before.load(NodeId(4))), (2, 1));
    }
}
