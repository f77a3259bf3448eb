//! Power loss on every machine at once, with honest disks and with lying ones.

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::{Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::power::Forget;
use cairn_process_tests::seed;
use rand::rngs::StdRng;

fn shimmed() -> Result<Cluster> {
    Cluster::start(Spec {
        shim: true,
        ..Spec::default()
    })
}

/// Kills everything under load, forgets, and starts everything again.
fn cut_power(cluster: &mut Cluster, load: &Load, forget: Forget, rng: &mut StdRng) -> Result<()> {
    cluster.kill_all()?;
    load.wind_down();
    for node in cluster.nodes() {
        if let Some(power) = &node.power {
            power.lie(false)?;
            let forgotten = power.cut(forget, rng)?;
            println!("{}: {forgotten:?}", node.name);
        }
    }
    cluster.start_all()?;
    cluster.await_ready()?;
    cluster.await_serving()
}

#[test]
fn a_power_cut_everywhere_loses_no_acknowledged_write() -> Result<()> {
    let (seed, mut rng) = seed::draw("power cut");
    let mut cluster = shimmed()?;
    for (round, forget) in [Forget::All, Forget::Some].into_iter().enumerate() {
        let load = Load::start(&cluster.target(), Plan::default(), seed + round as u64)?;
        load.await_every_partition()?;
        load.await_acknowledged(2000)?;
        cut_power(&mut cluster, &load, forget, &mut rng)?;
        load.stop()?.verify(&cluster.target())?;
    }
    Ok(())
}

#[test]
fn a_power_cut_soon_after_a_restart_loses_nothing_that_the_restart_read_back() -> Result<()> {
    // What a restarted process reads of its log may be in the page cache alone (rule 12).
    let (seed, mut rng) = seed::draw("kill, restart, power cut");
    let mut cluster = shimmed()?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(2000)?;
    cluster.kill_all()?;
    cluster.start_all()?;
    load.await_acknowledged(200)?;
    cut_power(&mut cluster, &load, Forget::All, &mut rng)?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn acknowledgements_before_the_flush_are_found_out() -> Result<()> {
    // The proof that the tests above can fail: disks that say "flushed" and are not
    // make every acknowledgement precede its flush.
    let (seed, mut rng) = seed::draw("lying disks");
    let mut cluster = shimmed()?;
    // The Rust client would wait for what such disks forgot that it knew.
    let plan = Plan {
        native: 0,
        ..Plan::default()
    };
    let load = Load::start(&cluster.target(), plan, seed)?;
    load.await_every_partition()?;
    for node in &cluster.data {
        node.power.as_ref().expect("loaded").lie(true)?;
    }
    load.await_acknowledged(2000)?;
    cut_power(&mut cluster, &load, Forget::All, &mut rng)?;
    let broken = load.stop()?.broken(&cluster.target())?;
    let lost = broken.iter().filter(|line| line.contains("Lost")).count();
    println!("{lost} lost writes were noticed");
    ensure!(
        lost > 0,
        "acknowledged before the flush, and nobody noticed"
    );
    Ok(())
}

#[test]
fn a_data_node_whose_flush_fails_stops_and_the_others_take_over() -> Result<()> {
    let (seed, _) = seed::draw("failing flush");
    let mut cluster = shimmed()?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    let victim = &mut cluster.data[0];
    victim.power.as_ref().expect("loaded").fail_flushes(true)?;
    let status = victim.await_end(cairn_process_tests::cluster::BOUND)?;
    ensure!(!status.success(), "it ended as if nothing had happened");
    let said = victim.log_tail(20);
    ensure!(
        said.to_lowercase().contains("flush")
            || said.contains("fsync")
            || said.contains("fdatasync"),
        "it did not say why:\n{said}"
    );
    load.await_every_partition()?;
    cluster.data[0]
        .power
        .as_ref()
        .expect("loaded")
        .fail_flushes(false)?;
    cluster.start_all()?;
    cluster.await_ready()?;
    load.await_every_partition()?;
    load.stop()?.verify(&cluster.target())
}
