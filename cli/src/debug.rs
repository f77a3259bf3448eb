//! `debug bundle`: what somebody else needs to look at a cluster, in one archive.
//!
//! It holds what the coordinators and the nodes tell of themselves, and nothing that clients
//! wrote: no key, no value, no password, no token. A node that does not answer is named in
//! it, with the reason.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_client::transport::Dialer;
use cairn_client::{ClusterMap, fetch_map};
use cairn_core::record::NodeStanding;
use cairn_proto::pb::diagnosis::v1::diagnosis_client::DiagnosisClient;
use cairn_proto::pb::diagnosis::v1::{DescribeReply, DescribeRequest};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::endpoints::{Endpoints, block_on};
use crate::failure::{Failure, Kind};
use crate::output::{self, Format};

/// How many nodes are asked at a time.
const AT_ONCE: usize = 16;
/// The most that one node may tell.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// The layout of the archive.
const FORMAT: u32 = 1;

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum DebugCommand {
    /// Collect the state, settings, metrics and logs of every node into a .tar.gz
    ///
    /// It holds no key, no value, no password and no token, but the names and addresses of
    /// nodes and users. Nodes that do not answer are named in it. Where the cluster has users
    /// it takes the role admin.
    Bundle(BundleArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BundleArgs {
    /// The file to write, which must not exist [default: cairn-bundle-SECONDS.tar.gz]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Carries `debug` out.
pub(crate) fn run(
    command: &DebugCommand,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    match command {
        DebugCommand::Bundle(args) => bundle(args, endpoints, format),
    }
}

/// A node that is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    name: String,
    role: &'static str,
    /// Its port for gRPC clients.
    address: String,
    /// Why there is nothing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_reached: Option<String>,
}

/// What stands first in the archive.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Contents {
    format: u32,
    made_by: &'static str,
    at_unix_seconds: u64,
    /// Why there is no status of the coordinators, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_status: Option<String>,
    /// The same of the map.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_map: Option<String>,
    nodes: Vec<Asked>,
}

/// The files of the archive, by name.
type Files = BTreeMap<String, Vec<u8>>;

fn bundle(args: &BundleArgs, endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let path = match &args.file {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("cairn-bundle-{now}.tar.gz")),
    };
    // Before anything is asked: somebody may have waited for it in vain.
    if path.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!("{} exists", path.display()))
            .with_remedy("Give another --file, or remove it"));
    }
    let (contents, files) = block_on(collect(endpoints, now))?;
    let missing: Vec<&Asked> = contents
        .nodes
        .iter()
        .filter(|node| node.not_reached.is_some())
        .collect();
    if files.is_empty() {
        let why = missing.first().and_then(|node| node.not_reached.clone());
        let why = why.or(contents.no_status).unwrap_or_default();
        return Err(endpoints.explain(Failure::unavailable(format!("nobody answers: {why}"))));
    }
    let bytes = write(&path, &contents, &files, now)
        .map_err(|error| Failure::new(Kind::Other, format!("write {}: {error}", path.display())))?;
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|node| node.name.as_str()).collect();
        eprintln!(
            "{} of {} nodes did not answer: {}",
            names.len(),
            contents.nodes.len(),
            names.join(", ")
        );
    }
    if format == Format::Json {
        return output::json(&serde_json::json!({
            "file": path.display().to_string(),
            "bytes": bytes,
            "contents": contents,
        }));
    }
    output::text(&format!("{}\n", path.display()))
}

/// Asks everybody.
async fn collect(endpoints: &Endpoints, now: u64) -> Result<(Contents, Files), Failure> {
    let (dialer, within) = (endpoints.dialer(), endpoints.timeout());
    let mut files = Files::new();
    let (status, no_status) = match status(endpoints).await {
        Ok(status) => {
            eprintln!("the coordinators: their status");
            files.insert("status.json".to_owned(), pretty(&status)?);
            (status, None)
        }
        Err(why) => {
            eprintln!("the coordinators: {why}");
            (Value::Null, Some(why))
        }
    };
    let addresses = endpoints.addresses();
    let (map, no_map) = match map(dialer, &addresses, within).await {
        Ok(map) => {
            files.insert("map.json".to_owned(), pretty(&map)?);
            (map, None)
        }
        Err(why) => (ClusterMap::default(), Some(why)),
    };
    let nodes = ask_all(
        dialer,
        whom_to_ask(&status, &map, &addresses),
        within,
        &mut files,
    )
    .await;
    let contents = Contents {
        format: FORMAT,
        made_by: concat!("cairn ", env!("CARGO_PKG_VERSION")),
        at_unix_seconds: now,
        no_status,
        no_map,
        nodes,
    };
    Ok((contents, files))
}

