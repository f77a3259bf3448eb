//! How many replicas each node is to hold.
//!
//! All of it is whole-number arithmetic, so that every machine comes to the same.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::{LOAD_BOUND_PERCENT, LOAD_FLOOR_PERCENT, Plan};

/// A number of replicas that need not be whole: a fixed-point number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Share(u64);

impl Share {
    const FRACTION_BITS: u32 = 32;
    /// Dividing cuts off less than this, over any number of nodes and zones that one
    /// share is derived through. Whole numbers are told with it in mind.
    const SLACK: u64 = 1 << 8;

    pub(super) fn whole(replicas: usize) -> Self {
        Self((replicas as u64) << Self::FRACTION_BITS)
    }

    pub(super) fn floor(self) -> usize {
        ((self.0 + Self::SLACK) >> Self::FRACTION_BITS) as usize
    }

    pub(super) fn ceil(self) -> usize {
        let one = 1 << Self::FRACTION_BITS;
        ((self.0.saturating_sub(Self::SLACK) + (one - 1)) >> Self::FRACTION_BITS) as usize
    }

    /// Cuts off what is smaller than the last bit.
    fn times(self, factor: u64, divisor: u64) -> Self {
        let product = u128::from(self.0) * u128::from(factor) / u128::from(divisor.max(1));
        Self(u64::try_from(product).unwrap_or(u64::MAX))
    }

    pub(super) fn percent(self, percent: u64) -> Self {
        self.times(percent, 100)
    }
}

/// How `load` of `share` compares with `other_load` of `other_share`, as ratios.
pub(super) fn compare_fill(
    load: usize,
    share: Share,
    other_load: usize,
    other_share: Share,
) -> Ordering {
    let left = load as u128 * u128::from(other_share.0.max(1));
    let right = other_load as u128 * u128::from(share.0.max(1));
    left.cmp(&right)
}

/// Someone who takes a share of something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) weight: u64,
    pub(super) least: Share,
    pub(super) most: Share,
}

/// Divides `total` by weight, nobody getting less than their least or more than their
/// most, what one cannot take going to the others by weight again.
pub(super) fn divide(claims: &[Claim], total: Share) -> Vec<Share> {
    let mut shares: Vec<Option<Share>> = vec![None; claims.len()];
    loop {
        let open: Vec<usize> = (0..claims.len()).filter(|i| shares[*i].is_none()).collect();
        let taken: u64 = shares.iter().flatten().map(|s| s.0).sum();
        let rest = Share(total.0.saturating_sub(taken));
        let weight: u64 = open.iter().map(|i| claims[*i].weight).sum();
        if open.is_empty() || weight == 0 {
            break;
        }
        let wanted: Vec<(usize, Share, Share)> = open
            .iter()
            .map(|&i| {
                let want = rest.times(claims[i].weight, weight);
                // Not `clamp`, which panics where a rounding crosses the two.
                (i, want, want.max(claims[i].least).min(claims[i].most))
            })
            .collect();
        let above: u64 = wanted.iter().map(|(_, w, g)| g.0.saturating_sub(w.0)).sum();
        let below: u64 = wanted.iter().map(|(_, w, g)| w.0.saturating_sub(g.0)).sum();
        // Bounds of one kind are fixed at a time: those of the other kind may no
        // longer bind once the rest is divided again.
        let binds = |want: Share, got: Share| match above.cmp(&below) {
            Ordering::Greater => got > want,
            Ordering::Less => got < want,
            Ordering::Equal => true,
        };
        for (i, want, got) in wanted {
            if binds(want, got) {
                shares[i] = Some(got);
            }
        }
    }
    shares.into_iter().map(Option::unwrap_or_default).collect()
}

/// Orders by a load's ratio to its share, then by place, so that equal ratios are
/// settled the same way every time.
#[derive(PartialEq, Eq)]
struct Ranked {
    load: usize,
    share: Share,
    at: usize,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_fill(self.load, self.share, other.load, other.share).then(self.at.cmp(&other.at))
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
    pub(super) share: Share,
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) load: usize,
}

/// Whole numbers that add up to `total`: what each holds now, changed as little as
/// the bounds permit, and whoever holds less than their least brought up to it.
pub(super) fn settle(holders: &[Holder], total: usize) -> Vec<usize> {
    let ranked = |at: usize, load: usize| Ranked {
        load,
        share: holders[at].share,
        at,
    };
    let mut quotas: Vec<usize> = holders.iter().map(|h| h.load.min(h.most)).collect();
    let mut sum: usize = quotas.iter().sum();

    // Those who hold the most give up what is too much in all.
    let mut fullest: BinaryHeap<Ranked> = (0..holders.len())
        .filter(|i| quotas[*i] > 0)
        .map(|i| ranked(i, quotas[i]))
        .collect();
    while sum > total
        && let Some(Ranked { at, .. }) = fullest.pop()
    {
        quotas[at] -= 1;
        sum -= 1;
        if quotas[at] > 0 {
            fullest.push(ranked(at, quotas[at]));
        }
    }

    // What is missing goes to those who hold the least.
    let mut emptiest: BinaryHeap<Reverse<Ranked>> = (0..holders.len())
        .filter(|i| quotas[*i] < holders[*i].most)
        .map(|i| Reverse(ranked(i, quotas[i] + 1)))
        .collect();
    while sum < total
        && let Some(Reverse(Ranked { at, .. })) = emptiest.pop()
    {
        quotas[at] += 1;
        sum += 1;
        if quotas[at] < holders[at].most {
            emptiest.push(Reverse(ranked(at, quotas[at] + 1)));
        }
    }

    // Whoever still has too little is fed by those who have the most.
    let starving: Vec<usize> = (0..holders.len())
        .filter(|i| quotas[*i] < holders[*i].least)
        .collect();
    let mut fullest: BinaryHeap<Ranked> = (0..holders.len())
        .filter(|i| quotas[*i] > holders[*i].least)
        .map(|i| ranked(i, quotas[i]))
        .collect();
    for to in starving {
        while quotas[to] < holders[to].least {
            let Some(Ranked { at: from, .. }) = fullest.pop() else {
                return quotas;
            };
            quotas[from] -= 1;
            quotas[to] += 1;
            if quotas[from] > holders[from].least {
                fullest.push(ranked(from, quotas[from]));
            }
        }
    }
    quotas
}

