//! How things are, told in the status: a pure function of what was seen, planned and done.
//!
//! Conditions keep the time of their last change while their status stays, and nothing in the
//! status changes by the passing of time alone: a cluster at rest is written about once.

use std::collections::BTreeMap;

use cairn_crds::status::{
    HotStatus, KvClusterStatus, NODES_MAX, NodeStatus, OutsideStatus, PartitionsStatus, Phase,
    RebalanceStatus, RoleStatus,
};
use cairn_crds::{KvCluster, KvClusterSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::cluster::Cluster;
use crate::names::{Names, Role};
use crate::observed::{Observed, Silence};
use crate::plan::{Note, OutsideAddress, Topic};
use crate::store::{Health, Leaving, Node, Store};

/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;
/// The most notes of which a message is made.
const NOTES_MAX: usize = 4;

/// What a round found out.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The manifest as it was read, with the status that it has.
    pub manifest: &'a KvCluster,
    /// What its objects are called.
    pub names: &'a Names,
    /// What it asks for; or what is wrong with it, in sentences.
    pub cluster: Result<&'a Cluster, &'a [String]>,
    /// What there is.
    pub observed: &'a Observed,
    /// What is under way or in the way, of planning and of what came after it.
    pub notes: &'a [Note],
    /// Where clients outside reach data nodes, by the nodes' names.
    pub outside: &'a BTreeMap<String, OutsideAddress>,
}

/// A condition's status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    fn of(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }

    fn word(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition before it is compared with the one that there is.
struct Judged {
    kind: &'static str,
    truth: Truth,
    reason: &'static str,
    message: String,
}

impl Judged {
    fn new(
        kind: &'static str,
        truth: Truth,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            truth,
            reason,
            message: message.into(),
        }
    }
}

/// The status that the manifest should have.
#[must_use]
pub fn status(found: &Found<'_>, now: Timestamp) -> KvClusterStatus {
    let Found {
        manifest,
        names,
        cluster,
        observed,
        notes,
        outside: _,
    } = found;
    let old = manifest.status.clone().unwrap_or_default();
    let store = observed.store.as_ref().ok();
    let view = View::new(found, &old);
    let mut nodes = nodes(&manifest.spec, names, observed);
    for node in &mut nodes {
        node.outside = found.outside.get(&node.name).map(|address| OutsideStatus {
            redis: address.redis.clone(),
            grpc: address.grpc.clone(),
        });
    }
    let ready = view.data_ready;
    let phase = view.phase(found);
    let conditions = view
        .conditions(found)
        .into_iter()
        .map(|judged| condition(judged, &old, manifest.metadata.generation, now))
        .collect();
    KvClusterStatus {
        observed_generation: manifest.metadata.generation.unwrap_or_default(),
        phase: Some(phase),
        message: message(*cluster, notes, observed),
        // What is known once stays known while the coordinators say nothing.
        cluster_id: store
            .map(|store| store.cluster_id.clone())
            .filter(|id| !id.is_empty())
            .unwrap_or(old.cluster_id),
        version: cluster.map_or(old.version, |cluster| cluster.version.clone()),
        image: cluster.map_or(old.image, |cluster| cluster.image.clone()),
        ready_nodes: format!("{ready}/{}", manifest.spec.data.replicas),
        selector: names
            .role_selector(Role::Data)
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(","),
        data: role(observed, Role::Data),
        coordinators: role(observed, Role::Coordinator),
        partitions: store.map_or(old.partitions, |store| Some(partitions(store))),
        rebalance: store.map_or(old.rebalance, |store| {
            Some(RebalanceStatus {
                under_way: store.rebalance.under_way,
                waiting: store.rebalance.waiting,
                bytes_left: store.rebalance.bytes_left,
            })
        }),
        hot: store.map_or(old.hot, hot),
        nodes,
        conditions,
    }
}

