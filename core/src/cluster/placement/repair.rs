//! What the walk left: bounds that it could not keep, and copies that it could have
//! done without.
//!
//! A placement is a flow: each partition sends RF replicas through its zones to nodes,
//! and the nodes send them on to one drain. What may still change is the flow's
//! residual graph, where a path shifts one replica after another, so that in the end
//! one more is placed, or one node holds one less and another one more. Two facts about
//! flows do the work. Where bounds can be kept at all, there is a path that brings
//! them nearer. And a placement copies the least that its bounds permit exactly when no
//! round trip through the graph saves a copy.
//!
//! [`Plan::set_quotas`] tells why the bounds can be kept.

use std::collections::{BTreeSet, VecDeque};

use super::quota::compare_fill;
use super::{NodeAt, PartitionAt, Plan};

/// A place in the residual graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where every node's replicas drain to.
    Drain,
    Node(NodeAt),
    Partition(PartitionAt),
    /// A partition's replicas in a zone.
    Zone(PartitionAt, usize),
}

/// A step of the graph and the copies that it costs.
type Step = (Place, i64);

impl Plan {
    /// Places what is missing, brings every node within its bounds, and then copies no
    /// more than that takes.
    pub(super) fn repair(&mut self) {
        for partition in 0..self.holders.len() {
            while self.missing(partition) > 0 && self.place_one(partition) {}
        }
        for node in 0..self.nodes.len() {
            while self.load(node) > self.nodes[node].most {
                if !self.shift(&[Place::Node(node)], Place::Drain) {
                    break;
                }
            }
        }
        for node in 0..self.nodes.len() {
            while self.load(node) < self.nodes[node].least {
                if !self.shift(&[Place::Drain], Place::Node(node)) {
                    break;
                }
            }
        }
        if self.before.iter().all(Vec::is_empty) {
            // Each placement copies the same.
            return;
        }
        self.save_copies();
    }

    /// Places one more replica of the partition: on the emptiest node that has room,
    /// else wherever shifting others makes room.
    fn place_one(&mut self, partition: PartitionAt) -> bool {
        let emptiest = |plan: &Self, full: bool| {
            (0..plan.nodes.len())
                .filter(|n| full || plan.load(*n) < plan.nodes[*n].most)
                .filter(|n| plan.may_add(partition, *n))
                .min_by(|a, b| plan.compare_fill(*a, *b).then(a.cmp(b)))
        };
        if let Some(node) = emptiest(self, false) {
            self.hold(partition, node);
            return true;
        }
        let owed: Vec<Place> = (0..self.zones.len())
            .filter(|z| self.in_zone(partition, *z) < self.zones[*z].least)
            .map(|zone| Place::Zone(partition, zone))
            .collect();
        let starts = if owed.is_empty() {
            vec![Place::Partition(partition)]
        } else {
            owed
        };
        if self.shift(&starts, Place::Drain) {
            return true;
        }
        // No bound is such that this is reached. Were it reached all the same, the
        // bound gives way and not the number of replicas.
        let Some(node) = emptiest(self, true) else {
            return false;
        };
        self.hold(partition, node);
        true
    }

    /// How full the one node is, beside the other.
    pub(super) fn compare_fill(&self, one: NodeAt, other: NodeAt) -> std::cmp::Ordering {
        compare_fill(
            self.load(one),
            self.nodes[one].share,
            self.load(other),
            self.nodes[other].share,
        )
    }

    /// Follows a path with the fewest steps, if there is one.
    fn shift(&mut self, starts: &[Place], end: Place) -> bool {
        let mut came: Vec<Option<Place>> = vec![None; self.places()];
        let mut queue = VecDeque::new();
        // How many nodes of each zone were not come to yet.
        let mut left: Vec<usize> = self.zones.iter().map(|zone| zone.nodes.len()).collect();
        for &start in starts {
            came[self.number(start)] = Some(start);
            queue.push_back(start);
            if let Place::Node(node) = start {
                left[self.nodes[node].zone] -= 1;
            }
        }
        let mut steps = Vec::new();
        while let Some(place) = queue.pop_front() {
            if let Place::Zone(partition, zone) = place
                && left[zone] == 0
            {
                // Most of what is looked at, where many partitions are on few nodes.
                steps.clear();
                steps.extend(self.step_to_other_zones(partition, zone));
            } else {
                self.steps_from(place, &mut steps);
            }
            for &(next, _) in &steps {
                let way = &mut came[self.number(next)];
                if way.is_some() {
                    continue;
                }
                *way = Some(place);
                if let Place::Node(node) = next {
                    left[self.nodes[node].zone] -= 1;
                }
                // A node with room is as good as the drain, and the queue may be long.
                let has_room = matches!(next, Place::Node(n) if self.load(n) < self.nodes[n].most);
                if next == end || (end == Place::Drain && has_room) {
                    let path = self.path_to(next, &came);
                    self.follow(&path);
                    return true;
                }
                queue.push_back(next);
            }
        }
        false
    }

