//! Edits of a manifest under load: the coordinators' group, the number of copies, quorums, a
//! pause, and the end. None costs a request.

use std::time::Instant;

use anyhow::{Result, ensure};
use cairn_kube_tests::kvcluster::{PATIENCE, Status};
use cairn_kube_tests::waiting::until;
use cairn_kube_tests::{KvCluster, Namespace, Operator, PodLoad, cluster};

const PARTITIONS: u32 = 12;
/// More than the volumes of the lab have.
const LARGER: &str = "12Gi";
const REQUESTED: &str = ".spec.resources.requests.storage";
const MANIFEST: &str = include_str!("manifests/edited.yaml");

#[test]
fn a_manifest_is_edited_while_clients_go_on() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let operator = Operator::install(cluster, &[])?;
    let space = Namespace::new(&cluster.kubectl, "edits")?;
    let edited = KvCluster::new(&space, &operator, "edited");
    space.kubectl.apply(MANIFEST)?;
    edited.settled()?;
    let load = PodLoad::start(&edited, PARTITIONS, None)?;
    let change = |mark: &str, spec: &str| -> Result<Status> {
        let began = Instant::now();
        edited.patch(spec)?;
        let settled = edited.settled()?;
        println!("{mark}: settled after {:.1?}", began.elapsed());
        let told = load.mark(mark)?;
        ensure!(told.failed == 0, "{told}");
        Ok(settled)
    };

    for (from, count) in [(1, 3_u64), (3, 5), (5, 3)] {
        let mark = format!("coordinators-{from}-to-{count}");
        let settled = change(
            &mark,
            &format!(r#"{{"coordinators":{{"replicas":{count}}}}}"#),
        )?;
        let coordinators = &settled.0["status"]["coordinators"];
        ensure!(coordinators["ready"] == count, "{coordinators}");
        let agreed = agreed(&edited)?;
        ensure!(
            agreed.contains(&format!("coordinators  {count},")),
            "{agreed}"
        );
    }
    for (mark, spec, expected) in [
        (
            "three-copies",
            r#"{"replicationFactor":3}"#,
            "replication factor 3, write quorum 2",
        ),
        (
            "all-of-three",
            r#"{"writeQuorum":3}"#,
            "replication factor 3, write quorum 3",
        ),
        (
            "two-of-three",
            r#"{"writeQuorum":2}"#,
            "replication factor 3, write quorum 2",
        ),
        (
            "two-copies",
            r#"{"replicationFactor":2}"#,
            "replication factor 2, write quorum 2",
        ),
    ] {
        change(mark, spec)?;
        let agreed = agreed(&edited)?;
        ensure!(agreed.contains(expected), "{mark}: {agreed}");
    }

    enlarge(&space, &edited)?;
    let told = load.mark("volumes-grown")?;
    println!("{told}");
    ensure!(told.failed == 0, "{told}");

    // While it is paused nothing is done, and then all of it.
    edited.patch(r#"{"maintenance":{"paused":true},"data":{"replicas":4}}"#)?;
    edited.until("the pause to be told", |status| {
        Ok((status.phase() == "Paused").then_some(()))
    })?;
    // Whatever starts a round now must change nothing.
    let note = ["annotate", "statefulset", "edited-data", "touched=yes"];
    space.kubectl.run(&note)?;
    let kept = || {
        let kubectl = &space.kubectl;
        kubectl.field("statefulset", "edited-data", ".spec.replicas")
    };
    ensure!(kept()? == "3", "it grew while paused");
    change("unpaused", r#"{"maintenance":{"paused":false}}"#)?;
    ensure!(kept()? == "4", "it did not grow");
    let newcomer = space
        .kubectl
        .field("pvc", "data-edited-data-3", REQUESTED)?;
    ensure!(newcomer == LARGER, "a new volume of {newcomer}");
    load.verify()?;

    // The pods go with it and the volumes stay.
    space
        .kubectl
        .run(&["delete", "kvc", "edited", "--timeout=60s"])?;
    let of = ["-l", "app.kubernetes.io/instance=edited", "-o", "name"];
    until("the pods to be gone", PATIENCE, || {
        let pods = space.kubectl.run(&[&["get", "pods"][..], &of].concat())?;
        Ok(pods.trim().is_empty().then_some(()))
    })?;
    let claims = space.kubectl.run(&[&["get", "pvc"][..], &of].concat())?;
    ensure!(
        claims
            .lines()
            .filter(|line| line.contains("-data-"))
            .count()
            >= 4,
        "{claims}"
    );
    Ok(())
}

/// Has the volumes of the data nodes grow, with the test as whoever enlarges them: under their
/// pods, and the StatefulSet made anew around these.
fn enlarge(space: &Namespace, edited: &KvCluster<'_>) -> Result<()> {
    let kubectl = &space.kubectl;
    let pods = || -> Result<Vec<String>> {
        let uid = |n| kubectl.field("pod", &edited.pod("data", n), ".metadata.uid");
        (0..3).map(uid).collect()
    };
    let (before, set) = (
        pods()?,
        kubectl.field("statefulset", "edited-data", ".metadata.uid")?,
    );
    edited.patch(&format!(
        r#"{{"data":{{"storage":{{"size":"{LARGER}"}}}}}}"#
    ))?;
    edited.until("the growth to be told", |status| {
        let conditions = status.0["status"]["conditions"].as_array();
        let is_told = |one: &serde_json::Value| one["reason"] == "GrowingVolumes";
        Ok(conditions
            .is_some_and(|all| all.iter().any(is_told))
            .then_some(()))
    })?;
    let claims: Vec<String> = (0..3)
        .map(|n| format!("data-{}", edited.pod("data", n)))
        .collect();
    for claim in &claims {
        until("the claim to ask for more", PATIENCE, || {
            let asks = kubectl.field("pvc", claim, REQUESTED)?;
            Ok((asks == LARGER).then_some(()))
        })?;
        let volume = kubectl.field("pvc", claim, ".spec.volumeName")?;
        let has = format!(r#"{{"spec":{{"capacity":{{"storage":"{LARGER}"}}}}}}"#);
        kubectl.run(&["patch", "pv", &volume, "--type=merge", "-p", &has])?;
        let has = format!(r#"{{"status":{{"capacity":{{"storage":"{LARGER}"}}}}}}"#);
        let patch = [
            "patch",
            "pvc",
            claim,
            "--subresource=status",
            "--type=merge",
            "-p",
            &has,
        ];
        kubectl.run(&patch)?;
    }
    until("the StatefulSet to be made anew", PATIENCE, || {
        let template = ".spec.volumeClaimTemplates[0].spec.resources.requests.storage";
        // For a moment there is none.
        let size = kubectl.field("statefulset", "edited-data", template);
        Ok(size.is_ok_and(|size| size == LARGER).then_some(()))
    })?;
    ensure!(kubectl.field("statefulset", "edited-data", ".metadata.uid")? != set);
    edited.settled()?;
    ensure!(pods()? == before, "pods were made anew");
    Ok(())
}

/// What the coordinators say that they agreed on.
fn agreed(edited: &KvCluster<'_>) -> Result<String> {
    let pod = edited.pod("coordinator", 0);
    edited.kubectl().exec(&pod, &["cairn", "status"])
}
