//! Scenarios that are written down instead of drawn: what is done, and what is waited for
//! before the next. Clients, delays and the faces of each fault still come from a seed.

use cairn_core::cluster::command::{Command, Response, SeatChange};
use cairn_core::ids::{Micros, NodeId, PartitionId};
use cairn_core::record::{Configuration, Member, PartitionRecord};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::govern::Unrest;
use super::{Brain, Cluster, Happening, Options, World, faults_of, played};
use crate::report::{Coverage, Failure};

/// Within this everything that is waited for has to come.
const PATIENCE: Micros = Micros::from_millis(30_000);

/// How many crashes there are at most after each join: a move that is disturbed at every
/// step for ever never ends.
const CRASHES: usize = 8;

/// What is waited for, and what is done.
type Script = fn(&mut World, &mut StdRng) -> Result<(), String>;

/// Who is struck.
#[derive(Clone, Copy, Debug)]
enum Party {
    /// The node that gets a replica.
    Learner,
    /// The primary, from which the copy comes.
    Primary,
    /// The node whose place it takes.
    Leaver,
    /// The coordinators' leader.
    Leader,
}

const PARTIES: [Party; 4] = [Party::Learner, Party::Primary, Party::Leaver, Party::Leader];

/// A replica is swapped out while the old primary is slow: its disk, its links, and for a
/// while all of it. Then nothing is left of it there.
///
/// # Errors
/// The first broken invariant, or what was waited for in vain.
pub fn swap_of_a_slow_primary(seed: u64) -> Result<Coverage, Box<Failure>> {
    let cluster = Cluster {
        nodes: 4,
        replicas: 3,
        write_quorum: 2,
    };
    script(seed, cluster, 1, |world, rng| {
        let partition = PartitionId(0);
        world.wait("a primary that serves", |world| {
            world.serves_among(partition, |_| true)
        })?;
        let old = world.led_by(partition).ok_or("no primary")?;
        let slow_until = world.now.plus(Micros::from_millis(4_000));
        world.node(old).slow_until = slow_until;
        for other in (0..=world.nodes.len() as u64).filter(|other| *other != old.0) {
            let extra = rng.random_range(2_000..80_000);
            world.slow.insert((old.0, other), (slow_until, extra));
            world.slow.insert((other, old.0), (slow_until, extra));
        }
        let Some(state) = world.state() else {
            return Err("no coordinators".into());
        };
        let before = state.seats(partition).to_vec();
        let seats = state.basis().nodes.into_keys().filter(|node| *node != old);
        let seats = seats.collect();
        // For the nodes that there are: seats given otherwise would be given anew at once.
        let reseat = Command::Rebalance {
            basis: state.basis(),
            moves: vec![SeatChange {
                partition,
                before,
                seats,
            }],
        };
        let told = world.administer(reseat)?;
        if told != Response::Done {
            return Err(format!("other seats are refused: {told:?}"));
        }
        // It stands still at some moment of the move.
        let pause = Micros(rng.random_range(100_000..2_000_000));
        let step = rng.random_range(0..3);
        world.wait("a step of the move", |world| {
            let record = world.record(partition);
            record.is_some_and(|record| match step {
                0 => !record.config.learners.is_empty(),
                1 => record.config.joint.is_some(),
                _ => record.primary.is_none_or(|primary| primary.node != old),
            })
        })?;
        world.node(old).paused_until = world.now.plus(pause);
        world.wait("a configuration without it", |world| {
            let record = world.record(partition);
            record.is_some_and(|record| record.config.on_node(old).is_none())
        })?;
        world.coverage.count("slow primary swapped out");
        world.wait("that it deletes what it held", |world| {
            world.standing(old, partition).is_none()
        })
    })
}

