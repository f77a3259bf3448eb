//! What a development cluster is made of: its nodes, their ports, where its files
//! are, and what `dev.json` remembers of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cairn_core::cluster::settings::Preset;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The port of the first data node's Redis listener where nobody says otherwise.
pub(crate) const RESP_PORT_DEFAULT: u16 = 6379;
/// Coordinators where nobody says otherwise.
const COORDINATORS_DEFAULT: u16 = 3;
/// Data nodes where nobody says otherwise.
const DATA_NODES_DEFAULT: u16 = 5;
/// From the first Redis port to the first gRPC port for clients: 6379 and 7400.
const CLIENT_OFFSET: u16 = 1021;
/// To the first port between nodes: 7500.
const PEER_OFFSET: u16 = 1121;
/// To the first HTTP port: 7600.
const HTTP_OFFSET: u16 = 1221;
/// How many nodes fit between two of these.
pub(super) const NODES_MAX: u16 = 100;
/// The highest first Redis port for which every other one exists.
pub(super) const RESP_PORT_MAX: u16 = u16::MAX - HTTP_OFFSET - NODES_MAX;

/// Where directories of nodes wait for their deletion, in the cluster's directory.
pub(super) const DISCARDED: &str = "discarded";

/// The form of `dev.json`.
const FORMAT: u32 = 2;
/// The form before there was a list of data nodes.
const FORMAT_WITHOUT_LIST: u32 = 1;

/// What the cluster was made with and which nodes it has now, as `dev.json` keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Recorded {
    format: u32,
    pub(crate) coordinators: u16,
    /// With how many it was made; `data` holds those that there are.
    pub(crate) data_nodes: u16,
    pub(crate) replication_factor: u8,
    pub(crate) write_quorum: u8,
    /// The preset that supplied defaults, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) consistency: Option<Preset>,
    pub(crate) partitions: u32,
    /// The port may change from one run to the next; the last one is kept so that
    /// the other commands find the cluster.
    pub(crate) resp_port: u16,
    /// The data nodes, by ascending number.
    #[serde(default)]
    data: Vec<DataNode>,
}

/// A data node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DataNode {
    /// The number in its name, from 1.
    number: u16,
    /// How far its ports are from those of the first data node.
    place: u16,
    #[serde(flatten)]
    traits: Traits,
}

/// What a person may say of a data node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Traits {
    /// Its failure zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,
    /// Its share of the data, relative to the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u16>,
}

/// The data nodes with which a cluster is made.
fn first_data_nodes(count: u16) -> Vec<DataNode> {
    (0..count)
        .map(|place| DataNode {
            number: place + 1,
            place,
            traits: Traits::default(),
        })
        .collect()
}

/// What was asked for on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) coordinators: Option<u16>,
    pub(super) data_nodes: Option<u16>,
    pub(super) replication_factor: Option<u8>,
    pub(super) write_quorum: Option<u8>,
    pub(super) consistency: Option<Preset>,
    pub(super) partitions: Option<u32>,
    pub(super) resp_port: Option<u16>,
}

impl Recorded {
    /// A new cluster: what was asked for, and defaults.
    pub(super) fn new(asked: Asked) -> Result<Self, Failure> {
        let data_nodes = asked.data_nodes.unwrap_or(DATA_NODES_DEFAULT);
        let coordinators = asked.coordinators.unwrap_or(COORDINATORS_DEFAULT);
        // The same judgement as a coordinator's own, before anything is made.
        let resolved = cairn_core::cluster::settings::SettingsRequest {
            replication_factor: asked.replication_factor,
            write_quorum: asked.write_quorum,
            preset: asked.consistency,
            partitions: asked.partitions,
            coordinators: Some(u32::from(coordinators)),
            data_nodes: Some(u32::from(data_nodes)),
            ..Default::default()
        }
        .resolve()
        .map_err(|reasons| {
            let reasons: Vec<_> = reasons.iter().map(|r| format!("  - {r}")).collect();
            Failure::usage(format!(
                "such a cluster cannot keep its promises:\n{}",
                reasons.join("\n")
            ))
        })?;
        if coordinators + data_nodes > NODES_MAX {
            return Err(Failure::usage(format!(
                "{coordinators} coordinators and {data_nodes} data nodes are more than {NODES_MAX} processes"
            )));
        }
        Ok(Self {
            format: FORMAT,
            coordinators,
            data_nodes,
            replication_factor: resolved.settings.replication_factor,
            write_quorum: resolved.settings.write_quorum,
            consistency: asked.consistency,
            partitions: resolved.settings.partitions,
            resp_port: asked.resp_port.unwrap_or(RESP_PORT_DEFAULT),
            data: first_data_nodes(data_nodes),
        })
    }

