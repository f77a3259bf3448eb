//! The lab does what the other tests rely on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_kube_tests::waiting::until;
use cairn_kube_tests::{Kubectl, Namespace, cluster, lab};

/// How long Kubernetes may take for one thing on a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);
const TIMEOUT: &str = "--timeout=120s";

const SERVERS: &str = include_str!("manifests/servers.yaml");
const KEEPER: &str = include_str!("manifests/keeper.yaml");

fn names(kubectl: &Kubectl, what: &str, path: &str) -> Result<Vec<String>> {
    let template = format!("jsonpath={{range .items[*]}}{{{path}}}{{\"\\n\"}}{{end}}");
    let listing = kubectl.run(&["get", what, "-o", &template])?;
    Ok(listing.lines().map(str::to_owned).collect())
}

fn becomes(kubectl: &Kubectl, node: &str, wanted: &str) -> Result<()> {
    until(&format!("{node} to be {wanted}"), PATIENCE, || {
        let is = kubectl.readiness(node)?;
        Ok((is == wanted).then_some(()))
    })
}

#[test]
fn pods_on_all_nodes_reach_each_other_by_address_name_and_service() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let space = Namespace::new(&cluster.kubectl, "lab-network")?;
    let kubectl = &space.kubectl;
    kubectl.apply(SERVERS)?;
    space.explain(kubectl.run(&["rollout", "status", "daemonset/server", TIMEOUT]))?;
    let nodes = names(kubectl, "nodes", ".metadata.name")?;
    let pods = names(kubectl, "pods", ".metadata.name")?;
    ensure!(pods.len() == nodes.len(), "{pods:?} on {nodes:?}");
    let addresses = names(kubectl, "pods", ".status.podIP")?;
    for pod in &pods {
        let hosts = addresses
            .iter()
            .map(String::as_str)
            .chain(["servers", "server"]);
        for host in hosts {
            let answer = kubectl.exec(pod, &["timeout", "20", "redis-cli", "-h", host, "PING"]);
            let answer = space.explain(answer)?;
            ensure!(answer.trim() == "PONG", "{pod} asked {host}: {answer}");
        }
        // The headless service's name stands for every pod.
        let found = kubectl.exec(pod, &["getent", "ahostsv4", "servers"])?;
        for address in &addresses {
            ensure!(
                found.contains(address),
                "{pod} finds {found}, not {address}"
            );
        }
        // The API server is reached through its service.
        kubectl.exec(pod, &["getent", "hosts", "kubernetes.default.svc"])?;
    }
    Ok(())
}

#[test]
fn a_volume_keeps_its_data_over_a_restart_and_a_new_claim_gets_an_empty_one() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let space = Namespace::new(&cluster.kubectl, "lab-volume")?;
    let kubectl = &space.kubectl;
    kubectl.apply(KEEPER)?;
    let runs = || space.explain(kubectl.run(&["rollout", "status", "statefulset/keeper", TIMEOUT]));
    let uid = || kubectl.field("pod", "keeper-0", ".metadata.uid");
    let volume = || kubectl.field("pvc", "data-keeper-0", ".spec.volumeName");
    let is_another = |before: &str| {
        until("another pod", PATIENCE, || {
            Ok(uid().ok().filter(|uid| uid != before).map(drop))
        })
    };
    runs()?;
    let (first_pod, first_volume) = (uid()?, volume()?);
    kubectl.exec("keeper-0", &["sh", "-c", "echo kept > /data/note && sync"])?;

    kubectl.run(&["delete", "pod", "keeper-0", TIMEOUT])?;
    is_another(&first_pod)?;
    runs()?;
    let note = kubectl.exec("keeper-0", &["cat", "/data/note"])?;
    ensure!(note.trim() == "kept", "{note}");
    ensure!(volume()? == first_volume, "the claim moved");

    let second_pod = uid()?;
    kubectl.run(&["delete", "pvc", "data-keeper-0", "--wait=false"])?;
    kubectl.run(&["delete", "pod", "keeper-0", TIMEOUT])?;
    is_another(&second_pod)?;
    // The controller makes the claim anew before the pod, or else the next pod.
    runs()?;
    let listing = kubectl.exec("keeper-0", &["ls", "/data"])?;
    ensure!(listing.trim().is_empty(), "the new volume holds {listing}");
    ensure!(volume()? != first_volume, "the old volume came back");

    // The lab makes a new volume in the place of the released one.
    if cluster.lab.is_some() {
        until("the old volume to be replaced", PATIENCE, || {
            let volumes = names(kubectl, "pv", ".metadata.name")?;
            Ok((!volumes.contains(&first_volume)).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_node_that_loses_its_power_is_noticed_and_comes_back_with_its_disk() -> Result<()> {
    let Some((cluster, lab)) = lab()? else {
        return Ok(());
    };
    let space = Namespace::new(&cluster.kubectl, "lab-power")?;
    let kubectl = &space.kubectl;
    kubectl.apply(SERVERS)?;
    kubectl.apply(KEEPER)?;
    space.explain(kubectl.run(&["rollout", "status", "daemonset/server", TIMEOUT]))?;
    space.explain(kubectl.run(&["rollout", "status", "statefulset/keeper", TIMEOUT]))?;
    kubectl.exec("keeper-0", &["sh", "-c", "echo kept > /data/note && sync"])?;
    let node = kubectl.field("pod", "keeper-0", ".spec.nodeName")?;
    let other = names(kubectl, "nodes", ".metadata.name")?
        .into_iter()
        .find(|other| *other != node)
        .context("another node")?;
    let on_other = format!("--field-selector=spec.nodeName={other}");
    let witness = [
        "get",
        "pods",
        "-l",
        "app=server",
        &on_other,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ];
    let witness = kubectl.run(&witness)?;

    lab.power_off(&node)?;
    let status = lab.status()?;
    let is_off = status
        .lines()
        .any(|line| line.starts_with(&node) && line.contains("off"));
    ensure!(is_off, "{status}");
    // Names are resolved elsewhere before anybody has noticed.
    kubectl.exec(&witness, &["getent", "hosts", "kubernetes.default.svc"])?;
    ensure!(
        lab.on(&node, &["true"]).is_err(),
        "something runs on a node that is off"
    );
    becomes(kubectl, &node, "Unknown")?;

    lab.power_on(&node)?;
    becomes(kubectl, &node, "True")?;
    let note = until("the pod to run again", PATIENCE, || {
        Ok(kubectl.exec("keeper-0", &["cat", "/data/note"]).ok())
    });
    let note = space.explain(note)?;
    ensure!(note.trim() == "kept", "{note}");
    let is_on = kubectl.field("pod", "keeper-0", ".spec.nodeName")?;
    ensure!(is_on == node, "the pod left its volume");
    Ok(())
}