/// A cluster expands from three to six nodes, with a crash at each step of each move, and of
/// another party each time.
///
/// # Errors
/// The first broken invariant, or what was waited for in vain.
pub fn expansion_with_crashes(seed: u64) -> Result<Coverage, Box<Failure>> {
    let cluster = Cluster {
        nodes: 3,
        replicas: 3,
        write_quorum: 2,
    };
    script(seed, cluster, 3, |world, rng| {
        world.wait("primaries that serve", |world| {
            let mut all = world.partitions.ids();
            all.all(|partition| world.serves_among(partition, |_| true))
        })?;
        let mut parties = PARTIES.iter().cycle();
        for _ in 0..3 {
            let joined = world.join(rng)?;
            world.wait("seats of who joined", |world| {
                let state = world.state();
                state.is_some_and(|state| state.held_by(joined).is_some())
            })?;
            for _ in 0..CRASHES {
                let before = world.configurations();
                world.wait("another step", |world| {
                    world.settled().is_ok() || world.configurations() != before
                })?;
                let moved = world
                    .records()
                    .find(|record| !before.contains(&record.config));
                if let (Some(record), Some(party)) = (moved, parties.next()) {
                    world.strike_party(*party, &record, rng);
                }
            }
            world.wait("an end of the moves", |world| world.settled().is_ok())?;
        }
        let held = |n: u64| {
            world
                .records()
                .any(|r| r.config.on_node(NodeId(n)).is_some())
        };
        match (1..=6).find(|n| !held(*n)) {
            None => Ok(()),
            Some(node) => Err(format!("node {node} holds nothing")),
        }
    })
}

fn script(
    seed: u64,
    cluster: Cluster,
    partitions: u32,
    script: Script,
) -> Result<Coverage, Box<Failure>> {
    let options = Options {
        without: faults_of(seed).into_iter().collect(),
        cluster: Some(cluster),
        partitions: Some(partitions),
        ..Options::default()
    };
    let mut world = World::new(seed, &options);
    // Nothing moves but for what is written down.
    world.unrest = Unrest::NONE;
    played(seed, &mut world, |world| {
        world.begin()?;
        script(world, &mut StdRng::seed_from_u64(seed))?;
        world.heal()?;
        world.make_peace()
    })
}

impl World {
    /// Lets things happen until something holds.
    fn wait(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let until = self.now.plus(PATIENCE);
        while !holds(self) {
            if !self.next_until(until)? {
                return Err(format!("waited in vain for {what}"));
            }
        }
        Ok(())
    }

    fn led_by(&self, partition: PartitionId) -> Option<NodeId> {
        Some(self.record(partition)?.primary?.node)
    }

    fn configurations(&self) -> Vec<Configuration> {
        self.records().map(|record| record.config.clone()).collect()
    }

    /// A party to a partition's move ends, and comes back soon.
    fn strike_party(&mut self, party: Party, record: &PartitionRecord, rng: &mut StdRng) {
        let config = &record.config;
        let seats = self.state().map(|state| state.seats(record.id).to_vec());
        let seats = seats.unwrap_or_default();
        let last = |members: &[Member]| members.iter().max_by_key(|m| m.replica).copied();
        let target = match party {
            Party::Learner => config
                .in_the_making()
                .next()
                .or(last(&config.current.members)),
            Party::Primary => record.primary,
            Party::Leaver => {
                let voters = config.voters();
                let leaves = voters.iter().find(|m| !seats.contains(&m.node));
                leaves.or(voters.first()).copied()
            }
            Party::Leader => None,
        };
        self.say(|| format!("-- {party:?} is struck: {target:?}"));
        let after = rng.random_range(1_000..300_000);
        match target {
            Some(target) => {
                if self.node(target.node).core.is_some() {
                    self.end_process(target.node, rng.random_bool(0.5), rng);
                    self.at(after, Happening::Start(target.node));
                }
            }
            None => {
                if let Brain::Shipped(shipped) = &mut self.brain {
                    shipped.resign();
                    self.at(after, Happening::Elected);
                }
            }
        }
        self.coverage.count(match party {
            Party::Learner => "struck: learner",
            Party::Primary => "struck: primary",
            Party::Leaver => "struck: leaver",
            Party::Leader => "struck: leader",
        });
    }
}
