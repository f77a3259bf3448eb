//! Nodes that join, leave, die for good and lose their disk, and another replication factor, under a steady load whose every acknowledged write is checked.
//!
//! What each change took is printed; what it may take is asserted in copies and failed
//! requests, never in time.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cairn_core::cluster::state::Leaving;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::membership::{Change, Dataset, Report, Rest, cairn};
use cairn_process_tests::{seed, status, waiting};

const PARTITIONS: u32 = 24;
/// Values of the data that lies there, where `CAIRN_TEST_VALUES` does not say how many.
const VALUES: usize = 1000;
/// How many writes are acknowledged before a change, for comparison.
const REST_WRITES: u64 = 1500;
/// How much of its file system is free where the cluster is made, in hundredths.
const FREE_PERCENT: u64 = 20;
/// How long a data node may be away before it is replaced, in milliseconds.
const REPLACE_AFTER_MS: u64 = 3_000;

/// A place whose file system has room: the coordinators refuse to have anything copied onto
/// disks that are nearly full, whoever filled them. The usual place where none has.
fn roomy() -> Option<PathBuf> {
    let places = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
    places.into_iter().find(|place| {
        rustix::fs::statvfs(place).is_ok_and(|of| of.f_bavail > of.f_blocks / 100 * FREE_PERCENT)
    })
}

/// A cluster with data in it, and the load on it.
pub(crate) struct Running {
    pub(crate) cluster: Cluster,
    dataset: Dataset,
    pub(crate) load: Load,
    rest: Rest,
}

impl Running {
    fn start(test: &str, data_nodes: usize) -> Result<Self> {
        Self::start_as(test, data_nodes, None)
    }

    /// The same, of nodes that run that program.
    pub(crate) fn start_as(test: &str, data_nodes: usize, program: Option<&Path>) -> Result<Self> {
        let (seed, _) = seed::draw(test);
        let spec = Spec {
            data_nodes,
            partitions: PARTITIONS,
            below: roomy(),
            ..Spec::default()
        };
        let mut cluster = Cluster::lay_out(spec.with("CAIRN_REPLACE_AFTER_MS", REPLACE_AFTER_MS))?;
        for node in cluster.nodes() {
            node.program = program.map(Path::to_owned);
        }
        cluster.bring_up()?;
        let dataset = Dataset::write(&cluster.target(), seed::values(VALUES))?;
        let load = Load::start(&cluster.target(), Plan::steady(), seed)?;
        let rest = Rest::observe(&load, REST_WRITES)?;
        Ok(Self {
            cluster,
            dataset,
            load,
            rest,
        })
    }

    /// Makes a change, waits until it is complete, and prints what it took.
    pub(crate) fn change(
        &mut self,
        name: &str,
        act: impl FnOnce(&mut Cluster, &Load) -> Result<()>,
    ) -> Result<Report> {
        let change = Change::begin(name, &self.cluster, &self.load)?;
        act(&mut self.cluster, &self.load)?;
        let report = change.end(&mut self.cluster, &self.load, &self.rest)?;
        println!("{report}");
        Ok(report)
    }

    /// Has data nodes added by whoever runs their processes.
    fn grow(&mut self, name: &str, by: usize) -> Result<()> {
        let report = self.change(name, |cluster, _| {
            let names = cluster.add_data_nodes(by)?;
            cluster.await_ready()?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            cairn(
                cluster,
                &[&["nodes", "add"][..], &names[..], &["--wait"]].concat(),
            )?;
            Ok(())
        })?;
        report.check_no_failures()?.check_copies()?;
        Ok(())
    }

    /// Drains data nodes, lets them go, and ends their processes.
    fn shrink(&mut self, name: &str, leaving: &[&str]) -> Result<()> {
        let report = self.change(name, |cluster, _| {
            cairn(
                cluster,
                &[&["nodes", "drain"][..], leaving, &["--wait"]].concat(),
            )?;
            cairn(cluster, &[&["nodes", "remove"][..], leaving].concat())?;
            for name in leaving {
                let found = cluster.data.iter_mut().find(|node| node.name == *name);
                let status = found.expect("a data node").terminate(BOUND)?;
                ensure!(status.success(), "{name} ended with {status}");
            }
            let has_left = |name: &str| leaving.contains(&name);
            cluster.data.retain(|node| !has_left(&node.name));
            Ok(())
        })?;
        report.check_no_failures()?.check_copies()?;
        Ok(())
    }

    /// Ends the load and checks everything that was ever acknowledged.
    fn verify(self) -> Result<()> {
        self.verified().map(drop)
    }

    /// The same, and returns what goes on without the load.
    pub(crate) fn verified(self) -> Result<(Cluster, Dataset)> {
        let target = self.cluster.target();
        let stopped = self.load.stop()?;
        self.dataset.verify(&target)?;
        stopped.verify(&target)?;
        Ok((self.cluster, self.dataset))
    }
}

#[test]
fn data_nodes_join_and_leave_under_load_and_nothing_fails_or_is_lost() -> Result<()> {
    let mut running = Running::start("three to five to eight to four", 3)?;
    running.grow("3 data nodes become 5", 2)?;
    running.grow("5 data nodes become 8", 3)?;
    // Old ones and new ones.
    let leaving = ["data-1", "data-3", "data-5", "data-7"];
    running.shrink("8 data nodes become 4", &leaving)?;
    running.verify()
}

#[test]
fn a_data_node_that_dies_for_good_is_replaced_and_one_without_its_disk_is_filled() -> Result<()> {
    let mut running = Running::start("a death and a wipe", 5)?;
    let report = running.change("a data node dies for good", |cluster, load| {
        let mut node = cluster.data.remove(4);
        node.kill()?;
        // All is served again before anybody is replaced.
        load.await_every_partition()?;
        waiting::until("its place to be given to others", BOUND, || {
            let shown = status::cluster(cluster)?;
            let mut nodes = shown.nodes.iter();
            let is_away = nodes.any(|n| n.name == node.name && n.leaving == Some(Leaving::Away));
            Ok(is_away.then_some(()))
        })
    })?;
    report.check_copies()?;
    let report = running.change("a data node loses its disk", |cluster, _| {
        let node = &mut cluster.data[1];
        node.kill()?;
        node.wipe()?;
        node.start()?;
        cluster.await_ready()
    })?;
    report.check_copies()?;
    running.verify()
}

#[test]
fn the_replication_factor_is_raised_and_lowered_under_load() -> Result<()> {
    let mut running = Running::start("RF 3 to 5 to 3", 5)?;
    for (name, setting) in [
        ("RF 3 becomes 5", "replicationFactor=5"),
        ("RF 5 becomes 3", "replicationFactor=3"),
    ] {
        let report = running.change(name, |cluster, _| {
            cairn(cluster, &["cluster", "set", setting, "--wait"])?;
            Ok(())
        })?;
        report.check_no_failures()?.check_copies()?;
    }
    running.verify()
}