    fn path_to(&self, end: Place, came: &[Option<Place>]) -> Vec<Place> {
        let mut path = vec![end];
        let mut at = end;
        while let Some(before) = came[self.number(at)]
            && before != at
        {
            path.push(before);
            at = before;
        }
        path.reverse();
        path
    }

    /// Takes every round trip that saves copies.
    fn save_copies(&mut self) {
        let mut distances: Vec<i64> = vec![0; self.places()];
        let mut came: Vec<Option<Place>> = vec![None; self.places()];
        while let Some(round) = self.saving_round(&mut distances, &mut came) {
            self.follow(&round);
        }
    }

    /// A round trip that saves copies, found as Bellman and Ford do: distances fall
    /// until they stand still, or a place comes to lie on its own way.
    ///
    /// Where a round is found, `distances` and `came` are back in their first state
    /// afterwards: clearing what was touched is far less work than making them anew.
    fn saving_round(
        &self,
        distances: &mut [i64],
        came: &mut [Option<Place>],
    ) -> Option<Vec<Place>> {
        let mut touched = Vec::new();
        let mut queued = BTreeSet::new();
        let mut queue = VecDeque::new();
        // The first step that saves anything gives up a copy that was planned.
        for (node, holds) in self.nodes.iter().map(|n| &n.holds).enumerate() {
            if holds.iter().any(|p| !self.before[*p].contains(&node)) {
                queue.push_back(Place::Node(node));
                queued.insert(self.number(Place::Node(node)));
            }
        }
        let mut steps = Vec::new();
        while let Some(place) = queue.pop_front() {
            let at = self.number(place);
            queued.remove(&at);
            self.steps_from(place, &mut steps);
            for &(next, cost) in &steps {
                let to = self.number(next);
                if distances[at] + cost >= distances[to] {
                    continue;
                }
                if let Some(round) = self.round_through(next, place, came) {
                    for at in touched {
                        distances[at] = 0;
                        came[at] = None;
                    }
                    return Some(round);
                }
                distances[to] = distances[at] + cost;
                if came[to].replace(place).is_none() {
                    touched.push(to);
                }
                if queued.insert(to) {
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// The way from `start` to `end` and back to `start`, if `start` is on the way on
    /// which `end` was come to.
    fn round_through(
        &self,
        start: Place,
        end: Place,
        came: &[Option<Place>],
    ) -> Option<Vec<Place>> {
        let mut round = vec![start, end];
        let mut at = end;
        while at != start {
            at = came[self.number(at)]?;
            round.push(at);
        }
        round.reverse();
        Some(round)
    }

    /// Where a replica can be shifted next.
    fn steps_from(&self, place: Place, steps: &mut Vec<Step>) {
        steps.clear();
        match place {
            Place::Drain => steps.extend(
                (0..self.nodes.len())
                    .filter(|n| self.load(*n) > self.nodes[*n].least)
                    .map(|n| (Place::Node(n), 0)),
            ),
            Place::Node(node) => {
                if self.load(node) < self.nodes[node].most {
                    steps.push((Place::Drain, 0));
                }
                let zone = self.nodes[node].zone;
                steps.extend(self.nodes[node].holds.iter().map(|&p| {
                    let copied = !self.before[p].contains(&node);
                    (Place::Zone(p, zone), -i64::from(copied))
                }));
            }
            Place::Partition(partition) => steps.extend(
                (0..self.zones.len())
                    .filter(|z| self.in_zone(partition, *z) < self.zones[*z].most)
                    .map(|z| (Place::Zone(partition, z), 0)),
            ),
            Place::Zone(partition, zone) => {
                steps.extend(self.step_to_other_zones(partition, zone));
                steps.extend(
                    self.zones[zone]
                        .nodes
                        .iter()
                        .filter(|n| !self.holders[partition].contains(n))
                        .map(|n| {
                            let copied = !self.before[partition].contains(n);
                            (Place::Node(*n), i64::from(copied))
                        }),
                );
            }
        }
    }

    /// The step by which a zone gives a replica of the partition to another one.
    fn step_to_other_zones(&self, partition: PartitionAt, zone: usize) -> Option<Step> {
        let spare = self.in_zone(partition, zone) > self.zones[zone].least;
        spare.then_some((Place::Partition(partition), 0))
    }

    /// Carries out a path: what it gives up first, so that no node ever seems to hold
    /// a partition twice.
    fn follow(&mut self, path: &[Place]) {
        for step in path.windows(2) {
            if let [Place::Node(node), Place::Zone(partition, _)] = *step {
                self.drop_from(partition, node);
            }
        }
        for step in path.windows(2) {
            if let [Place::Zone(partition, _), Place::Node(node)] = *step {
                self.hold(partition, node);
            }
        }
    }

    fn places(&self) -> usize {
        1 + self.nodes.len() + self.holders.len() * (1 + self.zones.len())
    }

    fn number(&self, place: Place) -> usize {
        let nodes = self.nodes.len();
        let partitions = self.holders.len();
        match place {
            Place::Drain => 0,
            Place::Node(node) => 1 + node,
            Place::Partition(partition) => 1 + nodes + partition,
            Place::Zone(partition, zone) => {
                1 + nodes + partitions + partition * self.zones.len() + zone
            }
        }
    }
}
