//! A real Prometheus over a real cluster, in which things go wrong: the alerts that say so fire,
//! and clear once it is mended. The rules are those of users, with shorter times, and a smaller
//! number of entries that a replica may lag by: what a test machine writes in a second or two.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_core::cluster::status::PartitionState;
use cairn_process_tests::certificates::Authority;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::metrics_table::Table;
use cairn_process_tests::prometheus::{NO_PROMETHEUS, Prometheus, is_installed};
use cairn_process_tests::small_disk::{NO_SMALL_DISK, SmallDisk, allocate, free_bytes};
use cairn_process_tests::{cli, skip, slot_keys, status, waiting};
use serde_json::Value;
use tempfile::TempDir;

/// The alerts that are made to fire here, and to clear.
pub(crate) const PROVOKED: [&str; 24] = [
    "CairnCertificateExpiring",
    "CairnClockSkew",
    "CairnCommitSlow",
    "CairnConnectionsRefused",
    "CairnCoordinatorSilent",
    "CairnDataDamaged",
    "CairnDataNodeDown",
    "CairnDiskFilling",
    "CairnDiskFull",
    "CairnFlushSlow",
    "CairnFlushStuck",
    "CairnLeaderChanges",
    "CairnNoLeader",
    "CairnOverloaded",
    "CairnPartitionUnserved",
    "CairnPartitionWithoutQuorum",
    "CairnPossibleDataLoss",
    "CairnRedundancyLost",
    "CairnReloadFailed",
    "CairnReplacementHeldBack",
    "CairnReplicaLagging",
    "CairnRestarting",
    "CairnTargetDown",
    "CairnWritesPushedBack",
];

const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

/// Redis connections that a node takes.
const CONNECTIONS_MAX: usize = 40;

/// The rules with every `for` and window so short that a test can wait for both ends of them,
/// and with the entries that a replica may lag by so few that a test can write them.
pub(crate) fn shortened(mut rules: Value) -> Value {
    for group in rules["groups"].as_array_mut().into_iter().flatten() {
        for rule in group["rules"].as_array_mut().into_iter().flatten() {
            if let Some(held) = rule.get_mut("for") {
                *held = "1s".into();
            }
            let mut expression = rule["expr"].as_str().unwrap_or_default().to_owned();
            for (window, short) in [
                ("[5m]", "[15s]"),
                ("[15m]", "[15s]"),
                ("[30m]", "[30s]"),
                ("[1h]", "[30s]"),
                ("[6h]", "[20s]"),
                // How long a process that found damage is asked about.
                ("< 3600", "< 30"),
                // How many entries a replica may lag by.
                ("> 100000", "> 1000"),
            ] {
                expression = expression.replace(window, short);
            }
            rule["expr"] = expression.into();
        }
    }
    rules
}

/// One after another, on one cluster: what is wrong with it at a time is what the names say.
pub(crate) struct Trial {
    pub(crate) cluster: Cluster,
    pub(crate) prometheus: Prometheus,
    authority: Authority,
    files: TempDir,
    disk: SmallDisk,
}