/// For how long a key must have been hot to be told of.
const STAYS_HOT_MS: u64 = 60_000;
/// The most partitions and keys that the status names.
const HOT_MAX: usize = 16;
/// The longest name of a key that it tells, in bytes.
const KEY_BYTES_MAX: usize = 128;

/// In an order of its own, and without rates: the status is to change when what is hot does.
fn hot(store: &Store) -> Option<HotStatus> {
    let heat = &store.heat;
    let mut partitions: Vec<u32> = heat.partitions.iter().map(|one| one.partition).collect();
    partitions.truncate(HOT_MAX);
    partitions.sort_unstable();
    let stay = heat
        .keys
        .iter()
        .filter(|key| key.hot_for_ms >= STAYS_HOT_MS);
    let mut keys: Vec<String> = stay.map(|key| printable(&key.key)).take(HOT_MAX).collect();
    keys.sort_unstable();
    let hot = HotStatus {
        partitions,
        keys,
        read_copies: heat.read_copies,
    };
    (hot != HotStatus::default()).then_some(hot)
}

/// A key as a status and an event may hold it.
fn printable(key: &str) -> String {
    let end = key.floor_char_boundary(KEY_BYTES_MAX);
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    key[..end].chars().map(plain).collect()
}

fn partitions(store: &Store) -> PartitionsStatus {
    PartitionsStatus {
        total: store.summary.partitions,
        serving: store.summary.serving,
        degraded: store.summary.degraded,
        lossy_promotions: store.summary.lossy_promotions,
    }
}

fn role(observed: &Observed, role: Role) -> RoleStatus {
    let pods = observed.pods.values().filter(|pod| pod.role == Some(role));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    RoleStatus {
        replicas: count(pods.clone().count()),
        ready: count(pods.filter(|pod| pod.ready && !pod.deleting).count()),
    }
}

fn condition(
    judged: Judged,
    old: &KvClusterStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let before = old.conditions.iter().find(|one| one.type_ == judged.kind);
    let since = before
        .filter(|before| before.status == judged.truth.word())
        // As precise as it is written: what is compared later was read back.
        .map_or_else(
            || Time(whole_seconds(now)),
            |before| before.last_transition_time.clone(),
        );
    Condition {
        type_: judged.kind.to_owned(),
        status: judged.truth.word().to_owned(),
        reason: judged.reason.to_owned(),
        message: bounded(judged.message),
        observed_generation: generation,
        last_transition_time: since,
    }
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// What judging goes by.
struct View<'a> {
    store: Option<&'a Store>,
    silence: Option<&'a Silence>,
    /// The cluster was made: the coordinators said so, now or earlier.
    made: bool,
    /// It has served before.
    served: bool,
    /// Data nodes with a pod that is ready.
    data_ready: u32,
    /// Data nodes that are asked for and whose pods are not ready.
    missing: Vec<String>,
    /// Coordinators that are asked for and whose pods are not ready.
    coordinators_missing: Vec<String>,
    /// Members that are silent or down.
    silent: Vec<&'a str>,
    stuck: Option<&'a Note>,
    lost: Option<&'a Note>,
}

