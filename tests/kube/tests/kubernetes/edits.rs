//! Edits of a manifest under load: the coordinators' group, the number of copies, quorums, a
//! pause, and the end. None costs a request.

use std::time::Instant;

use anyhow::{Result, ensure};
use cairn_kube_tests::kvcluster::{PATIENCE, Status};
use cairn_kube_tests::waiting::until;
use cairn_kube_tests::{KvCluster, Namespace, Operator, PodLoad, cluster};

const PARTITIONS: u32 = 12;
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

/// What the coordinators say that they agreed on.
fn agreed(edited: &KvCluster<'_>) -> Result<String> {
    let pod = edited.pod("coordinator", 0);
    edited.kubectl().exec(&pod, &["cairn", "status"])
}