#[test]
fn what_goes_wrong_makes_its_alerts_fire_and_they_clear_once_it_is_mended() -> Result<()> {
    if !is_installed() {
        return skip::without(NO_PROMETHEUS);
    }
    let Some(disk) = SmallDisk::mount(768)? else {
        return skip::without(NO_SMALL_DISK);
    };
    let files = TempDir::with_prefix("cairn-tls-")?;
    let authority = Authority::new(files.path())?;
    authority.issue_for(3 * DAY)?;
    let mut spec = Spec {
        // One to spare: where there is none, nothing is held back.
        data_nodes: 4,
        partitions: 16,
        shim: true,
        below: Some(disk.path()),
        ..Spec::default()
    }
    .with("CAIRN_TLS_PORTS", "peer")
    .with("CAIRN_REPLACE_AFTER_MS", 15_000)
    .with("CAIRN_MAX_CONNECTIONS", CONNECTIONS_MAX)
    .with("CAIRN_WAL_SEGMENT_BYTES", "16MiB")
    .with("CAIRN_MAX_VALUE_BYTES", "1MiB")
    // So little that a test can write more than fits.
    .with("CAIRN_PENDING_WRITE_BYTES", "2MiB")
    .with("CAIRN_LOG_MEMORY_BYTES", "4MiB")
    .with("CAIRN_WAL_RETAIN_BYTES", "32MiB")
    .with("CAIRN_DISK_RESERVE_BYTES", "64MiB");
    for (name, value) in authority.environment() {
        spec = spec.with(name, value);
    }
    let cluster = Cluster::start(spec)?;
    let prometheus = Prometheus::start(&cluster, &shortened(crate::rules::file()?))?;
    let mut trial = Trial {
        cluster,
        prometheus,
        authority,
        files,
        disk,
    };
    let outcome = trial.run();
    if outcome.is_err() {
        trial.tell();
    }
    outcome
}

impl Trial {
    fn run(&mut self) -> Result<()> {
        self.nodes_tell_what_is_documented()?;
        self.certificates()?;
        self.all_is_quiet()?;
        self.data_nodes()?;
        self.all_is_quiet()?;
        self.coordinators()?;
        self.connections()?;
        self.flushes()?;
        self.restarts()?;
        self.reigns()?;
        self.calendars()?;
        self.too_many_writes()?;
        self.lag()?;
        self.slow_copy()?;
        self.all_is_quiet()?;
        self.full_disks()?;
        self.all_is_quiet()?;
        self.survivors()?;
        self.all_is_quiet()?;
        self.nodes_tell_what_is_documented()?;
        let fired = self.prometheus.fired()?;
        let never: Vec<_> = PROVOKED
            .iter()
            .filter(|name| !fired.contains(**name))
            .collect();
        ensure!(never.is_empty(), "never fired: {never:?}");
        self.cluster.check_running()
    }

    /// What somebody wants to know where the test fails.
    fn tell(&mut self) {
        match status::cluster(&self.cluster) {
            Ok(status) => {
                println!("{:?}", status.summary);
                let ill = status.partitions.iter();
                for health in ill.filter(|health| health.state != PartitionState::Healthy) {
                    println!("{health:?}");
                }
            }
            Err(error) => println!("no status: {error:#}"),
        }
        for node in self.cluster.nodes() {
            println!("{}:\n{}", node.name, node.log_tail(8));
        }
    }

    /// A write to each partition; whether they succeed is not the question.
    fn write(&self) -> Result<()> {
        for key in slot_keys::one_per_partition("alerts", self.cluster.partitions()) {
            let mut put = self
                .cluster
                .cairn(&["put", &key, "value", "--timeout", "1"])?;
            put.output().context("run cairn put")?;
        }
        Ok(())
    }

    fn nodes_tell_what_is_documented(&self) -> Result<()> {
        self.write()?;
        let table = Table::read()?;
        for node in self.cluster.coordinators.iter().chain(&self.cluster.data) {
            let (status, page) = node.http("/metrics")?;
            ensure!(status == 200, "{}: {status}", node.name);
            let contradictions = table.contradictions(&page)?;
            ensure!(
                contradictions.is_empty(),
                "{}: {contradictions:?}",
                node.name
            );
        }
        Ok(())
    }

    fn all_is_quiet(&mut self) -> Result<()> {
        self.cluster.await_serving()?;
        status::await_healthy(&self.cluster)?;
        waiting::until("no alert to fire", BOUND * 2, || {
            let firing = self.prometheus.names()?;
            ensure!(firing.is_empty(), "fire: {firing:?}");
            Ok(Some(()))
        })
    }

