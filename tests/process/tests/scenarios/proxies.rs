//! Nodes and clients that reach each other through proxies, which delay, throttle, cut and
//! hold up what is said.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::{Cluster, Target};
use cairn_process_tests::node::{Node, Role};
use cairn_process_tests::proxy::{Proxies, Proxy, Weather};
use cairn_process_tests::seed;

use crate::trial::Trial;

/// What stands before one node's ports.
struct Front {
    peer: Proxy,
    client: Proxy,
    /// A coordinator speaks no RESP.
    resp: Option<Proxy>,
}

impl Front {
    /// Puts proxies before a node that was not started yet, which it announces.
    fn of(proxies: &Proxies, node: &mut Node) -> Result<Self> {
        let before = |address: String| proxies.before(address.parse()?);
        let front = Self {
            peer: before(node.peer())?,
            client: before(node.client())?,
            resp: match node.role {
                Role::Coordinator => None,
                Role::Data => Some(before(node.resp())?),
            },
        };
        node.set("CAIRN_PEER_ADVERTISE", front.peer.address);
        node.set("CAIRN_CLIENT_ADVERTISE", front.client.address);
        if let Some(resp) = &front.resp {
            node.set("CAIRN_RESP_ADVERTISE", resp.address);
        }
        Ok(front)
    }

    fn set(&self, weather: Weather) {
        for proxy in [&self.peer, &self.client].into_iter().chain(&self.resp) {
            proxy.set(weather);
        }
    }
}

/// A cluster of which everybody knows the proxies' addresses alone.
fn behind(proxies: &Proxies) -> Result<(Cluster, Target, Vec<Front>)> {
    let mut cluster = Cluster::lay_out(Trial::spec())?;
    let nodes = cluster.nodes();
    let fronts = nodes
        .map(|node| Front::of(proxies, node))
        .collect::<Result<Vec<_>>>()?;
    let coordinators = cluster.coordinators.iter().zip(&fronts);
    let list = coordinators
        .map(|(node, front)| format!("{}={}", node.name, front.peer.address))
        .collect::<Vec<_>>()
        .join(",");
    for node in cluster.nodes() {
        node.set("CAIRN_COORDINATORS", &list);
    }
    cluster.bring_up()?;
    let text = |address: SocketAddr| address.to_string();
    let target = Target {
        resp: fronts
            .iter()
            .filter_map(|front| front.resp.as_ref())
            .map(|proxy| text(proxy.address))
            .collect(),
        clients: fronts
            .iter()
            .map(|front| text(front.client.address))
            .collect(),
        partitions: cluster.partitions(),
        access: None,
    };
    Ok((cluster, target, fronts))
}

#[test]
fn histories_are_linearizable_while_connections_are_late_slow_cut_and_silent() -> Result<()> {
    let (seed, mut rng) = seed::draw("proxies");
    let proxies = Proxies::new(seed)?;
    let (cluster, target, fronts) = behind(&proxies)?;
    let coordinators = cluster.coordinators.len();
    let mut trial = Trial::start(cluster, target, seed)?;
    let (operations, silences) = if seed::full() { (5_000, 10) } else { (0, 1) };
    let late = Weather {
        delay: Duration::from_millis(40),
        jitter: Duration::from_millis(5),
        ..Weather::default()
    };
    let cut = Weather {
        cuts_per_mille: 10,
        ..late
    };
    let slow = Weather {
        rate: 512 << 10,
        ..late
    };
    for weather in [late, cut, slow] {
        println!("{weather:?}");
        for front in &fronts {
            front.set(weather);
        }
        trial.some_go_on(operations)?;
        trial.goes_on()?;
    }
    // What is held up in silence arrives when its time has long gone.
    let silent = Weather {
        silent: true,
        ..Weather::default()
    };
    for _ in 0..silences {
        for front in &fronts {
            front.set(late);
        }
        let (victim, ()) = trial.deposed(&mut rng, |_, _, victim| {
            fronts[coordinators + victim].set(silent);
            Ok(())
        })?;
        trial.goes_on()?;
        fronts[coordinators + victim].set(late);
        trial.goes_on()?;
    }
    for front in &fronts {
        front.set(Weather::default());
    }
    let counts = proxies.counts();
    println!("{counts:?}");
    ensure!(
        counts.delayed > 0 && counts.overtaken > 0 && counts.cut > 0 && counts.held > 0,
        "{counts:?}"
    );
    trial.judge()
}
