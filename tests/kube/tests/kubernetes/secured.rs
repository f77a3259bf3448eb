//! A cluster whose clients speak TLS and have users, the operator among them.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cairn_kube_tests::kubectl::said;
use cairn_kube_tests::kvcluster::START;
use cairn_kube_tests::{KvCluster, Namespace, Operator, cluster};
use cairn_process_tests::binary;

const MANIFEST: &str = include_str!("manifests/secured.yaml");
const PASSWORD: &str = "a long password";

#[test]
fn clients_that_speak_tls_and_say_who_they_are_are_served_and_no_others() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let operator = Operator::install(cluster, &[])?;
    let space = Namespace::new(&cluster.kubectl, "secured")?;
    space.kubectl.apply(&MANIFEST.replace("@HASH@", &hash()?))?;
    let secured = KvCluster::new(&space, &operator, "secured");
    // The operator is one of the users: without its credential it would hear nothing.
    secured.settled()?;
    secured.explain(space.kubectl.await_ready("tools", START))?;

    let redis = |words: &[&str]| -> Result<String> {
        let command = [
            "exec",
            "tools",
            "--",
            "timeout",
            "20",
            "redis-cli",
            "-h",
            "secured",
        ];
        Ok(said(&space.kubectl.outcome(&[&command, words].concat())?))
    };
    let tls = ["-c", "--tls", "--cacert", "/authority/ca.crt"];
    let user = ["--no-auth-warning", "--user", "shop", "--pass", PASSWORD];
    let stranger = redis(&[&tls[..], &["SET", "shop:1", "one"]].concat())?;
    ensure!(stranger.contains("NOAUTH"), "{stranger}");
    let known = redis(&[&tls[..], &user, &["SET", "shop:1", "one"]].concat())?;
    ensure!(known.trim() == "OK", "{known}");
    let elsewhere = redis(&[&tls[..], &user, &["SET", "other:1", "one"]].concat())?;
    ensure!(elsewhere.contains("NOPERM"), "{elsewhere}");
    let plain = redis(&[&user[..], &["GET", "shop:1"]].concat())?;
    ensure!(!plain.contains("one"), "{plain}");

    // Another word of the manifest restarts every node, and the operator finds its way.
    secured.patch(r#"{"tls":{"clients":false}}"#)?;
    secured.settled()?;
    let plain = redis(&[&["-c"], &user[..], &["GET", "shop:1"]].concat())?;
    ensure!(plain.trim() == "one", "{plain}");
    Ok(())
}

/// The line of a users file for the password, by the command that people use.
fn hash() -> Result<String> {
    let mut child = Command::new(binary::cairn()?)
        .args(["user", "hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("its input")?;
    writeln!(input, "{PASSWORD}")?;
    drop(input);
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "{}", said(&done));
    let printed = String::from_utf8(done.stdout)?;
    let hash = printed
        .split('"')
        .find(|part| part.starts_with("$argon2id$"));
    Ok(hash.with_context(|| printed.clone())?.to_owned())
}
