//! Ports and addresses for clients that are not on the nodes' network.

use std::net::SocketAddr;

use cairn_core::record::OutsideAddresses;

use super::process::{OutsideListen, ProcessSettings, check_distinct};
use super::reader::Reader;

const LISTEN: [&str; 2] = ["CAIRN_OUTSIDE_RESP_LISTEN", "CAIRN_OUTSIDE_CLIENT_LISTEN"];
const ADVERTISE: [&str; 2] = [
    "CAIRN_OUTSIDE_RESP_ADVERTISE",
    "CAIRN_OUTSIDE_CLIENT_ADVERTISE",
];

/// Where they connect: on both ports, or nowhere.
pub(super) fn listen(
    reader: &Reader<'_>,
    process: Option<&ProcessSettings>,
    resp_listen: Option<SocketAddr>,
) -> Option<OutsideListen> {
    let given = LISTEN.map(|name| reader.text(name));
    if given == [None, None] {
        return None;
    }
    for (name, given) in LISTEN.iter().zip(given) {
        if given.is_none() {
            reader.problem(
                name,
                "clients outside have a port of Redis and one of gRPC, or none",
                format!("Set {name} too"),
            );
        }
    }
    let [resp, client] = LISTEN.map(|name| reader.listen(name, "0.0.0.0:0"));
    check_distinct(
        reader,
        &[
            ("CAIRN_RESP_LISTEN", resp_listen),
            ("CAIRN_CLIENT_LISTEN", process.map(|one| one.client_listen)),
            ("CAIRN_PEER_LISTEN", process.map(|one| one.peer_listen)),
            ("CAIRN_HTTP_LISTEN", process.map(|one| one.http_listen)),
            (LISTEN[0], resp),
            (LISTEN[1], client),
        ],
    );
    Some(OutsideListen {
        resp: resp?,
        client: client?,
    })
}

/// What they are told of this node: `None` where the file of places may say it.
pub(super) fn addresses(reader: &Reader<'_>, has_ports: bool) -> Option<OutsideAddresses> {
    let given = ADVERTISE.map(|name| reader.advertised(name));
    if !has_ports {
        for (name, _) in ADVERTISE
            .iter()
            .zip(&given)
            .filter(|(_, given)| given.is_some())
        {
            reader.problem(
                name,
                "the node has no ports for clients outside",
                format!("Set {} and {} too", LISTEN[0], LISTEN[1]),
            );
        }
        // Nobody could come that way, whatever a file says.
        return Some(OutsideAddresses::default());
    }
    match given {
        [None, None] => None,
        [resp, client] => Some(OutsideAddresses {
            resp: resp.unwrap_or_default(),
            client: client.unwrap_or_default(),
        }),
    }
}
