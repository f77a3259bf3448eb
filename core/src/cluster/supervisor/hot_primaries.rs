//! Hot primaries: a node that leads several hot partitions hands one of them over to a replica
//! on a node that has less to do.
//!
//! Only who leads changes, so that nothing is copied. What keeps it calm: one at a time with a
//! rest after each; only where the busier of the two nodes would have clearly less to do than the
//! one has now, and that for a while without a break; and a primary that moved for this stays
//! where it is for as long as its partition is hot, wherever the ring puts it.

use std::collections::BTreeMap;

use super::Supervisor;
use super::readers::Heat;
use crate::ids::{Micros, NodeId, PartitionId};
use crate::record::Member;

/// How much the busier of the two nodes may have to do afterwards, of what the one has now, in
/// percent.
const BETTER_PERCENT: u64 = 80;
/// How long after a handover for this the next one may be ordered.
const REST: Micros = Micros::from_millis(30_000);

/// Who leads too much that is hot, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Crowded {
    node: Option<(NodeId, Micros)>,
    rest_until: Micros,
}

/// A handover that would help.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Relief {
    /// What the busier of the two nodes has to do afterwards.
    busier: u64,
    partition: PartitionId,
    from: NodeId,
    to: Member,
}

impl Supervisor {
    /// Hands one hot partition over, where that helps. Called at every sweep.
    pub(super) fn spread_hot_primaries(&mut self, now: Micros, heat: &Heat) {
        let bound = self.hot_bound(heat);
        self.let_go_home(now, heat, bound);
        let Some(relief) = self.best_relief(now, heat, bound) else {
            self.crowded.node = None;
            return;
        };
        match self.crowded.node {
            Some((node, since)) if node == relief.from => {
                let long = now.minus(since) >= self.options.read_copies.hot_for;
                if !long || now < self.crowded.rest_until {
                    return;
                }
            }
            _ => {
                self.crowded.node = Some((relief.from, now));
                return;
            }
        }
        self.crowded = Crowded {
            node: None,
            rest_until: now.plus(REST),
        };
        if let Some(work) = self.works.get_mut(&relief.partition) {
            work.hand_over_asked = Some(Some(relief.to.node));
            work.kept_for_heat = Some(now);
            self.dirty.insert(relief.partition);
        }
    }

    /// Partitions that have cooled may be led again where the ring puts them.
    fn let_go_home(&mut self, now: Micros, heat: &Heat, bound: u64) {
        let cool_for = self.options.read_copies.cool_for;
        for (partition, work) in &mut self.works {
            let Some(since) = &mut work.kept_for_heat else {
                continue;
            };
            if heat.asked(*partition) >= bound / 2 {
                *since = now;
            } else if now.minus(*since) >= cool_for {
                work.kept_for_heat = None;
            }
        }
    }

    fn best_relief(&self, now: Micros, heat: &Heat, bound: u64) -> Option<Relief> {
        let mut led: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
        for partition in heat.partitions.keys() {
            let primary = self.state.partition(*partition).and_then(|r| r.primary);
            if let Some(primary) = primary.filter(|_| heat.asked(*partition) >= bound) {
                led.entry(primary.node).or_default().push(*partition);
            }
        }
        let crowded = led.into_iter().filter(|(_, hot)| hot.len() > 1);
        let reliefs = crowded.flat_map(|(node, hot)| {
            let before = heat.requests(node);
            hot.into_iter().flat_map(move |partition| {
                self.takers(now, partition).filter_map(move |to| {
                    let moves = heat.asked_on(partition, node);
                    let there = heat.requests(to.node).saturating_add(moves);
                    let busier = there.max(before.saturating_sub(moves));
                    let helps = busier <= before.saturating_mul(BETTER_PERCENT) / 100;
                    helps.then_some(Relief {
                        busier,
                        partition,
                        from: node,
                        to,
                    })
                })
            })
        });
        reliefs.min()
    }

    /// Who could lead the partition instead, if it may change now.
    fn takers(&self, now: Micros, partition: PartitionId) -> impl Iterator<Item = Member> {
        let record = self.state.partition(partition);
        let free = |work: &super::Work| work.hand_over.is_none() && work.hand_over_asked.is_none();
        let record = record.filter(|record| {
            let work = self.works.get(&partition);
            self.is_idle(now, record) && work.is_some_and(free)
        });
        let primary = record.and_then(|record| record.primary);
        record
            .zip(primary)
            .into_iter()
            .flat_map(move |(record, primary)| self.successors(record, primary))
            .filter(|m| !self.is_to_go(m.node) && !self.is_announced(m.node))
            .collect::<Vec<_>>()
            .into_iter()
    }
}
