//! From which side clients come, which decides by what addresses they are told of nodes.
//!
//! A data node may have a second pair of ports, for clients that are not on the nodes' own
//! network and reach each of them by another address, as by a Service of Kubernetes. What is
//! answered there names the addresses for outside, of every node; what is answered on the
//! usual ports names the usual ones. So neither has to know of the other, nor a client of
//! either. The addresses for outside are part of what a node registers with, and so of the
//! map.

use cairn_core::record::Addresses;
use cairn_proto::pb::map::v1 as pb;

/// Which ports a client came in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Side {
    /// The usual ones.
    #[default]
    Inside,
    /// Those for clients outside the nodes' network.
    Outside,
}

impl Side {
    /// Where Redis clients of this side reach a node; empty where they do not.
    pub(crate) fn resp(self, of: &Addresses) -> &str {
        match self {
            Self::Inside => &of.resp,
            Self::Outside => &of.outside.resp,
        }
    }

    /// The host name that Redis clients of this side are told besides; empty for none.
    pub(crate) fn resp_hostname(self, of: &Addresses) -> &str {
        match self {
            Self::Inside => &of.resp_hostname,
            Self::Outside => "",
        }
    }

    /// Where gRPC clients of this side reach a node; empty where they do not.
    pub(crate) fn client(self, of: &Addresses) -> &str {
        match self {
            Self::Inside => &of.client,
            Self::Outside => &of.outside.client,
        }
    }

    /// An update of the map as clients of this side are sent it. Outside it names no node's
    /// usual addresses and no coordinator: none of them can be reached from there.
    pub(crate) fn sees(self, mut update: pb::MapUpdate) -> pb::MapUpdate {
        use pb::map_update::Update;
        if self == Self::Inside {
            return update;
        }
        let (nodes, coordinators) = match &mut update.update {
            Some(Update::Full(map)) => (&mut map.nodes, &mut map.coordinators),
            Some(Update::Delta(delta)) => (&mut delta.nodes, &mut delta.coordinators),
            None => return update,
        };
        coordinators.clear();
        for addresses in nodes.iter_mut().filter_map(|node| node.addresses.as_mut()) {
            let pb::Addresses {
                outside_resp,
                outside_client,
                ..
            } = std::mem::take(addresses);
            addresses.resp = outside_resp;
            addresses.client = outside_client;
        }
        update
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::record::OutsideAddresses;

    use super::*;

    fn addresses() -> Addresses {
        Addresses {
            resp: "10.0.0.1:6379".to_owned(),
            client: "data-0:7400".to_owned(),
            peer: "data-0:7401".to_owned(),
            http: "data-0:7402".to_owned(),
            resp_hostname: "data-0".to_owned(),
            ip: Some([10, 0, 0, 1].into()),
            outside: Box::new(OutsideAddresses {
                resp: "192.0.2.1:30001".to_owned(),
                client: "192.0.2.1:30002".to_owned(),
            }),
        }
    }

    fn update(delta: bool) -> pb::MapUpdate {
        let nodes = vec![pb::NodeInfo {
            id: 1,
            addresses: Some((&addresses()).into()),
            ..pb::NodeInfo::default()
        }];
        let coordinators = vec![pb::CoordinatorInfo {
            name: "c".to_owned(),
            peer: "c:1".to_owned(),
            client: "c:2".to_owned(),
        }];
        let update = if delta {
            pb::map_update::Update::Delta(pb::MapDelta {
                nodes,
                coordinators,
                ..pb::MapDelta::default()
            })
        } else {
            pb::map_update::Update::Full(pb::ClusterMap {
                nodes,
                coordinators,
                ..pb::ClusterMap::default()
            })
        };
        pb::MapUpdate {
            update: Some(update),
        }
    }

    #[test]
    fn each_side_is_told_its_own_addresses() {
        let of = addresses();
        let inside = Side::Inside;
        assert_eq!(inside.resp(&of), "10.0.0.1:6379");
        assert_eq!(inside.resp_hostname(&of), "data-0");
        assert_eq!(inside.client(&of), "data-0:7400");
        let outside = Side::Outside;
        assert_eq!(outside.resp(&of), "192.0.2.1:30001");
        assert_eq!(outside.resp_hostname(&of), "");
        assert_eq!(outside.client(&of), "192.0.2.1:30002");
    }

    #[test]
    fn whoever_asks_from_outside_hears_of_no_address_inside() {
        for delta in [false, true] {
            assert_eq!(Side::Inside.sees(update(delta)), update(delta));
            let text = format!("{:?}", Side::Outside.sees(update(delta)));
            for inside in ["10.0.0.1", "data-0", "c:1", "c:2"] {
                assert!(!text.contains(inside), "{text}");
            }
            for told in ["resp: \"192.0.2.1:30001\"", " client: \"192.0.2.1:30002\""] {
                assert!(text.contains(told), "{text}");
            }
        }
    }
}