impl Plan {
    /// Sets every node's share, bounds and quota. `first` says that there is no
    /// placement before, so that nothing speaks against the tightest bounds.
    ///
    /// Replicas in proportion to the shares keep to what zones and partitions permit.
    /// So there is a placement of whole replicas too that gives every node its share
    /// rounded up or down (flows through whole capacities come in whole numbers), and
    /// all that [`Plan::repair`] is asked for exists.
    pub(super) fn set_quotas(&mut self, first: bool) {
        let partitions = self.holders.len();
        let total = partitions * self.replication_factor;
        let zone_claims: Vec<Claim> = self
            .zones
            .iter()
            .map(|zone| Claim {
                weight: zone.nodes.iter().map(|n| self.nodes[*n].weight).sum(),
                least: Share::whole(zone.least * partitions),
                most: Share::whole(zone.most * partitions),
            })
            .collect();
        let zone_shares = divide(&zone_claims, Share::whole(total));
        let zone_holders: Vec<Holder> = self
            .zones
            .iter()
            .zip(&zone_shares)
            .map(|(zone, share)| Holder {
                share: *share,
                least: share.floor(),
                // A zone keeps to its share to one replica, so that the slack of 1.05
                // is all its nodes' own.
                most: share.ceil(),
                load: zone
                    .nodes
                    .iter()
                    .map(|n| self.load(*n))
                    .sum::<usize>()
                    .max(share.floor()),
            })
            .collect();
        let zone_totals = settle(&zone_holders, total);
        for zone in 0..self.zones.len() {
            let members = self.zones[zone].nodes.clone();
            let claims: Vec<Claim> = members
                .iter()
                .map(|n| Claim {
                    weight: self.nodes[*n].weight,
                    least: Share::default(),
                    most: Share::whole(partitions),
                })
                .collect();
            let shares = divide(&claims, zone_shares[zone]);
            let holders: Vec<Holder> = members
                .iter()
                .zip(&shares)
                .map(|(n, share)| {
                    let (least, most) = if first {
                        (share.floor(), share.ceil())
                    } else if self.nodes[*n].is_new {
                        (share.floor(), share.percent(LOAD_BOUND_PERCENT).ceil())
                    } else {
                        // A node that holds nothing counts as new the next time. So one
                        // whose share is a replica or more never ends with none: placing
                        // again with nothing changed would feed it then.
                        (
                            (share.percent(LOAD_FLOOR_PERCENT).floor()).max(share.floor().min(1)),
                            share.percent(LOAD_BOUND_PERCENT).ceil(),
                        )
                    };
                    Holder {
                        share: *share,
                        least,
                        most: most.min(partitions),
                        load: self.load(*n),
                    }
                })
                .collect();
            let quotas = settle(&holders, zone_totals[zone]);
            for ((node, holder), quota) in members.into_iter().zip(holders).zip(quotas) {
                self.nodes[node].share = holder.share;
                self.nodes[node].least = holder.least;
                self.nodes[node].most = holder.most;
                self.nodes[node].quota = quota;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(replicas: &[usize]) -> Vec<Share> {
        replicas.iter().map(|r| Share::whole(*r)).collect()
    }

    #[test]
    fn what_one_cannot_take_goes_to_the_others_by_weight() {
        let claim = |weight, most| Claim {
            weight,
            least: Share::default(),
            most: Share::whole(most),
        };
        assert_eq!(
            divide(
                &[claim(8, 10), claim(1, 100), claim(1, 100)],
                Share::whole(30)
            ),
            shares(&[10, 10, 10])
        );
    }

    #[test]
    fn a_least_is_taken_from_the_others() {
        let claim = |weight, least| Claim {
            weight,
            least: Share::whole(least),
            most: Share::whole(100),
        };
        assert_eq!(
            divide(&[claim(1, 20), claim(5, 0), claim(5, 0)], Share::whole(30)),
            shares(&[20, 5, 5])
        );
    }

    #[test]
    fn a_share_that_is_whole_but_for_what_dividing_cut_off_counts_as_whole() {
        let third = Share::whole(10).times(1, 3);
        let whole = third.times(3, 1);
        assert!(whole < Share::whole(10));
        assert_eq!((whole.floor(), whole.ceil()), (10, 10));
        assert_eq!((third.floor(), third.ceil()), (3, 4));
        assert_eq!(Share::whole(20).percent(105).ceil(), 21);
    }

    #[test]
    fn quotas_change_no_more_than_the_bounds_ask_for() {
        let holder = |load| Holder {
            share: Share::whole(10),
            least: 9,
            most: 11,
            load,
        };
        assert_eq!(
            settle(&[holder(11), holder(9), holder(10)], 30),
            [11, 9, 10]
        );
        assert_eq!(
            settle(&[holder(14), holder(13), holder(13), holder(0)], 40),
            [11, 10, 10, 9]
        );
    }
}
