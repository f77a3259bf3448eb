//! Which nodes are to hold the data: who stayed away for too long, who came back, and
//! when the seats are given anew.
//!
//! What keeps this calm (rule 15):
//! - a node counts as away only while it is known to be down, for longer than the grace
//!   without a break, and not while it is expected back; one that flaps never does;
//! - a leader counts from when it took office: it has seen nothing of the time before;
//! - where half of the nodes are down at once, it is more likely that this coordinator or
//!   the network is at fault than that their data is lost: nobody is replaced then;
//! - whoever comes back must stay for a while before it gets anything, and before an
//!   announcement of its absence ends;
//! - nodes that come and go close to each other make one plan.

use std::collections::BTreeSet;

use super::Supervisor;
use super::io::SupervisorEvent;
use crate::cluster::command::{Command, PlacementBasis, SeatChange};
use crate::cluster::rebalance::{self, copies_to};
use crate::cluster::state::Leaving;
use crate::ids::{Micros, NodeId};

impl Supervisor {
    /// Looks at who is away and whether the seats still fit. Called at every sweep.
    pub(super) fn judge_membership(&mut self, now: Micros) {
        if self.state.partitions().is_empty() || self.membership_is_proposed() {
            return;
        }
        self.note_absences(now);
        self.note_announced();
        let marks = self.marks(now);
        if !marks.is_empty() {
            // The plan follows once they are in the state.
            self.queue.extend(marks);
            return;
        }
        self.plan(now);
    }

    fn membership_is_proposed(&self) -> bool {
        self.queue
            .iter()
            .chain(self.in_flight.iter().flat_map(|p| &p.commands))
            .any(|c| {
                matches!(
                    c,
                    Command::ExpectBack { .. }
                        | Command::MarkAway { .. }
                        | Command::MarkBack { .. }
                        | Command::Rebalance { .. }
                        | Command::Reseat { .. }
                )
            })
    }

    /// Keeps track of which draining nodes hold nothing any more: they may go once they
    /// have seen that themselves.
    pub(super) fn note_emptied(&mut self) {
        let state = &self.state;
        let is_empty = |node: NodeId| {
            state.leaving(node) == Some(Leaving::Draining) && state.held_by(node).is_none()
        };
        self.emptied.retain(|node, _| is_empty(*node));
        let emptied: Vec<NodeId> = state
            .members()
            .map(|n| n.id)
            .filter(|node| is_empty(*node))
            .collect();
        for node in emptied {
            self.emptied.entry(node).or_insert(state.version());
        }
    }

    /// Keeps track of who is down, and since when without a break.
    fn note_absences(&mut self, now: Micros) {
        let members: BTreeSet<NodeId> = self.state.members().map(|n| n.id).collect();
        self.down_since.retain(|node, _| members.contains(node));
        for node in members {
            let health = self.views.health(node);
            if health.is_down() {
                self.down_since.entry(node).or_insert(now);
            } else if self.views.is_up(node) {
                self.down_since.remove(&node);
            }
        }
    }

    /// Whether what the node holds is as good as lost: it is gone for good, or stayed away
    /// for longer than the grace.
    pub(super) fn is_lost(&self, node: NodeId) -> bool {
        !self.state.is_member(node)
            || self.state.leaving(node) == Some(Leaving::Away)
            || self.lost.contains(&node)
    }

