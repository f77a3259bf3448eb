//! The harness that measures Cairn beside its peers still starts them, asks them, and leaves
//! nothing behind: `bench/`, in its shortest form.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::binary;
use serde_json::Value;

#[test]
fn the_benchmark_measures_every_system_and_leaves_results_alone() -> Result<()> {
    let cairn = binary::cairn()?;
    // target/debug/deps/scenarios-0123 -> target/debug/cairn-bench
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("no target directory")?;
    let folder = tempfile::tempdir()?;
    let (out, data) = (folder.path().join("results"), folder.path().join("data"));
    let done = Command::new(profile.join("cairn-bench"))
        .args(["compare", "--smoke", "--systems", "cairn-3,redis"])
        .args(["--keys", "2000", "--seconds", "0.5", "--warmup", "0.2"])
        .arg("--cairn")
        .arg(cairn)
        .arg("--out")
        .arg(&out)
        .arg("--data-dir")
        .arg(&data)
        .output()
        .context("run cairn-bench")?;
    let said = String::from_utf8_lossy(&done.stderr);
    println!("{said}");
    ensure!(done.status.success(), "cairn-bench failed: {said}");

    let report: Value = serde_json::from_slice(&fs::read(out.join("compare.json"))?)?;
    let cells = report["cells"].as_array().context("cells")?;
    ensure!(cells.len() == 2, "writes and reads: {report}");
    for cell in cells {
        for arm in cell["arms"].as_array().context("arms")? {
            let rate = &arm["operationsPerSecond"]["median"];
            ensure!(rate.as_f64().is_some_and(|rate| rate > 0.0), "{arm}");
        }
        let name = cell["name"].as_str().context("a name")?;
        let plot = fs::read_to_string(out.join(format!("compare-{name}.svg")))?;
        ensure!(plot.ends_with("</svg>\n"), "{plot}");
    }
    ensure!(out.join("compare.md").is_file());
    let left: Vec<_> = fs::read_dir(&data)?.collect();
    ensure!(left.is_empty(), "data was left behind: {left:?}");
    Ok(())
}
