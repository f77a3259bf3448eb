//! Counting over the sets in force: one, or two while joint.

use crate::record::{Configuration, Member, ReplicaSet};

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

/// What W members of each set have reached (commit index).
pub(super) fn written<T: Copy + Ord + Default>(
    config: &Configuration,
    value: impl Fn(&Member) -> T,
) -> T {
    config
        .sets()
        .map(|set| reached(set, set.write_quorum(), &value))
        .min()
        .unwrap_or_default()
}

/// What the lease's quorum of each set has reached (rule 5).
pub(super) fn leased<T: Copy + Ord + Default>(
    config: &Configuration,
    value: impl Fn(&Member) -> T,
) -> T {
    config
        .sets()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, ReplicaId};

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
        };
        let until = |m: &Member| [0u64, 50, 20][m.replica.0 as usize];
        assert_eq!(leased(&config, until), 20);
        assert_eq!(written(&config, until), 50);
    }
}
