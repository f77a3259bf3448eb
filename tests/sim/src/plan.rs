//! The faults of a run, all drawn before it begins, each with a number and randomness
//! of its own: without one of them the others stay what they are, so that a failing
//! run can be shrunk.

use std::collections::BTreeSet;

use cairn_core::ids::Micros;
use rand::Rng;
use rand::rngs::StdRng;

/// What goes wrong all the time, as long as there are faults. Their numbers are those
/// below the numbers of the plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Noise {
    /// Messages between nodes are lost.
    Drop = 0,
    /// They are late.
    Delay = 1,
    /// They come twice.
    Duplicate = 2,
    /// Single flushes take long.
    SlowFlush = 3,
    /// Proposals to the coordinators' log are lost, or their outcome is not heard.
    Proposals = 4,
    /// Records and orders of the coordinators do not arrive.
    Unheard = 5,
    /// Requests of clients, or the answers, are lost.
    Requests = 6,
}

/// How many kinds of noise there are.
const NOISES: u32 = 7;

/// What a fault does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A process ends.
    Crash,
    /// A machine loses its power.
    PowerLoss,
    /// A process stands still.
    Pause,
    /// A node is cut off from most others.
    Isolate,
    /// Others do not hear a node, or it does not hear them.
    OneWay,
    /// Some pairs of nodes do not reach each other.
    PartialPartition,
    /// Messages between some pairs are late, all of them.
    SlowLinks,
    /// Every flush of a node takes long.
    SlowDisk,
    /// A flush fails, which ends the process.
    FailedFlush,
    /// A disk is full but for its reserve.
    FullDisk,
    /// A bit of the log flips on the disk.
    FlippedBit,
    /// A disk is lost, and an empty one takes its place.
    Wipe,
    /// A replica is found to be damaged while its node runs.
    FoundDamage,
    /// A node wants to hand over all it leads, and is then started anew.
    Drain,
    /// The cluster is given another lease.
    Lease,
    /// The coordinators' leader is gone, or all of them.
    Coordinators,
    /// Clients reach the primary, and hardly anybody else does, while another is wanted.
    Siege,
    /// The nodes fall into two parts that do not reach each other; the coordinators are
    /// with one of them.
    Halves,
    /// Just enough nodes reach each other to go on, and who they are changes again and
    /// again, so that one set has as little in common with the next as may be.
    Rotation,
    /// Something strikes at the moment when the coordinators decide.
    Ambush,
    /// A replica that many read hears its primary alone, while another primary is wanted.
    Confine,
    /// A node with an empty disk joins the shipped coordinators' cluster, as all that follows
    /// is of theirs alone.
    Join,
    /// A node is to give up all that it holds; it goes once it has.
    GiveUp,
    /// One that is to give up what it holds may keep the rest.
    TakeBack,
    /// A node is said to be gone for good, and is.
    Gone,
    /// A process ends, and nobody starts it for long.
    StayAway,
    /// Moves are held back, or let go on.
    HoldMoves,
    /// The cluster is given another RF and W.
    Factors,
    /// A node is given another weight and zone.
    Rehome,
}

/// Which nodes there are, and what they are to hold.
const CHANGES: [(Kind, u32); 8] = [
    (Kind::Join, 4),
    (Kind::GiveUp, 4),
    (Kind::TakeBack, 2),
    (Kind::Gone, 2),
    (Kind::StayAway, 4),
    (Kind::HoldMoves, 1),
    (Kind::Factors, 4),
    (Kind::Rehome, 1),
];

const KINDS: [(Kind, u32); 20] = [
    (Kind::Crash, 5),
    (Kind::PowerLoss, 5),
    (Kind::Pause, 5),
    (Kind::Isolate, 4),
    (Kind::OneWay, 3),
    (Kind::PartialPartition, 3),
    (Kind::SlowLinks, 2),
    (Kind::SlowDisk, 2),
    (Kind::FailedFlush, 2),
    (Kind::FullDisk, 2),
    (Kind::FlippedBit, 2),
    (Kind::Wipe, 2),
    (Kind::FoundDamage, 1),
    (Kind::Drain, 2),
    (Kind::Lease, 2),
    (Kind::Coordinators, 3),
    (Kind::Siege, 4),
    (Kind::Halves, 4),
    (Kind::Rotation, 3),
    (Kind::Ambush, 4),
];

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its number.
    pub number: u32,
    /// When it strikes.
    pub at: Micros,
    /// What it does.
    pub kind: Kind,
    /// The seed of everything else about it.
    pub seed: u64,
}

