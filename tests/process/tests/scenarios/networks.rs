//! Nodes in network namespaces, between which packets are lost: at random, between some of
//! them, or in one direction alone.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::network::{self, Host, Network};
use cairn_process_tests::node::Node;
use cairn_process_tests::resp::{ClusterClient, Connection, Patience, Reply, Routes};
use cairn_process_tests::{seed, skip, slot_keys, status, waiting};
use futures::future::try_join_all;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::coordinators::{NODE_TIMEOUT, let_pass, promotions_started, promotions_told};
use crate::freeze::{answers_harmlessly, ask_for_the_past, is_still, write};
use crate::kills::led_by;
use crate::trial::Trial;

/// A cluster on a network of its own, under load.
struct Field {
    trial: Trial,
    // After the cluster, which is killed first.
    network: Network,
}

impl Field {
    /// `None` where no such network can be made here, which is then said.
    fn start(spec: Spec, seed: u64) -> Result<Option<Self>> {
        if let Some(what) = network::missing()? {
            skip::without(what)?;
            return Ok(None);
        }
        let network = Network::new(spec.coordinators + spec.data_nodes)?;
        let hosts = network.hosts.clone();
        let cluster = Cluster::start(Spec { hosts, ..spec })?;
        let target = cluster.target();
        let trial = Trial::start(cluster, target, seed)?;
        Ok(Some(Self { trial, network }))
    }

    /// Ends the faults of the network. They must have been some.
    fn heal(&self) -> Result<()> {
        let lost = self.network.heal()?;
        println!("{lost} packets were lost");
        ensure!(lost > 0, "a fault of the network that hit no packet");
        Ok(())
    }

    fn judge(self) -> Result<()> {
        self.trial.judge()
    }
}

/// The hosts of some nodes.
fn hosts<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Vec<Host> {
    nodes.into_iter().map(|node| node.host.clone()).collect()
}

/// The hosts of every node but one.
fn all_but(cluster: &Cluster, one: &Node) -> Vec<Host> {
    let nodes = cluster.coordinators.iter().chain(&cluster.data);
    hosts(nodes.filter(|node| node.name != one.name))
}

/// How one node is cut off from all other nodes, while clients reach it as before.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Off,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
}

const CUTS: [Cut; 3] = [Cut::Off, Cut::Deaf, Cut::Mute];

fn cut(network: &Network, cluster: &Cluster, victim: &Node, how: Cut) -> Result<()> {
    let (one, others) = (hosts([victim]), all_but(cluster, victim));
    match how {
        Cut::Off => network.separate(&one, &others),
        Cut::Deaf => network.block(&others, &one),
        Cut::Mute => network.block(&one, &others),
    }
}

#[test]
fn a_network_loses_what_it_is_told_to_lose_and_nothing_else() -> Result<()> {
    if let Some(what) = network::missing()? {
        return skip::without(what);
    }
    let network = Network::new(2)?;
    let everyone = [&network.clients, &network.hosts[0], &network.hosts[1]];
    let mut sockets = Vec::new();
    for host in everyone {
        let socket = host.on(|| Ok(UdpSocket::bind((host.address, 0))?))?;
        socket.set_read_timeout(Some(BOUND))?;
        sockets.push(socket);
    }
    let send = |from: usize, to: usize| -> Result<()> {
        sockets[from].send_to(&[1], sockets[to].local_addr()?)?;
        Ok(())
    };
    let arrives = |from: usize, to: usize| -> Result<()> {
        send(from, to)?;
        let (_, sender) = sockets[to]
            .recv_from(&mut [0; 2])
            .with_context(|| format!("from {from} to {to}"))?;
        ensure!(sender == sockets[from].local_addr()?, "{sender}");
        Ok(())
    };
    let is_lost = |from: usize, to: usize| -> Result<()> {
        let before = network.lost()?;
        send(from, to)?;
        waiting::until(&format!("a loss from {from} to {to}"), BOUND, || {
            Ok((network.lost()? == before + 1).then_some(()))
        })
    };
    let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    let all_arrive_but = |lost: &[(usize, usize)]| -> Result<()> {
        for (from, to) in pairs {
            if lost.contains(&(from, to)) {
                is_lost(from, to)?;
            } else {
                arrives(from, to)?;
            }
        }
        Ok(())
    };
    all_arrive_but(&[])?;
    let [clients, one, other] = everyone.map(|host| vec![host.clone()]);
    network.block(&clients, &one)?;
    all_arrive_but(&[(0, 1)])?;
    ensure!(network.heal()? == 1, "one packet was lost");
    network.separate(&one, &other)?;
    all_arrive_but(&[(1, 2), (2, 1)])?;
    network.heal()?;
    all_arrive_but(&[])?;

    network.lose(500)?;
    for _ in 0..200 {
        send(0, 1)?;
    }
    let mut received = 0;
    sockets[1].set_nonblocking(true)?;
    waiting::until("every packet to be lost or received", BOUND, || {
        while sockets[1].recv(&mut [0; 2]).is_ok() {
            received += 1;
        }
        Ok((received + network.lost()? == 200).then_some(()))
    })?;
    ensure!((50..150).contains(&received), "{received} of 200 arrived");
    Ok(())
}

