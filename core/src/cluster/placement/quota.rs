//! How many replicas each node is to hold.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::{LOAD_BOUND, Plan};

/// A number of replicas, to be compared with rounding errors in mind.
const EPSILON: f64 = 1e-9;

pub(super) fn ceil(value: f64) -> usize {
    (value - EPSILON).ceil().max(0.0) as usize
}

pub(super) fn floor(value: f64) -> usize {
    (value + EPSILON).floor().max(0.0) as usize
}

/// Someone who takes a share of something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) weight: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

/// Divides `total` by weight, nobody getting less than their least or more than their
/// most, what one cannot take going to the others by weight again.
pub(super) fn divide(claims: &[Claim], total: f64) -> Vec<f64> {
    let mut shares: Vec<Option<f64>> = vec![None; claims.len()];
    loop {
        let open: Vec<usize> = (0..claims.len()).filter(|i| shares[*i].is_none()).collect();
        let rest = total - shares.iter().flatten().sum::<f64>();
        let weight: f64 = open.iter().map(|i| claims[*i].weight).sum();
        if open.is_empty() || weight <= 0.0 {
            break;
        }
        let wanted: Vec<(usize, f64)> = open
            .iter()
            .map(|i| (*i, rest * claims[*i].weight / weight))
            .collect();
        let bounded = |i: usize, want: f64| want.clamp(claims[i].least, claims[i].most);
        let surplus: f64 = wanted.iter().map(|(i, w)| bounded(*i, *w) - w).sum();
        let before = open.len();
        let mut fixed = 0;
        for (i, want) in &wanted {
            let got = bounded(*i, *want);
            // Bounds of one kind are fixed at a time: those of the other kind may
            // no longer bind once the rest is divided again.
            let binds = if surplus > EPSILON {
                got > *want + EPSILON
            } else if surplus < -EPSILON {
                got < *want - EPSILON
            } else {
                true
            };
            if binds {
                shares[*i] = Some(got);
                fixed += 1;
            }
        }
        if fixed == 0 || fixed == before {
            for (i, want) in wanted {
                shares[i].get_or_insert(bounded(i, want));
            }
            break;
        }
    }
    shares.into_iter().map(Option::unwrap_or_default).collect()
}

/// Orders by a ratio, then by place, so that equal ratios are settled the same way
/// every time.
#[derive(PartialEq)]
struct Ranked(f64, usize);

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Someone who holds something and has a share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) share: f64,
    pub(super) most: usize,
    pub(super) load: usize,
}

/// Whole numbers that add up to `total`: what each holds now, changed as little as
/// the bounds permit, and whoever holds nearly nothing brought up to their share.
pub(super) fn settle(holders: &[Holder], total: usize) -> Vec<usize> {
    let ratio = |i: usize, quota: usize| quota as f64 / holders[i].share.max(EPSILON);
    let mut quotas: Vec<usize> = holders.iter().map(|h| h.load.min(h.most)).collect();
    let mut sum: usize = quotas.iter().sum();

    // Those who hold the most give up what is too much in all.
    let mut fullest: BinaryHeap<Ranked> = (0..holders.len())
        .filter(|i| quotas[*i] > 0)
        .map(|i| Ranked(ratio(i, quotas[i]), i))
        .collect();
    while sum > total
        && let Some(Ranked(_, i)) = fullest.pop()
    {
        quotas[i] -= 1;
        sum -= 1;
        if quotas[i] > 0 {
            fullest.push(Ranked(ratio(i, quotas[i]), i));
        }
    }

    // What is missing goes to those who hold the least.
    let mut emptiest: BinaryHeap<Reverse<Ranked>> = (0..holders.len())
        .filter(|i| quotas[*i] < holders[*i].most)
        .map(|i| Reverse(Ranked(ratio(i, quotas[i] + 1), i)))
        .collect();
    while sum < total
        && let Some(Reverse(Ranked(_, i))) = emptiest.pop()
    {
        quotas[i] += 1;
        sum += 1;
        if quotas[i] < holders[i].most {
            emptiest.push(Reverse(Ranked(ratio(i, quotas[i] + 1), i)));
        }
    }

    // Whoever still has far too little is fed by those who have the most.
    let starving: Vec<usize> = (0..holders.len())
        .filter(|i| quotas[*i] < floor(holders[*i].share * (2.0 - LOAD_BOUND)))
        .collect();
    let mut fullest: BinaryHeap<Ranked> = (0..holders.len())
        .filter(|i| !starving.contains(i) && quotas[*i] > 0)
        .map(|i| Ranked(ratio(i, quotas[i]), i))
        .collect();
    for to in starving {
        while quotas[to] < floor(holders[to].share).min(holders[to].most) {
            let Some(Ranked(fullness, from)) = fullest.pop() else {
                return quotas;
            };
            if fullness <= ratio(to, quotas[to] + 1) {
                return quotas;
            }
            quotas[from] -= 1;
            quotas[to] += 1;
            if quotas[from] > 0 {
                fullest.push(Ranked(ratio(from, quotas[from]), from));
            }
        }
    }
    quotas
}

