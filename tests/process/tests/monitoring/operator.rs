//! A real Prometheus over a real operator, which acts on an API server in memory.

use anyhow::{Context, Result, ensure};
use cairn_process_tests::api_server::ApiServer;
use cairn_process_tests::cluster::BOUND;
use cairn_process_tests::operator::Operator;
use cairn_process_tests::prometheus::{NO_PROMETHEUS, Prometheus, is_installed};
use cairn_process_tests::{skip, waiting};
use serde_json::{Value, json};

/// The alerts that are made to fire here, and to clear.
pub(crate) const PROVOKED: [&str; 3] = [
    "CairnManifestInvalid",
    "CairnOperatorAbsent",
    "CairnOperatorFailing",
];

const NAMESPACE: &str = "shop";
const MANIFEST: &str = "/apis/cairn.dev/v1alpha1/namespaces/shop/kvclusters/orders";

/// The manifest, which asks for a data node to be drained.
fn manifest(generation: u32, drained: &str) -> Value {
    json!({
        "apiVersion": "cairn.dev/v1alpha1", "kind": "KvCluster",
        "metadata": {
            "name": "orders", "namespace": NAMESPACE, "uid": "uid-orders",
            "generation": generation,
        },
        "spec": {
            "data": {"replicas": 4, "storage": {"size": "10Gi"}},
            "maintenance": {"drain": [drained]},
        },
    })
}

#[test]
fn an_operator_that_cannot_follow_fails_or_ends_makes_its_alerts_fire() -> Result<()> {
    if !is_installed() {
        return skip::without(NO_PROMETHEUS);
    }
    let api = ApiServer::start()?;
    let mut operator = Operator::new(&api)?;
    let rules = crate::live::shortened(crate::rules::file()?);
    let target = [operator.address().to_string()];
    let prometheus = Prometheus::over(&target, &json!({"namespace": "cairn-system"}), &rules)?;
    let outcome = provoke(&api, &mut operator, &prometheus);
    outcome.with_context(|| operator.log())
}

fn provoke(api: &ApiServer, operator: &mut Operator, prometheus: &Prometheus) -> Result<()> {
    api.put(MANIFEST, manifest(1, "orders-data-3"));
    operator.start(NAMESPACE)?;
    waiting::until("Prometheus to see that the operator acts", BOUND, || {
        Ok((prometheus.value("cairn_operator_leader")? > 0.0).then_some(()))
    })?;
    waiting::until("Prometheus to see a round", BOUND, || {
        let rounds = prometheus.value("cairn_operator_reconciles_total{outcome=\"ok\"}")?;
        Ok((rounds > 0.0).then_some(()))
    })?;
    ensure!(
        prometheus.fired()?.is_empty(),
        "fired: {:?}",
        prometheus.fired()?
    );

    api.put(MANIFEST, manifest(2, "orders-pantry-3"));
    prometheus.await_firing(&["CairnManifestInvalid"])?;
    api.put(MANIFEST, manifest(3, "orders-data-3"));
    prometheus.await_clear(&["CairnManifestInvalid"])?;

    api.fail(true);
    prometheus.await_firing(&["CairnOperatorFailing"])?;
    api.fail(false);
    prometheus.await_clear(&["CairnOperatorFailing"])?;

    operator.terminate()?;
    prometheus.await_firing(&["CairnOperatorAbsent"])?;
    operator.start(NAMESPACE)?;
    prometheus.await_clear(&["CairnOperatorAbsent"])?;
    let fired = prometheus.fired()?;
    let wanted = PROVOKED.map(str::to_owned).into();
    ensure!(fired == wanted, "fired: {fired:?}");
    Ok(())
}