    /// What a person should know of a cluster like this. Said at every start and not
    /// only when it is made: who starts it today need not have chosen it.
    pub(super) fn warnings(&self) -> Vec<String> {
        cairn_core::cluster::settings::SettingsRequest {
            replication_factor: Some(self.replication_factor),
            write_quorum: Some(self.write_quorum),
            preset: self.consistency,
            partitions: Some(self.partitions),
            coordinators: Some(u32::from(self.coordinators)),
            data_nodes: u32::try_from(self.data.len()).ok(),
            ..Default::default()
        }
        .resolve()
        .map(|resolved| resolved.warnings.iter().map(ToString::to_string).collect())
        // A `dev.json` that this build refuses: each coordinator says so itself.
        .unwrap_or_default()
    }

    /// What a cluster is made with where nothing is asked for.
    pub(crate) fn usual() -> Self {
        Self {
            format: FORMAT,
            coordinators: COORDINATORS_DEFAULT,
            data_nodes: DATA_NODES_DEFAULT,
            replication_factor: 3,
            write_quorum: 2,
            consistency: None,
            partitions: cairn_core::cluster::settings::PARTITIONS_DEFAULT,
            resp_port: RESP_PORT_DEFAULT,
            data: first_data_nodes(DATA_NODES_DEFAULT),
        }
    }

    /// The cluster as it is, if nothing else was asked for.
    pub(super) fn again(&self, asked: Asked, directory: &Path) -> Result<Self, Failure> {
        let mut differences = Vec::new();
        let mut compare = |flag: &str, asked: Option<u64>, made: u64| {
            if let Some(asked) = asked
                && asked != made
            {
                differences.push(format!("  - --{flag} is {asked}, it was made with {made}"));
            }
        };
        compare(
            "coordinators",
            asked.coordinators.map(u64::from),
            self.coordinators.into(),
        );
        compare(
            "data-nodes",
            asked.data_nodes.map(u64::from),
            self.data_nodes.into(),
        );
        compare(
            "replication-factor",
            asked.replication_factor.map(u64::from),
            self.replication_factor.into(),
        );
        compare(
            "write-quorum",
            asked.write_quorum.map(u64::from),
            self.write_quorum.into(),
        );
        compare(
            "partitions",
            asked.partitions.map(u64::from),
            self.partitions.into(),
        );
        if let Some(asked) = asked.consistency
            && self.consistency != Some(asked)
        {
            differences.push(match self.consistency {
                Some(made) => format!(
                    "  - --consistency is {}, it was made with {}",
                    asked.name(),
                    made.name()
                ),
                None => format!("  - --consistency is {}, it was made without", asked.name()),
            });
        }
        if differences.is_empty() {
            return Ok(Self {
                resp_port: asked.resp_port.unwrap_or(self.resp_port),
                ..self.clone()
            });
        }
        Err(Failure::refused(format!(
            "the cluster in {} was made otherwise:\n{}",
            directory.display(),
            differences.join("\n")
        ))
        .with_remedy(format!(
            "Leave the flags out to start it as it is, `cairn dev reset{}` to delete it with its \
             data, or choose another --data-dir",
            data_dir_flag(directory)
        )))
    }