async fn status(endpoints: &Endpoints) -> Result<Value, String> {
    let told = endpoints.admin().status().await;
    let text = told.map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("read the status: {error}"))
}

/// The newest map of those who were named.
async fn map(
    dialer: &Dialer,
    addresses: &[String],
    within: Duration,
) -> Result<ClusterMap, String> {
    let mut newest: Option<ClusterMap> = None;
    let mut why = "no address is given".to_owned();
    let mut asked = JoinSet::new();
    for address in addresses {
        let (dialer, address) = (dialer.clone(), address.clone());
        asked.spawn(async move { fetch_map(&dialer, &address, within).await });
    }
    while let Some(told) = asked.join_next().await {
        match told {
            Ok(Ok(map)) if newest.as_ref().is_none_or(|n| n.version < map.version) => {
                newest = Some(map.as_ref().clone());
            }
            Ok(Ok(_)) => {}
            Ok(Err(reason)) => why = reason,
            Err(error) => why = error.to_string(),
        }
    }
    newest.ok_or(why)
}

/// The coordinators that the status names, or, without one, the map: that of a data node that
/// has just started may name none yet. The data nodes that the map names; and whoever was
/// named on the command line where nobody is known.
fn whom_to_ask(status: &Value, map: &ClusterMap, addresses: &[String]) -> Vec<Asked> {
    let asked = |name: &str, role: &'static str, address: &str| Asked {
        name: name.to_owned(),
        role,
        address: address.to_owned(),
        not_reached: None,
    };
    let told = status["coordinators"].as_array().into_iter().flatten();
    let mut nodes: Vec<Asked> = told
        .filter_map(|one| Some((one["name"].as_str()?, one["client"].as_str()?)))
        .map(|(name, client)| asked(name, "coordinator", client))
        .collect();
    if nodes.is_empty() {
        let known = map.coordinators.iter();
        nodes.extend(known.map(|one| asked(&one.name, "coordinator", &one.client)));
    }
    let members = map.nodes.values();
    let members = members.filter(|node| node.standing == NodeStanding::Member);
    nodes.extend(members.map(|node| asked(&node.name, "data", &node.addresses.client)));
    // A map of long ago may not know them, and they may be known by another address.
    if nodes.is_empty() {
        let named = addresses.iter();
        nodes.extend(named.map(|address| asked(address, "unknown", address)));
    }
    nodes
}

/// Asks each of them, some at a time, and keeps what they tell.
async fn ask_all(
    dialer: &Dialer,
    nodes: Vec<Asked>,
    within: Duration,
    files: &mut Files,
) -> Vec<Asked> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for (number, node) in nodes.iter().enumerate() {
        let (dialer, address) = (dialer.clone(), node.address.clone());
        let places = Arc::clone(&places);
        asking.spawn(async move {
            let _place = places.acquire_owned().await;
            (number, describe(&dialer, &address, within).await)
        });
    }
    let mut nodes = nodes;
    let all = nodes.len();
    let mut done = 0;
    while let Some(told) = asking.join_next().await {
        // A task that panicked has told nothing: its node stays without a file.
        let Ok((number, told)) = told else { continue };
        let node = &mut nodes[number];
        done += 1;
        match told {
            Ok(reply) => {
                eprintln!("{done} of {all}: {}", node.name);
                keep(files, number, node, reply);
            }
            Err(why) => {
                eprintln!("{done} of {all}: {}: {why}", node.name);
                node.not_reached = Some(why);
            }
        }
    }
    nodes
}

