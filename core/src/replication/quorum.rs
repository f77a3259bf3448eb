//! Counting over the sets in force: one, or two while joint.

use crate::ids::Position;
use crate::record::{Configuration, Member, ReplicaSet};
use crate::seeded::{Bug, is_seeded};

/// The greatest value that `quorum` members of the set have reached, where
/// `value` gives what a member has reached.
fn reached<T: Copy + Ord + Default>(
    set: &ReplicaSet,
    quorum: usize,
    value: &impl Fn(&Member) -> T,
) -> T {
    // A set has at most seven members (RF 1 to 7): an insertion into a small
    // array beats a heap.
    let mut values = [T::default(); 16];
    let count = set.len().min(values.len());
    for (slot, member) in values.iter_mut().zip(&set.members) {
        *slot = value(member);
    }
    let values = &mut values[..count];
    values.sort_unstable_by(|a, b| b.cmp(a));
    if quorum == 0 || quorum > count {
        T::default()
    } else {
        values[quorum - 1]
    }
}

/// The sets in which a quorum counts: all that are in force, or, with that bug in, the
/// old one alone.
fn sets_but_for(config: &Configuration, bug: Bug) -> impl Iterator<Item = &ReplicaSet> {
    let sets = if is_seeded(bug) { 1 } else { 2 };
    config.sets().take(sets)
}

/// What W members of each set have reached (commit index).
pub(super) fn written<T: Copy + Ord + Default>(
    config: &Configuration,
    value: impl Fn(&Member) -> T,
) -> T {
    sets_but_for(config, Bug::CommitInOneSet)
        .map(|set| {
            if is_seeded(Bug::ReaderCountsInW) {
                let mut counted = set.clone();
                counted.members.extend(&config.readers);
                return reached(&counted, set.write_quorum(), &value);
            }
            reached(set, set.write_quorum(), &value)
        })
        .min()
        .unwrap_or_default()
}

/// What the lease's quorum of each set has reached (rule 5).
pub(super) fn leased<T: Copy + Ord + Default>(
    config: &Configuration,
    value: impl Fn(&Member) -> T,
) -> T {
    sets_but_for(config, Bug::LeaseOfOneSet)
        .map(|set| reached(set, set.lease_quorum(), &value))
        .min()
        .unwrap_or_default()
}

/// Whether N-W+1 members of each set, a majority where W is 1, satisfy the
/// predicate (rule 14).
pub(super) fn confirmed(config: &Configuration, is: impl Fn(&Member) -> bool) -> bool {
    config.sets().all(|set| {
        let needed = if set.write_quorum() == 1 {
            set.len() / 2 + 1
        } else {
            set.inspection_quorum()
        };
        set.members.iter().filter(|m| is(m)).count() >= needed
    })
}

/// Whether W members of each set satisfy the predicate.
pub(super) fn can_write(config: &Configuration, is: impl Fn(&Member) -> bool) -> bool {
    config
        .sets()
        .all(|set| set.members.iter().filter(|m| is(m)).count() >= set.write_quorum())
}

/// R of a set: N-W+1, or more where more is asked for.
fn read_quorum(set: &ReplicaSet, at_least: usize) -> usize {
    set.inspection_quorum().max(at_least.min(set.len()))
}

/// Whether one member's word would be a read quorum of some set. Where W is N, another
/// epoch may have dropped members without their hearing of it, down to the primary alone
/// (rule 10), so that only the primary may answer, however many are asked.
pub(super) fn reads_alone(config: &Configuration) -> bool {
    config.sets().any(|set| set.inspection_quorum() <= 1)
}

/// The least position that R members of each set do not exceed (rule 6): whatever W of a
/// set hold is at or below it. `head` gives a member's head, where it answered; nothing
/// where too few did.
pub(super) fn inspected(
    config: &Configuration,
    at_least: usize,
    head: impl Fn(&Member) -> Option<Position>,
) -> Option<Position> {
    let of_set = |set: &ReplicaSet| {
        let mut heads: Vec<Position> = set.members.iter().filter_map(&head).collect();
        heads.sort_unstable();
        heads.get(read_quorum(set, at_least) - 1).copied()
    };
    let bounds: Option<Vec<Position>> = config.sets().map(of_set).collect();
    bounds?.into_iter().max()
}

/// The greatest value that every member of each set has reached.
pub(super) fn everyone<T: Copy + Ord + Default>(
    config: &Configuration,
    value: impl Fn(&Member) -> T,
) -> T {
    config
        .sets()
        .map(|set| reached(set, set.len(), &value))
        .min()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Index, NodeId, ReplicaId};

    fn set(ids: &[u64], write_quorum: u8) -> ReplicaSet {
        let members = ids
            .iter()
            .map(|&id| Member {
                node: NodeId(id),
                replica: ReplicaId(id),
            })
            .collect();
        ReplicaSet {
            members,
            write_quorum,
        }
    }

    #[test]
    fn a_joint_configuration_commits_what_both_sets_have() {
        let config = Configuration {
            current: set(&[1, 2, 3], 2),
            joint: Some(set(&[3, 4, 5], 2)),
            learners: Vec::new(),
            readers: Vec::new(),
        };
        let matched = |m: &Member| [0u64, 9, 8, 7, 3, 1][m.replica.0 as usize];
        assert_eq!(written(&config, matched), 3);
    }

    #[test]
    fn with_w_one_a_lease_takes_a_majority() {
        let config = Configuration {
            current: set(&[1, 2], 1),
            joint: None,
            learners: Vec::new(),
            readers: Vec::new(),
        };
        let until = |m: &Member| [0u64, 50, 20][m.replica.0 as usize];
        assert_eq!(leased(&config, until), 20);
        assert_eq!(written(&config, until), 50);
    }

    fn at(epoch: u64, index: u64) -> Position {
        Position {
            epoch: Epoch(epoch),
            index: Index(index),
        }
    }

    #[test]
    fn a_read_quorum_bounds_what_any_write_quorum_holds_by_its_lowest_members() {
        let plain = |ids: &[u64], w| Configuration {
            current: set(ids, w),
            joint: None,
            learners: Vec::new(),
            readers: Vec::new(),
        };
        let heads = [None, Some(at(2, 9)), Some(at(2, 7)), Some(at(1, 8))];
        let head = |m: &Member| heads.get(m.replica.0 as usize).copied().flatten();
        // Two of three do: the third, which is ahead, has it from nobody who counts.
        assert_eq!(inspected(&plain(&[1, 2, 3], 2), 0, head), Some(at(2, 7)));
        // More may be asked for, and W of one takes all.
        assert_eq!(inspected(&plain(&[1, 2, 3], 2), 3, head), Some(at(2, 9)));
        assert_eq!(inspected(&plain(&[1, 2, 3], 1), 0, head), Some(at(2, 9)));
        assert_eq!(inspected(&plain(&[1, 2, 3, 4], 1), 0, head), None);
        let joint = Configuration {
            joint: Some(set(&[1, 4, 5], 2)),
            ..plain(&[1, 2, 3], 2)
        };
        assert_eq!(inspected(&joint, 0, head), None, "too few of the new set");
        assert!(reads_alone(&plain(&[1, 2], 2)));
        assert!(!reads_alone(&plain(&[1, 2], 1)));
        assert!(!reads_alone(&joint));
    }
}