    /// Every node with its ports, coordinators first.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        let coordinators = (0..self.coordinators).map(|at| Node {
            name: format!("{}-{}", Role::Coordinator.word(), at + 1),
            role: Role::Coordinator,
            resp: None,
            client: self.resp_port + CLIENT_OFFSET + at,
            peer: self.resp_port + PEER_OFFSET + at,
            http: self.resp_port + HTTP_OFFSET + at,
            traits: Traits::default(),
        });
        let data = self.data.iter().map(|node| self.data_node(node));
        coordinators.chain(data).collect()
    }

    fn data_node(&self, node: &DataNode) -> Node {
        let at = self.coordinators + node.place;
        Node {
            name: format!("{}-{}", Role::Data.word(), node.number),
            role: Role::Data,
            resp: Some(self.resp_port + node.place),
            client: self.resp_port + CLIENT_OFFSET + at,
            peer: self.resp_port + PEER_OFFSET + at,
            http: self.resp_port + HTTP_OFFSET + at,
            traits: node.traits.clone(),
        }
    }

    /// The cluster with further data nodes, and these: each under the lowest number that
    /// is free, on the first ports after those of the others that may be had.
    pub(super) fn with_more(
        &self,
        count: u16,
        traits: &Traits,
        may_be_had: impl Fn(&Node) -> bool,
    ) -> Result<(Self, Vec<Node>), Failure> {
        let mut larger = self.clone();
        let mut places = 0..NODES_MAX - self.coordinators;
        let mut added = Vec::new();
        for _ in 0..count {
            let number = (1..)
                .find(|number| larger.data.iter().all(|node| node.number != *number))
                .unwrap_or(u16::MAX);
            let found = places.by_ref().find_map(|place| {
                let node = DataNode {
                    number,
                    place,
                    traits: traits.clone(),
                };
                let is_taken = larger.data.iter().any(|other| other.place == place);
                let shown = self.data_node(&node);
                (!is_taken && may_be_had(&shown)).then_some((node, shown))
            });
            let (node, shown) = found.ok_or_else(|| {
                Failure::refused(format!(
                    "there are no ports for so many: `cairn dev` has room for {NODES_MAX} \
                     processes, {} are there, and other processes have the ports of the rest",
                    larger.nodes().len()
                ))
                .with_remedy("Add fewer, or stop what has the ports")
            })?;
            larger.data.push(node);
            larger.data.sort_by_key(|node| node.number);
            added.push(shown);
        }
        Ok((larger, added))
    }

    /// The cluster without a data node.
    pub(super) fn without(&self, name: &str) -> Self {
        let mut smaller = self.clone();
        smaller
            .data
            .retain(|node| self.data_node(node).name != name);
        smaller
    }

    /// Reads `dev.json`; none if the directory holds no cluster.
    pub(crate) fn load(directory: &Path) -> anyhow::Result<Option<Self>> {
        let path = directory.join("dev.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let recorded = Self::parse(&text)
            .with_context(|| format!("{} is not what `cairn dev` wrote", path.display()))?;
        Ok(Some(recorded))
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        // First, for a newer form may have other fields.
        let Form { format } = serde_json::from_slice(text)?;
        let mut recorded: Self = match format {
            FORMAT | FORMAT_WITHOUT_LIST => serde_json::from_slice(text)?,
            newer => anyhow::bail!("it has format {newer}, this build knows up to {FORMAT}"),
        };
        if format == FORMAT_WITHOUT_LIST {
            recorded.format = FORMAT;
            recorded.data = first_data_nodes(recorded.data_nodes);
        }
        Ok(recorded)
    }

    /// Writes `dev.json`.
    pub(super) fn save(&self, directory: &Path) -> anyhow::Result<()> {
        write_json(&directory.join("dev.json"), self)
    }
}

/// Writes a file whole or not at all.
pub(super) fn write_json<T: Serialize + ?Sized>(path: &Path, value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value).context("encode as JSON")?;
    text.push(b'\n');
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, text).with_context(|| format!("write {}", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("rename to {}", path.display()))
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Owns the metadata.
    Coordinator,
    /// Owns data.
    Data,
}

impl Role {
    /// As `CAIRN_ROLE` has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Data => "data",
        }
    }
}

/// One process and its ports on the loopback address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) resp: Option<u16>,
    pub(crate) client: u16,
    pub(crate) peer: u16,
    pub(crate) http: u16,
    #[serde(flatten)]
    pub(super) traits: Traits,
}

impl Node {
    /// Every port with what it is for.
    pub(super) fn ports(&self) -> Vec<(&'static str, u16)> {
        let mut ports = vec![
            ("gRPC for clients", self.client),
            ("gRPC between nodes", self.peer),
            ("HTTP", self.http),
        ];
        if let Some(resp) = self.resp {
            ports.insert(0, ("Redis", resp));
        }
        ports
    }

    /// Where its log goes.
    pub(super) fn log_file(&self, directory: &Path) -> PathBuf {
        directory.join("logs").join(format!("{}.log", self.name))
    }
}

/// The directory, as the command line names it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Place {
    /// Where the data is kept [default: cairn/dev in the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// The directory that is meant.
    pub(super) fn directory(&self) -> Result<PathBuf, Failure> {
        self::directory(self.data_dir.as_deref())
    }

    #[cfg(test)]
    pub(super) fn at(directory: &Path) -> Self {
        Self {
            data_dir: Some(directory.to_owned()),
        }
    }
}

