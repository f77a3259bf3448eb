//! A cluster whose clients speak TLS and have users, the operator among them: whoever is no user
//! is not let in, clients outside of Kubernetes are, and every secret is replaced under their
//! load.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cairn_kube_lab::lab::Lab;
use cairn_kube_tests::kubectl::said;
use cairn_kube_tests::kvcluster::{PATIENCE, START};
use cairn_kube_tests::waiting::until;
use cairn_kube_tests::{KvCluster, LetIn, Namespace, Operator, OutsideLoad, cluster};
use cairn_process_tests::binary;
use cairn_process_tests::certificates::Authority;

const CERT_MANAGER: &str = include_str!("manifests/cert-manager.yaml");
const MANIFEST: &str = include_str!("manifests/secured.yaml");
const PARTITIONS: u32 = 12;
const PASSWORD: &str = "a long password";
/// Those of the load, one after the other.
const BEFORE: &str = "the password before";
const AFTER: &str = "the password after";

#[test]
fn clients_that_speak_tls_and_say_who_they_are_are_served_and_no_others() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let operator = Operator::install(cluster, &[])?;
    let space = Namespace::new(&cluster.kubectl, "secured")?;
    let (hash_before, hash_after) = (hash(BEFORE)?, hash(AFTER)?);
    let (token, token_hash) = token()?;
    let filled = MANIFEST
        .replace("@HASH@", &hash(PASSWORD)?)
        .replace("@TOKEN@", &token_hash);
    // The Secret comes first in it.
    let with = |passwords: &str| filled.replace("@LOAD@", passwords);
    space.kubectl.apply(&with(&format!("{hash_before:?}")))?;
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

    if let Some(lab) = &cluster.lab {
        let began = Instant::now();
        let people = |passwords: &str| -> Result<()> {
            let text = with(passwords);
            let (secret, _) = text.split_once("---").context("a Secret")?;
            space.kubectl.apply(secret)
        };
        let secrets = Secrets {
            secured: &secured,
            people: &people,
            hashes: [hash_before, hash_after],
            token,
        };
        secrets.are_replaced_under_load_from_outside(lab)?;
        println!(
            "outside, and every secret replaced: {:.1?}",
            began.elapsed()
        );
        let old = ["--no-auth-warning", "--user", "load", "--pass", BEFORE];
        let refused = redis(&[&tls[..], &old, &["GET", "x"]].concat())?;
        ensure!(
            refused.contains("WRONGPASS") || refused.contains("NOAUTH"),
            "{refused}"
        );
    }

    // Another word of the manifest restarts every node, and the operator finds its way.
    secured.patch(r#"{"tls":{"clients":false}}"#)?;
    secured.settled()?;
    let plain = redis(&[&["-c"], &user[..], &["GET", "shop:1"]].concat())?;
    ensure!(plain.trim() == "one", "{plain}");
    Ok(())
}

/// What is replaced.
struct Secrets<'a> {
    secured: &'a KvCluster<'a>,
    /// Writes the users file with these passwords of the load.
    people: &'a dyn Fn(&str) -> Result<()>,
    hashes: [String; 2],
    token: String,
}