#[test]
fn histories_are_linearizable_while_the_network_splits_in_every_way() -> Result<()> {
    let (seed, mut rng) = seed::draw("partitions");
    let Some(mut field) = Field::start(Trial::spec(), seed)? else {
        return Ok(());
    };
    let rounds = if seed::full() { 10 } else { 1 };
    for _ in 0..rounds {
        let mut kinds: [fn(&mut Field, &mut StdRng) -> Result<()>; 6] = [
            |field, rng| a_primary_is(field, rng, Cut::Off),
            |field, rng| a_primary_is(field, rng, Cut::Deaf),
            |field, rng| a_primary_is(field, rng, Cut::Mute),
            a_pair_is_split,
            the_coordinators_are_split,
            the_cluster_is_halved,
        ];
        kinds.shuffle(&mut rng);
        for kind in kinds {
            kind(&mut field, &mut rng)?;
            field.heal()?;
            field.trial.goes_on()?;
        }
    }
    field.judge()
}

fn a_primary_is(field: &mut Field, rng: &mut StdRng, how: Cut) -> Result<()> {
    println!("a primary is {how:?}");
    let Field { trial, network } = field;
    trial.deposed(rng, |cluster, _, victim| {
        cut(network, cluster, &cluster.data[victim], how)
    })?;
    trial.goes_on()
}

/// Both are reached by all others.
fn a_pair_is_split(field: &mut Field, rng: &mut StdRng) -> Result<()> {
    let cluster = &field.trial.cluster;
    let one = rng.random_range(0..cluster.data.len());
    let other = (one + rng.random_range(1..cluster.data.len())) % cluster.data.len();
    println!("data-{one} and data-{other} do not reach each other");
    let [one, other] = [one, other].map(|index| hosts([&cluster.data[index]]));
    field.network.separate(&one, &other)?;
    waiting::until("packets between them", BOUND, || {
        Ok((field.network.lost()? > 0).then_some(()))
    })?;
    field.trial.goes_on()
}

/// First their leader is cut off, and the next one has to name primaries; then all of them are
/// cut off from the data nodes.
fn the_coordinators_are_split(field: &mut Field, rng: &mut StdRng) -> Result<()> {
    let Field { trial, network } = field;
    let old = status::leader(&trial.cluster, None)?;
    let how = CUTS[rng.random_range(0..CUTS.len())];
    println!("coordinator-{old}, the leader, is {how:?}, and so is a primary");
    let leader = &trial.cluster.coordinators[old];
    cut(network, &trial.cluster, leader, how)?;
    status::leader(&trial.cluster, Some(old))?;
    trial.deposed(rng, |cluster, _, victim| {
        cut(network, cluster, &cluster.data[victim], Cut::Off)
    })?;
    trial.goes_on()?;
    let lost = network.heal()?;
    println!("{lost} packets were lost; now no coordinator reaches a data node");
    let others = hosts(&trial.cluster.coordinators);
    let data = hosts(&trial.cluster.data);
    network.separate(&others, &data)?;
    let before = promotions_started(&trial.cluster)?;
    let_pass(NODE_TIMEOUT * 2)?;
    trial.goes_on()?;
    let after = promotions_started(&trial.cluster)?;
    ensure!(
        before == after,
        "promoted by coordinators that reach no data node:\n{}",
        promotions_told(&trial.cluster)
    );
    Ok(())
}