/// Where the cluster's files are: what was asked for, else below the user's data
/// directory.
pub(crate) fn directory(asked: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(asked) = asked {
        return std::path::absolute(asked)
            .map_err(|error| Failure::usage(format!("{}: {error}", asked.display())));
    }
    default_directory(
        std::env::var_os("XDG_DATA_HOME").map(PathBuf::from),
        std::env::var_os("HOME").map(PathBuf::from),
    )
    .ok_or_else(|| {
        Failure::usage("there is no user's data directory: neither XDG_DATA_HOME nor HOME is set")
            .with_remedy("Give --data-dir")
    })
}

fn default_directory(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The base directory specification says that relative paths are to be ignored.
    xdg.filter(|path| path.is_absolute())
        .or_else(|| {
            home.filter(|path| path.is_absolute())
                .map(|home| home.join(".local/share"))
        })
        .map(|base| base.join("cairn/dev"))
}

/// The `--data-dir` by which `cairn dev` and its commands find the directory.
pub(super) fn data_dir_flag(directory: &Path) -> String {
    match self::directory(None) {
        Ok(default) if default == directory => String::new(),
        Ok(_) | Err(_) => format!(" --data-dir {}", directory.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::failure::Kind;

    fn made() -> Recorded {
        Recorded::new(Asked::default()).expect("the defaults are valid")
    }

    #[test]
    fn the_default_cluster_is_the_documented_one() {
        let made = made();
        assert_eq!(made, Recorded::usual());
        assert_eq!(
            (
                made.coordinators,
                made.data_nodes,
                made.replication_factor,
                made.write_quorum
            ),
            (3, 5, 3, 2)
        );
        let nodes = made.nodes();
        assert_eq!(nodes.len(), 8);
        let resp: Vec<_> = nodes.iter().filter_map(|n| n.resp).collect();
        assert_eq!(resp, [6379, 6380, 6381, 6382, 6383]);
        assert_eq!(nodes[0].client, 7400);
        assert_eq!(nodes[0].name, "coordinator-1");
        assert_eq!(nodes[7].name, "data-5");
    }

    #[test]
    fn ports_never_collide() {
        for (coordinators, data_nodes, resp_port) in
            [(1, 3, 6379), (5, 95, 1024), (3, 5, RESP_PORT_MAX)]
        {
            let nodes = Recorded::new(Asked {
                coordinators: Some(coordinators),
                data_nodes: Some(data_nodes),
                resp_port: Some(resp_port),
                ..Asked::default()
            })
            .expect("valid")
            .nodes();
            let ports: Vec<_> = nodes.iter().flat_map(Node::ports).map(|p| p.1).collect();
            let distinct: BTreeSet<_> = ports.iter().collect();
            assert_eq!(ports.len(), distinct.len());
        }
    }

    #[test]
    fn the_same_cluster_is_started_again_without_flags() {
        let made = Recorded::new(Asked {
            data_nodes: Some(4),
            resp_port: Some(7000),
            ..Asked::default()
        })
        .expect("valid");
        let again = made
            .again(Asked::default(), Path::new("/x"))
            .expect("nothing differs");
        assert_eq!(again, made);
        let moved = made
            .again(
                Asked {
                    data_nodes: Some(4),
                    resp_port: Some(9000),
                    ..Asked::default()
                },
                Path::new("/x"),
            )
            .expect("a port is not part of what it was made with");
        assert_eq!(moved.resp_port, 9000);
    }

    #[test]
    fn other_counts_are_refused_and_every_difference_is_named() {
        let failure = made()
            .again(
                Asked {
                    data_nodes: Some(7),
                    replication_factor: Some(5),
                    ..Asked::default()
                },
                Path::new("/x/dev"),
            )
            .expect_err("it differs");
        assert_eq!(failure.kind(), Kind::Refused);
        let text = failure.to_string();
        assert!(
            text.contains("--data-nodes is 7, it was made with 5"),
            "{text}"
        );
        assert!(
            text.contains("--replication-factor is 5, it was made with 3"),
            "{text}"
        );
        assert!(text.contains("cairn dev reset --data-dir /x/dev"), "{text}");
    }

    #[test]
    fn a_cluster_that_cannot_keep_its_promise_is_not_made() {
        for asked in [
            Asked {
                data_nodes: Some(2),
                ..Asked::default()
            },
            Asked {
                coordinators: Some(2),
                ..Asked::default()
            },
            Asked {
                write_quorum: Some(4),
                ..Asked::default()
            },
            Asked {
                data_nodes: Some(200),
                ..Asked::default()
            },
        ] {
            let failure = Recorded::new(asked).expect_err("refused");
            assert_eq!(failure.kind(), Kind::Usage, "{asked:?}");
        }
    }

    #[test]
    fn what_a_cluster_cannot_promise_is_said_in_advance() {
        let warned = |replication_factor, write_quorum, coordinators| {
            Recorded::new(Asked {
                replication_factor,
                write_quorum,
                coordinators,
                ..Asked::default()
            })
            .expect("valid")
            .warnings()
            .join("\n")
        };
        assert_eq!(warned(None, None, None), "");
        let says = |text: String, words: &str| assert!(text.contains(words), "{words}: {text}");
        says(warned(Some(1), None, None), "a lost disk loses its data");
        says(
            warned(Some(3), Some(1), None),
            "may lose acknowledged writes",
        );
        says(warned(Some(5), Some(2), None), "only 1 for a promotion");
        says(warned(None, None, Some(1)), "one coordinator");
    }

    #[test]
    fn the_data_directory_is_the_users() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            default_directory(path("/data"), path("/home/a")),
            path("/data/cairn/dev")
        );
        assert_eq!(
            default_directory(path("relative"), path("/home/a")),
            path("/home/a/.local/share/cairn/dev")
        );
        assert_eq!(default_directory(None, None), None);
    }

    fn with_more(
        cluster: &Recorded,
        count: u16,
        taken: &[u16],
    ) -> Result<(Recorded, Vec<Node>), Failure> {
        let traits = Traits {
            zone: Some("b".to_owned()),
            weight: Some(50),
        };
        cluster.with_more(count, &traits, |node| {
            node.ports().iter().all(|(_, port)| !taken.contains(port))
        })
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let (more, _) = with_more(&made(), 2, &[]).expect("there is room");
        for recorded in [made(), more] {
            let text = serde_json::to_vec(&recorded).expect("JSON");
            assert_eq!(Recorded::parse(&text).expect("the same form"), recorded);
        }
    }

    #[test]
    fn what_a_build_without_the_list_recorded_is_read_and_a_newer_form_is_named() {
        let text = r#"{"format": 1, "coordinators": 3, "dataNodes": 5, "replicationFactor": 3,
            "writeQuorum": 2, "partitions": 128, "respPort": 6379}"#;
        assert_eq!(Recorded::parse(text.as_bytes()).expect("read"), made());
        let error = Recorded::parse(br#"{"format": 3, "planets": 8}"#).expect_err("newer");
        assert!(error.to_string().contains("format 3"), "{error}");
    }

    #[test]
    fn further_nodes_take_the_next_names_and_the_next_ports_that_are_free() {
        let made = made();
        // Something listens where the HTTP of a sixth would be.
        let (more, added) = with_more(&made, 2, &[7600 + 3 + 5]).expect("there is room");
        let shown: Vec<_> = added.iter().map(|n| (n.name.as_str(), n.resp)).collect();
        assert_eq!(shown, [("data-6", Some(6385)), ("data-7", Some(6386))]);
        assert_eq!(added[0].traits.zone.as_deref(), Some("b"));
        assert_eq!(more.nodes()[..8], made.nodes());
        assert_eq!(more.nodes()[8..], added);
        // The count with which it was made stays what a start may be given.
        let asked = Asked {
            data_nodes: Some(5),
            ..Asked::default()
        };
        assert_eq!(more.again(asked, Path::new("/x")).expect("as made"), more);

        // A name that was forgotten is free again, and so are its ports.
        let fewer = more.without("data-2");
        assert_eq!(fewer.nodes().len(), 9);
        let (_, added) = with_more(&fewer, 1, &[]).expect("there is room");
        assert_eq!(
            (added[0].name.as_str(), added[0].resp),
            ("data-2", Some(6380))
        );
    }

    #[test]
    fn there_is_room_for_a_hundred_processes_whose_ports_never_collide() {
        let made = made();
        let refused = with_more(&made, 93, &[]).expect_err("101 processes");
        assert_eq!(refused.kind(), Kind::Refused);
        let (more, _) = with_more(&made, 92, &[]).expect("100 processes");
        let nodes = more.nodes();
        let ports: Vec<_> = nodes.iter().flat_map(Node::ports).map(|p| p.1).collect();
        let distinct: BTreeSet<_> = ports.iter().collect();
        assert_eq!((nodes.len(), distinct.len()), (100, ports.len()));
    }
}
