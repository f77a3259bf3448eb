//! Whether a development cluster serves: every process says that it is ready, and
//! every partition answers a read at its primary.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use cairn_core::slots;

use super::layout::Node;
use cairn_workload::resp::{self, Auth};

/// How refusals begin to someone who has not logged in, and to someone who may not.
const NO_AUTH: &str = "NOAUTH";
const NO_PERMISSION: &str = "NOPERM";
/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The first thing that is not ready yet, in words, or nothing.
/// Where the cluster lets nobody in without a credential, and there is none, the
/// processes' own word has to do.
pub(super) fn first_obstacle(
    nodes: &[Node],
    partitions: u32,
    auth: Option<&Auth>,
) -> Result<(), String> {
    for node in nodes {
        probe_http(node.http).map_err(|reason| format!("{}: {reason}", node.name))?;
    }
    match probe_partitions(nodes, partitions, auth) {
        Err(words) if auth.is_none() && words.contains(NO_AUTH) => Ok(()),
        probed => probed,
    }
}

/// Asks `/readyz`.
pub(super) fn probe_http(port: u16) -> Result<(), String> {
    let answer = http_get(port, "/readyz").map_err(|error| error.to_string())?;
    let mut lines = answer.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    // Of a list of checks, the failed ones begin with `[-]`.
    let failed: Vec<_> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .collect();
    Err(if failed.is_empty() {
        format!("/readyz answers {status}")
    } else {
        failed.join("; ")
    })
}

fn http_get(port: u16, path: &str) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Reads one key of every partition at the node that is named as its owner.
fn probe_partitions(nodes: &[Node], partitions: u32, auth: Option<&Auth>) -> Result<(), String> {
    let first = nodes
        .iter()
        .find_map(|node| node.resp)
        .ok_or("there is no data node")?;
    let owners = resp::fetch_slots(&format!("127.0.0.1:{first}"), TIMEOUT, auth)
        .map_err(|error| format!("CLUSTER SLOTS at port {first}: {error}"))?;
    let mut by_node: BTreeMap<&str, Vec<(u32, Vec<u8>)>> = BTreeMap::new();
    for (partition, key) in probe_keys(partitions).into_iter().enumerate() {
        let slot = slots::slot(&key);
        let owner = owners
            .iter()
            .find(|owner| (owner.first..=owner.last).contains(&slot))
            .ok_or_else(|| format!("partition {partition} has no primary yet"))?;
        by_node
            .entry(&owner.primary)
            .or_default()
            .push((partition as u32, key));
    }
    for (address, keys) in by_node {
        probe_node(address, &keys, auth)?;
    }
    Ok(())
}

fn probe_node(address: &str, keys: &[(u32, Vec<u8>)], auth: Option<&Auth>) -> Result<(), String> {
    let describe = |error: io::Error| format!("{address}: {error}");
    let mut stream = resp::connect(address, TIMEOUT, auth).map_err(describe)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(describe)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(describe)?;
    let mut request = Vec::new();
    let mut answer = Vec::new();
    let mut chunk = [0u8; 4096];
    for (partition, key) in keys {
        request.clear();
        resp::encode(&mut request, &[b"GET", key]);
        stream.write_all(&request).map_err(describe)?;
        answer.clear();
        loop {
            let read = stream.read(&mut chunk).map_err(describe)?;
            if read == 0 {
                return Err(format!("{address} closed the connection"));
            }
            answer.extend_from_slice(&chunk[..read]);
            match resp::scan(&answer).map_err(|error| format!("{address}: {error}"))? {
                None => {}
                Some((_, resp::ReplyKind::Error(words))) => {
                    let words = String::from_utf8_lossy(&answer[words]).into_owned();
                    if words.starts_with(NO_PERMISSION) {
                        // Another user's key: the node did answer.
                        break;
                    }
                    return Err(format!("partition {partition} at {address}: {words}"));
                }
                Some(_) => break,
            }
        }
    }
    Ok(())
}

/// A key in every partition, by its number.
fn probe_keys(partitions: u32) -> Vec<Vec<u8>> {
    let mut keys: Vec<Option<Vec<u8>>> = vec![None; partitions as usize];
    let mut missing = partitions;
    let ranges: Vec<_> = (0..partitions)
        .map(|id| slots::range_of_partition(id, partitions))
        .collect();
    let mut number = 0u64;
    while missing > 0 {
        let key = format!("cairn:ready:{number}").into_bytes();
        number += 1;
        let slot = slots::slot(&key);
        let at = ranges.partition_point(|range| range.last < slot);
        if keys[at].is_none() {
            keys[at] = Some(key);
            missing -= 1;
        }
    }
    keys.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_a_probe_in_it() {
        for partitions in [1, 3, 128, 1000] {
            let keys = probe_keys(partitions);
            assert_eq!(keys.len(), partitions as usize);
            for (key, id) in keys.iter().zip(0..) {
                assert!(slots::range_of_partition(id, partitions).contains(slots::slot(key)));
            }
        }
    }
}