/// Two data nodes and a coordinator on one side, the rest on the other, and the clients reach
/// both: the smaller side may not go on.
fn the_cluster_is_halved(field: &mut Field, rng: &mut StdRng) -> Result<()> {
    let cluster = &field.trial.cluster;
    let mut data: Vec<&Node> = cluster.data.iter().collect();
    let mut coordinators: Vec<&Node> = cluster.coordinators.iter().collect();
    data.shuffle(rng);
    coordinators.shuffle(rng);
    let smaller: Vec<_> = data.drain(..2).chain(coordinators.drain(..1)).collect();
    let names: Vec<_> = smaller.iter().map(|node| &node.name).collect();
    println!("{names:?} are on the smaller side");
    field.network.separate(
        &hosts(smaller),
        &hosts(data.into_iter().chain(coordinators)),
    )?;
    field.trial.some_go_on(500)
}

#[test]
fn a_primary_cut_off_with_its_clients_serves_nothing_stale_and_acknowledges_nothing() -> Result<()>
{
    let (seed, mut rng) = seed::draw("a primary cut off with its clients");
    let Some(field) = Field::start(Trial::spec(), seed)? else {
        return Ok(());
    };
    let Field { mut trial, network } = field;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let keys = slot_keys::one_per_partition("cut-off:", trial.cluster.partitions());
    let mut client = ClusterClient::new(Routes::new(trial.cluster.resp()), Patience::default());
    let (_, mut captives) = trial.deposed(&mut rng, |cluster, _, victim| {
        let node = &cluster.data[victim];
        let other = &cluster.data[(victim + 1) % cluster.data.len()];
        let mut captives = Vec::new();
        for partition in led_by(cluster, &node.resp(), &other.resp())? {
            let key = keys[partition as usize].clone();
            write(&runtime, &mut client, &key, "old")?;
            // Clients on its own host, which nothing separates from it.
            let address = node.resp();
            let open = Connection::open(&address, Patience::default().connect);
            let mut captive = node.host.on(|| runtime.block_on(open))?;
            let reply = runtime.block_on(captive.call(&[b"GET", key.as_bytes()]))?;
            ensure!(reply == Reply::Bulk(Some(b"old".to_vec())), "{reply:?}");
            captives.push((key, captive));
        }
        let mut others = all_but(cluster, node);
        others.push(network.clients.clone());
        network.separate(&hosts([node]), &others)?;
        Ok(captives)
    })?;
    trial.goes_on()?;
    for (key, _) in &captives {
        write(&runtime, &mut client, key, "new")?;
    }
    // All at once: each answer may be an error after a while.
    runtime.block_on(try_join_all(captives.iter_mut().map(
        async |(key, captive)| {
            ask_for_the_past(captive, key).await?;
            answers_harmlessly(captive, key, "new").await
        },
    )))?;
    let field = Field { trial, network };
    field.heal()?;
    field.trial.goes_on()?;
    for (key, _) in &captives {
        is_still(&runtime, &mut client, key, "new")?;
    }
    println!("{} partitions", captives.len());
    field.judge()
}

#[test]
fn a_primary_that_the_leading_coordinator_alone_does_not_reach_goes_on() -> Result<()> {
    let (seed, mut rng) = seed::draw("a leader without sight of a primary");
    let Some(field) = Field::start(Trial::spec(), seed)? else {
        return Ok(());
    };
    let cluster = &field.trial.cluster;
    status::await_healthy(cluster)?;
    let leader = status::leader(cluster, None)?;
    let partition = rng.random_range(0..cluster.partitions());
    let (_, primary) = status::primary(cluster, partition)?;
    println!("coordinator-{leader} does not reach data-{primary}");
    let before = (status::epochs(cluster)?, promotions_started(cluster)?);
    field.network.separate(
        &hosts([&cluster.coordinators[leader]]),
        &hosts([&cluster.data[primary]]),
    )?;
    let_pass(NODE_TIMEOUT * 4)?;
    field.trial.goes_on()?;
    let after = (status::epochs(cluster)?, promotions_started(cluster)?);
    ensure!(
        before == after,
        "a healthy pair was fenced: {before:?} became {after:?}"
    );
    ensure!(status::leader(cluster, None)? == leader, "it leads no more");
    field.heal()?;
    field.judge()
}

