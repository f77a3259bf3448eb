//! Every process is stopped and started again as another build, one after another under load, and
//! back; and each build starts on the disks of the other.

use std::path::Path;

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster};
use cairn_process_tests::load::Load;
use cairn_process_tests::membership::cairn;
use cairn_process_tests::{binary, skip, status};

use crate::membership::Running;

const DATA_NODES: usize = 5;
/// How long a data node may try to hand over once nobody is left to take it, in milliseconds.
const LAST_DRAIN_MS: u64 = 1_000;

/// Restarts a data node as that program, the present one where it is none.
fn restart_data(cluster: &mut Cluster, at: usize, program: Option<&Path>) -> Result<()> {
    let name = cluster.data[at].name.clone();
    cairn(cluster, &["nodes", "expect", &name, "--within", "120"])?;
    let node = &mut cluster.data[at];
    let status = node.terminate(BOUND)?;
    ensure!(status.success(), "{name} ended with {status}");
    node.program = program.map(Path::to_owned);
    node.start()?;
    cluster.await_ready()?;
    status::await_healthy(cluster)
}

fn restart_coordinator(cluster: &mut Cluster, at: usize, program: Option<&Path>) -> Result<()> {
    let node = &mut cluster.coordinators[at];
    node.terminate(BOUND)?;
    node.program = program.map(Path::to_owned);
    node.start()?;
    cluster.await_ready()
}

/// Data nodes first, then the coordinators: on the way there those of the earlier build have data
/// nodes of the present one, on the way back it is the other way round.
fn roll(cluster: &mut Cluster, load: &Load, program: Option<&Path>) -> Result<()> {
    for at in 0..cluster.data.len() {
        restart_data(cluster, at, program)?;
    }
    for at in 0..cluster.coordinators.len() {
        restart_coordinator(cluster, at, program)?;
    }
    are_all(cluster, program)?;
    load.await_every_partition()
}

/// Whether each process runs that program.
fn are_all(cluster: &mut Cluster, program: Option<&Path>) -> Result<()> {
    let wanted = match program {
        Some(program) => program.canonicalize()?,
        None => binary::cairn()?.canonicalize()?,
    };
    for node in cluster.nodes() {
        let runs = std::fs::read_link(format!("/proc/{}/exe", node.pid()?))?;
        ensure!(runs == wanted, "{} runs {}", node.name, runs.display());
    }
    Ok(())
}

/// Ends all processes, with a signal that lets them close their disks or without one, and starts
/// them as another program.
fn change_all(cluster: &mut Cluster, program: Option<&Path>, kill: bool) -> Result<()> {
    if kill {
        cluster.kill_all()?;
    } else {
        for node in cluster.nodes() {
            node.terminate(BOUND)?;
        }
    }
    for node in cluster.nodes() {
        node.program = program.map(Path::to_owned);
    }
    cluster.bring_up()?;
    are_all(cluster, program)?;
    status::await_healthy(cluster)
}

#[test]
fn every_process_becomes_another_build_and_back_and_no_request_fails() -> Result<()> {
    let Some(earlier) = binary::earlier()? else {
        return skip::without("the build to upgrade from: ci/earlier-build makes it");
    };
    let mut running = Running::start_as("upgrade", DATA_NODES, Some(&earlier))?;
    are_all(&mut running.cluster, Some(&earlier))?;
    for (name, program) in [
        ("the earlier build becomes the present one", None),
        ("the present build becomes the earlier one", Some(&*earlier)),
    ] {
        let report = running.change(name, |cluster, load| roll(cluster, load, program))?;
        report.check_no_failures()?.check_copies()?;
        // From the next start on.
        for node in running.cluster.nodes() {
            node.set("CAIRN_DRAIN_TIMEOUT_MS", LAST_DRAIN_MS);
        }
    }
    let (mut cluster, dataset) = running.verified()?;

    for (program, kill) in [(None, false), (Some(&*earlier), true), (None, true)] {
        change_all(&mut cluster, program, kill)?;
        dataset.verify(&cluster.target())?;
    }
    Ok(())
}