impl<'a> View<'a> {
    fn new(found: &Found<'a>, old: &KvClusterStatus) -> Self {
        let Found {
            manifest,
            names,
            observed,
            notes,
            ..
        } = found;
        let store = observed.store.as_ref().ok();
        let wanted = |role: Role| match role {
            Role::Coordinator => u32::from(manifest.spec.coordinators.replicas),
            Role::Data => manifest.spec.data.replicas,
        };
        let ready = |name: &String| {
            let pod = observed.pods.get(name);
            pod.is_some_and(|pod| pod.ready && !pod.deleting)
        };
        let missing = |role: Role| -> Vec<String> {
            (0..wanted(role))
                .map(|ordinal| names.pod(role, ordinal))
                .filter(|name| !ready(name))
                .collect()
        };
        let data_missing = missing(Role::Data);
        Self {
            store,
            silence: observed.store.as_ref().err(),
            made: !old.cluster_id.is_empty()
                || store.is_some_and(|store| !store.cluster_id.is_empty()),
            served: old
                .phase
                .is_some_and(|phase| !matches!(phase, Phase::Creating | Phase::Invalid))
                || old
                    .conditions
                    .iter()
                    .any(|c| c.type_ == "Ready" && c.status == "True"),
            data_ready: wanted(Role::Data) - u32::try_from(data_missing.len()).unwrap_or(0),
            missing: data_missing,
            coordinators_missing: missing(Role::Coordinator),
            silent: store.map_or_else(Vec::new, |store| {
                let members = store.nodes.iter().filter(|node| is_member(node));
                members
                    .filter(|node| node.health != Health::Up)
                    .map(|node| node.name.as_str())
                    .collect()
            }),
            stuck: notes.iter().find(|note| note.topic == Topic::Stuck),
            lost: notes.iter().find(|note| note.topic == Topic::Lost),
        }
    }

    /// Partitions without a primary that serves; `None` where that is not known.
    fn unserved(&self) -> Option<u32> {
        self.store.map(Store::unserved)
    }

    fn is_creating(&self) -> bool {
        !self.served && (!self.made || !self.missing.is_empty() || self.unserved() != Some(0))
    }

    fn moves(&self) -> bool {
        self.store.is_some_and(Store::is_moving)
    }

    fn degraded_copies(&self) -> u32 {
        self.store.map_or(0, |store| store.summary.degraded)
    }

    fn is_degraded(&self) -> bool {
        self.degraded_copies() > 0
            || !self.silent.is_empty()
            || !self.coordinators_missing.is_empty()
            || self.stuck.is_some()
            || self.lost.is_some()
            || self.silence.is_some()
    }

    /// Whether nothing is wrong, and only data nodes are missing that never held anything.
    fn only_newcomers_are_missing(&self) -> bool {
        let is_new = |name: &String| {
            let member = self.store.map(|store| store.member(name));
            member.is_some_and(|member| member.is_none_or(|member| member.replicas == 0))
        };
        !self.is_degraded() && !self.missing.is_empty() && self.missing.iter().all(is_new)
    }

    fn phase(&self, found: &Found<'_>) -> Phase {
        let has = |topic: Topic| found.notes.iter().any(|note| note.topic == topic);
        if found.cluster.is_err() {
            Phase::Invalid
        } else if found.manifest.spec.maintenance.paused {
            Phase::Paused
        } else if self.is_creating() {
            Phase::Creating
        } else if self.unserved().is_some_and(|unserved| unserved > 0) {
            Phase::Unavailable
        } else if has(Topic::Scaling) || has(Topic::Group) || self.only_newcomers_are_missing() {
            Phase::Scaling
        } else if self.is_degraded() || !self.missing.is_empty() {
            Phase::Degraded
        } else if self.moves() {
            Phase::Rebalancing
        } else {
            Phase::Running
        }
    }

    fn conditions(&self, found: &Found<'_>) -> [Judged; 5] {
        [
            self.ready(found),
            self.progressing(found),
            self.degraded(found),
            self.quorum(found),
            self.rebalancing(),
        ]
    }

    fn ready(&self, found: &Found<'_>) -> Judged {
        let judged = |truth, reason, message: String| Judged::new("Ready", truth, reason, message);
        if self.is_creating() {
            let (reason, message) = match found.cluster {
                Err(_) => ("InvalidSpec", "the manifest cannot be followed".to_owned()),
                Ok(_) => (
                    "Creating",
                    format!("waiting for {}", self.waited_for(found.observed)),
                ),
            };
            return judged(Truth::False, reason, message);
        }
        match (self.unserved(), self.silence) {
            (Some(0), _) => judged(
                Truth::True,
                "Serving",
                "every partition is served".to_owned(),
            ),
            (Some(unserved), _) => judged(
                Truth::False,
                "PartitionsUnserved",
                format!("{unserved} partitions have no primary that serves"),
            ),
            (None, Some(silence)) => judged(Truth::Unknown, "NoCoordinators", said(silence)),
            (None, None) => judged(Truth::Unknown, "NoCoordinators", String::new()),
        }
    }