async fn describe(
    dialer: &Dialer,
    address: &str,
    within: Duration,
) -> Result<DescribeReply, String> {
    let ask = async {
        let channel = dialer.dial(address).await.map_err(|e| e.to_string())?;
        let mut client = DiagnosisClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        let reply = client.describe(DescribeRequest {}).await;
        reply
            .map(tonic::Response::into_inner)
            .map_err(|status| match status.code() {
                tonic::Code::Unimplemented => "it runs a build that cannot tell".to_owned(),
                _ => status.message().to_owned(),
            })
    };
    let told = timeout(within, ask).await;
    told.unwrap_or_else(|_| Err(format!("{address}: no answer within {within:?}")))
}

/// Puts what a node told into a folder of its own.
fn keep(files: &mut Files, number: usize, node: &Asked, reply: DescribeReply) {
    let DescribeReply { json, metrics, log } = reply;
    // As told where it is no JSON: that too says something.
    let json = serde_json::from_slice::<Value>(&json)
        .ok()
        .and_then(|json| pretty(&json).ok())
        .unwrap_or_else(|| json.to_vec());
    let folder = format!("nodes/{}", folder_of(number, &node.name));
    for (name, text) in [
        ("node.json", json),
        ("metrics.txt", metrics.to_vec()),
        ("log.txt", log.to_vec()),
    ] {
        files.insert(format!("{folder}/{name}"), text);
    }
}

/// A folder's name for a node, whatever its own is; two of one name have two.
fn folder_of(number: usize, name: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let name: String = name
        .chars()
        .take(64)
        .map(|letter| if plain(letter) { letter } else { '_' })
        .collect();
    format!("{number:03}-{name}")
}

fn pretty<T: Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| Failure::new(Kind::Other, format!("encode as JSON: {error}")))
}

/// Writes the archive beside its place and then puts it there whole; how long it is.
fn write(path: &Path, contents: &Contents, files: &Files, now: u64) -> io::Result<u64> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = archive(&partial, contents, files, now).and_then(|bytes| {
        // Not over a file that somebody made meanwhile.
        fs::hard_link(&partial, path)?;
        Ok(bytes)
    });
    let removed = fs::remove_file(&partial);
    let bytes = written?;
    removed?;
    Ok(bytes)
}

fn archive(partial: &Path, contents: &Contents, files: &Files, now: u64) -> io::Result<u64> {
    // It tells who is where: not for everybody on the machine.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(partial)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let first = serde_json::to_vec_pretty(contents).map_err(io::Error::other)?;
    let first = [("contents.json".to_owned(), first)];
    for (name, text) in first.iter().map(|(n, t)| (n, t)).chain(files) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, format!("cairn-bundle/{name}"), &text[..])?;
    }
    let mut file: File = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn contents() -> Contents {
        Contents {
            format: FORMAT,
            made_by: "a test",
            at_unix_seconds: 1,
            no_status: Some("nobody leads".to_owned()),
            no_map: None,
            nodes: vec![Asked {
                name: "data-0".to_owned(),
                role: "data",
                address: "h:1".to_owned(),
                not_reached: Some("refused".to_owned()),
            }],
        }
    }

    #[test]
    fn the_archive_has_its_contents_first_and_takes_no_other_files_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.tar.gz");
        let files = Files::from([("status.json".to_owned(), b"{}".to_vec())]);
        let bytes = write(&path, &contents(), &files, 1).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").len(), bytes);
        let reader = flate2::read::GzDecoder::new(File::open(&path).expect("readable"));
        let mut archive = tar::Archive::new(reader);
        let mut read = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a name").display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            read.push((name, text));
        }
        let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["cairn-bundle/contents.json", "cairn-bundle/status.json"]
        );
        assert!(
            read[0].1.contains("\"notReached\": \"refused\""),
            "{read:?}"
        );
        let again = write(&path, &contents(), &files, 1).expect_err("it is there");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_node_s_name_leads_to_no_other_folder() {
        assert_eq!(folder_of(3, "data-0"), "003-data-0");
        assert_eq!(folder_of(0, "../../etc"), "000-______etc");
    }
}