    fn certificates(&self) -> Result<()> {
        self.prometheus
            .await_firing(&["CairnCertificateExpiring"])?;
        self.authority.issue_for(30 * DAY)?;
        self.prometheus.await_clear(&["CairnCertificateExpiring"])?;
        fs::write(self.files.path().join("cert.pem"), "no certificate")?;
        self.prometheus.await_firing(&["CairnReloadFailed"])?;
        self.authority.issue_for(30 * DAY)?;
        self.prometheus.await_clear(&["CairnReloadFailed"])
    }

    fn data_nodes(&mut self) -> Result<()> {
        self.cluster.data[2].kill()?;
        let one = [
            "CairnTargetDown",
            "CairnDataNodeDown",
            "CairnRedundancyLost",
        ];
        self.prometheus.await_firing(&one)?;
        // The text names the node and is made without an error.
        let node = &self.cluster.data[2];
        let address = format!("{}:{}", node.host.address, node.ports.http);
        for alert in self.prometheus.firing()? {
            let text = alert["annotations"]["description"].as_str();
            let text = text.context("a description")?;
            let about_it =
                alert["labels"]["alertname"] != "CairnTargetDown" || text.contains(&address);
            ensure!(about_it && !text.contains("<error"), "{text}");
        }
        self.cluster.data[1].kill()?;
        let two = [
            "CairnPartitionWithoutQuorum",
            "CairnPartitionUnserved",
            "CairnReplacementHeldBack",
        ];
        self.prometheus.await_firing(&two)?;
        // The mark of what the store is: without it the store is of no use.
        fs::write(self.cluster.data[1].data.join("state/version"), b"???")?;
        self.cluster.start_all()?;
        self.prometheus.await_firing(&["CairnDataDamaged"])?;
        self.cluster.await_ready()?;
        self.prometheus.await_clear(&one)?;
        self.prometheus.await_clear(&two)?;
        self.prometheus.await_clear(&["CairnDataDamaged"])
    }

    fn coordinators(&mut self) -> Result<()> {
        let leader = status::leader(&self.cluster, None)?;
        let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
        self.cluster.coordinators[first].kill()?;
        self.prometheus.await_firing(&["CairnCoordinatorSilent"])?;
        self.cluster.coordinators[second].kill()?;
        self.prometheus.await_firing(&["CairnNoLeader"])?;
        self.cluster.start_all()?;
        let all = ["CairnCoordinatorSilent", "CairnNoLeader", "CairnTargetDown"];
        self.prometheus.await_clear(&all)
    }

    fn connections(&self) -> Result<()> {
        let address = self.cluster.data[0].resp();
        waiting::until("CairnConnectionsRefused to fire", BOUND, || {
            let opened: std::io::Result<Vec<TcpStream>> = (0..CONNECTIONS_MAX + 5)
                .map(|_| TcpStream::connect(&address))
                .collect();
            let _held = opened?;
            let names = self.prometheus.names()?;
            Ok(names.contains("CairnConnectionsRefused").then_some(()))
        })?;
        self.prometheus.await_clear(&["CairnConnectionsRefused"])
    }

    fn flushes(&self) -> Result<()> {
        let power = self.cluster.data[0].power()?;
        power.stall(true)?;
        self.write()?;
        self.prometheus.await_firing(&["CairnFlushStuck"])?;
        power.stall(false)?;
        self.prometheus.await_firing(&["CairnFlushSlow"])?;
        self.prometheus
            .await_clear(&["CairnFlushStuck", "CairnFlushSlow"])
    }

    /// A data node ends and starts again and again, each time seen by Prometheus.
    fn restarts(&mut self) -> Result<()> {
        let alert = "CairnRestarting";
        self.prometheus.await_clear(&[alert])?;
        let node = &self.cluster.data[3];
        let address = format!("{}:{}", node.host.address, node.ports.http);
        let started = format!("process_start_time_seconds{{instance=\"{address}\"}}");
        let mut last = self.prometheus.value(&started)?;
        waiting::until("CairnRestarting to fire", BOUND, || {
            self.cluster.data[3].kill()?;
            self.cluster.data[3].start()?;
            self.cluster.await_ready()?;
            last = waiting::until("Prometheus to see the start", BOUND, || {
                let seen = self.prometheus.value(&started)?;
                Ok((seen > last).then_some(seen))
            })?;
            Ok(self.prometheus.names()?.contains(alert).then_some(()))
        })?;
        println!("fires: {alert}");
        Ok(())
    }