    /// Who is to be marked as away, or as back.
    fn marks(&mut self, now: Micros) -> Vec<Command> {
        let Some(settings) = self.state.settings() else {
            return Vec::new();
        };
        let grace = Micros::from_millis(settings.replace_after_ms);
        let mut back: Vec<Command> = self.take_back_announcements(now).collect();
        let returned = self
            .state
            .members()
            .filter(|n| self.state.leaving(n.id) == Some(Leaving::Away))
            .filter(|n| self.is_up_for(now, n.id, self.options.back_after))
            .map(|n| Command::MarkBack { node: n.id });
        back.extend(returned);
        let basis = self.state.basis();
        let down: Vec<NodeId> = basis
            .nodes
            .keys()
            .copied()
            .filter(|node| self.views.health(*node).is_down())
            .collect();
        let away_for = |node: &NodeId| self.away_for(now, *node);
        self.lost = self
            .down_since
            .keys()
            .copied()
            .filter(|node| self.views.health(*node).is_down())
            .filter(|node| away_for(node).is_some_and(|long| long >= grace))
            .collect();
        let mut away: Vec<NodeId> = down
            .iter()
            .copied()
            .filter(|node| self.lost.contains(node))
            .collect();
        // As many as may be missing, those first that have been away for longest: the
        // replicas of the rest have nowhere else to go.
        away.sort_by_key(|node| std::cmp::Reverse(self.away_for(now, *node)));
        let spare = basis
            .nodes
            .len()
            .saturating_sub(usize::from(basis.replication_factor));
        away.truncate(spare);
        let held_back = !away.is_empty() && down.len() * 2 >= basis.nodes.len();
        if held_back {
            away.clear();
        }
        if std::mem::replace(&mut self.replacement_held_back, held_back) != held_back && held_back {
            self.event(SupervisorEvent::ReplacementHeldBack {
                down: down.len(),
                nodes: basis.nodes.len(),
            });
        }
        back.into_iter()
            .chain(away.into_iter().map(|node| Command::MarkAway { node }))
            .collect()
    }

    /// For how long a node has been away that nobody expects back any more.
    fn away_for(&self, now: Micros, node: NodeId) -> Option<Micros> {
        let down = now.minus(*self.down_since.get(&node)?);
        match self.state.expected_back(node) {
            None => Some(down),
            Some(until) => {
                let late = self.unix_ms.checked_sub(until)?;
                Some(down.min(Micros::from_millis(late)))
            }
        }
    }

    /// Gives seats anew where other nodes are to hold the data than they were made for.
    fn plan(&mut self, now: Micros) {
        let basis = self.state.basis();
        if self.state.seats_fit(&basis) {
            self.basis_seen = None;
            return;
        }
        let since = match &self.basis_seen {
            Some((seen, since)) if *seen == basis => *since,
            _ => {
                self.basis_seen = Some((basis.clone(), now));
                now
            }
        };
        if now.minus(since) < self.options.plan_after {
            return;
        }
        if self.state.moves_paused() {
            self.repair_seats(&basis);
            return;
        }
        // Too few nodes: whoever is left keeps what it has, and more are waited for.
        let Ok(moves) = rebalance::seat_changes(&self.state) else {
            return;
        };
        let copies = moves
            .iter()
            .filter_map(|change| {
                let record = self.state.partition(change.partition)?;
                Some(copies_to(&self.state, record, &change.seats).len())
            })
            .sum();
        if !moves.is_empty() {
            self.event(SupervisorEvent::Planned {
                partitions: moves.len(),
                copies,
            });
        }
        self.queue.push(Command::Rebalance { basis, moves });
    }

    /// While moves are held back: new seats for those that are lost alone, on nodes that
    /// had their share before.
    fn repair_seats(&mut self, basis: &PlacementBasis) {
        let before = self.state.placed_for();
        let mut known = PlacementBasis {
            replication_factor: basis.replication_factor,
            nodes: basis
                .nodes
                .iter()
                .filter(|(node, _)| before.nodes.contains_key(node))
                .map(|(node, of)| (*node, of.clone()))
                .collect(),
        };
        let lost = |node: &NodeId| self.is_lost(*node);
        if !self.state.all_seats().iter().flatten().any(lost) {
            return;
        }
        if known.nodes.len() < usize::from(known.replication_factor) {
            known.nodes.clone_from(&basis.nodes);
        }
        let Ok(changes) = rebalance::seats_on(&self.state, &known) else {
            return;
        };
        let repairs: Vec<Command> = changes
            .into_iter()
            .filter(|change| change.before.iter().any(lost))
            .map(
                |SeatChange {
                     partition,
                     before,
                     seats,
                 }| Command::Reseat {
                    partition,
                    before,
                    seats,
                },
            )
            .collect();
        self.queue.extend(repairs);
    }
}