impl Secrets<'_> {
    /// What a Secret of the cluster holds.
    fn read(&self, key: &str) -> Result<String> {
        let template = format!("go-template={{{{index .data {key:?} | base64decode}}}}");
        let words = ["get", "secret", "secured-tls", "-o", &template];
        self.secured.kubectl().run(&words)
    }

    /// Each pod with what it would not keep over a restart.
    fn pods(&self) -> Result<String> {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} \
                    {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
        let of = ["-l", "app.kubernetes.io/instance=secured", "-o", path];
        let words = [&["get", "pods"][..], &of].concat();
        self.secured.kubectl().run(&words)
    }

    fn are_replaced_under_load_from_outside(&self, lab: &Lab) -> Result<()> {
        let status = self.secured.settled()?;
        let addresses = (0..3)
            .map(|number| {
                let pod = self.secured.pod("data", number);
                let node = status.node(&pod).context("it is listed")?;
                let of = |kind: &str| node["outside"][kind].as_str().map(str::to_owned);
                let (redis, grpc) = (of("redis"), of("grpc"));
                Ok((redis.context("an address")?, grpc.context("an address")?))
            })
            .collect::<Result<Vec<_>>>()?;
        println!("from outside: {addresses:?}");
        let authorities = self.read("ca.crt")?;
        let let_in = LetIn {
            authorities: &authorities,
            user: "load",
            password: BEFORE,
            token: &self.token,
        };
        let load = OutsideLoad::start(lab, &addresses, PARTITIONS, let_in)?;
        let before = self.pods()?;
        load.mark("outside")?;
        self.password(&load)?;
        self.certificate(&load)?;
        self.authority(&load)?;
        self.issuer(&load)?;
        let after = self.pods()?;
        ensure!(before == after, "before:\n{before}after:\n{after}");
        self.fails_over(&load)?;
        let verdict = load.verify()?;
        println!("outside: {} writes acknowledged", verdict.acknowledged);
        Ok(())
    }

    /// Nothing failed since the mark before.
    fn harmless(&self, load: &OutsideLoad, mark: &str) -> Result<()> {
        let told = load.mark(mark)?;
        ensure!(told.failed == 0, "{mark}: {told}\n{}", load.printed()?);
        Ok(())
    }

    fn password(&self, load: &OutsideLoad) -> Result<()> {
        let [before, after] = &self.hashes;
        (self.people)(&format!("{before:?}, {after:?}"))?;
        self.taken_up("both")?;
        load.give("password", AFTER)?;
        self.harmless(load, "both-passwords")?;
        (self.people)(&format!("{after:?}"))?;
        self.taken_up("one")?;
        self.harmless(load, "another-password")
    }

    /// Waits until every node goes by the users file that was written last.
    fn taken_up(&self, word: &str) -> Result<()> {
        // Secrets are not watched: this starts a round now.
        let kubectl = self.secured.kubectl();
        let note = ["annotate", "statefulset", "secured-data", "--overwrite"];
        kubectl.run(&[&note[..], &[&format!("touched={word}")]].concat())?;
        until("the users file to be taken up", PATIENCE, || {
            let template = "go-template={{index .data \"users.toml\" | base64decode}}\
                            {{index .metadata.annotations \"cairn.dev/taken-up\"}}";
            let words = ["get", "secret", "secured-users", "-o", template];
            let printed = kubectl.run(&words)?;
            let asked = ["get", "secret", "people", "-o"];
            let person = "go-template={{index .data \"users.toml\" | base64decode}}";
            let person = kubectl.run(&[&asked[..], &[person]].concat())?;
            let (file, hash) = printed.split_at(printed.len().saturating_sub(64));
            let is_taken_up = file.starts_with(&person) && hash == sha256(file)?;
            Ok(is_taken_up.then_some(()))
        })
    }

    fn certificate(&self, load: &OutsideLoad) -> Result<()> {
        let before = self.read("tls.crt")?;
        self.secured
            .patch(r#"{"tls":{"renew":{"certificate":1}}}"#)?;
        until("another certificate", PATIENCE, || {
            Ok((self.read("tls.crt")? != before).then_some(()))
        })?;
        self.secured.settled()?;
        self.harmless(load, "another-certificate")
    }

    fn authority(&self, load: &OutsideLoad) -> Result<()> {
        let another = || self.secured.patch(r#"{"tls":{"renew":{"authority":1}}}"#);
        self.goes_over(load, another)?;
        self.harmless(load, "another-authority")
    }

    /// Certificates come from an issuer from now on, which the test plays: nobody did at first.
    fn issuer(&self, load: &OutsideLoad) -> Result<()> {
        let kubectl = self.secured.kubectl();
        let asked = r#"{"tls":{"issuerRef":{"name":"company","kind":"ClusterIssuer"}}}"#;
        self.secured.patch(asked)?;
        self.secured.until("cert-manager to be missed", |status| {
            let message = status.0["status"]["message"].as_str();
            let told = message.is_some_and(|text| text.contains("needs cert-manager"));
            Ok(told.then_some(()))
        })?;
        kubectl.apply(CERT_MANAGER)?;
        let names = until("a Certificate to be asked for", PATIENCE, || {
            let words = [
                "get",
                "certificates.cert-manager.io",
                "secured-tls",
                "-o",
                "json",
            ];
            let Ok(printed) = kubectl.run(&words) else {
                return Ok(None);
            };
            let spec = &serde_json::from_str::<serde_json::Value>(&printed)?["spec"];
            ensure!(spec["issuerRef"]["name"] == "company", "{spec}");
            let texts = |of: &str| spec[of].as_array().cloned().unwrap_or_default();
            let all = [texts("dnsNames"), texts("ipAddresses")].concat();
            let names = all
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned));
            Ok(Some(names.collect::<Vec<String>>()))
        })?;
        let folder = tempfile::tempdir()?;
        let authority = Authority::new(folder.path())?;
        authority.issue_names(names)?;
        let issue = || -> Result<()> {
            let file = |key: &str, name: &str| {
                format!("--from-file={key}={}", folder.path().join(name).display())
            };
            kubectl.run(&[
                "create",
                "secret",
                "generic",
                "secured-issued",
                &file("tls.crt", "cert.pem"),
                &file("tls.key", "key.pem"),
                &file("ca.crt", "ca.pem"),
            ])?;
            Ok(())
        };
        self.goes_over(load, issue)?;
        let shown = std::fs::read_to_string(folder.path().join("cert.pem"))?;
        ensure!(
            self.read("tls.crt")? == shown,
            "another certificate than the issuer's"
        );
        self.harmless(load, "an-issuer")
    }

    /// Has another authority sign, and follows that as clients do.
    fn goes_over(&self, load: &OutsideLoad, another: impl FnOnce() -> Result<()>) -> Result<()> {
        let count = |pem: &str| pem.matches("BEGIN CERTIFICATE").count();
        let (authority, certificate) = (self.read("ca.crt")?, self.read("tls.crt")?);
        another()?;
        let both = until("both authorities", PATIENCE, || {
            let authorities = self.read("ca.crt")?;
            Ok((count(&authorities) == 2).then_some(authorities))
        })?;
        load.give("authorities.pem", &both)?;
        let alone = until("the new authority alone", PATIENCE, || {
            let authorities = self.read("ca.crt")?;
            Ok((count(&authorities) == 1 && authorities != authority).then_some(authorities))
        });
        let alone = self.secured.explain(alone)?;
        ensure!(
            self.read("tls.crt")? != certificate,
            "the certificate stayed"
        );
        load.give("authorities.pem", &alone)?;
        self.secured.settled()?;
        Ok(())
    }

    /// A data node is killed, and clients outside go over to the others.
    fn fails_over(&self, load: &OutsideLoad) -> Result<()> {
        let pod = self.secured.pod("data", 1);
        let kubectl = self.secured.kubectl();
        let before = kubectl.field("pod", &pod, ".metadata.uid")?;
        kubectl.run(&["delete", "pod", &pod, "--grace-period=0", "--force"])?;
        until("another pod", PATIENCE, || {
            let uid = kubectl.field("pod", &pod, ".metadata.uid").ok();
            Ok(uid.filter(|uid| *uid != before).map(drop))
        })?;
        self.secured.explain(kubectl.await_ready(&pod, PATIENCE))?;
        self.secured.settled()?;
        load.mark("failover")?;
        self.harmless(load, "after-the-failover")
    }
}