    /// What a cluster that is made waits for.
    fn waited_for(&self, observed: &Observed) -> String {
        let mut pods: Vec<String> = self
            .coordinators_missing
            .iter()
            .chain(&self.missing)
            .take(NOTES_MAX)
            .map(|name| match observed.pods.get(name) {
                Some(pod) => match &pod.waiting {
                    Some(why) => format!("{name} ({why})"),
                    None => name.clone(),
                },
                None => format!("{name} (no pod yet)"),
            })
            .collect();
        let all = self.coordinators_missing.len() + self.missing.len();
        if all > pods.len() {
            pods.push(format!("{} more", all - pods.len()));
        }
        if pods.is_empty() {
            "the partitions to be served".to_owned()
        } else {
            pods.join(", ")
        }
    }

    fn progressing(&self, found: &Found<'_>) -> Judged {
        let judged = |truth, reason, text: &str| Judged::new("Progressing", truth, reason, text);
        if let Err(problems) = found.cluster {
            return judged(Truth::False, "InvalidSpec", &problems.join("; "));
        }
        if found.manifest.spec.maintenance.paused {
            return judged(Truth::False, "Paused", "maintenance.paused is set");
        }
        if self.is_creating() {
            return judged(Truth::True, "Creating", &self.waited_for(found.observed));
        }
        let under_way = found
            .notes
            .iter()
            .filter_map(|note| Some((note.topic, reason(note.topic)?, note)))
            .min_by_key(|(topic, ..)| *topic);
        match (under_way, self.stuck) {
            (Some((_, reason, note)), _) => judged(Truth::True, reason, &note.text),
            (None, Some(stuck)) => judged(Truth::False, "Stuck", &stuck.text),
            (None, None) => judged(Truth::False, "Settled", "all is as the manifest asks"),
        }
    }

    fn degraded(&self, found: &Found<'_>) -> Judged {
        let (truth, reason, mut message) = self.degradation();
        // It is no failure, and decides what happens after one.
        if found.observed.hosts.is_none() {
            if !message.is_empty() {
                message.push_str("; ");
            }
            message
                .push_str("Kubernetes nodes may not be read, so no volume is given up by itself");
        }
        Judged::new("Degraded", truth, reason, message)
    }

    fn degradation(&self) -> (Truth, &'static str, String) {
        let copies = self.degraded_copies();
        if self.is_creating() {
            (Truth::False, "Creating", String::new())
        } else if let Some(unserved) = self.unserved().filter(|unserved| *unserved > 0) {
            let text = format!("{unserved} partitions are not served");
            (Truth::True, "PartitionsUnserved", text)
        } else if let Some(lost) = self.lost {
            (Truth::True, "NodeLost", lost.text.clone())
        } else if copies > 0 {
            let text = format!("{copies} partitions lack copies");
            (Truth::True, "CopiesMissing", text)
        } else if !self.silent.is_empty() {
            let text = format!("silent: {}", self.silent.join(", "));
            (Truth::True, "NodesSilent", text)
        } else if let Some(silence) = self.silence {
            (Truth::Unknown, "NoCoordinators", said(silence))
        } else if let Some(stuck) = self.stuck {
            (Truth::True, "Stuck", stuck.text.clone())
        } else if !self.coordinators_missing.is_empty() {
            let text = format!("not ready: {}", self.coordinators_missing.join(", "));
            (Truth::True, "CoordinatorsMissing", text)
        } else {
            (
                Truth::False,
                "Whole",
                "every partition has its copies".to_owned(),
            )
        }
    }

