//! Bugs that are put in on purpose, to see that the simulator finds them.
//!
//! Each breaks one rule of `docs/replication.md` at the one place where the code keeps
//! it. That place asks [`is_seeded`], which in every ordinary build is the constant
//! `false`. Only a build with `--cfg seeded_bugs` can be told otherwise, and of that no
//! node and no command can be made: the crates `cairn-node` and `cairn` do not compile
//! with it. A flag of the compiler and not a feature, since cargo turns a feature on for
//! all that is built together.

macro_rules! bugs {
    ($($variant:ident $name:literal, rule $rule:literal: $sentence:literal;)*) => {
        /// A bug that can be put in.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Bug {
            $(#[doc = $sentence] $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The rule of `docs/replication.md` that it breaks.
            #[must_use]
            pub const fn rule(self) -> u8 {
                match self { $(Self::$variant => $rule,)* }
            }

            /// What the code does wrong with it.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

bugs! {
    ReportBeforePromise "report-before-promise", rule 1:
        "A replica reports its head before the epoch that it promised is flushed.";
    AckPastFence "ack-past-fence", rule 1:
        "A fenced replica takes and acknowledges what its old primary had sent before.";
    NameTwoPrimaries "name-two-primaries", rule 1:
        "An epoch that has a primary is given another one.";
    InspectMajority "inspect-majority", rule 2:
        "A majority is inspected, whatever W is, instead of N-W+1.";
    RankByIndex "rank-by-index", rule 2:
        "The replica with the highest index is named, whatever epoch its last entry is of.";
    CountStrangers "count-strangers", rule 2:
        "A replica that is no member of a set is counted in the inspection of that set.";
    SkipBarrier "skip-barrier", rule 3:
        "A new primary serves before its barrier has committed.";
    SkipBarrierAfterRestart "skip-barrier-after-restart", rule 3:
        "A primary that restarted in its epoch serves before a new barrier has committed.";
    CountOlderEpoch "count-older-epoch", rule 3:
        "An entry of an older epoch commits by its copies, before the barrier.";
    CommitPastMatched "commit-past-matched", rule 4:
        "A follower takes the primary's commit index for its own past what it has matched.";
    TruncateByCommit "truncate-by-commit", rule 4:
        "A follower cuts its log to its own commit index when a primary begins to send.";
    MatchByIndex "match-by-index", rule 4:
        "Logs count as the same up to an index that both have, whatever stands there.";
    ApplyUncommitted "apply-uncommitted", rule 4:
        "A follower applies what it is sent before it has committed.";
    ServeAfterLease "serve-after-lease", rule 5:
        "A primary goes on as if its lease never lapsed.";
    CountLeaseFromReceipt "count-lease-from-receipt", rule 5:
        "A lease is counted from when its grant arrived, not from when it was asked for.";
    ForgetGrantsOnRestart "forget-grants-on-restart", rule 5:
        "A process that starts counts as having granted nothing.";
    NameBeforeLeasesEnd "name-before-leases-end", rule 5:
        "A primary is named before the grants of the inspected replicas have run out.";
    ReplicaReadByOwnCommit "replica-read-by-own-commit", rule 6:
        "A replica answers up to its own commit index instead of the primary's.";
    QuorumReadOfTwoEpochs "quorum-read-of-two-epochs", rule 6:
        "Replicas of different epochs are counted together in a quorum read.";
    ExpireWithoutEntry "expire-without-entry", rule 6:
        "A key is gone by the clock of whoever looks, without an entry that deletes it.";
    TellBeforeApplied "tell-before-applied", rule 6:
        "Who keeps a key is told of its change before those who read here see it.";
    VouchPastLease "vouch-past-lease", rule 6:
        "A primary says that what its readers keep is current although its lease has lapsed.";
    CommitPastReadLease "commit-past-read-lease", rule 6:
        "A primary commits what a replica that it granted a lease for reads has not matched.";
    ReadBelowMatched "read-below-matched", rule 6:
        "Under a lease for reads a replica passes over what it does not know to be committed.";
    ForgetReadGrants "forget-read-grants", rule 6:
        "A primary that is inspected does not report the leases for reads that it granted.";
    HandOverPastReadLease "hand-over-past-read-lease", rule 6:
        "A primary gives its grants back while a lease for reads lasts that it granted.";
    AckBeforeFlush "ack-before-flush", rule 7:
        "A replica acknowledges an entry before it is flushed.";
    AckWithoutLease "ack-without-lease", rule 7:
        "Where W is 1, a write is acknowledged although the lease has lapsed.";
    ForgetTableOnPromotion "forget-table-on-promotion", rule 8:
        "A new primary begins with an empty idempotence table.";
    JudgeForgottenAsNew "judge-forgotten-as-new", rule 8:
        "A retry that the table has dropped is taken for a new write.";
    PruneTableEarly "prune-table-early", rule 8:
        "The table drops more rows than it says that it forgot.";
    RecordFirstOfCombined "record-first-of-combined", rule 8:
        "Of several increments that are one entry the name of the first alone is recorded.";
    AckBeforeShrink "ack-before-shrink", rule 10:
        "A primary leaves silent members out before a configuration without them commits.";
    LeaveJointEarly "leave-joint-early", rule 11:
        "A joint configuration is left before its barrier has committed in both sets.";
    CommitInOneSet "commit-in-one-set", rule 11:
        "While joint, an entry commits on W members of the old set alone.";
    LeaseOfOneSet "lease-of-one-set", rule 11:
        "While joint, a lease is held of the old set alone.";
    DeleteBeforeForward "delete-before-forward", rule 11:
        "A replica without a place in the new set is deleted while both are in force.";
    RetireBeforeEmpty "retire-before-empty", rule 11:
        "A node that drains may go while it still holds replicas.";
    TwoMovesAtOnce "two-moves-at-once", rule 11:
        "A replica is made of a partition of which one is being made already.";
    LearnerCountsAfterUndo "learner-counts-after-undo", rule 11:
        "A joint configuration that is left backwards leaves its new members in the set.";
    ChangeWriteQuorumInPlace "change-write-quorum-in-place", rule 11:
        "Another W is in force as soon as it is configured, without a joint configuration.";
    ReaderCountsInW "reader-counts-in-w", rule 7:
        "A copy for reads alone is counted in W.";
    EmptyDiskKeepsIdentity "empty-disk-keeps-identity", rule 12:
        "A node with an empty disk is admitted under the identity that it had before.";
    CorruptReplicaCounts "corrupt-replica-counts", rule 12:
        "A replica that found damage calls itself whole when it is inspected.";
    HeadWithoutSnapshot "head-without-snapshot", rule 13:
        "A log that holds nothing past its snapshot counts as empty.";
    GiveUncommitted "give-uncommitted", rule 13:
        "The source of a snapshot applies all that it holds for it, committed or not.";
    KeepTailUnderSnapshot "keep-tail-under-snapshot", rule 13:
        "A log that does not hold a snapshot's last entry is kept under it on the disk.";
    RenewPastFence "renew-past-fence", rule 16:
        "A fenced replica goes on renewing the old primary's lease.";
    FenceWholeBatch "fence-whole-batch", rule 16:
        "A fence ends the grants on all partitions of a batch, and remembers its own alone.";
    ApplyMarkApart "apply-mark-apart", rule 17:
        "The applied index is written to the store before the data, in a batch of its own.";
    LoseStripe "lose-stripe", rule 20:
        "A counter that is spread over other stripes overlooks the last of the old ones.";
    CountWithoutSeal "count-without-seal", rule 20:
        "A counter is set without its stripes being sealed before.";
    ReclaimBeforeDurable "reclaim-before-durable", rule 17:
        "A segment goes before the store durably holds what it holds.";
}

/// Whether the bug is in this build, now, on this thread.
#[cfg(not(seeded_bugs))]
#[inline(always)]
#[must_use]
pub const fn is_seeded(bug: Bug) -> bool {
    let _ = bug;
    false
}

#[cfg(seeded_bugs)]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static SEEDED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether the bug is in, on this thread.
    #[must_use]
    pub fn is_seeded(bug: Bug) -> bool {
        SEEDED.get() == Some(bug)
    }

    /// Puts a bug in, on this thread, in place of the one that was.
    pub fn seed(bug: Option<Bug>) {
        SEEDED.set(bug);
    }
}

#[cfg(seeded_bugs)]
pub use switch::{is_seeded, seed};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own_and_breaks_a_rule() {
        let names: BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        assert!(Bug::ALL.iter().all(|bug| (1..=20).contains(&bug.rule())));
    }

    #[test]
    #[cfg(not(seeded_bugs))]
    fn an_ordinary_build_has_none_of_them() {
        const ANY: bool = {
            let mut any = false;
            let mut at = 0;
            while at < Bug::ALL.len() {
                any |= is_seeded(Bug::ALL[at]);
                at += 1;
            }
            any
        };
        const { assert!(!ANY) };
    }
}
