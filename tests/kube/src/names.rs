//! How long the names of pods are kept after the pod has another address.

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::kubectl::Kubectl;

const NAMESPACE: &str = "kube-system";
/// As the lab is set up, and as clusters are that people pay for.
const USUAL: [&str; 2] = ["ttl 5", "cache 5"];
const LONG: [&str; 2] = ["ttl 30", "cache 30"];

/// The cluster's resolvers keep names for half a minute, until this is dropped.
#[derive(Debug)]
pub struct NamesKept {
    kubectl: Kubectl,
}

impl NamesKept {
    /// Where the cluster is the tests' own; nothing where it is somebody's.
    ///
    /// # Errors
    /// Where its resolvers do not come back.
    pub fn for_long(cluster: &Cluster) -> Result<Option<Self>> {
        if cluster.lab.is_none() {
            return Ok(None);
        }
        let kubectl = cluster.kubectl.within(NAMESPACE);
        exchange(&kubectl, USUAL, LONG)?;
        Ok(Some(Self { kubectl }))
    }
}

impl Drop for NamesKept {
    fn drop(&mut self) {
        if let Err(error) = exchange(&self.kubectl, LONG, USUAL) {
            eprintln!("names are still kept for long: {error:#}");
        }
    }
}

fn exchange(kubectl: &Kubectl, old: [&str; 2], new: [&str; 2]) -> Result<()> {
    let mut changed = kubectl.run(&["get", "configmap", "coredns", "-o", "json"])?;
    for (old, new) in old.into_iter().zip(new) {
        ensure!(changed.contains(old), "no `{old}` in {changed}");
        changed = changed.replace(old, new);
    }
    kubectl.apply(&changed)?;
    kubectl.run(&["rollout", "restart", "daemonset/coredns"])?;
    kubectl.run(&["rollout", "status", "daemonset/coredns", "--timeout=60s"])?;
    Ok(())
}