    fn quorum(&self, found: &Found<'_>) -> Judged {
        let judged =
            |truth, reason, text: String| Judged::new("QuorumHealthy", truth, reason, text);
        let Some(store) = self.store else {
            return match self.silence {
                None | Some(Silence::NotAsked) => {
                    judged(Truth::False, "NotRunning", "no coordinator runs".to_owned())
                }
                Some(silence @ Silence::NoAnswer(_)) => {
                    judged(Truth::False, "NoLeader", said(silence))
                }
                Some(silence @ Silence::Refused(_)) => {
                    judged(Truth::Unknown, "Refused", said(silence))
                }
            };
        };
        let voters: Vec<&str> = store
            .coordinators
            .iter()
            .filter(|one| one.voter)
            .map(|one| one.name.as_str())
            .collect();
        let away: Vec<&str> = voters
            .iter()
            .copied()
            .filter(|name| {
                let pod = found.observed.pods.get(*name);
                !pod.is_some_and(|pod| pod.ready && !pod.deleting)
            })
            .collect();
        let (here, all) = (voters.len() - away.len(), voters.len());
        if away.is_empty() {
            judged(
                Truth::True,
                "Quorum",
                format!("{here} of {all} voters are ready"),
            )
        } else {
            let text = format!(
                "{here} of {all} voters are ready; away: {}",
                away.join(", ")
            );
            judged(Truth::True, "VotersAway", text)
        }
    }

    fn rebalancing(&self) -> Judged {
        let judged = |truth, reason, text: String| Judged::new("Rebalancing", truth, reason, text);
        let Some(store) = self.store else {
            return judged(Truth::Unknown, "NoCoordinators", String::new());
        };
        let moves = &store.rebalance;
        // Bytes change all the time; they stand beside the conditions.
        let text = format!(
            "{} copies under way, {} waiting",
            moves.under_way, moves.waiting
        );
        if moves.too_few_nodes {
            let text = "there are fewer data nodes than copies of a partition".to_owned();
            judged(Truth::of(self.moves()), "TooFewNodes", text)
        } else if moves.held_back {
            let text = "too many nodes are down at once: nobody is replaced".to_owned();
            judged(Truth::of(self.moves()), "HeldBack", text)
        } else if moves.paused {
            judged(Truth::of(moves.under_way > 0), "Paused", text)
        } else if self.moves() {
            judged(Truth::True, "Moving", text)
        } else {
            judged(Truth::False, "Balanced", String::new())
        }
    }
}

/// Why something goes on, by what a note is about; `None` where it does not.
fn reason(topic: Topic) -> Option<&'static str> {
    Some(match topic {
        Topic::Stuck | Topic::Paused => return None,
        Topic::Lost => "ReplacingNode",
        Topic::Creating => "Creating",
        Topic::Scaling => "Scaling",
        Topic::Group => "ChangingCoordinators",
        Topic::Settings => "ChangingSettings",
        Topic::Volumes => "GrowingVolumes",
        Topic::Restart => "Restarting",
        Topic::Secrets => "RenewingSecrets",
        Topic::Outside => "AwaitingAddresses",
        Topic::Maintenance => "Draining",
    })
}

fn said(silence: &Silence) -> String {
    match silence {
        Silence::NotAsked => "no coordinator runs".to_owned(),
        Silence::NoAnswer(why) | Silence::Refused(why) => why.clone(),
    }
}

fn message(cluster: Result<&Cluster, &[String]>, notes: &[Note], observed: &Observed) -> String {
    let mut parts: Vec<String> = match cluster {
        Err(problems) => problems.to_vec(),
        Ok(_) => Vec::new(),
    };
    let mut notes: Vec<&Note> = notes.iter().collect();
    notes.sort_by_key(|note| note.topic);
    parts.extend(notes.iter().take(NOTES_MAX).map(|note| match &note.node {
        Some(node) => format!("{node}: {}", note.text),
        None => note.text.clone(),
    }));
    if let Err(silence @ (Silence::NoAnswer(_) | Silence::Refused(_))) = &observed.store {
        let why = said(silence);
        // Who plans may have said so.
        if !parts.iter().any(|part| part.contains(&why)) {
            parts.push(why);
        }
    }
    for part in &mut parts {
        if !part.ends_with('.') {
            part.push('.');
        }
    }
    bounded(parts.join(" "))
}

