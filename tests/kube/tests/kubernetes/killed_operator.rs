//! An operator that dies after one to seven writes, to the API server or to the
//! coordinators: whatever it had begun, the next one goes on with.

use std::time::Instant;

use anyhow::{Result, ensure};
use cairn_kube_tests::operator::{DEPLOYMENT, NAMESPACE};
use cairn_kube_tests::waiting::until;
use cairn_kube_tests::{KvCluster, Namespace, Operator, PodLoad, cluster};

use cairn_kube_tests::kvcluster::PATIENCE;

const PARTITIONS: u32 = 24;
const ORDERS: &str = include_str!("manifests/orders.yaml");
const DYING: &str = include_str!("manifests/dying-operator.yaml");

#[test]
fn an_operator_that_dies_after_each_write_makes_scales_and_keeps_a_cluster() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let operator = Operator::install(cluster, &[])?;
    operator
        .kubectl
        .run(&["scale", DEPLOYMENT, "--replicas=0"])?;
    until("the operator to be gone", PATIENCE, || {
        let label = "app.kubernetes.io/name=cairn-operator";
        let pods = operator
            .kubectl
            .run(&["get", "pods", "-l", label, "-o", "name"])?;
        Ok(pods.trim().is_empty().then_some(()))
    })?;
    operator.kubectl.apply(DYING)?;

    let space = Namespace::new(&cluster.kubectl, "killed-operator")?;
    let orders = KvCluster::new(&space, &operator, "orders");
    let began = Instant::now();
    space.kubectl.apply(ORDERS)?;
    let dying = || {
        operator
            .kubectl
            .run(&["logs", "dying-operator", "--tail=40"])
    };
    let explain = |done: Result<_>| -> Result<_> {
        done.map_err(|error: anyhow::Error| {
            error.context(dying().unwrap_or_else(|error| format!("{error:#}")))
        })
    };
    explain(orders.settled())?;
    println!("made after {:.1?}", began.elapsed());
    let load = PodLoad::start(&orders, PARTITIONS, None)?;
    for (to, mark) in [(4, "grown"), (3, "shrunk")] {
        orders.scale(to)?;
        explain(orders.settled())?;
        let told = load.mark(mark)?;
        ensure!(told.failed == 0, "{told}");
    }
    load.verify()?;
    let log = operator.kubectl.run(&["logs", "dying-operator"])?;
    let deaths = log.matches("ended after").count();
    println!("the operator died {deaths} times");
    ensure!(deaths >= 10, "it died {deaths} times only:\n{log}");
    let words = ["delete", "pod", "dying-operator", "--wait=false"];
    operator.kubectl.run(&words)?;
    operator
        .kubectl
        .run(&["scale", DEPLOYMENT, "--replicas=2"])?;
    ensure!(NAMESPACE == "cairn-system", "the manifest names another");
    Ok(())
}
