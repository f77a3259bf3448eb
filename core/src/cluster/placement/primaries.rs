//! Which of a partition's nodes is its preferred primary: the first on its walk that
//! does not lead its share yet.

use std::collections::VecDeque;

use super::{Node, NodeAt, PartitionAt, Plan};
use crate::ids::NodeId;

struct Leaders<'a> {
    plan: &'a Plan,
    first: Vec<Option<NodeAt>>,
    /// By node, the partitions that it leads.
    leads: Vec<Vec<PartitionAt>>,
    most: Vec<usize>,
    least: Vec<usize>,
}

impl Plan {
    /// The preferred primary of every partition. Changing one copies no data, so it
    /// is kept as even as the holders permit.
    pub(super) fn choose_primaries(&self, previous: &[Vec<NodeId>]) -> Vec<NodeAt> {
        let weights: u64 = self.nodes.iter().map(|n| n.weight).sum();
        let wanted = |n: &Node| self.holders.len() as u64 * n.weight;
        let mut leaders = Leaders {
            plan: self,
            first: vec![None; self.holders.len()],
            leads: vec![Vec::new(); self.nodes.len()],
            most: (self
                .nodes
                .iter()
                .map(|n| wanted(n).div_ceil(weights) as usize))
            .collect(),
            least: (self.nodes.iter().map(|n| (wanted(n) / weights) as usize)).collect(),
        };
        leaders.keep(previous);
        leaders.choose();
        leaders.feed();
        leaders
            .first
            .iter()
            .enumerate()
            .map(|(p, first)| first.unwrap_or(self.holders[p][0]))
            .collect()
    }
}

impl Leaders<'_> {
    fn lead(&mut self, partition: PartitionAt, node: NodeAt) {
        if let Some(old) = self.first[partition].replace(node) {
            self.leads[old].retain(|p| *p != partition);
        }
        self.leads[node].push(partition);
    }

    fn has_room(&self, node: NodeAt) -> bool {
        self.leads[node].len() < self.most[node]
    }

    fn keep(&mut self, previous: &[Vec<NodeId>]) {
        for partition in 0..self.first.len() {
            let before = previous
                .get(partition)
                .and_then(|seats| seats.first())
                .and_then(|id| self.plan.at.get(id))
                .copied()
                .filter(|node| self.plan.holders[partition].contains(node));
            if let Some(node) = before
                && self.has_room(node)
            {
                self.lead(partition, node);
            }
        }
    }

    fn choose(&mut self) {
        for partition in 0..self.first.len() {
            if self.first[partition].is_some() {
                continue;
            }
            let mut walk = self.plan.holders[partition].clone();
            walk.sort_by_key(|n| (self.plan.distance(partition, *n), *n));
            loop {
                if let Some(&node) = walk.iter().find(|n| self.has_room(**n)) {
                    self.lead(partition, node);
                    break;
                }
                if !self.make_room(&walk) {
                    // Who holds what permits no evener division: everyone reachable
                    // from here leads their most already.
                    let weight = |n: NodeAt| self.plan.nodes[n].weight;
                    let least = walk.iter().copied().min_by(|a, b| {
                        let left = self.most[*a] as u64 * weight(*b);
                        left.cmp(&(self.most[*b] as u64 * weight(*a)))
                    });
                    let Some(least) = least else { break };
                    self.most[least] += 1;
                }
            }
        }
    }

    /// Passes leads along the shortest chain until one of `starts` has room.
    fn make_room(&mut self, starts: &[NodeAt]) -> bool {
        let mut came: Vec<Option<Option<(NodeAt, PartitionAt)>>> =
            vec![None; self.plan.nodes.len()];
        let mut queue: VecDeque<NodeAt> = starts.iter().copied().collect();
        for &start in starts {
            came[start] = Some(None);
        }
        while let Some(node) = queue.pop_front() {
            if self.has_room(node) {
                let mut at = node;
                while let Some(Some((from, partition))) = came[at] {
                    self.lead(partition, at);
                    at = from;
                }
                return true;
            }
            for &partition in &self.leads[node] {
                for &next in &self.plan.holders[partition] {
                    if came[next].is_none() {
                        came[next] = Some(Some((node, partition)));
                        queue.push_back(next);
                    }
                }
            }
        }
        false
    }

    /// Lets nodes that lead too little take over from nodes that can spare it.
    fn feed(&mut self) {
        for node in 0..self.plan.nodes.len() {
            while self.leads[node].len() < self.least[node] {
                if !self.take_one(node) {
                    break;
                }
            }
        }
    }

    fn take_one(&mut self, to: NodeAt) -> bool {
        // Backwards: who gives a lead to whom, until someone can spare one.
        let mut gives: Vec<Option<Option<(NodeAt, PartitionAt)>>> =
            vec![None; self.plan.nodes.len()];
        gives[to] = Some(None);
        let mut queue = VecDeque::from([to]);
        while let Some(node) = queue.pop_front() {
            if node != to && self.leads[node].len() > self.least[node] {
                let mut at = node;
                while let Some(Some((taker, partition))) = gives[at] {
                    self.lead(partition, taker);
                    at = taker;
                }
                return true;
            }
            for &partition in &self.plan.nodes[node].holds {
                if let Some(leader) = self.first[partition]
                    && gives[leader].is_none()
                {
                    gives[leader] = Some(Some((node, partition)));
                    queue.push_back(leader);
                }
            }
        }
        false
    }
}