/// The beginning of a text, if it is too long.
fn bounded(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX - '…'.len_utf8()));
        text.push('…');
    }
    text
}

fn is_member(node: &Node) -> bool {
    node.standing == crate::store::NodeStanding::Member
}

/// Each node, those first that are not well.
fn nodes(spec: &KvClusterSpec, names: &Names, observed: &Observed) -> Vec<NodeStatus> {
    let store = observed.store.as_ref().ok();
    let mut all: Vec<String> = observed
        .pods
        .iter()
        .filter(|(_, pod)| pod.role.is_some())
        .map(|(name, _)| name.clone())
        .collect();
    let members = store.iter().flat_map(|store| &store.nodes);
    all.extend(
        members
            .filter(|node| is_member(node))
            .map(|node| node.name.clone()),
    );
    all.sort_by_key(|name| place(names, name));
    all.dedup();
    let mut nodes: Vec<NodeStatus> = all
        .iter()
        .map(|name| node(spec, names, observed, store, name))
        .collect();
    // Stable, so that those of a kind stay in their order.
    nodes.sort_by_key(|node| node.state == "Ready");
    nodes.truncate(NODES_MAX);
    nodes
}

/// Where a node belongs in a list: by role and number, strangers last.
fn place(names: &Names, name: &str) -> (usize, u32, String) {
    Role::ALL
        .iter()
        .enumerate()
        .find_map(|(at, role)| Some((at, names.ordinal(*role, name)?, String::new())))
        .unwrap_or_else(|| (Role::ALL.len(), 0, name.to_owned()))
}

fn node(
    spec: &KvClusterSpec,
    names: &Names,
    observed: &Observed,
    store: Option<&Store>,
    name: &str,
) -> NodeStatus {
    let pod = observed.pods.get(name);
    let role = pod
        .and_then(|pod| pod.role)
        .or_else(|| {
            Role::ALL
                .into_iter()
                .find(|role| names.ordinal(*role, name).is_some())
        })
        .unwrap_or(Role::Data);
    let member = store
        .filter(|_| role == Role::Data)
        .and_then(|store| store.member(name));
    let ready = pod.is_some_and(|pod| pod.ready && !pod.deleting);
    let leaves = names
        .ordinal(role, name)
        .is_some_and(|ordinal| role == Role::Data && ordinal >= spec.data.replicas);
    let state = match member {
        Some(member) if member.leaving == Some(Leaving::Draining) && member.empty => "Empty",
        Some(member) if member.leaving == Some(Leaving::Draining) && leaves => "Removing",
        Some(member) if member.leaving == Some(Leaving::Draining) => "Draining",
        Some(member) if member.leaving == Some(Leaving::Away) => "Lost",
        Some(member) if member.health == Health::Down => "Down",
        _ if ready => "Ready",
        _ if pod.is_some_and(|pod| pod.not_ready_since_unix_ms.is_some() && !pod.running) => "Down",
        None if pod.is_none() => "Lost",
        Some(_) if pod.is_none() => "Down",
        _ => "Starting",
    };
    let why = pod.and_then(|pod| pod.waiting.clone());
    NodeStatus {
        name: name.to_owned(),
        role: role.component().to_owned(),
        state: state.to_owned(),
        message: match (why, member) {
            (Some(why), _) => why,
            (None, Some(member)) if member.disk_full => "the disk is full".to_owned(),
            (None, _) => String::new(),
        },
        host: pod.and_then(|pod| pod.host.clone()).unwrap_or_default(),
        zone: member.map(|member| member.zone.clone()).unwrap_or_default(),
        id: member.map(|member| member.id),
        replicas: member.map(|member| member.replicas),
        leads: member.map(|member| member.leads),
        outside: None,
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
