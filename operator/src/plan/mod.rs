//! What is to be done: decided purely from the manifest and what there is.
//!
//! Each round begins anew. A step is asked for as long as it is not seen to have happened, so
//! every step may be carried out twice, and the operator may die between any two.
//!
//! One planner holds all reasons to disturb a node, since they exclude each other: the table
//! is in `duties`. What each duty comes to is in a file of its own:
//!
//! - `scale`: data nodes that join, drain, and are retired;
//! - `group`: coordinators that are taken in, and that leave;
//! - `lost`: volumes that went with their Kubernetes nodes;
//! - `claims`: volumes of nodes that are no more;
//! - `evacuate`: Kubernetes nodes that are to go, pods that end;
//! - `restart`: pods of an outdated revision;
//! - `volumes`: volumes that grow;
//! - `settings`: agreed numbers; `places`: zones and weights;
//! - `outside`: Services and addresses for clients outside Kubernetes' network.
//!
//! Where the coordinators say nothing, and before they have made the cluster, nothing is
//! removed, drained, deleted or restarted. StatefulSets grow to what is asked for all the
//! same, and pods that do not run are made anew: without either no coordinator might ever
//! come up.

mod claims;
mod duties;
mod evacuate;
mod group;
mod lost;
mod outside;
mod places;
mod restart;
mod scale;
mod settings;
#[cfg(test)]
mod tests;
mod view;
mod volumes;

use crate::cluster::Cluster;
use crate::names::Role;
use crate::observed::{Observed, Silence};
use crate::store::Store;

use duties::Duties;
pub use outside::OutsideAddress;
use view::View;

/// What is to be done in this round, and what is to be said.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// How many pods the StatefulSets are to keep from now on.
    pub replicas: Replicas,
    /// What has to happen besides, in this order. The first that fails ends the round.
    pub steps: Vec<Step>,
    /// What is under way or in the way, for the status.
    pub notes: Vec<Note>,
    /// What the places file is to say.
    pub places: Places,
    /// What clients outside Kubernetes' network need.
    pub outside: Outside,
}

/// What clients outside Kubernetes' network need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outside {
    /// The data nodes that are to have a Service of their own, by number.
    pub services: std::collections::BTreeSet<u32>,
    /// Services of nodes that are no more, by name.
    pub unwanted: Vec<String>,
    /// Host names and addresses by which nodes may be reached, for their certificate.
    pub hosts: std::collections::BTreeSet<String>,
}

/// How many pods there are to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replicas {
    /// Coordinators.
    pub coordinators: u32,
    /// Data nodes.
    pub data: u32,
}

impl Replicas {
    /// Those of a role.
    #[must_use]
    pub fn of(&self, role: Role) -> u32 {
        match role {
            Role::Coordinator => self.coordinators,
            Role::Data => self.data,
        }
    }
}

/// Zones of Kubernetes nodes and weights of data nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// By the name of a Kubernetes node.
    pub zones: std::collections::BTreeMap<String, String>,
    /// By the name of a data node.
    pub weights: std::collections::BTreeMap<String, u32>,
    /// Where clients outside reach it, by the name of a data node.
    pub outside: std::collections::BTreeMap<String, OutsideAddress>,
}

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask the coordinators for something.
    Admin(Admin),
    /// Delete a pod that is that one.
    DeletePod {
        /// Its name.
        name: String,
        /// Its UID: another one of that name is left alone.
        uid: String,
        /// Whether its Kubernetes node is gone, so that nobody confirms its end.
        force: bool,
        /// What is said about it.
        reason: String,
    },
    /// Delete a claim that is that one.
    DeleteClaim {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// What is said about it.
        reason: String,
    },
    /// Ask for more room on a claim that is that one.
    GrowClaim {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// How much, as the manifest writes it.
        size: String,
    },
    /// Delete a StatefulSet that is that one without its pods: it is made anew in the next
    /// round, and takes them over.
    RenewSet {
        /// Whose.
        role: Role,
        /// Its UID.
        uid: String,
    },
    /// Write on a claim that the node on it was retired, or take that back.
    MarkRetired {
        /// The claim.
        name: String,
        /// Its UID.
        uid: String,
        /// Whether it was.
        retired: bool,
    },
}

/// What the coordinators are asked for. What already is so is no error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admin {
    /// A data node is to give up all that it holds.
    Drain(u64),
    /// It is to take part again.
    Undrain(u64),
    /// It drained and is empty: it is a member no longer.
    Retire(u64),
    /// It will not come back. Refused where too few copies would be left.
    Gone(u64),
    /// It is away on purpose until then, milliseconds since 1970 UTC.
    ExpectBack(u64, u64),
    /// It is to get no primary until then, milliseconds since 1970 UTC; 0 takes it back.
    Cordon(u64, u64),
    /// A partition is to be led by another of its copies' nodes.
    MovePrimary {
        /// Which.
        partition: u32,
        /// The node.
        to: u64,
    },
    /// Hold back moves that no lost copy asks for, or let them go on.
    PauseMoves(bool),
    /// Agreed numbers that are to change; absent ones stay.
    Settings(AgreedSettings),
    /// Coordinators to be taken in, by name and address between nodes.
    AddCoordinators(Vec<(String, String)>),
    /// Coordinators that leave, by name.
    RemoveCoordinators(Vec<String>),
}

