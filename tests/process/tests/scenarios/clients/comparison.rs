//! The same calls to Debian's redis-server and to Cairn: `tests/clients/compare`.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::{Cluster, Spec};
use cairn_process_tests::{ports, skip};

#[test]
fn cairn_answers_as_redis_does_but_for_what_is_documented() -> Result<()> {
    if Command::new("redis-server")
        .arg("--version")
        .output()
        .is_err()
    {
        return skip::without("redis-server is not installed (see ci/install-tools)");
    }
    // One node, so that it owns every slot as the Redis beside it does.
    let spec = Spec {
        coordinators: 1,
        data_nodes: 1,
        partitions: 16,
        ..Spec::default()
    }
    .with("CAIRN_REPLICATION_FACTOR", 1);
    let cluster = Cluster::start(spec)?;
    let redis = ports::free_run(2)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/compare/compare.py");
    let done = Command::new("python3")
        .arg("-B")
        .arg(script)
        .args([cluster.data[0].ports.resp.to_string(), redis.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    ensure!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