    /// Whoever leads the coordinators stands still until another one does.
    fn reigns(&self) -> Result<()> {
        let alert = "CairnLeaderChanges";
        self.prometheus.await_clear(&[alert])?;
        waiting::until("CairnLeaderChanges to fire", BOUND, || {
            let leader = status::leader(&self.cluster, None)?;
            self.cluster.coordinators[leader].freeze()?;
            let next = status::leader(&self.cluster, Some(leader));
            self.cluster.coordinators[leader].thaw()?;
            next?;
            Ok(self.prometheus.names()?.contains(alert).then_some(()))
        })?;
        println!("fires: {alert}");
        Ok(())
    }

    fn calendars(&self) -> Result<()> {
        let alert = ["CairnClockSkew"];
        self.prometheus.await_clear(&alert)?;
        let power = self.cluster.data[0].power()?;
        power.skew(true)?;
        self.prometheus.await_firing(&alert)?;
        power.skew(false)?;
        self.prometheus.await_clear(&alert)
    }

    /// Takes all of the disk but so much, until an alert fires: nodes give back what they can
    /// do without as it becomes less.
    fn leave(&self, ballast: &Path, bytes: u64, alert: &str) -> Result<()> {
        waiting::until(&format!("{alert} to fire"), BOUND * 2, || {
            let free = free_bytes(&self.disk.path())?;
            if free > bytes {
                let taken = fs::metadata(ballast).map_or(0, |file| file.len());
                allocate(ballast, taken + free - bytes)?;
            }
            let names = self.prometheus.names()?;
            ensure!(
                names.contains(alert),
                "{free} bytes are free; fire: {names:?}"
            );
            Ok(Some(()))
        })?;
        println!("fires: {alert}");
        Ok(())
    }

    fn full_disks(&self) -> Result<()> {
        let ballast = self.disk.path().join("ballast");
        self.leave(&ballast, 120 * MIB, "CairnDiskFilling")?;
        let names = self.prometheus.names()?;
        ensure!(!names.contains("CairnDiskFull"), "too late to be a warning");
        self.leave(&ballast, 40 * MIB, "CairnDiskFull")?;
        fs::remove_file(&ballast)?;
        self.prometheus
            .await_clear(&["CairnDiskFull", "CairnDiskFilling"])
    }

    /// A person goes on with what one node is left of the three that hold a partition.
    fn survivors(&mut self) -> Result<()> {
        self.cluster.data[1].kill()?;
        self.cluster.data[2].kill()?;
        self.prometheus.await_firing(&["CairnPartitionUnserved"])?;
        let (partition, survivor) = waiting::until("a partition with one replica", BOUND, || {
            let status = status::cluster(&self.cluster)?;
            let alone = status.partitions.iter().find_map(|health| {
                let mut up = health.replicas.iter().filter(|replica| replica.up);
                let survivor = up.next().filter(|_| up.next().is_none())?;
                Some((health.partition.0, survivor.member.node))
            });
            Ok(alone.and_then(|(partition, node)| {
                let node = status.nodes.iter().find(|one| one.id == node)?;
                Some((partition.to_string(), node.name.clone()))
            }))
        })?;
        let words = ["recover", &partition, "--survivor", &survivor, "--yes"];
        cli::done(self.cluster.cairn(&words)?, BOUND)?;
        self.prometheus.await_firing(&["CairnPossibleDataLoss"])?;
        self.cluster.start_all()?;
        self.cluster.await_ready()?;
        self.prometheus.await_clear(&["CairnPossibleDataLoss"])
    }
}