/// Agreed numbers. Absent ones stay as they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AgreedSettings {
    /// RF.
    pub replication_factor: Option<u32>,
    /// W.
    pub write_quorum: Option<u32>,
    /// How far W may be lowered.
    pub min_in_sync: Option<u32>,
    /// How long a grant lasts, ms.
    pub lease_ms: Option<u64>,
    /// How long a node may be silent, ms.
    pub node_timeout_ms: Option<u64>,
    /// How long a node may stay away, ms.
    pub replace_after_ms: Option<u64>,
    /// Copies made at a time on a node.
    pub moves_per_node: Option<u32>,
    /// Sequenced writes that a partition remembers.
    pub idempotence_window: Option<u32>,
    /// Which keys may become striped counters.
    pub counters: Option<String>,
}

/// Something under way, or in the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// What kind.
    pub topic: Topic,
    /// The node that it is about, by its pod's name.
    pub node: Option<String>,
    /// A sentence.
    pub text: String,
}

/// What a note is about, the one first that a person should hear of first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Topic {
    /// Something that a person must decide or mend.
    Stuck,
    /// A node that is lost, or is being replaced.
    Lost,
    /// Nodes that come up for the first time.
    Creating,
    /// Data nodes that join or leave.
    Scaling,
    /// The coordinators' group.
    Group,
    /// Agreed numbers.
    Settings,
    /// Volumes that grow.
    Volumes,
    /// A node that is restarted, or hands over before its Kubernetes node goes.
    Restart,
    /// Certificates or users that nodes are to take up.
    Secrets,
    /// Addresses for clients outside.
    Outside,
    /// A drain that a person asked for.
    Maintenance,
    /// The manifest asks that nothing be done.
    Paused,
}

impl Plan {
    /// Says something about a node.
    fn note(&mut self, topic: Topic, node: &str, text: &str) {
        self.notes.push(Note {
            topic,
            node: Some(node.to_owned()),
            text: text.to_owned(),
        });
    }

    /// Says something about the cluster.
    fn note_of_all(&mut self, topic: Topic, text: &str) {
        self.notes.push(Note {
            topic,
            node: None,
            text: text.to_owned(),
        });
    }
}

/// Decides what is to be done.
#[must_use]
pub fn plan(cluster: &Cluster, observed: &Observed) -> Plan {
    let view = View {
        cluster,
        seen: observed,
    };
    let as_they_are = |role| {
        let set = observed.sets.get(&role);
        set.map_or_else(|| scale::replicas(view, role), |set| set.replicas)
    };
    let mut plan = Plan {
        replicas: replicas(as_they_are),
        places: places::of(view),
        ..Plan::default()
    };
    // Owner references delete what there is, and the StatefulSets' own policy the claims.
    if cluster.deleting {
        return plan;
    }
    if cluster.spec.maintenance.paused {
        let text = "Nothing is changed while maintenance.paused is set.";
        plan.note_of_all(Topic::Paused, text);
        return plan;
    }
    plan.replicas = replicas(|role| scale::replicas(view, role));
    plan.outside = outside::services(view, plan.replicas.data);
    outside::tell_who_has_none(view, &mut plan);
    restart::replace_broken(view, &mut plan);
    match view.store() {
        Some(store) => with_the_coordinators(view, store, &mut plan),
        None => without_the_coordinators(view, &mut plan),
    }
    plan.notes.sort_by_key(|note| note.topic);
    plan
}

fn replicas(of: impl Fn(Role) -> u32) -> Replicas {
    Replicas {
        coordinators: of(Role::Coordinator),
        data: of(Role::Data),
    }
}

/// The steps, what cannot be refused first: the first that fails ends the round, and what the
/// coordinators refuse for long must not hold the rest back.
fn with_the_coordinators(view: View<'_>, store: &Store, plan: &mut Plan) {
    let duties = Duties::of(view, store);
    evacuate::expect_back(view, &duties, plan);
    evacuate::cordon(view, &duties, plan);
    evacuate::hand_over(store, &duties, plan);
    claims::unmark(&duties, plan);
    scale::bring_back(&duties, plan);
    claims::renew(view, &duties, plan);
    claims::clear_away(view, &duties, plan);
    settings::pause_moves(view, store, plan);
    scale::retire(&duties, plan);
    lost::give_up_coordinator(view, store, &duties, plan);
    lost::give_up_data(store, &duties, plan);
    settings::agree(view, store, &duties, plan);
    scale::drain(view, store, &duties, plan);
    group::change(view, store, &duties, plan);
    restart::next(view, store, &duties, plan);
    volumes::grow(view, &duties, plan);
    volumes::renew_sets(view, &duties, plan);
    scale::tell_who_comes(view, &duties, plan);
    lost::tell_what_is_unknown(view, &duties, plan);
    claims::tell_what_goes(&duties, plan);
}

/// What there is to say where nothing can be done.
fn without_the_coordinators(view: View<'_>, plan: &mut Plan) {
    match &view.seen.store {
        Ok(_) => {
            let text = "The coordinators wait for the data nodes with which to make the cluster.";
            plan.note_of_all(Topic::Creating, text);
        }
        Err(Silence::NotAsked) => {
            plan.note_of_all(Topic::Creating, "No coordinator runs yet.");
        }
        Err(Silence::NoAnswer(why)) => {
            let text = format!(
                "No leader of the coordinators answers ({why}). Until one does nothing is \
                 removed, drained, deleted or restarted."
            );
            plan.note_of_all(Topic::Group, &text);
        }
        Err(Silence::Refused(why)) => {
            let text = format!("The coordinators refuse the operator: {why}.");
            plan.note_of_all(Topic::Stuck, &text);
        }
    }
    for role in Role::ALL {
        let set = view.seen.sets.get(&role);
        for node in view.nodes(role) {
            if node.ordinal < view.wanted(role) && !node.is_ready() {
                let text = scale::why_it_is_away(node.pod, set);
                plan.note(Topic::Creating, &node.name, &text);
            }
        }
    }
}
