//! The cluster map as Redis clients read it: `CLUSTER SLOTS`, `SHARDS`, `NODES`,
//! `INFO`.
//!
//! In Redis a node is either a master or a replica; here each is primary of some
//! ranges and replica of others. `NODES` lists every node once, as a master with
//! its ranges; `SLOTS` and `SHARDS` go by range and name its primary first.
//!
//! A range without a primary, which is a matter of a moment, is shown under a voter
//! that may become it: clients that miss a range altogether fail at once, while a
//! node that is asked too early holds the request until a primary is named. What is
//! served in truth stands in `CLUSTER INFO`.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use cairn_core::ids::{Epoch, NodeId};
use cairn_core::record::{Addresses, ClusterMap, NodeInfo, NodeStanding, PartitionRecord};
use cairn_core::slots::SLOTS;

use super::config::EndpointType;
use super::encode::{Encoder, Protocol};
use crate::side::Side;

/// One node as clients know it.
#[derive(Debug)]
struct NodeView {
    id: NodeId,
    /// Forty hexadecimal digits, as Redis has them.
    name: String,
    /// The host of its address.
    host: String,
    /// Its host name; empty where it has none.
    hostname: String,
    port: u16,
    bus_port: u16,
    /// The highest epoch in which it is primary of something.
    epoch: Epoch,
}

/// Neighbouring slots with the same nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct RangeView {
    first: u16,
    last: u16,
    /// Places in `Topology::nodes`: the primary, or who stands in for it.
    owner: usize,
    replicas: Vec<usize>,
}

/// A view of one version of the map.
#[derive(Debug)]
pub(crate) struct Topology {
    map: Arc<ClusterMap>,
    here: Option<NodeId>,
    endpoint_type: EndpointType,
    nodes: Vec<NodeView>,
    ranges: Vec<RangeView>,
    /// The last primary that each partition was seen to have, by partition.
    last_primary: Vec<Option<NodeId>>,
    slots_assigned: u32,
    slots_served: u32,
    epoch: Epoch,
    slots: [OnceLock<Bytes>; 2],
    shards: [OnceLock<Bytes>; 2],
    text: OnceLock<String>,
}

impl Topology {
    /// Makes the view of `map`, as this node tells it on that side. `previous` is the view
    /// before. Nodes that cannot be reached from there are left out; for a range that one of
    /// them leads another is shown, which tells whoever asks to try again.
    pub(crate) fn new(
        map: Arc<ClusterMap>,
        (here, side): (Option<NodeId>, Side),
        announce_replicas: bool,
        endpoint_type: EndpointType,
        previous: Option<&Self>,
    ) -> Self {
        let mut nodes: Vec<NodeView> = map
            .nodes
            .values()
            .filter(|node| node.standing == NodeStanding::Member)
            .filter(|node| side == Side::Inside || !side.resp(&node.addresses).is_empty())
            .map(|node| NodeView::new(node, side))
            .collect();
        nodes.sort_unstable_by_key(|node| node.id);
        let place =
            |id: NodeId, nodes: &[NodeView]| nodes.binary_search_by_key(&id, |node| node.id).ok();
        let mut view = Self {
            here,
            endpoint_type,
            nodes: Vec::new(),
            ranges: Vec::new(),
            last_primary: Vec::with_capacity(map.partitions.len()),
            slots_assigned: 0,
            slots_served: 0,
            epoch: Epoch::ZERO,
            slots: Default::default(),
            shards: Default::default(),
            text: OnceLock::new(),
            map: Arc::clone(&map),
        };
        for (at, record) in map.partitions.iter().enumerate() {
            let before = previous.and_then(|p| p.last_primary.get(at).copied().flatten());
            let primary = record.primary.map(|member| member.node);
            view.last_primary.push(primary.or(before));
            view.epoch = view.epoch.max(record.epoch);
            let length = u32::from(record.slots.last - record.slots.first) + 1;
            view.slots_assigned += length;
            if primary.is_some() {
                view.slots_served += length;
            }
            let shown = primary.or_else(|| stand_in(record, here, before));
            let shown = shown.and_then(|id| place(id, &nodes));
            let Some(owner) = shown.or_else(|| match side {
                Side::Inside => None,
                Side::Outside => at.checked_rem(nodes.len()),
            }) else {
                continue;
            };
            if primary == Some(nodes[owner].id) {
                nodes[owner].epoch = nodes[owner].epoch.max(record.epoch);
            }
            let replicas = if announce_replicas {
                record
                    .config
                    .answering_reads()
                    .iter()
                    .filter_map(|member| place(member.node, &nodes))
                    .filter(|&at| at != owner)
                    .collect()
            } else {
                Vec::new()
            };
            view.push_range(RangeView {
                first: record.slots.first,
                last: record.slots.last,
                owner,
                replicas,
            });
        }
        view.nodes = nodes;
        view
    }

