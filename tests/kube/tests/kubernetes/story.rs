//! A cluster's life under load from a client pod that checks every acknowledged write: what
//! the operator promises, seen as a person sees it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cairn_kube_tests::kvcluster::{PATIENCE, START};
use cairn_kube_tests::waiting::until;
use cairn_kube_tests::{Cluster, KvCluster, NamesKept, Namespace, Operator, PodLoad, cluster};
use cairn_process_tests::seed;
use rand::Rng;
use rand::rngs::StdRng;

const PARTITIONS: u32 = 24;
const MANIFEST: &str = include_str!("manifests/orders.yaml");
/// Pods that are deleted at random, and in the long form.
const KILLS: usize = 3;
const MANY_KILLS: usize = 20;

/// The cluster, its load, and what it takes to disturb both.
struct Story<'a> {
    cluster: &'static Cluster,
    orders: &'a KvCluster<'a>,
    load: PodLoad<'a>,
    rng: StdRng,
}

#[test]
fn a_cluster_lives_through_all_that_kubernetes_does_to_it() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let operator = Operator::install(cluster, &[])?;
    operator.test()?;
    // Pods that are made anew have addresses that their names do not stand for yet.
    let _names = NamesKept::for_long(cluster)?;
    let space = Namespace::new(&cluster.kubectl, "story")?;
    let orders = KvCluster::new(&space, &operator, "orders");
    let began = Instant::now();
    space.kubectl.apply(MANIFEST)?;
    orders.settled()?;
    println!("apply to Ready: {:.1?}", began.elapsed());
    is_shown_and_used(&orders)?;

    // Not on the node that is to lose its power.
    let host = first_hosts(&orders)?;
    let load = PodLoad::start(&orders, PARTITIONS, Some(&host[0]))?;
    let (_, rng) = seed::draw("story");
    let mut story = Story {
        cluster,
        orders: &orders,
        load,
        rng,
    };
    story.load.mark("rest")?;
    story.scales()?;
    story.changes_its_mind()?;
    story.loses_all_in_turn()?;
    story.loses_pods()?;
    story.is_drained(&host[1])?;
    story.loses_power(&story.leads_most(&host[1..])?)?;
    story.loses_all_coordinators()?;
    story.is_left_alone_by_an_operator_that_goes(&operator)?;
    story.loses_a_node_for_good(&host[1])?;
    story.load.verify()?;
    ends_with_its_namespace(&space)
}

/// What a new user does first.
fn is_shown_and_used(orders: &KvCluster<'_>) -> Result<()> {
    let kubectl = orders.kubectl();
    let table = kubectl.run(&["get", "kvc"])?;
    println!("{table}");
    for column in ["NAME", "READY", "DESIRED", "PHASE", "VERSION", "AGE"] {
        ensure!(table.contains(column), "{table}");
    }
    ensure!(
        table.contains("3/3") && table.contains("Running"),
        "{table}"
    );

    let pod = orders.pod("data", 0);
    kubectl.exec(&pod, &["cairn", "put", "greeting", "hello"])?;
    let found = kubectl.exec(&pod, &["cairn", "get", "greeting"])?;
    ensure!(found.trim() == "hello", "{found}");
    kubectl.apply(include_str!("manifests/tools.yaml"))?;
    orders.explain(kubectl.await_ready("tools", START))?;
    for n in 0..20 {
        let (key, value) = (format!("key:{n}"), format!("value:{n}"));
        let redis = |words: &[&str]| {
            let command = ["timeout", "20", "redis-cli", "-c", "-h", "orders"];
            kubectl.exec("tools", &[&command, words].concat())
        };
        let set = redis(&["SET", &key, &value])?;
        ensure!(set.trim() == "OK", "{set}");
        let got = redis(&["GET", &key])?;
        ensure!(got.trim() == value, "{got}");
    }
    Ok(())
}

