//! What is to become of each node: the one place where the reasons to disturb a node meet.
//!
//! A node has one duty at a time, the first of the list that applies, so that no two of them
//! ever work on it together:
//!
//! | duty | applies where | what is done | hinders restarts |
//! | --- | --- | --- | --- |
//! | `GiveUp` | its volume is lost, and its process with it | given up, made anew | yes |
//! | `Renew` | it was given up or retired, and is asked for | its claim and its pod go | yes |
//! | `Leave` | fewer are asked for | emptied, retired, removed | yes |
//! | `Past` | fewer are asked for, and it is nobody any more | its claim goes, by policy | no |
//! | `Empty` | a person names it, and it is not empty | emptied | yes |
//! | `Emptied` | a person names it, and it is empty | may be restarted | no |
//! | `Return` | it is asked for again | takes part again | yes |
//! | `Come` | it is not there, not ready, or nobody yet | waited for | yes |
//! | `HandOver` | its Kubernetes node is to go, and it leads | hands its primaries over | yes |
//! | `Parked` | it might not come back from a restart | nothing | no |
//! | `Steady` | nothing of all that | may be restarted | no |
//!
//! A restart is thus what happens to one node while none of the others is hindered, and
//! while every partition is whole; see [`super::restart`].

use crate::names::Role;
use crate::store::{Health, Store};

use super::view::{HostFate, Node, View};

/// What is to become of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Duty {
    /// Its volume is lost.
    GiveUp(HostFate),
    /// It comes back on an empty volume.
    Renew,
    /// It is to give up what it holds, and to be removed.
    Leave,
    /// It is nobody any more, and not asked for.
    Past,
    /// It is to give up what it holds, and to stay.
    Empty,
    /// It stays empty.
    Emptied,
    /// It is to take part again.
    Return,
    /// It is waited for.
    Come,
    /// It is to hand its primaries over.
    HandOver,
    /// It would not come back from a restart.
    Parked,
    /// It does what it is there for.
    Steady,
}

impl Duty {
    /// Whether nobody else may be restarted meanwhile.
    pub(super) fn hinders_restarts(self) -> bool {
        match self {
            Self::GiveUp(_)
            | Self::Renew
            | Self::Leave
            | Self::Empty
            | Self::Return
            | Self::Come
            | Self::HandOver => true,
            Self::Past | Self::Emptied | Self::Parked | Self::Steady => false,
        }
    }

    /// Whether the node itself may be restarted.
    pub(super) fn may_restart(self) -> bool {
        matches!(self, Self::Emptied | Self::Steady)
    }
}

/// The duties of every node.
#[derive(Debug)]
pub(super) struct Duties<'a> {
    nodes: Vec<(Node<'a>, Duty)>,
}

impl<'a> Duties<'a> {
    /// Works them out.
    pub(super) fn of(view: View<'a>, store: &Store) -> Self {
        let roles = Role::ALL.into_iter();
        let nodes = roles.flat_map(|role| view.nodes(role)).map(|node| {
            let duty = match node.role {
                Role::Coordinator => of_coordinator(view, &node),
                Role::Data => of_data(view, store, &node),
            };
            (node, duty)
        });
        Self {
            nodes: nodes.collect(),
        }
    }

    /// The nodes of the role, by number.
    pub(super) fn all(&self, role: Role) -> impl DoubleEndedIterator<Item = (&Node<'a>, Duty)> {
        let nodes = self.nodes.iter().filter(move |(node, _)| node.role == role);
        nodes.map(|(node, duty)| (node, *duty))
    }

    /// The nodes of the role with that duty, by number.
    pub(super) fn with(
        &self,
        role: Role,
        duty: Duty,
    ) -> impl DoubleEndedIterator<Item = &Node<'a>> {
        let nodes = self.all(role).filter(move |(_, theirs)| *theirs == duty);
        nodes.map(|(node, _)| node)
    }

    /// Both roles.
    pub(super) fn everyone(&self) -> impl Iterator<Item = (&Node<'a>, Duty)> {
        self.nodes.iter().map(|(node, duty)| (node, *duty))
    }
}

fn of_data(view: View<'_>, store: &Store, node: &Node<'_>) -> Duty {
    let is_wanted = node.ordinal < view.wanted(Role::Data);
    let fate = view
        .fate_of_volume(node)
        .filter(|fate| *fate >= HostFate::Overdue);
    let Some(member) = node.member else {
        return match (is_wanted, fate.is_some() || node.is_marked()) {
            (false, _) => Duty::Past,
            (true, true) => Duty::Renew,
            (true, false) => Duty::Come,
        };
    };
    // One that answers has its volume, whatever is said of where it runs. Whoever is away on
    // purpose is waited for, and its Kubernetes node may be off for it, but not gone.
    let now = view.seen.now_unix_ms;
    let is_awaited = member
        .expected_back_unix_ms
        .is_some_and(|until| until > now);
    if let Some(fate) = fate
        && member.health == Health::Down
        && (!is_awaited || fate == HostFate::Gone)
    {
        return Duty::GiveUp(fate);
    }
    if !is_wanted {
        return Duty::Leave;
    }
    let is_named = view.cluster.spec.maintenance.drain.contains(&node.name);
    match (is_named, node.drains()) {
        (true, true) if member.empty && node.is_ready() => return Duty::Emptied,
        (true, _) => return Duty::Empty,
        (false, true) => return Duty::Return,
        (false, false) => {}
    }
    if !node.is_ready() || member.health != Health::Up {
        return Duty::Come;
    }
    let leads = |p: &crate::store::Partition| p.primary.as_ref().map(|s| s.node) == Some(member.id);
    if view.must_yield(node) && store.partitions.iter().any(leads) {
        Duty::HandOver
    } else if view.would_not_return(node) {
        Duty::Parked
    } else {
        Duty::Steady
    }
}

fn of_coordinator(view: View<'_>, node: &Node<'_>) -> Duty {
    if node.ordinal >= view.wanted(Role::Coordinator) {
        return if node.seat.is_some() {
            Duty::Leave
        } else {
            Duty::Past
        };
    }
    let votes = node.seat.is_some_and(|seat| seat.voter);
    let fate = view.fate_of_volume(node);
    match fate.filter(|fate| *fate >= HostFate::Overdue && !node.is_ready()) {
        Some(fate) if votes => return Duty::GiveUp(fate),
        Some(_) => return Duty::Renew,
        None => {}
    }
    if node.seat.is_none() && node.is_marked() {
        Duty::Renew
    } else if !votes || !node.is_ready() {
        Duty::Come
    } else if view.would_not_return(node) {
        Duty::Parked
    } else {
        Duty::Steady
    }
}
