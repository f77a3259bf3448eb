//! Chains of moves for what the walk could not place.

use std::collections::VecDeque;

use super::{NodeAt, PartitionAt, Plan};

/// How a search came to a node: by moving a partition's replica there.
#[derive(Clone, Copy, Debug)]
struct Hop {
    from: NodeAt,
    partition: PartitionAt,
}

impl Plan {
    /// Places what is still missing, then empties nodes that still hold too much into
    /// nodes that hold too little, each along the shortest chain of moves.
    pub(super) fn repair(&mut self) {
        for partition in 0..self.holders.len() {
            while self.missing(partition) > 0 {
                let starts: Vec<NodeAt> = (0..self.nodes.len())
                    .filter(|n| self.may_add(partition, *n))
                    .collect();
                let node = match self.chain(&starts, Some(partition)) {
                    Some(chain) => self.follow(&chain).unwrap_or(chain.end),
                    // Zones or odd weights leave no chain: the bound gives way, not
                    // the number of replicas.
                    None => match starts
                        .into_iter()
                        .min_by(|a, b| self.fill(*a).total_cmp(&self.fill(*b)).then(a.cmp(b)))
                    {
                        Some(node) => node,
                        None => break,
                    },
                };
                self.hold(partition, node);
            }
        }
        for node in 0..self.nodes.len() {
            while self.load(node) > self.nodes[node].quota {
                let Some(chain) = self.chain(&[node], None) else {
                    break;
                };
                if self.follow(&chain).is_none() {
                    break;
                }
            }
        }
    }

    /// The shortest chain of moves from one of `starts` to a node with room.
    ///
    /// `taken` is a partition that will be put on the start and so cannot be part of
    /// the chain.
    fn chain(&self, starts: &[NodeAt], taken: Option<PartitionAt>) -> Option<Chain> {
        let mut came: Vec<Option<Option<Hop>>> = vec![None; self.nodes.len()];
        let mut queue = VecDeque::new();
        for &start in starts {
            came[start] = Some(None);
            queue.push_back(start);
        }
        while let Some(node) = queue.pop_front() {
            if self.load(node) < self.nodes[node].quota {
                return Some(Chain::to(node, &came));
            }
            let used = Chain::to(node, &came);
            for &partition in &self.nodes[node].holds {
                let busy = Some(partition) == taken
                    || used.hops.iter().any(|(hop, _)| hop.partition == partition);
                if busy {
                    continue;
                }
                for (next, way) in came.iter_mut().enumerate() {
                    if way.is_none() && self.may_replace(partition, node, next) {
                        *way = Some(Some(Hop {
                            from: node,
                            partition,
                        }));
                        queue.push_back(next);
                    }
                }
            }
        }
        None
    }

    /// Carries out a chain, last move first. Tells the node that has room afterwards;
    /// nothing where the chain has no moves.
    fn follow(&mut self, chain: &Chain) -> Option<NodeAt> {
        let mut freed = None;
        for (hop, to) in chain.hops.iter().rev() {
            self.replace(hop.partition, hop.from, *to);
            freed = Some(hop.from);
        }
        freed
    }
}

#[derive(Debug)]
struct Chain {
    /// First move first, each with where it goes.
    hops: Vec<(Hop, NodeAt)>,
    end: NodeAt,
}

impl Chain {
    fn to(end: NodeAt, came: &[Option<Option<Hop>>]) -> Self {
        let mut hops = Vec::new();
        let mut at = end;
        while let Some(Some(hop)) = came[at] {
            hops.push((hop, at));
            at = hop.from;
        }
        hops.reverse();
        Self { hops, end }
    }
}