    /// Appends a range, as part of the one before where it only continues it.
    fn push_range(&mut self, range: RangeView) {
        if let Some(last) = self.ranges.last_mut()
            && last.last.checked_add(1) == Some(range.first)
            && last.owner == range.owner
            && last.replicas == range.replicas
        {
            last.last = range.last;
        } else {
            self.ranges.push(range);
        }
    }

    /// Whether this is the view of that map from that node.
    pub(crate) fn is_of(&self, map: &Arc<ClusterMap>, here: Option<NodeId>) -> bool {
        Arc::ptr_eq(&self.map, map) && self.here == here
    }

    /// The map.
    pub(crate) fn map(&self) -> &Arc<ClusterMap> {
        &self.map
    }

    fn myself(&self) -> Option<&NodeView> {
        let here = self.here?;
        self.nodes.iter().find(|node| node.id == here)
    }

    /// The forty digits of this node.
    pub(crate) fn my_name(&self) -> Option<&str> {
        self.myself().map(|node| node.name.as_str())
    }

    /// Whether a node of that name is a member.
    pub(crate) fn knows(&self, name: &[u8]) -> bool {
        self.nodes.iter().any(|node| node.name.as_bytes() == name)
    }

    /// The ranges as `CLUSTER SLOTS` tells them.
    ///
    /// Clients such as redis-py and node-redis give a node one role, that in which they
    /// meet it first, and send what is for all primaries (`SCAN`, `DBSIZE`) to those that
    /// they met as such. So each node that leads anything is met as a primary: by one slot
    /// of its own, told without replicas before everything else.
    fn told_ranges(&self) -> Vec<RangeView> {
        let mut ranges = self.ranges.clone();
        let mut first = Vec::new();
        for node in 0..self.nodes.len() {
            if !self
                .ranges
                .iter()
                .any(|range| range.replicas.contains(&node))
            {
                continue;
            }
            let Some(at) = ranges.iter().position(|range| range.owner == node) else {
                continue;
            };
            first.push(RangeView {
                first: ranges[at].first,
                last: ranges[at].first,
                owner: node,
                replicas: Vec::new(),
            });
            if ranges[at].first == ranges[at].last {
                ranges.remove(at);
            } else {
                ranges[at].first += 1;
            }
        }
        first.append(&mut ranges);
        first
    }

    /// The reply to `CLUSTER SLOTS`, encoded.
    pub(crate) fn slots(&self, protocol: Protocol) -> &Bytes {
        self.slots[protocol as usize].get_or_init(|| {
            let ranges = self.told_ranges();
            let mut out = BytesMut::new();
            let mut e = Encoder::new(&mut out, protocol);
            e.array(ranges.len());
            for range in &ranges {
                e.array(3 + range.replicas.len());
                e.integer(i64::from(range.first));
                e.integer(i64::from(range.last));
                for &at in std::iter::once(&range.owner).chain(&range.replicas) {
                    let node = &self.nodes[at];
                    e.array(4);
                    match node.endpoint(self.endpoint_type) {
                        Some(endpoint) => e.bulk(endpoint.as_bytes()),
                        None => e.null(),
                    }
                    e.integer(i64::from(node.port));
                    e.bulk(node.name.as_bytes());
                    self.other_names(&mut e, node);
                }
            }
            out.freeze()
        })
    }

    /// The names of a node besides the one that is preferred, as `CLUSTER SLOTS` has
    /// them.
    fn other_names(&self, e: &mut Encoder<'_>, node: &NodeView) {
        let ip = self.endpoint_type != EndpointType::Address;
        let hostname = self.endpoint_type != EndpointType::Hostname && !node.hostname.is_empty();
        e.map(usize::from(ip) + usize::from(hostname));
        if ip {
            e.bulk(b"ip");
            e.bulk(node.host.as_bytes());
        }
        if hostname {
            e.bulk(b"hostname");
            e.bulk(node.hostname.as_bytes());
        }
    }