impl Plan {
    /// Sets every node's share and quota.
    pub(super) fn set_quotas(&mut self) {
        let partitions = self.holders.len();
        let total = partitions * self.replication_factor;
        let zone_claims: Vec<Claim> = self
            .zones
            .iter()
            .map(|zone| Claim {
                weight: zone.nodes.iter().map(|n| self.nodes[*n].weight).sum(),
                least: (zone.least * partitions) as f64,
                most: (zone.most * partitions) as f64,
            })
            .collect();
        let zone_shares = divide(&zone_claims, total as f64);
        let zone_holders: Vec<Holder> = self
            .zones
            .iter()
            .zip(&zone_shares)
            .map(|(zone, share)| Holder {
                share: *share,
                // A zone keeps to its share to one replica, so that the slack of 1.05
                // is all its nodes' own.
                most: ceil(*share),
                load: zone
                    .nodes
                    .iter()
                    .map(|n| self.load(*n))
                    .sum::<usize>()
                    .max(floor(*share)),
            })
            .collect();
        let zone_totals = settle(&zone_holders, total);
        for zone in 0..self.zones.len() {
            let members = self.zones[zone].nodes.clone();
            let claims: Vec<Claim> = members
                .iter()
                .map(|n| Claim {
                    weight: self.nodes[*n].weight,
                    least: 0.0,
                    most: partitions as f64,
                })
                .collect();
            let shares = divide(&claims, zone_shares[zone]);
            let holders: Vec<Holder> = members
                .iter()
                .zip(&shares)
                .map(|(n, share)| Holder {
                    share: *share,
                    most: ceil(share * LOAD_BOUND).min(partitions),
                    load: self.load(*n),
                })
                .collect();
            let quotas = settle(&holders, zone_totals[zone]);
            for ((node, holder), quota) in members.into_iter().zip(holders).zip(quotas) {
                self.nodes[node].share = holder.share;
                self.nodes[node].most = holder.most;
                self.nodes[node].quota = quota;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_cannot_take_goes_to_the_others_by_weight() {
        let claim = |weight, most| Claim {
            weight,
            least: 0.0,
            most,
        };
        assert_eq!(
            divide(
                &[claim(8.0, 10.0), claim(1.0, 100.0), claim(1.0, 100.0)],
                30.0
            ),
            [10.0, 10.0, 10.0]
        );
    }

    #[test]
    fn a_least_is_taken_from_the_others() {
        let claim = |weight, least| Claim {
            weight,
            least,
            most: 100.0,
        };
        assert_eq!(
            divide(&[claim(1.0, 20.0), claim(5.0, 0.0), claim(5.0, 0.0)], 30.0),
            [20.0, 5.0, 5.0]
        );
    }

    #[test]
    fn quotas_change_no_more_than_the_bounds_ask_for() {
        let holder = |load| Holder {
            share: 10.0,
            most: 11,
            load,
        };
        assert_eq!(
            settle(&[holder(11), holder(9), holder(10)], 30),
            [11, 9, 10]
        );
        assert_eq!(
            settle(&[holder(14), holder(13), holder(13), holder(0)], 40),
            [10, 10, 10, 10]
        );
    }
}
