//! What happens to coordinators and the network between them, drawn from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;

use crate::fleet::{COUNT, Fleet, host, others};

/// How many things happen at a time, at most.
const AT_A_TIME: usize = 3;
/// The latency of a link that nothing is the matter with, at most.
const NEAR: Duration = Duration::from_millis(10);

/// What may happen. Two places stand for the link between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// What is sent either way is lost, and every connection with it.
    Cut(usize, usize),
    /// What the first sends to the second is lost.
    Deaf(usize, usize),
    /// What is sent waits and arrives in the end, all at once.
    Hold(usize, usize),
    /// The link breaks at random and mends.
    Lossy(usize, usize),
    /// Messages take long and overtake each other.
    Far(usize, usize),
    /// One is cut off from all others.
    Isolate(usize),
    /// A process is killed, and started again at the end.
    Crash(usize),
    /// All of them are.
    CrashAll,
    /// A disk takes so many milliseconds for each flush.
    Slow(usize, u64),
}

impl Fault {
    /// Every name that [`Self::name`] gives.
    const NAMES: [&str; 9] = [
        "cut",
        "deaf",
        "hold",
        "lossy",
        "far",
        "isolate",
        "crash",
        "crash all",
        "slow",
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Cut(..) => "cut",
            Self::Deaf(..) => "deaf",
            Self::Hold(..) => "hold",
            Self::Lossy(..) => "lossy",
            Self::Far(..) => "far",
            Self::Isolate(_) => "isolate",
            Self::Crash(_) => "crash",
            Self::CrashAll => "crash all",
            Self::Slow(..) => "slow",
        }
    }

    fn draw(fleet: &mut Fleet) -> Self {
        let rng = &mut fleet.rng;
        let place = rng.random_range(0..COUNT);
        let other = (place + rng.random_range(1..COUNT)) % COUNT;
        match rng.random_range(0..18) {
            0..2 => Self::Cut(place, other),
            2..4 => Self::Deaf(place, other),
            4..6 => Self::Hold(place, other),
            6..8 => Self::Lossy(place, other),
            8 => Self::Far(place, other),
            9..12 => Self::Isolate(place),
            12..15 => Self::Crash(place),
            15 => Self::CrashAll,
            16 => Self::Slow(place, rng.random_range(20..150)),
            _ => Self::Slow(place, rng.random_range(150..3000)),
        }
    }

    /// What it has to itself while it lasts: links, processes and disks.
    fn takes(self) -> Vec<(&'static str, usize, usize)> {
        let link = |a: usize, b: usize| ("link", a.min(b), a.max(b));
        match self {
            Self::Cut(a, b)
            | Self::Deaf(a, b)
            | Self::Hold(a, b)
            | Self::Lossy(a, b)
            | Self::Far(a, b) => vec![link(a, b)],
            Self::Isolate(place) => others(place).map(|other| link(place, other)).collect(),
            Self::Crash(place) => vec![("process", place, place)],
            Self::CrashAll => (0..COUNT).map(|place| ("process", place, place)).collect(),
            Self::Slow(place, _) => vec![("disk", place, place)],
        }
    }

    fn begin(self, fleet: &mut Fleet) {
        match self {
            Self::Cut(a, b) => fleet.sim.partition(host(a), host(b)),
            Self::Deaf(a, b) => fleet.sim.partition_oneway(host(a), host(b)),
            Self::Hold(a, b) => fleet.sim.hold(host(a), host(b)),
            Self::Lossy(a, b) => fleet.sim.set_link_fail_rate(host(a), host(b), 0.01),
            Self::Far(a, b) => {
                let far = Duration::from_millis(fleet.rng.random_range(50..400));
                fleet
                    .sim
                    .set_link_max_message_latency(host(a), host(b), far);
            }
            Self::Isolate(place) => fleet.isolate(place),
            Self::Crash(place) => fleet.crash(place),
            Self::CrashAll => (0..COUNT).for_each(|place| fleet.crash(place)),
            Self::Slow(place, ms) => fleet.slow(place, Some(Duration::from_millis(ms))),
        }
    }

    fn end(self, fleet: &mut Fleet) {
        match self {
            Self::Cut(a, b) => fleet.sim.repair(host(a), host(b)),
            Self::Deaf(a, b) => fleet.sim.repair_oneway(host(a), host(b)),
            Self::Hold(a, b) => fleet.sim.release(host(a), host(b)),
            Self::Lossy(a, b) => {
                fleet.sim.set_link_fail_rate(host(a), host(b), 0.0);
                fleet.sim.repair(host(a), host(b));
            }
            Self::Far(a, b) => fleet
                .sim
                .set_link_max_message_latency(host(a), host(b), NEAR),
            Self::Isolate(place) => fleet.join(place),
            Self::Crash(place) => fleet.restart(place),
            Self::CrashAll => (0..COUNT).for_each(|place| fleet.restart(place)),
            Self::Slow(place, _) => fleet.slow(place, None),
        }
    }
}

/// How often what took place.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// Counts.
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    /// The kinds of faults, and those of what else was counted, that never took place.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let counted = self.0.iter().filter(|(_, count)| **count == 0);
        let never = Fault::NAMES.into_iter().filter(|n| !self.0.contains_key(n));
        counted.map(|(name, _)| *name).chain(never).collect()
    }
}

/// Lets things happen for so much simulated time, then ends them all.
#[must_use]
pub fn storm(fleet: &mut Fleet, time: Duration) -> Tally {
    let mut tally = Tally::default();
    let mut under_way: Vec<(Duration, Fault)> = Vec::new();
    let over = fleet.sim.elapsed() + time;
    let mut next = fleet.sim.elapsed();
    while fleet.sim.elapsed() < over {
        let now = fleet.sim.elapsed();
        if next <= now && under_way.len() < AT_A_TIME {
            let fault = Fault::draw(fleet);
            let taken = |other: &Fault| other.takes().iter().any(|t| fault.takes().contains(t));
            if !under_way.iter().any(|(_, other)| taken(other)) {
                fault.begin(fleet);
                tally.add(fault.name(), 1);
                let lasts = Duration::from_millis(fleet.rng.random_range(50..4000));
                under_way.push((now + lasts, fault));
            }
            next = now + Duration::from_millis(fleet.rng.random_range(50..1500));
        }
        fleet.step();
        let now = fleet.sim.elapsed();
        for (_, fault) in under_way.extract_if(.., |(until, _)| *until <= now) {
            fault.end(fleet);
        }
    }
    for (_, fault) in under_way {
        fault.end(fleet);
    }
    tally
}