    /// The reply to `CLUSTER SHARDS`, encoded: one shard for all ranges that have
    /// the same primary and the same replicas.
    pub(crate) fn shards(&self, protocol: Protocol) -> &Bytes {
        self.shards[protocol as usize].get_or_init(|| {
            let mut shards: Vec<(&RangeView, Vec<&RangeView>)> = Vec::new();
            for range in &self.ranges {
                match shards
                    .iter_mut()
                    .find(|(of, _)| of.owner == range.owner && of.replicas == range.replicas)
                {
                    Some((_, ranges)) => ranges.push(range),
                    None => shards.push((range, vec![range])),
                }
            }
            let mut out = BytesMut::new();
            let mut e = Encoder::new(&mut out, protocol);
            e.array(shards.len());
            for (of, ranges) in shards {
                e.map(2);
                e.bulk(b"slots");
                e.array(2 * ranges.len());
                for range in ranges {
                    e.integer(i64::from(range.first));
                    e.integer(i64::from(range.last));
                }
                e.bulk(b"nodes");
                e.array(1 + of.replicas.len());
                for &at in std::iter::once(&of.owner).chain(&of.replicas) {
                    let node = &self.nodes[at];
                    let role: &[u8] = if at == of.owner {
                        b"master"
                    } else {
                        b"replica"
                    };
                    e.map(if node.hostname.is_empty() { 7 } else { 8 });
                    e.bulk(b"id");
                    e.bulk(node.name.as_bytes());
                    e.bulk(b"port");
                    e.integer(i64::from(node.port));
                    e.bulk(b"ip");
                    e.bulk(node.host.as_bytes());
                    e.bulk(b"endpoint");
                    // Here Redis has no null.
                    let endpoint = node.endpoint(self.endpoint_type).unwrap_or("");
                    e.bulk(endpoint.as_bytes());
                    if !node.hostname.is_empty() {
                        e.bulk(b"hostname");
                        e.bulk(node.hostname.as_bytes());
                    }
                    e.bulk(b"role");
                    e.bulk(role);
                    e.bulk(b"replication-offset");
                    e.integer(0);
                    e.bulk(b"health");
                    e.bulk(b"online");
                }
            }
            out.freeze()
        })
    }

    /// The text of `CLUSTER NODES`.
    pub(crate) fn nodes(&self) -> &str {
        self.text.get_or_init(|| {
            let mut text = String::new();
            for (at, node) in self.nodes.iter().enumerate() {
                let myself = if Some(node.id) == self.here {
                    "myself,"
                } else {
                    ""
                };
                let comma = if node.hostname.is_empty() { "" } else { "," };
                text.push_str(&format!(
                    "{} {}:{}@{}{comma}{} {myself}master - 0 0 {} connected",
                    node.name, node.host, node.port, node.bus_port, node.hostname, node.epoch.0
                ));
                for (first, last) in self.owned(at) {
                    if first == last {
                        text.push_str(&format!(" {first}"));
                    } else {
                        text.push_str(&format!(" {first}-{last}"));
                    }
                }
                text.push('\n');
            }
            text
        })
    }

    /// The ranges that a node owns, neighbours joined.
    fn owned(&self, owner: usize) -> Vec<(u16, u16)> {
        let mut owned: Vec<(u16, u16)> = Vec::new();
        for range in self.ranges.iter().filter(|range| range.owner == owner) {
            match owned.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(range.first) => *last = range.last,
                _ => owned.push((range.first, range.last)),
            }
        }
        owned
    }

    /// The text of `CLUSTER INFO`.
    pub(crate) fn info(&self) -> String {
        let served = self.slots_served == u32::from(SLOTS);
        let masters = (0..self.nodes.len())
            .filter(|&at| self.ranges.iter().any(|range| range.owner == at))
            .count();
        let fields: [(&str, u64); 11] = [
            ("cluster_slots_assigned", u64::from(self.slots_assigned)),
            ("cluster_slots_ok", u64::from(self.slots_served)),
            ("cluster_slots_pfail", 0),
            (
                "cluster_slots_fail",
                u64::from(self.slots_assigned - self.slots_served),
            ),
            ("cluster_known_nodes", self.nodes.len() as u64),
            ("cluster_size", masters as u64),
            ("cluster_current_epoch", self.epoch.0),
            (
                "cluster_my_epoch",
                self.myself().map_or(0, |node| node.epoch.0),
            ),
            ("cluster_stats_messages_sent", 0),
            ("cluster_stats_messages_received", 0),
            ("total_cluster_links_buffer_limit_exceeded", 0),
        ];
        let mut text = String::from("cluster_state:");
        text.push_str(if served { "ok" } else { "fail" });
        text.push_str("\r\n");
        for (name, value) in fields {
            text.push_str(&format!("{name}:{value}\r\n"));
        }
        text
    }

    /// How many partitions have this node as their primary.
    pub(crate) fn partitions_led(&self) -> usize {
        self.count_partitions(|record| {
            record.primary.map(|member| member.node) == self.here && self.here.is_some()
        })
    }

    /// How many partitions have a replica on this node.
    pub(crate) fn partitions_held(&self) -> usize {
        self.count_partitions(|record| {
            self.here
                .is_some_and(|here| record.config.on_node(here).is_some())
        })
    }

    fn count_partitions(&self, which: impl Fn(&PartitionRecord) -> bool) -> usize {
        self.map.partitions.iter().filter(|r| which(r)).count()
    }

    /// How many replicas hold each acknowledged write besides the primary.
    pub(crate) fn acknowledging_replicas(&self) -> i64 {
        self.map
            .settings
            .as_ref()
            .map_or(0, |settings| i64::from(settings.write_quorum) - 1)
            .max(0)
    }
}

