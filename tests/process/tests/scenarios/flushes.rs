//! Flushes that hang or fail on nodes that run, with everything their clients see recorded.

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::power::Forget;
use cairn_process_tests::{seed, status};

use crate::trial::Trial;

#[test]
fn histories_are_linearizable_while_flushes_hang_and_fail_and_the_power_goes() -> Result<()> {
    let (seed, mut rng) = seed::draw("flushes that hang and fail");
    let cluster = Cluster::start(Spec {
        shim: true,
        ..Trial::spec()
    })?;
    let target = cluster.target();
    let mut trial = Trial::start(cluster, target, seed)?;
    let rounds = if seed::full() { 10 } else { 1 };
    for _ in 0..rounds {
        println!("flushes hang, and return in the end");
        let (victim, ()) = trial.deposed(&mut rng, |cluster, _, victim| {
            cluster.data[victim].power()?.stall(true)
        })?;
        trial.goes_on()?;
        trial.cluster.data[victim].power()?.stall(false)?;
        trial.goes_on()?;
        ensure!(
            trial.cluster.data[victim].check_running()?,
            "a flush that returns ends no process"
        );

        println!("flushes hang until the power goes");
        let (victim, ()) = trial.deposed(&mut rng, |cluster, _, victim| {
            cluster.data[victim].power()?.stall(true)
        })?;
        trial.goes_on()?;
        let node = &mut trial.cluster.data[victim];
        node.kill()?;
        node.power()?.stall(false)?;
        let forgotten = node.power()?.cut(Forget::All, &mut rng)?;
        println!("{forgotten:?}");
        ensure!(forgotten.bytes > 0, "everything was flushed");
        node.start()?;
        trial.goes_on()?;
        trial.cluster.await_ready()?;

        println!("flushes of the coordinators' leader fail, as it has something to decide");
        let leader = status::leader(&trial.cluster, None)?;
        let (victim, status) = trial.deposed(&mut rng, |cluster, _, victim| {
            cluster.data[victim].kill()?;
            let node = &mut cluster.coordinators[leader];
            node.power()?.fail_flushes(true)?;
            node.await_end(BOUND)
        })?;
        ensure!(!status.success(), "it ended as if nothing had happened");
        trial.goes_on()?;
        let node = &mut trial.cluster.coordinators[leader];
        node.power()?.fail_flushes(false)?;
        println!("{:?}", node.power()?.cut(Forget::Some, &mut rng)?);
        node.start()?;
        trial.cluster.data[victim].start()?;
        trial.goes_on()?;
        trial.cluster.await_ready()?;

        println!("flushes of a data node fail");
        let (victim, status) = trial.deposed(&mut rng, |cluster, _, victim| {
            let node = &mut cluster.data[victim];
            node.power()?.fail_flushes(true)?;
            node.await_end(BOUND)
        })?;
        ensure!(!status.success(), "it ended as if nothing had happened");
        trial.goes_on()?;
        // The kernel may have dropped what it could not write.
        let node = &mut trial.cluster.data[victim];
        node.power()?.fail_flushes(false)?;
        println!("{:?}", node.power()?.cut(Forget::Some, &mut rng)?);
        node.start()?;
        trial.goes_on()?;
        trial.cluster.await_ready()?;
    }
    trial.judge()
}
