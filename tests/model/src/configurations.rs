//! What is explored, each to its end, and the mistakes that are to be seen in it.

use cairn_core::seeded::Bug;

use crate::Mistake;
use crate::coverage::Seen;
use crate::world::{Joint, Scope};

/// An exploration.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Within which bounds.
    pub scope: Scope,
    /// It takes minutes: `make model` alone explores it.
    pub long: bool,
    /// What must be seen in it.
    pub shows: fn(&Seen) -> u64,
}

/// A mistake, and the bounds within which it shows.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// What is done wrong.
    pub mistake: Mistake,
    /// Where it is looked for.
    pub scope: Scope,
}

const PROMOTION: Scope = Scope {
    epochs: 3,
    promotions: 2,
    writes: 1,
    ..Scope::NONE
};
const RECORDS: Scope = Scope {
    epochs: 2,
    promotions: 1,
    writes: 1,
    records_to_all: true,
    ..Scope::NONE
};
const RESTART: Scope = Scope {
    epochs: 2,
    promotions: 1,
    writes: 1,
    crashes: 1,
    partial_flushes: true,
    ..Scope::NONE
};
const LEASES: Scope = Scope {
    epochs: 2,
    promotions: 1,
    time: 2,
    ..Scope::NONE
};
const JOINT: Scope = Scope {
    epochs: 3,
    writes: 1,
    joint: Some(Joint::Forward),
    ..Scope::NONE
};

/// All of them, the quick ones first.
pub const CONFIGURATIONS: &[Configuration] = &[
    Configuration {
        name: "promotion",
        about: "two promotions and a write: inspection, barrier, truncation",
        scope: PROMOTION,
        long: false,
        shows: |s| s.acknowledged_later.min(s.cut).min(s.deposed_serves),
    },
    Configuration {
        name: "records",
        about: "a promotion of which everyone hears in every possible way",
        scope: RECORDS,
        long: false,
        shows: |s| s.acknowledged_later.min(s.cut).min(s.deposed_serves),
    },
    Configuration {
        name: "repeats",
        about: "a promotion, one message that comes twice, one connection made anew",
        scope: Scope {
            repeats: 1,
            reconnects: 1,
            ..ONE_PROMOTION
        },
        long: false,
        shows: |s| s.acknowledged_later.min(s.cut),
    },
    Configuration {
        name: "restart",
        about: "a promotion, and a process that loses what it has not flushed",
        scope: RESTART,
        long: false,
        shows: |s| s.acknowledged_later.min(s.cut).min(s.resumed),
    },
    Configuration {
        name: "leases",
        about: "a promotion that waits for a lease",
        scope: LEASES,
        long: false,
        shows: |s| s.leased.min(s.lapsed).min(s.leased_later),
    },
    Configuration {
        name: "hand-over",
        about: "a primary hands over and is not waited for, or is where a step is lost",
        scope: Scope {
            time: 1,
            hand_overs: 1,
            ..LEASES
        },
        long: false,
        shows: |s| s.leased.min(s.leased_later),
    },
    Configuration {
        name: "joint",
        about: "a learner takes a member's place",
        scope: JOINT,
        long: false,
        shows: |s| s.joint_served.min(s.left_forward).min(s.removed),
    },
    Configuration {
        name: "joint-backward",
        about: "joint is left for the old set",
        scope: Scope {
            joint: Some(Joint::Backward),
            ..JOINT
        },
        long: false,
        shows: |s| s.joint_served.min(s.left_backward),
    },
    Configuration {
        name: "promotion-writes",
        about: "two promotions and two writes",
        scope: Scope {
            writes: 2,
            ..PROMOTION
        },
        long: true,
        shows: |s| s.all_acknowledged.min(s.cut).min(s.deposed_serves),
    },
    Configuration {
        name: "leases-write",
        about: "a lease, a write and a promotion",
        scope: LEASED_WRITE,
        long: true,
        shows: |s| s.lapsed.min(s.leased_later).min(s.acknowledged_later),
    },
    Configuration {
        name: "joint-promotion",
        about: "a promotion before, while or after joint",
        scope: Scope {
            promotions: 1,
            ..JOINT
        },
        long: true,
        shows: |s| s.joint_served.min(s.left_forward).min(s.cut),
    },
];

const fn seeded(bug: Bug, scope: Scope) -> Trial {
    Trial {
        mistake: Mistake::Seeded(bug),
        scope,
    }
}

const ONE_PROMOTION: Scope = Scope {
    epochs: 2,
    promotions: 1,
    ..PROMOTION
};
const LEASED_WRITE: Scope = Scope {
    writes: 1,
    ..LEASES
};
const LEASED_RESTART: Scope = Scope {
    crashes: 1,
    ..LEASES
};

/// Mistakes of the coordinators, which any build can make.
pub const OF_COORDINATORS: &[Trial] = &[
    Trial {
        mistake: Mistake::InspectOneFewer,
        scope: ONE_PROMOTION,
    },
    seeded(Bug::RankByIndex, PROMOTION),
    seeded(Bug::NameBeforeLeasesEnd, LEASES),
    seeded(
        Bug::CountStrangers,
        Scope {
            promotions: 1,
            ..JOINT
        },
    ),
    seeded(
        Bug::LeaveJointEarly,
        Scope {
            epochs: 4,
            promotions: 1,
            ..JOINT
        },
    ),
];

/// Mistakes of the core. Others of rule 3 cannot show here: a lease, and a commit by count,
/// come with the answer that commits the barrier too, while all of a log fits in one message.
pub const OF_THE_CORE: &[Trial] = &[
    seeded(Bug::NameTwoPrimaries, ONE_PROMOTION),
    seeded(Bug::ReportBeforePromise, RESTART),
    seeded(Bug::AckPastFence, ONE_PROMOTION),
    seeded(
        Bug::SkipBarrier,
        Scope {
            time: 1,
            ..LEASED_WRITE
        },
    ),
    seeded(Bug::TruncateByCommit, PROMOTION),
    seeded(Bug::MatchByIndex, PROMOTION),
    seeded(Bug::AckBeforeFlush, ONE_PROMOTION),
    seeded(Bug::ServeAfterLease, LEASES),
    seeded(Bug::CountLeaseFromReceipt, LEASES),
    seeded(Bug::ForgetGrantsOnRestart, LEASED_RESTART),
    seeded(Bug::RenewPastFence, LEASES),
    seeded(Bug::CommitInOneSet, JOINT),
];

/// Those that this build can make.
pub fn trials() -> impl Iterator<Item = &'static Trial> {
    let core: &[Trial] = if cfg!(seeded_bugs) { OF_THE_CORE } else { &[] };
    OF_COORDINATORS.iter().chain(core)
}