/// Who is shown for a range that has no primary: this node if it may become it, for
/// it answers; else a voter that is not the one that was just fenced.
fn stand_in(
    record: &PartitionRecord,
    here: Option<NodeId>,
    before: Option<NodeId>,
) -> Option<NodeId> {
    let voters = record.config.voters();
    let find = |wanted: &dyn Fn(NodeId) -> bool| {
        voters
            .iter()
            .map(|member| member.node)
            .find(|&node| wanted(node))
    };
    find(&|node| Some(node) == here)
        .or_else(|| find(&|node| Some(node) != before))
        .or_else(|| find(&|_| true))
}

impl NodeView {
    fn endpoint(&self, kind: EndpointType) -> Option<&str> {
        endpoint(kind, &self.host, &self.hostname)
    }

    fn new(node: &NodeInfo, side: Side) -> Self {
        let (host, port) = split_address(side.resp(&node.addresses));
        Self {
            id: node.id,
            name: node_name(&node.uuid),
            host: host.to_owned(),
            hostname: side.resp_hostname(&node.addresses).to_owned(),
            port,
            bus_port: match side {
                Side::Inside => split_address(&node.addresses.peer).1,
                Side::Outside => 0,
            },
            epoch: Epoch::ZERO,
        }
    }
}

/// By what clients are told to reach a node; `None`: by what they reached this one. A
/// question mark stands for a host name that is not there, as in Redis.
fn endpoint<'a>(kind: EndpointType, host: &'a str, hostname: &'a str) -> Option<&'a str> {
    match kind {
        EndpointType::Address => Some(host),
        EndpointType::Hostname if hostname.is_empty() => Some("?"),
        EndpointType::Hostname => Some(hostname),
        EndpointType::Unknown => None,
    }
}

/// Where a client of that side is sent for a slot: the words behind it in `MOVED`. `None`
/// where it cannot reach the node.
pub(crate) fn moved_to(addresses: &Addresses, side: Side, kind: EndpointType) -> Option<String> {
    let address = side.resp(addresses);
    if side == Side::Outside && address.is_empty() {
        return None;
    }
    let (host, port) = split_address(address);
    let host = endpoint(kind, host, side.resp_hostname(addresses)).unwrap_or("");
    Some(format!("{host}:{port}"))
}

/// Host and port of an address. The brackets of an IPv6 address go, as Redis has it.
pub(crate) fn split_address(address: &str) -> (&str, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    (host, port.parse().unwrap_or(0))
}

/// Forty hexadecimal digits for a node: its UUID's thirty-two and eight of a
/// checksum of it. Anything that is not a UUID is spread over all forty.
pub(crate) fn node_name(uuid: &str) -> String {
    let digits: String = uuid
        .chars()
        .filter(char::is_ascii_hexdigit)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let hash = |seed: u64| {
        uuid.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, b| {
            (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    if digits.len() == 32 {
        format!("{digits}{:08x}", hash(0) >> 32)
    } else {
        format!("{:016x}{:016x}{:08x}", hash(1), hash(2), hash(3) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_forty_digits_and_tell_nodes_apart() {
        let name = node_name("6F9619FF-8B86-D011-B42D-00CF4FC964FF");
        assert!(name.starts_with("6f9619ff8b86d011b42d00cf4fc964ff"));
        for uuid in ["", "a", "b", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"] {
            let name = node_name(uuid);
            assert_eq!(name.len(), 40, "{uuid}");
            assert!(name.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        }
        assert_ne!(node_name("a"), node_name("b"));
    }

    #[test]
    fn addresses_are_split_at_the_last_colon() {
        assert_eq!(split_address("127.0.0.1:6379"), ("127.0.0.1", 6379));
        assert_eq!(split_address("data-0.cairn:6379"), ("data-0.cairn", 6379));
        assert_eq!(split_address("[::1]:6379"), ("::1", 6379));
        assert_eq!(split_address("nowhere"), ("nowhere", 0));
    }
}
