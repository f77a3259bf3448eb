//! Over Cairn's gRPC: each connection of the driver has an HTTP/2 connection to each node. A
//! single operation is a unary call; several go as one message of a pipeline.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::kv_client::KvClient;
use cairn_proto::pb::kv::v1::topology_client::TopologyClient;
use cairn_proto::pb::map::v1::{ClusterMap, MapRequest, map_update};
use cairn_workload::operation::{Random, Values};
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::{Answer, Call, Found, Level, Verb};

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maps are asked for so often at most.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// Which node to ask for a slot.
#[derive(Debug, Default)]
struct Table {
    /// By slot: the place of the primary's address.
    owner: Vec<u16>,
    /// By slot: those of all its members'.
    members: Vec<Arc<[u16]>>,
    addresses: Vec<String>,
}

impl Table {
    fn of(map: &ClusterMap) -> Result<Self> {
        let mut places = BTreeMap::new();
        let mut table = Self {
            owner: vec![0; 16_384],
            members: vec![Arc::default(); 16_384],
            addresses: Vec::new(),
        };
        for node in &map.nodes {
            if let Some(addresses) = &node.addresses {
                places.insert(node.id, table.addresses.len() as u16);
                table.addresses.push(addresses.client.clone());
            }
        }
        let place = |node: u64| places.get(&node).copied();
        for partition in &map.partitions {
            let primary = partition.primary.as_ref().and_then(|it| place(it.node));
            let primary = primary.with_context(|| format!("p{} has no primary", partition.id))?;
            let current = partition.config.as_ref().and_then(|it| it.current.as_ref());
            let members = current.map_or(&[][..], |set| &set.members);
            let members: Arc<[u16]> = members.iter().filter_map(|it| place(it.node)).collect();
            let (first, last) = (partition.first_slot as usize, partition.last_slot as usize);
            anyhow::ensure!(first <= last && last < 16_384, "a range of slots is none");
            table.owner[first..=last].fill(primary);
            table.members[first..=last].fill(members);
        }
        anyhow::ensure!(!map.partitions.is_empty(), "the map has no partitions yet");
        Ok(table)
    }
}

/// The cluster, as all connections know it.
pub(super) struct Cluster {
    inner: Arc<Known>,
    level: Level,
}

struct Known {
    endpoints: Vec<String>,
    table: Mutex<Arc<Table>>,
    /// When it was asked for last.
    asked: tokio::sync::Mutex<Instant>,
}

impl Known {
    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for the map anew, unless somebody just did.
    async fn refresh(&self) {
        let Ok(mut asked) = self.asked.try_lock() else {
            return;
        };
        if asked.elapsed() < REFRESH_INTERVAL {
            return;
        }
        *asked = Instant::now();
        if let Ok(table) = fetch(&self.endpoints).await {
            *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        }
    }
}

async fn dial(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(TIMEOUT);
    endpoint
        .connect()
        .await
        .with_context(|| format!("connect to {address}"))
}

