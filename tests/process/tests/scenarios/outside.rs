//! Clients that are not on the nodes' network, and reach each node by another address.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cairn_client::transport::Dialer;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec, Target};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::proxy::{Proxies, Proxy, Weather};
use cairn_process_tests::{ports, resp, seed, status, waiting};

/// What leads from outside to one node.
struct Way {
    resp: Proxy,
    client: Proxy,
}

/// Says in the file that all nodes read by which way each is reached.
fn write_places(file: &Path, cluster: &Cluster, ways: &[Way]) -> Result<()> {
    let mut text = "[zones]\n\"machine\" = \"\"\n".to_owned();
    for (node, way) in cluster.data.iter().zip(ways) {
        writeln!(
            text,
            "[outside.{}]\nresp = \"{}\"\nclient = \"{}\"",
            node.name, way.resp.address, way.client.address
        )?;
    }
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    // At once, as a ConfigMap changes.
    Ok(std::fs::rename(new, file)?)
}

fn target(ways: &[Way], partitions: u32) -> Target {
    Target {
        resp: ways
            .iter()
            .map(|way| way.resp.address.to_string())
            .collect(),
        clients: ways
            .iter()
            .map(|way| way.client.address.to_string())
            .collect(),
        partitions,
        access: None,
    }
}

/// Whether clients that begin at the first addresses of a side are told of all nodes by the
/// addresses of that side, and by no others. Over Redis that is of those that lead anything.
fn is_told(of: &Target, first: usize) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let within = Duration::from_secs(2);
    let ranges = runtime.block_on(resp::slots_of(&of.resp[first], within))?;
    let dialer = Dialer::default();
    let asked = cairn_client::fetch_map(&dialer, &of.clients[first], within);
    let map = runtime.block_on(asked).map_err(anyhow::Error::msg)?;
    let clients: BTreeSet<&String> = map
        .nodes
        .values()
        .map(|node| &node.addresses.client)
        .collect();
    Ok(clients == of.clients.iter().collect()
        && !ranges.is_empty()
        && ranges.iter().all(|(_, _, at)| of.resp.contains(at)))
}

#[test]
fn clients_outside_go_by_addresses_outside_through_a_failover_and_a_change_of_these() -> Result<()>
{
    let (seed, _) = seed::draw("outside");
    let proxies = Proxies::new(seed)?;
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 16,
        ..Spec::default()
    };
    let mut cluster = Cluster::lay_out(spec)?;
    let mut listening = Vec::new();
    let file = cluster.directory().join("places.toml");
    for node in &mut cluster.data {
        let local = |port: u16| format!("127.0.0.1:{port}");
        let (resp, client) = (local(ports::free()?), local(ports::free()?));
        node.set("CAIRN_HOST", "machine");
        node.set("CAIRN_PLACES_FILE", file.display());
        node.set("CAIRN_OUTSIDE_RESP_LISTEN", &resp);
        node.set("CAIRN_OUTSIDE_CLIENT_LISTEN", &client);
        listening.push((resp, client));
    }
    let lay = || -> Result<Vec<Way>> {
        let before = |address: &String| proxies.before(address.parse()?);
        listening
            .iter()
            .map(|(resp, client)| {
                Ok(Way {
                    resp: before(resp)?,
                    client: before(client)?,
                })
            })
            .collect()
    };
    let ways = lay()?;
    write_places(&file, &cluster, &ways)?;
    cluster.bring_up()?;
    let (partitions, inside) = (cluster.partitions(), cluster.target());
    let began = Instant::now();
    let at = |what: &str| println!("{what}: {:.1?}", began.elapsed());
    let outside = target(&ways, partitions);
    ensure!(is_told(&outside, 0)?, "outside");
    let data_nodes = Target {
        clients: cluster.data.iter().map(|node| node.client()).collect(),
        ..inside.clone()
    };
    ensure!(is_told(&data_nodes, 0)?, "inside");

    let within = Load::start(&inside, Plan::steady(), seed)?;
    let redis = Plan {
        native: 0,
        ..Plan::steady()
    };
    let native = Plan {
        writers: 0,
        counters: 0,
        ..Plan::steady()
    };
    let redis = Load::start(&outside, redis, seed + 1)?;
    let native = Load::start(&outside, native, seed + 2)?;
    redis.await_every_partition()?;
    native.await_every_partition()?;
    at("loaded");
    let (epoch, victim) = status::primary(&cluster, 0)?;
    cluster.data[victim].kill()?;
    waiting::until("another primary", BOUND, || {
        let (now, primary) = status::primary(&cluster, 0)?;
        Ok((now > epoch && primary != victim).then_some(()))
    })?;
    redis.await_every_partition()?;
    native.await_every_partition()?;
    within.await_every_partition()?;
    at("failed over");
    cluster.data[victim].start()?;
    cluster.await_ready()?;
    at("whole again");

    // The nodes are reached by other addresses now, and by the old ones no more. Nothing
    // is restarted.
    let moved = lay()?;
    write_places(&file, &cluster, &moved)?;
    let new = target(&moved, partitions);
    for first in 0..moved.len() {
        waiting::until("the new addresses", BOUND, || {
            Ok(is_told(&new, first)?.then_some(()))
        })?;
    }
    at("addresses changed");
    redis.await_every_partition()?;
    redis.stop()?.verify(&new)?;
    at("Redis clients ended");
    // Whoever watches the map goes over by itself.
    for way in &ways {
        for proxy in [&way.resp, &way.client] {
            proxy.set(Weather {
                silent: true,
                ..Weather::default()
            });
        }
    }
    native.await_every_partition()?;
    native.stop()?.verify(&new)?;
    at("others ended");
    // Which has not moved for those inside.
    ensure!(is_told(&data_nodes, 0)?, "inside");
    within.await_every_partition()?;
    within.stop()?.verify(&inside)?;
    cluster.check_running()
}