/// The SHA-256 of a text, by the command that every machine has.
fn sha256(text: &str) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("its input")?
        .write_all(text.as_bytes())?;
    let printed = String::from_utf8(child.wait_with_output()?.stdout)?;
    Ok(printed
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// A new token, and the hash of it, by the command that people use.
fn token() -> Result<(String, String)> {
    let done = Command::new(binary::cairn()?)
        .args(["user", "token"])
        .output()?;
    ensure!(done.status.success(), "{}", said(&done));
    let printed = said(&done);
    let hash = printed
        .split("sha256:")
        .nth(1)
        .and_then(|rest| rest.get(..64))
        .with_context(|| printed.clone())?;
    let token = String::from_utf8(done.stdout.clone())?;
    let token = token
        .split_whitespace()
        .find(|word| word.len() >= 22 && !word.contains("sha256") && !word.contains('['))
        .with_context(|| printed.clone())?;
    Ok((token.to_owned(), hash.to_owned()))
}

/// The line of a users file for the password, by the command that people use.
fn hash(password: &str) -> Result<String> {
    let mut child = Command::new(binary::cairn()?)
        .args(["user", "hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("its input")?;
    writeln!(input, "{password}")?;
    drop(input);
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "{}", said(&done));
    let printed = String::from_utf8(done.stdout)?;
    let hash = printed
        .split('"')
        .find(|part| part.starts_with("$argon2id$"));
    Ok(hash.with_context(|| printed.clone())?.to_owned())
}