async fn fetch(endpoints: &[String]) -> Result<Table> {
    let mut last = anyhow::anyhow!("no address was given");
    for address in endpoints {
        let asked = async {
            let mut topology = TopologyClient::new(dial(address).await?);
            let update = topology.get(MapRequest::default()).await?.into_inner();
            match update.update {
                Some(map_update::Update::Full(map)) => Table::of(&map),
                _ => anyhow::bail!("{address} told no map"),
            }
        };
        match asked.await {
            Ok(table) => return Ok(table),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Cluster {
    pub(super) async fn open(endpoints: Vec<String>, level: Level) -> Result<Self> {
        let table = fetch(&endpoints).await?;
        Ok(Self {
            inner: Arc::new(Known {
                endpoints,
                table: Mutex::new(Arc::new(table)),
                asked: tokio::sync::Mutex::new(Instant::now()),
            }),
            level,
        })
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        let mut connection = Connection {
            cluster: Arc::clone(&self.inner),
            level: self.level,
            nodes: BTreeMap::new(),
        };
        for address in &self.inner.table().addresses {
            connection.node(address).await?;
        }
        Ok(connection)
    }
}

pub(super) struct Connection {
    cluster: Arc<Known>,
    level: Level,
    nodes: BTreeMap<String, Node>,
}

struct Node {
    client: KvClient<Channel>,
    pipeline: Option<(mpsc::Sender<pb::Calls>, Streaming<pb::Answers>)>,
}

impl Connection {
    async fn node(&mut self, address: &str) -> Result<()> {
        if !self.nodes.contains_key(address) {
            let node = Node {
                client: KvClient::new(dial(address).await?),
                pipeline: None,
            };
            self.nodes.insert(address.to_owned(), node);
        }
        Ok(())
    }

    pub(super) async fn exchange(
        &mut self,
        calls: &[Call],
        values: &Values,
        random: &mut Random,
    ) -> Vec<Answer> {
        let table = self.cluster.table();
        let mut of_nodes: BTreeMap<&str, Vec<(usize, pb::call::Request)>> = BTreeMap::new();
        for (at, call) in calls.iter().enumerate() {
            let slot = usize::from(call.slot);
            let members = &table.members[slot];
            let any = call.verb == Verb::Get && self.level == Level::Replica;
            let node = if any && !members.is_empty() {
                members[random.below(members.len() as u64) as usize]
            } else {
                table.owner[slot]
            };
            let address = &table.addresses[usize::from(node)];
            let request = request(call, self.level, values, random);
            of_nodes.entry(address).or_default().push((at, request));
        }
        let mut answers: Vec<Option<Answer>> = vec![None; calls.len()];
        for address in of_nodes.keys() {
            if let Err(error) = self.node(address).await {
                let failed = (Instant::now(), Err(format!("connect: {error:#}")));
                return vec![failed; calls.len()];
            }
        }
        let asked = self.nodes.iter_mut().filter_map(|(address, node)| {
            let requests = of_nodes.remove(address.as_str())?;
            Some(node.exchange(requests))
        });
        let mut failed = false;
        for (at, ended, outcome) in join_all(asked).await.into_iter().flatten() {
            failed |= outcome.is_err();
            answers[at] = Some((ended, outcome));
        }
        if failed {
            self.cluster.refresh().await;
        }
        let late = Instant::now();
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| (late, Err("not answered".to_owned()))))
            .collect()
    }
}

fn request(call: &Call, level: Level, values: &Values, random: &mut Random) -> pb::call::Request {
    let key = Bytes::copy_from_slice(&call.key);
    match call.verb {
        Verb::Get => pb::call::Request::Get(pb::GetRequest {
            key,
            consistency: match level {
                Level::Primary | Level::Near => pb::Consistency::Primary,
                Level::Replica => pb::Consistency::Replica,
            }
            .into(),
        }),
        Verb::Set => pb::call::Request::Put(pb::PutRequest {
            key,
            value: Bytes::copy_from_slice(values.cut(random)),
            ..pb::PutRequest::default()
        }),
        Verb::Increment => pb::call::Request::Increment(pb::IncrementRequest {
            key,
            delta: 1,
            ..pb::IncrementRequest::default()
        }),
    }
}

type Ended = (usize, Instant, Result<Found, String>);

impl Node {
    async fn exchange(&mut self, requests: Vec<(usize, pb::call::Request)>) -> Vec<Ended> {
        if requests.len() == 1 {
            let mut answers = Vec::with_capacity(1);
            for (at, request) in requests {
                let outcome = self.unary(request).await;
                answers.push((at, Instant::now(), outcome));
            }
            return answers;
        }
        let places: Vec<usize> = requests.iter().map(|(at, _)| *at).collect();
        let mut answers = Vec::with_capacity(places.len());
        if let Err(status) = self.piped(requests, &mut answers).await {
            self.pipeline = None;
            let now = Instant::now();
            let error = || Err(describe(&status));
            let missing: Vec<usize> = places
                .into_iter()
                .filter(|at| answers.iter().all(|(answered, ..)| answered != at))
                .collect();
            answers.extend(missing.into_iter().map(|at| (at, now, error())));
        }
        answers
    }

    async fn unary(&mut self, request: pb::call::Request) -> Result<Found, String> {
        let outcome = match request {
            pb::call::Request::Get(get) => self
                .client
                .get(get)
                .await
                .map(|reply| found(&reply.get_ref().value)),
            pb::call::Request::Put(put) => self.client.put(put).await.map(|_| Found::Good),
            pb::call::Request::Increment(increment) => {
                self.client.increment(increment).await.map(|_| Found::Good)
            }
            pb::call::Request::Delete(_) | pb::call::Request::Batch(_) => {
                Err(Status::unimplemented("the driver sends none"))
            }
        };
        outcome.map_err(|status| describe(&status))
    }

    /// As one message of the pipeline, which is opened when it is first needed.
    async fn piped(
        &mut self,
        requests: Vec<(usize, pb::call::Request)>,
        answers: &mut Vec<Ended>,
    ) -> Result<(), Status> {
        if self.pipeline.is_none() {
            let (sender, receiver) = mpsc::channel(4);
            let stream = self.client.pipeline(ReceiverStream::new(receiver)).await?;
            self.pipeline = Some((sender, stream.into_inner()));
        }
        let Some((sender, stream)) = &mut self.pipeline else {
            return Err(Status::internal("the pipeline was just opened"));
        };
        let count = requests.len();
        let calls = requests
            .into_iter()
            .map(|(at, request)| pb::Call {
                id: at as u64,
                request: Some(request),
                traceparent: String::new(),
            })
            .collect();
        let sent = sender.send(pb::Calls { calls }).await;
        sent.map_err(|_| Status::unavailable("the pipeline was closed"))?;
        while answers.len() < count {
            let Some(some) = stream.message().await? else {
                return Err(Status::unavailable("the pipeline was closed"));
            };
            let now = Instant::now();
            answers.extend(
                some.answers
                    .into_iter()
                    .map(|answer| (answer.id as usize, now, outcome(answer.reply))),
            );
        }
        Ok(())
    }
}

fn found(value: &Option<pb::Value>) -> Found {
    if value.is_some() {
        Found::Good
    } else {
        Found::Missing
    }
}

fn outcome(reply: Option<pb::answer::Reply>) -> Result<Found, String> {
    match reply {
        Some(pb::answer::Reply::Get(get)) => Ok(found(&get.value)),
        Some(pb::answer::Reply::Error(error)) => Err(error.kind.map_or_else(
            || "an error".to_owned(),
            |kind| first_word(&format!("{kind:?}")),
        )),
        Some(_) => Ok(Found::Good),
        None => Err("an empty answer".to_owned()),
    }
}

fn first_word(text: &str) -> String {
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn describe(status: &Status) -> String {
    format!("{:?}", status.code())
}

#[cfg(test)]
mod tests {
    use cairn_proto::pb::map::v1::{
        Addresses, Configuration, Member, NodeInfo, PartitionRecord, ReplicaSet,
    };

    use super::*;

    #[test]
    fn the_map_says_whom_to_ask_for_a_slot() {
        let node = |id: u64| NodeInfo {
            id,
            addresses: Some(Addresses {
                client: format!("host-{id}:1"),
                ..Addresses::default()
            }),
            ..NodeInfo::default()
        };
        let member = |node| Member { node, replica: 1 };
        let partition = |id, first_slot, last_slot, primary| PartitionRecord {
            id,
            first_slot,
            last_slot,
            primary: Some(member(primary)),
            config: Some(Configuration {
                current: Some(ReplicaSet {
                    members: vec![member(7), member(9)],
                    write_quorum: 2,
                }),
                ..Configuration::default()
            }),
            ..PartitionRecord::default()
        };
        let mut map = ClusterMap {
            nodes: vec![node(7), node(9)],
            partitions: vec![partition(0, 0, 8191, 9), partition(1, 8192, 16_383, 7)],
            ..ClusterMap::default()
        };
        let table = Table::of(&map).expect("a table");
        assert_eq!(table.addresses[usize::from(table.owner[8191])], "host-9:1");
        assert_eq!(table.addresses[usize::from(table.owner[8192])], "host-7:1");
        assert_eq!(table.members[0].len(), 2);
        map.partitions[1].primary = None;
        assert!(Table::of(&map).is_err());
        map.partitions.clear();
        assert!(Table::of(&map).is_err());
    }
}
