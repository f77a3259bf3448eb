//! Edits of a manifest under load: the coordinators' group, the number of copies, quorums, what
//! pods are made of, the size of volumes, a pause, and the end. None costs a request.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cairn_kube_tests::kvcluster::{PATIENCE, Status};
use cairn_kube_tests::waiting::until;
use cairn_kube_tests::{Cluster, KvCluster, Namespace, Operator, PodLoad, cluster, images};
use cairn_process_tests::runbook::Runbook;
use cairn_process_tests::skip;
use tempfile::TempDir;

const PARTITIONS: u32 = 12;
/// More than the volumes of the lab have.
const LARGER: &str = "12Gi";
const REQUESTED: &str = ".spec.resources.requests.storage";
/// An image that nobody has.
const NOWHERE: &str = "localhost/cairn/node:nowhere";
/// For how long a rollout that is stuck is watched.
const STUCK_FOR: Duration = Duration::from_secs(15);
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
    ] {
        change(mark, spec)?;
        let agreed = agreed(&edited)?;
        ensure!(agreed.contains(expected), "{mark}: {agreed}");
    }

    load.mark("rest")?;
    roll(cluster, &edited, &change)?;
    change("two-copies", r#"{"replicationFactor":2}"#)?;
    let agreed = agreed(&edited)?;
    let expected = "replication factor 2, write quorum 2";
    ensure!(agreed.contains(expected), "{agreed}");

    // Only where nobody else enlarges volumes can the test.
    if cluster.lab.is_some() {
        enlarge(&space, &edited)?;
        let told = load.mark("volumes-grown")?;
        ensure!(told.failed == 0, "{told}");
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
    if cluster.lab.is_some() {
        let claim = "data-edited-data-3";
        let newcomer = space.kubectl.field("pvc", claim, REQUESTED)?;
        ensure!(newcomer == LARGER, "a new volume of {newcomer}");
    }

    loses_coordinators(&edited)?;
    is_adopted(&edited)?;
    load.verify()?;
    Ok(())
}

/// The volumes of two coordinators of three are lost: a person goes on with the third.
fn loses_coordinators(edited: &KvCluster<'_>) -> Result<()> {
    let kubectl = edited.kubectl();
    let began = Instant::now();
    let folder = TempDir::new()?;
    let shell = kubectl.shell(folder.path())?;
    let pod = edited.pod("coordinator", 2);
    let mut told: Vec<(&str, &str)> = shell.iter().map(|(name, at)| (*name, &**at)).collect();
    told.extend([("POD", &*pod), ("CLUSTER", "edited")]);
    let mut runbook = Runbook::section("recovery.md", "The coordinators' quorum with Kubernetes")?;
    runbook.run(&told)?;
    for number in [0, 1] {
        let claim = format!("data-{}", edited.pod("coordinator", number));
        kubectl.run(&["delete", "pvc", &claim, "--wait=false"])?;
    }
    let unasked = edited.explain(runbook.run(&told))?;
    ensure!(unasked.contains("this disk"), "{unasked}");
    ensure!(unasked.contains("--accept-loss"), "{unasked}");
    let done = edited.explain(runbook.run(&told))?;
    ensure!(done.contains("is the only coordinator"), "{done}");
    ensure!(!done.contains("No answer from"), "{done}");
    edited.explain(runbook.run(&told))?;
    runbook.finish()?;
    edited.settled()?;
    println!("coordinators recovered after {:.1?}", began.elapsed());
    let agreed = agreed(edited)?;
    ensure!(agreed.contains("coordinators  3,"), "{agreed}");
    Ok(())
}

/// A manifest of its name that is merely applied is given nothing of what is on its volumes.
fn is_not_made_unasked(edited: &KvCluster<'_>, manifest: &str) -> Result<()> {
    let kubectl = edited.kubectl();
    kubectl.run(&["apply", "-f", manifest])?;
    until("the manifest to be refused", PATIENCE, || {
        let phase = kubectl.field("kvc", "edited", ".status.phase")?;
        Ok((phase == "Invalid").then_some(()))
    })?;
    let told = kubectl.field("kvc", "edited", ".status.conditions[*].message")?;
    ensure!(told.contains("data-edited-coordinator-0"), "{told}");
    ensure!(told.contains("kubectl cairn adopt"), "{told}");
    let of = "app.kubernetes.io/instance=edited";
    let made = kubectl.run(&["get", "statefulsets,pods", "-l", of, "-o", "name"])?;
    ensure!(made.trim().is_empty(), "made all the same: {made}");
    kubectl.run(&["delete", "kvc", "edited", "--timeout=60s"])?;
    Ok(())
}

/// It is deleted by mistake, and its volumes stay: a person has it made again on them, by a
/// manifest of the time when it was smaller.
fn is_adopted(edited: &KvCluster<'_>) -> Result<()> {
    let kubectl = edited.kubectl();
    let id = || kubectl.field("kvc", "edited", ".status.clusterId");
    let before = id()?;
    kubectl.run(&["delete", "kvc", "edited", "--timeout=60s"])?;
    let of = ["-l", "app.kubernetes.io/instance=edited", "-o", "name"];
    until("the pods to be gone", PATIENCE, || {
        let pods = kubectl.run(&[&["get", "pods"][..], &of].concat())?;
        Ok(pods.trim().is_empty().then_some(()))
    })?;
    let claims = kubectl.run(&[&["get", "pvc"][..], &of].concat())?;
    let of_data = claims.lines().filter(|line| line.contains("-data-"));
    ensure!(of_data.count() >= 4, "{claims}");

    let began = Instant::now();
    let folder = TempDir::new()?;
    let manifest = folder.path().join("edited.yaml");
    std::fs::write(&manifest, MANIFEST)?;
    let manifest = manifest.display().to_string();
    is_not_made_unasked(edited, &manifest)?;
    let shell = kubectl.shell(folder.path())?;
    let mut told: Vec<(&str, &str)> = shell.iter().map(|(name, at)| (*name, &**at)).collect();
    told.push(("MANIFEST", &manifest));
    let mut runbook = Runbook::section("recovery.md", "A KvCluster that was deleted")?;
    let unasked = runbook.run(&told)?;
    ensure!(unasked.contains("--adopt-volumes"), "{unasked}");
    ensure!(unasked.contains("data-edited-data-3"), "{unasked}");
    let nothing = kubectl.run(&["get", "kvc", "-o", "name"])?;
    ensure!(nothing.trim().is_empty(), "made all the same: {nothing}");
    let adopted = edited.explain(runbook.run(&told))?;
    println!("adopted after {:.1?}", began.elapsed());
    ensure!(
        !before.is_empty() && adopted.contains(&before),
        "{before} became {adopted}"
    );
    edited.settled()?;
    println!("as small as its manifest after {:.1?}", began.elapsed());
    runbook.run(&told)?;
    runbook.finish()?;
    ensure!(id()? == before, "another cluster");
    Ok(())
}

/// Has every node become another build and then the present one again, and rolls out an image that
/// there is not.
fn roll(
    cluster: &Cluster,
    edited: &KvCluster<'_>,
    change: &impl Fn(&str, &str) -> Result<Status>,
) -> Result<()> {
    let earlier = match &cluster.lab {
        Some(lab) => images::build_earlier()?.first().map(|at| lab.load(at)),
        None => None,
    };
    let (other, back) = if let Some(loaded) = earlier {
        loaded?;
        let image = format!(r#"{{"image":"cairn/node:{}"}}"#, images::EARLIER_TAG);
        (image, r#"{"image":null}"#)
    } else {
        skip::without(
            "an upgrade on Kubernetes needs the earlier build: ci/earlier-build makes it",
        )?;
        (
            r#"{"logLevel":"debug"}"#.to_owned(),
            r#"{"logLevel":"info"}"#,
        )
    };
    for (mark, spec) in [("rolled", &*other), ("rolled-back", back)] {
        let (before, began) = (uids(edited)?, Instant::now());
        change(mark, spec)?;
        let rolled = uids(edited)?;
        let pods = u32::try_from(rolled.len())?;
        println!("{mark}: {:.1?} per pod", began.elapsed() / pods);
        ensure!(before.iter().all(|uid| !rolled.contains(uid)), "{rolled:?}");
        let images = self::pods(edited, ".spec.containers[0].image")?;
        let is_other = |image: &String| spec.contains(&**image);
        ensure!(
            images.iter().all(is_other) == spec.contains("image\":\""),
            "{images:?}"
        );
    }

    edited.patch(&format!(r#"{{"image":"{NOWHERE}"}}"#))?;
    let image = ".spec.containers[0].image";
    until("the rollout to begin", PATIENCE, || {
        // One of them may not be there for a moment.
        let images = pods(edited, image).unwrap_or_default();
        Ok(images.iter().any(|image| image == NOWHERE).then_some(()))
    })?;
    // It could go through all of them meanwhile.
    std::thread::sleep(STUCK_FOR);
    let images = pods(edited, image)?;
    let lost = images.iter().filter(|image| *image == NOWHERE).count();
    ensure!(lost == 1, "{lost} nodes were lost: {images:?}");
    change("taken-back", r#"{"image":null}"#)?;
    let images = pods(edited, image)?;
    ensure!(images.iter().all(|image| image != NOWHERE), "{images:?}");
    Ok(())
}

/// Has the volumes of the data nodes grow, with the test as whoever enlarges them: under their
/// pods, and the StatefulSet made anew around these.
fn enlarge(space: &Namespace, edited: &KvCluster<'_>) -> Result<()> {
    let kubectl = &space.kubectl;
    let (before, set) = (
        uids(edited)?,
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
    // Those for nodes to come as well.
    let volumes = kubectl.run(&["get", "pv", "-l", "cairn.dev/lab-slot", "-o", "name"])?;
    let has = format!(r#"{{"spec":{{"capacity":{{"storage":"{LARGER}"}}}}}}"#);
    for volume in volumes.lines() {
        kubectl.run(&["patch", volume, "--type=merge", "-p", &has])?;
    }
    for claim in &claims {
        until("the claim to ask for more", PATIENCE, || {
            let asks = kubectl.field("pvc", claim, REQUESTED)?;
            Ok((asks == LARGER).then_some(()))
        })?;
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
    ensure!(uids(edited)? == before, "pods were made anew");
    Ok(())
}

/// A field of each pod of three coordinators and three data nodes.
fn pods(edited: &KvCluster<'_>, path: &str) -> Result<Vec<String>> {
    let names = ["coordinator", "data"].map(|role| (0..3).map(move |n| edited.pod(role, n)));
    let field = |name: String| edited.kubectl().field("pod", &name, path);
    names.into_iter().flatten().map(field).collect()
}

fn uids(edited: &KvCluster<'_>) -> Result<Vec<String>> {
    pods(edited, ".metadata.uid")
}

/// What the coordinators say that they agreed on.
fn agreed(edited: &KvCluster<'_>) -> Result<String> {
    edited.kubectl().cairn(&["--cluster", "edited", "status"])
}
