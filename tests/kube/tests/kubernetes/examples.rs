//! Each manifest of `examples/` makes a cluster that serves, and so do README's commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cairn_kube_tests::kubectl::said;
use cairn_kube_tests::{KvCluster, Namespace, Operator, cluster};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// What the lab's volumes hold.
const VOLUME: &str = "size: 1Gi";

#[test]
fn each_example_becomes_a_cluster_that_serves() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let operator = Operator::install(cluster, &[])?;
    let mut found: Vec<PathBuf> = fs::read_dir(Path::new(ROOT).join("examples"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    found.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    found.sort();
    ensure!(found.len() >= 4, "{found:?}");
    for path in found {
        let example = path.file_stem().context("a name")?.to_string_lossy();
        let manifest = fs::read_to_string(&path)?;
        let name = manifest
            .lines()
            .find_map(|line| line.strip_prefix("  name: "))
            .with_context(|| format!("{example} has no name"))?;
        let space = Namespace::new(&cluster.kubectl, &format!("example-{example}"))?;
        let began = Instant::now();
        space.kubectl.apply(&small(&manifest))?;
        let made = KvCluster::new(&space, &operator, name);
        made.settled()?;
        println!("{example}: Ready after {:.1?}", began.elapsed());
        let pod = made.pod("data", 0);
        space
            .kubectl
            .exec(&pod, &["cairn", "put", "greeting", "hello"])?;
        let found = space.kubectl.exec(&pod, &["cairn", "get", "greeting"])?;
        ensure!(found.trim() == "hello", "{example}: {found}");
    }
    Ok(())
}

/// The commands of README.md, but for those that make a cluster and load the images there.
#[test]
fn the_commands_of_the_readme_lead_to_a_served_key() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md"))?;
    let section = readme
        .split("## On Kubernetes")
        .nth(1)
        .context("a section")?;
    let block = section.split("```").nth(1).context("commands")?;
    let commands: Vec<&str> = block.lines().filter(|line| !line.is_empty()).collect();
    ensure!(commands.len() == 5, "{commands:#?}");
    ensure!(
        commands[0].starts_with("kind create cluster"),
        "{}",
        commands[0]
    );
    ensure!(
        commands[1].contains("kind load image-archive"),
        "{}",
        commands[1]
    );

    Operator::install(cluster, &[])?.uninstall()?;
    let helm = cluster.helm.parent().context("a folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let run = |command: &str| -> Result<String> {
        let done = Command::new("bash")
            .args(["-c", command])
            .current_dir(ROOT)
            .env("KUBECONFIG", cluster.kubectl.kubeconfig())
            .env("PATH", format!("{}:{path}", helm.display()))
            .output()?;
        ensure!(done.status.success(), "{command}: {}", said(&done));
        Ok(said(&done))
    };
    let began = Instant::now();
    let mut printed = String::new();
    for command in &commands[2..] {
        printed = run(command)?;
    }
    println!("three commands after {:.1?}: {printed}", began.elapsed());
    ensure!(printed.ends_with("hello"), "{printed}");
    run("kubectl delete kvc demo --timeout=60s && kubectl delete pvc --all --timeout=60s")?;
    Ok(())
}

/// The manifest with volumes that a test cluster has: nothing else is changed.
fn small(manifest: &str) -> String {
    let lines = manifest.lines().map(|line| {
        let text = line.trim_start();
        if text.starts_with("size: ") {
            format!("{}{VOLUME}", &line[..line.len() - text.len()])
        } else {
            line.to_owned()
        }
    });
    lines.collect::<Vec<String>>().join("\n")
}