/// Which faults are left out of a run.
pub type Mask = BTreeSet<u32>;

/// The partitions of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// How many there are. One as often as not: what needs much of a single one is found
    /// there.
    pub partitions: u32,
    /// Whether stand-ins place all of them alike, so that one node leads several.
    pub alike: bool,
}

/// Draws the partitions of a run.
pub fn layout(rng: &mut StdRng) -> Layout {
    Layout {
        partitions: match rng.random_bool(0.5) {
            true => 1,
            false => rng.random_range(2..=3),
        },
        alike: rng.random_bool(0.5),
    }
}

/// Whether little else goes wrong in a run than that a replica hears its primary alone: what comes
/// of that takes its time, in which nothing else must strike.
pub fn is_calm(seed: u64) -> bool {
    seed % 16 == 9 || seed % 32 == 6
}

/// Every fault of a seed's run between two times.
pub fn draw(seed: u64, rng: &mut StdRng, from: Micros, until: Micros) -> Vec<Fault> {
    if is_calm(seed) {
        let mut at = from;
        let times = std::iter::from_fn(|| {
            at = at.plus(Micros(rng.random_range(600_000..1_200_000)));
            (at < until).then(|| (at, rng.random()))
        });
        let fault = |(number, (at, seed))| Fault {
            number,
            at,
            kind: Kind::Confine,
            seed,
        };
        return (NOISES..).zip(times).map(fault).collect();
    }
    let mut faults = series(rng, &KINDS, 300_000, (from, until));
    let often = [300_000, 1_000_000, 4_000_000][rng.random_range(0..3)];
    faults.extend(series(rng, &CHANGES, often, (from, until)));
    // One at most: nobody writes to the partition meanwhile.
    if rng.random_bool(0.4) {
        let at = Micros(rng.random_range(from.0..until.0));
        let seed = rng.random();
        faults.push(Fault {
            number: 0,
            at,
            kind: Kind::Confine,
            seed,
        });
    }
    for (number, fault) in (NOISES..).zip(&mut faults) {
        fault.number = number;
    }
    faults
}

/// Faults of some kinds, so many microseconds apart at most, yet without their numbers.
fn series(
    rng: &mut StdRng,
    kinds: &[(Kind, u32)],
    apart: u64,
    (from, until): (Micros, Micros),
) -> Vec<Fault> {
    // Some runs have more of one kind than of another, and some have none: what needs
    // several of the same in a row is found in those.
    let mut weigh =
        |(kind, weight): &(Kind, u32)| (*kind, weight * [0, 1, 1, 5][rng.random_range(0..4)]);
    let kinds: Vec<(Kind, u32)> = kinds.iter().map(&mut weigh).collect();
    let total: u32 = kinds.iter().map(|(_, weight)| weight).sum();
    let mut faults = Vec::new();
    let mut at = from;
    loop {
        at = at.plus(Micros(rng.random_range(10_000..apart)));
        if at >= until {
            return faults;
        }
        let mut left = rng.random_range(0..total.max(1));
        let mut kind = Kind::Crash;
        for (candidate, weight) in &kinds {
            kind = *candidate;
            if left < *weight {
                break;
            }
            left -= weight;
        }
        faults.push(Fault {
            number: 0,
            at,
            kind,
            seed: rng.random(),
        });
    }
}

/// Every number there is in a run with this plan.
#[must_use]
pub fn numbers(plan: &[Fault]) -> Vec<u32> {
    (0..NOISES).chain(plan.iter().map(|f| f.number)).collect()
}