/// The Kubernetes nodes of the first data nodes, each once, in their order.
fn first_hosts(orders: &KvCluster<'_>) -> Result<Vec<String>> {
    let mut hosts = Vec::new();
    for number in 0..3 {
        let host = host_of(orders, &orders.pod("data", number))?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    ensure!(hosts.len() == 3, "three data nodes share {hosts:?}");
    Ok(hosts)
}

fn host_of(orders: &KvCluster<'_>, pod: &str) -> Result<String> {
    orders.kubectl().field("pod", pod, ".spec.nodeName")
}

fn uid_of(orders: &KvCluster<'_>, pod: &str) -> Result<String> {
    orders.kubectl().field("pod", pod, ".metadata.uid")
}

/// Waits until another pod of that name is ready: the status may still tell of the one before.
fn await_another(orders: &KvCluster<'_>, pod: &str, before: &str) -> Result<()> {
    until("another pod", PATIENCE, || {
        let uid = uid_of(orders, pod).ok();
        Ok(uid.filter(|uid| uid != before).map(drop))
    })?;
    orders.explain(orders.kubectl().await_ready(pod, PATIENCE))
}

impl Story<'_> {
    /// What a planned change cost: no request.
    fn planned(&self, mark: &str, began: Instant) -> Result<()> {
        let told = self.load.mark(mark)?;
        println!("{mark}: settled after {:.1?}", began.elapsed());
        ensure!(told.failed == 0, "{mark}: {told}");
        Ok(())
    }

    fn scales(&self) -> Result<()> {
        for to in [5, 3] {
            let began = Instant::now();
            self.orders.scale(to)?;
            self.orders.settled()?;
            self.planned(&format!("scaled-to-{to}"), began)?;
        }
        for number in [3, 4] {
            let pod = self.orders.pod("data", number);
            let is_there = self.orders.kubectl().run(&["get", "pod", &pod]).is_ok();
            ensure!(!is_there, "{pod} is still there");
        }
        Ok(())
    }

    fn changes_its_mind(&self) -> Result<()> {
        let began = Instant::now();
        let new = self.orders.pod("data", 3);
        self.orders.scale(5)?;
        self.orders
            .until("a new data node to hold something", |status| {
                let copies = status.node(&new).and_then(|node| node["replicas"].as_u64());
                Ok(copies.filter(|copies| *copies > 0).map(drop))
            })?;
        self.orders.scale(3)?;
        self.orders.settled()?;
        self.planned("grown-and-taken-back", began)?;

        let began = Instant::now();
        self.orders.scale(5)?;
        self.orders.settled()?;
        self.orders.scale(3)?;
        self.orders
            .until("a data node to give up its copies", |status| {
                let leaves = [3, 4].map(|number| {
                    let node = status.node(&self.orders.pod("data", number));
                    node.is_some_and(|node| node["state"] == "Removing")
                });
                Ok(leaves.contains(&true).then_some(()))
            })?;
        self.orders.scale(5)?;
        self.orders.settled()?;
        self.planned("shrunk-and-taken-back", began)?;
        self.orders.scale(3)?;
        self.orders.settled()?;
        self.load.mark("three-again")?;
        Ok(())
    }

    /// One after another, each as soon as the one before is ready, as those do it who empty
    /// one Kubernetes node after the other: what is left has its quorum. The last one is
    /// killed, so that its requests may be lost, and those of no other.
    fn loses_all_in_turn(&self) -> Result<()> {
        for number in 0..3 {
            let pod = self.orders.pod("data", number);
            let before = uid_of(self.orders, &pod)?;
            let words = ["delete", "pod", &pod, "--wait=false"];
            let at_once: &[&str] = match number {
                2 => &["--grace-period=0", "--force"],
                _ => &[],
            };
            self.orders.kubectl().run(&[&words, at_once].concat())?;
            await_another(self.orders, &pod, &before)?;
        }
        let told = self.load.mark("in-turn")?;
        ensure!(told.failed <= u64::from(PARTITIONS), "{told}");
        self.orders.settled()?;
        Ok(())
    }

    fn loses_pods(&mut self) -> Result<()> {
        let kills = if seed::full() { MANY_KILLS } else { KILLS };
        for kill in 0..kills {
            let role = ["data", "coordinator"][usize::from(self.rng.random_bool(0.3))];
            let pod = self.orders.pod(role, self.rng.random_range(0..3));
            let before = uid_of(self.orders, &pod)?;
            // Now and then as a node does it that is out of memory: at once.
            let at_once = self.rng.random_bool(0.5);
            let began = Instant::now();
            let grace: &[&str] = if at_once {
                &["--grace-period=0", "--force"]
            } else {
                &[]
            };
            let words = [&["delete", "pod", &pod, "--wait=false"][..], grace].concat();
            self.orders.kubectl().run(&words)?;
            await_another(self.orders, &pod, &before)?;
            self.orders.settled()?;
            println!(
                "{pod} deleted (at once: {at_once}): whole after {:.1?}",
                began.elapsed()
            );
            self.load.mark(&format!("pod-{kill}"))?;
        }
        Ok(())
    }

    fn is_drained(&self, host: &str) -> Result<()> {
        let began = Instant::now();
        let kubectl = &self.cluster.kubectl;
        kubectl.run(&[
            "drain",
            host,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=180s",
        ])?;
        let told = self.load.mark("drained")?;
        ensure!(told.failed == 0, "{told}");
        kubectl.run(&["uncordon", host])?;
        self.orders.settled()?;
        self.planned("uncordoned", began)
    }

    /// Of these Kubernetes nodes the one whose loss ends the most primaries.
    fn leads_most(&self, hosts: &[String]) -> Result<String> {
        let status = self.orders.settled()?;
        let nodes = status.0["status"]["nodes"].as_array();
        let there = nodes.into_iter().flatten().filter_map(|node| {
            let host = node["host"].as_str()?;
            let leads = node["leads"].as_u64()?;
            Some((leads, hosts.iter().find(|one| *one == host)?))
        });
        let (leads, host) = there.max().context("a data node there")?;
        println!("{host} leads {leads} of {PARTITIONS} partitions");
        Ok(host.clone())
    }

    fn loses_power(&self, host: &str) -> Result<()> {
        let Some(lab) = &self.cluster.lab else {
            println!("skipped: the cluster of KUBECONFIG is no lab, whose nodes can lose power");
            return Ok(());
        };
        let began = Instant::now();
        lab.power_off(host)?;
        self.orders.until("the cluster to miss a node", |status| {
            Ok((status.condition("Degraded") == "True").then_some(()))
        })?;
        let told = self.load.mark("power-cut")?;
        println!("seen after {:.1?}; {told}", began.elapsed());
        lab.power_on(host)?;
        self.orders.settled()?;
        self.load.mark("power-back")?;
        println!("whole {:.1?} after the cut", began.elapsed());
        Ok(())
    }

    fn loses_all_coordinators(&self) -> Result<()> {
        let pods = [0, 1, 2].map(|number| self.orders.pod("coordinator", number));
        let names: Vec<&str> = pods.iter().map(String::as_str).collect();
        let words = [
            &["delete", "pod", "--grace-period=0", "--force"][..],
            &names[..],
        ];
        let before: Vec<String> = pods
            .iter()
            .map(|pod| uid_of(self.orders, pod))
            .collect::<Result<_>>()?;
        let began = Instant::now();
        self.orders.kubectl().run(&words.concat())?;
        for (pod, before) in pods.iter().zip(&before) {
            await_another(self.orders, pod, before)?;
        }
        self.orders.settled()?;
        self.planned("all-coordinators-killed", began)
    }

    fn is_left_alone_by_an_operator_that_goes(&self, operator: &Operator) -> Result<()> {
        let pods = || {
            let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
            let label = "app.kubernetes.io/instance=orders";
            self.orders
                .kubectl()
                .run(&["get", "pods", "-l", label, "-o", path])
        };
        let before = pods()?;
        operator.uninstall()?;
        Operator::install(self.cluster, &[])?;
        self.orders.settled()?;
        let after = pods()?;
        ensure!(before == after, "before:\n{before}after:\n{after}");
        self.planned("operator-reinstalled", Instant::now())
    }

    /// Three data nodes of three copies on two Kubernetes nodes that are left: the one that was
    /// lost is given up with its volume, and made anew elsewhere.
    fn loses_a_node_for_good(&self, host: &str) -> Result<()> {
        let Some(lab) = &self.cluster.lab else {
            return Ok(());
        };
        let lost = (0..3)
            .map(|number| self.orders.pod("data", number))
            .find(|pod| host_of(self.orders, pod).is_ok_and(|on| on == host))
            .context("a data node there")?;
        let id = |status: &cairn_kube_tests::kvcluster::Status| {
            status.node(&lost).and_then(|node| node["id"].as_u64())
        };
        let before = id(&self.orders.settled()?);
        let began = Instant::now();
        lab.power_off(host)?;
        let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
        let kubectl = &self.cluster.kubectl;
        until("Kubernetes to notice", PATIENCE, || {
            Ok((kubectl.readiness(host)? != "True").then_some(()))
        })?;
        kubectl.run(&["taint", "node", host, taint])?;
        let tainted = Instant::now();
        let settled = self.orders.settled()?;
        println!(
            "lost for good: whole {:.1?} after the cut, {:.1?} after the taint",
            began.elapsed(),
            tainted.elapsed()
        );
        ensure!(
            id(&settled) != before,
            "{lost} kept its identity on another volume"
        );
        self.load.mark("lost-for-good")?;
        kubectl.run(&["taint", "node", host, "node.kubernetes.io/out-of-service-"])?;
        lab.power_on(host)?;
        self.orders.settled()?;
        self.load.mark("host-back")?;
        Ok(())
    }
}

/// Nothing holds the deletion of a namespace up, and nothing of the cluster stays.
fn ends_with_its_namespace(space: &Namespace) -> Result<()> {
    let began = Instant::now();
    let name = space.name();
    space.delete()?;
    println!("namespace {name} deleted after {:.1?}", began.elapsed());
    Ok(())
}
