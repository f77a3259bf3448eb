//! Whole clusters whose network and processes fail: what their clients saw is linearizable.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_client::Consistency;
use cairn_linear::check_keys;
use cairn_linear::kv::Key;
use cairn_process_tests::history::{History, Plan};
use cairn_process_tests::seed;
use cairn_turmoil::cluster::{Cluster, data_host};
use cairn_turmoil::fleet::{COUNT, host};
use rand::Rng as _;
use rand::seq::SliceRandom as _;

/// Configurations that the search for an order may visit per key.
const BOUND: usize = 4_000_000;
/// Tasks of the clients.
const TASKS: u32 = 16;

/// What happens to a cluster, one after another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    /// A data node is cut off from all others, and from the clients too.
    Alone,
    /// From the nodes alone: clients go on asking it.
    Served,
    /// A data node does not hear another one.
    Deaf,
    /// What two data nodes send each other waits, and arrives all at once.
    Hold,
    /// A data node is killed, and starts again on its disk.
    Kill,
    /// So is a coordinator.
    Crash,
    /// A coordinator is cut off.
    Apart,
}

const FAULTS: [Fault; 7] = [
    Fault::Alone,
    Fault::Served,
    Fault::Deaf,
    Fault::Hold,
    Fault::Kill,
    Fault::Crash,
    Fault::Apart,
];

/// Lets one thing happen, for a while.
fn happen(cluster: &mut Cluster, fault: Fault) {
    let nodes = cluster.data_nodes();
    let node = cluster.rng.random_range(0..nodes);
    let other = (node + cluster.rng.random_range(1..nodes)) % nodes;
    let place = cluster.rng.random_range(0..COUNT);
    let time = Duration::from_millis(cluster.rng.random_range(500..3000));
    println!(
        "{:?}: {fault:?} of d{node}, d{other} or c{place}",
        cluster.sim.elapsed()
    );
    let (name, second) = (data_host(node), data_host(other));
    match fault {
        Fault::Alone | Fault::Served => {
            cluster.isolate(&name, fault == Fault::Alone);
            cluster.pass(time);
            cluster.join(&name);
        }
        Fault::Deaf => {
            cluster.sim.partition_oneway(name.as_str(), second.as_str());
            cluster.pass(time);
            cluster.sim.repair_oneway(name, second);
        }
        Fault::Hold => {
            cluster.sim.hold(name.as_str(), second.as_str());
            cluster.pass(time);
            cluster.sim.release(name, second);
        }
        Fault::Kill => {
            cluster.kill(node);
            cluster.pass(time);
            cluster.restart(node);
        }
        Fault::Crash => {
            cluster.crash(place);
            cluster.pass(time);
            cluster.revive(place);
        }
        Fault::Apart => {
            cluster.isolate(&host(place), true);
            cluster.pass(time);
            cluster.join(&host(place));
        }
    }
}

/// Waits until so many more operations have returned.
fn more(cluster: &mut Cluster, history: &History, operations: u64) {
    let goal = history.completed() + operations;
    cluster.until("more operations to return", |_| history.completed() >= goal);
}

fn judged(data_nodes: usize, reads: &'static [Consistency]) {
    let (seed, _) = seed::draw(&format!("{data_nodes} data nodes, {reads:?} reads"));
    let rounds = if seed::full() { 5 } else { 1 };
    let plan = Plan {
        reads,
        tasks: TASKS,
        keys: 200,
        // Until it is told to end.
        operations: u64::MAX,
    };
    let history = History::new(plan, seed);
    let mut cluster = Cluster::new(seed, data_nodes, TASKS, &history);
    more(&mut cluster, &history, 200);
    let mut epochs = None;
    cluster.until("the coordinators to be led", |cluster| {
        epochs = cluster.epochs();
        epochs.is_some()
    });
    let mut seen = BTreeSet::new();
    for _ in 0..rounds {
        let mut faults = FAULTS;
        faults.shuffle(&mut cluster.rng);
        for fault in faults {
            happen(&mut cluster, fault);
            more(&mut cluster, &history, 100);
            seen.insert(fault);
        }
    }
    // Its first promotion precedes it; of a later one, the leader may have told nobody yet.
    cluster.until("a promotion", |cluster| cluster.epochs() > epochs);
    history.end();
    cluster.until("the clients to end", Cluster::step);
    let elapsed = cluster.sim.elapsed();
    cluster.stop();
    let history = history.take().expect("no call fails as it must not");
    let summary = match check_keys(&Key, &history, BOUND) {
        Ok(summary) => summary,
        Err(rejected) => panic!("seed {seed}: {rejected}"),
    };
    println!("{seen:?} in {elapsed:?}: {summary:?}");
    assert_eq!(seen.len(), FAULTS.len());
}

#[test]
fn reads_of_the_primary_are_linearizable_in_a_cluster_of_three() {
    judged(3, &[Consistency::Primary]);
}

#[test]
fn reads_of_replicas_are_linearizable_in_a_cluster_of_five() {
    judged(5, &[Consistency::Replica]);
}