#[test]
fn histories_are_linearizable_while_packets_are_lost_everywhere() -> Result<()> {
    let (seed, _) = seed::draw("lost packets");
    let Some(field) = Field::start(Trial::spec(), seed)? else {
        return Ok(());
    };
    let operations = if seed::full() { 10_000 } else { 1_000 };
    for per_mille in [10, 50, 100] {
        field.network.lose(per_mille)?;
        field.trial.some_go_on(operations)?;
        println!("{per_mille} of a thousand packets were lost:");
        field.heal()?;
    }
    field.judge()
}

/// What befalls a node.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Freeze,
    HangingFlushes,
    Cut(Cut),
}

const FAULTS: [Fault; 6] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::HangingFlushes,
    Fault::Cut(Cut::Off),
    Fault::Cut(Cut::Deaf),
    Fault::Cut(Cut::Mute),
];

/// What the network does not do.
fn begin(node: &mut Node, fault: Fault) -> Result<()> {
    match fault {
        Fault::Kill => node.kill(),
        Fault::Freeze => node.freeze(),
        Fault::HangingFlushes => node.power()?.stall(true),
        Fault::Cut(_) => Ok(()),
    }
}

/// Ends what the network's healing does not.
fn end(node: &mut Node, fault: Fault) -> Result<()> {
    match fault {
        Fault::Kill => node.start(),
        Fault::Freeze => node.thaw(),
        Fault::HangingFlushes => node.power()?.stall(false),
        Fault::Cut(_) => Ok(()),
    }
}

#[test]
fn histories_are_linearizable_while_kills_stops_hanging_disks_and_partitions_mix() -> Result<()> {
    let (seed, mut rng) = seed::draw("mixed faults");
    let spec = Spec {
        shim: true,
        ..Trial::spec()
    };
    let Some(field) = Field::start(spec, seed)? else {
        return Ok(());
    };
    let Field { mut trial, network } = field;
    let rounds = if seed::full() { 20 } else { 1 };
    for _ in 0..rounds {
        let [mut faults, mut of_coordinators] = [FAULTS, FAULTS];
        faults.shuffle(&mut rng);
        of_coordinators.shuffle(&mut rng);
        for (pair, other) in faults.chunks(2).zip(of_coordinators) {
            let leader = status::leader(&trial.cluster, None)?;
            println!("{pair:?} of data nodes, {other:?} of the leading coordinator-{leader}");
            network.lose(20)?;
            // The second hits a node without a replica of the first one's partition, which
            // can go on so.
            let (first, second) = trial.deposed(&mut rng, |cluster, partition, victim| {
                let spares = status::without(cluster, partition)?;
                let Cluster {
                    coordinators, data, ..
                } = &*cluster;
                for (node, fault) in [
                    (&coordinators[leader], other),
                    (&data[victim], pair[0]),
                    (&data[spares[0]], pair[1]),
                ] {
                    if let Fault::Cut(how) = fault {
                        cut(&network, cluster, node, how)?;
                    }
                }
                begin(&mut cluster.coordinators[leader], other)?;
                begin(&mut cluster.data[victim], pair[0])?;
                begin(&mut cluster.data[spares[0]], pair[1])?;
                Ok(spares[0])
            })?;
            trial.some_go_on(500)?;
            let lost = network.heal()?;
            ensure!(lost > 0, "no packet was lost");
            let cluster = &mut trial.cluster;
            end(&mut cluster.coordinators[leader], other)?;
            end(&mut cluster.data[first], pair[0])?;
            end(&mut cluster.data[second], pair[1])?;
            trial.goes_on()?;
            trial.cluster.await_ready()?;
        }
    }
    Field { trial, network }.judge()
}
