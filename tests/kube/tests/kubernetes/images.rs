//! The images run as restricted pods, and hold nothing but what they run.

use std::time::Duration;

use anyhow::{Result, ensure};
use cairn_kube_tests::kubectl::said;
use cairn_kube_tests::{Namespace, cluster};

/// How long a pod may take to be ready on a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);

const COORDINATOR: &str = include_str!("manifests/coordinator.yaml");
const VERSION: &str = include_str!("manifests/version.yaml");

#[test]
fn a_node_runs_without_root_on_a_root_file_system_that_it_cannot_write() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let space = Namespace::new(&cluster.kubectl, "images-node")?;
    let kubectl = &space.kubectl;
    kubectl.apply(COORDINATOR)?;
    space.explain(kubectl.await_ready("coordinator", PATIENCE))?;

    // Without a role the binary is the command.
    kubectl.apply(VERSION)?;
    let done = [
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "pod/version",
        "--timeout=120s",
    ];
    space.explain(kubectl.run(&done))?;
    let version = kubectl.run(&["logs", "version"])?;
    ensure!(version.starts_with("cairn "), "{version}");
    for shell in ["sh", "/bin/sh", "bash", "busybox"] {
        let done = kubectl.outcome(&["exec", "coordinator", "--", shell, "-c", "true"])?;
        ensure!(!done.status.success(), "{shell} is in the image");
        let told = said(&done);
        let is_missing = told.contains("no such file") || told.contains("not found");
        ensure!(is_missing, "{told}");
    }

    // By the name of a headless service, from the C library that is in the image.
    let status = ["cairn", "status", "--endpoints", "coordinator:7400"];
    let status = space.explain(kubectl.exec("coordinator", &status))?;
    ensure!(status.contains("leader coordinator"), "{status}");
    // No node of ours is there, so that only the reason tells whether the name was found.
    for (host, is_known) in [
        ("kubernetes.default.svc", true),
        ("nobody.default.svc", false),
    ] {
        let endpoint = format!("{host}:443");
        let words = [
            "cairn",
            "status",
            "--timeout",
            "5",
            "--endpoints",
            &endpoint,
        ];
        let done = kubectl.outcome(&[&["exec", "coordinator", "--"], &words[..]].concat())?;
        let told = said(&done);
        ensure!(!done.status.success(), "{told}");
        let is_unknown = told.contains("failed to lookup address");
        ensure!(is_unknown != is_known, "{host}: {told}");
    }
    Ok(())
}
