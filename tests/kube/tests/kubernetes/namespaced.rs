//! An operator that is let into one namespace, and may not read Kubernetes nodes.

use anyhow::{Result, ensure};
use cairn_kube_tests::operator::NAMESPACE;
use cairn_kube_tests::{KvCluster, Namespace, Operator, cluster};

const SMALLEST: &str = include_str!("../../../../examples/smallest.yaml");

#[test]
fn an_operator_of_one_namespace_works_there_and_nowhere_else() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let space = Namespace::new(&cluster.kubectl, "namespaced")?;
    let elsewhere = Namespace::new(&cluster.kubectl, "elsewhere")?;
    let settings = ["watchNamespaces={namespaced}", "rbac.nodes=false"];
    let operator = Operator::install(cluster, &settings)?;

    let may = |verb: &str, what: &str, namespace: &str| -> Result<bool> {
        let who = format!("--as=system:serviceaccount:{NAMESPACE}:cairn-operator");
        let words = ["auth", "can-i", verb, what, "--namespace", namespace, &who];
        let told = cluster.kubectl.outcome(&words)?;
        Ok(told.status.success())
    };
    ensure!(may("create", "statefulsets.apps", "namespaced")?);
    for (verb, what, namespace) in [
        ("get", "secrets", "elsewhere"),
        ("list", "secrets", "namespaced"),
        ("create", "statefulsets.apps", "elsewhere"),
        ("get", "nodes", "namespaced"),
        ("delete", "namespaces", "namespaced"),
    ] {
        ensure!(
            !may(verb, what, namespace)?,
            "it may {verb} {what} in {namespace}"
        );
    }

    elsewhere.kubectl.apply(SMALLEST)?;
    space.kubectl.apply(SMALLEST)?;
    let demo = KvCluster::new(&space, &operator, "demo");
    let settled = demo.settled()?;
    let degraded = settled.0["status"]["conditions"].to_string();
    ensure!(
        degraded.contains("no volume is given up by itself"),
        "{degraded}"
    );
    space
        .kubectl
        .exec("demo-data-0", &["cairn", "put", "greeting", "hello"])?;
    let untouched = ["get", "statefulsets", "-o", "name"];
    let made = elsewhere.kubectl.run(&untouched)?;
    ensure!(made.trim().is_empty(), "made elsewhere: {made}");
    Ok(())
}
