//! Copies of a replica's state from node to node, step by step: anything may come between
//! the word of the source, the view of its state and the arrival.

use cairn_core::ids::{Mark, Micros, NodeId};
use cairn_core::replication::{Event, Generation, GiveError, SnapshotWanted};
use rand::Rng;

use super::{Happening, World};
use crate::node::Rows;
use crate::plan::Noise;

/// How often a source is asked that is behind what was asked for.
const ASKED_MAX: u32 = 20;

/// A copy on its way.
#[derive(Debug)]
pub(super) struct Copy {
    to: NodeId,
    to_session: u64,
    from: NodeId,
    wanted: SnapshotWanted,
    generation: Generation,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The source is asked, not for the first time where it was behind.
    Ask(u32),
    /// It has said that this state may be given.
    View { session: u64, given: Generation },
    /// What is in the view.
    Arrive {
        session: u64,
        mark: Mark,
        lineage: Vec<Mark>,
        rows: Rows,
    },
}

impl World {
    /// A replica is to fetch a copy.
    pub(super) fn begin_copy(
        &mut self,
        to: NodeId,
        from: NodeId,
        wanted: SnapshotWanted,
        generation: Generation,
    ) {
        let copy = Copy {
            to,
            to_session: self.node(to).session,
            from,
            wanted,
            generation,
            stage: Stage::Ask(0),
        };
        let after = self.rng.random_range(200..5_000);
        self.at(after, Happening::Copy(Box::new(copy)));
    }

    /// The next step of a copy.
    pub(super) fn go_on_copying(&mut self, copy: Copy) -> Result<(), String> {
        let (to, from) = (copy.to, copy.from);
        if !self.alive(to, copy.to_session) {
            return self.end_copy(&copy);
        }
        if self.is_cut(from.0, to.0) || self.is_cut(to.0, from.0) {
            self.end_copy(&copy)?;
            return self.fail_copy(&copy);
        }
        let paused = self.node(from).paused_until;
        if paused > self.now {
            // Neither does it answer, nor is its connection broken.
            let after = paused.minus(self.now).plus(Micros(1)).0;
            self.at(after, Happening::Copy(Box::new(copy)));
            return Ok(());
        }
        match copy.stage {
            Stage::Ask(times) => self.ask_source(copy, times),
            Stage::View { session, given } => self.view_source(copy, session, given),
            Stage::Arrive { .. } => self.copy_arrives(copy),
        }
    }

    fn ask_source(&mut self, mut copy: Copy, times: u32) -> Result<(), String> {
        let now = self.now;
        let node = self.node(copy.from);
        let (session, clock) = (node.session, node.clock(now));
        let Some(core) = &mut node.core else {
            return self.fail_copy(&copy);
        };
        let mut effects = Vec::new();
        let given = core.give_snapshot(clock, &copy.wanted, &mut effects);
        let (from, to) = (copy.from, copy.to);
        self.say(|| format!("{from} asked for a copy by {to}: {given:?}"));
        self.carry_out(from, effects)?;
        let after = match given {
            // Or it gives as many as it may.
            Ok(_) if self.noise(Noise::Drop, 0.1) => {
                self.coverage.count("snapshot refused");
                return self.fail_copy(&copy);
            }
            Ok(given) => {
                copy.stage = Stage::View { session, given };
                self.rng.random_range(0..2_000)
            }
            Err(GiveError::Behind) if times < ASKED_MAX => {
                copy.stage = Stage::Ask(times + 1);
                20_000
            }
            Err(_) => {
                self.coverage.count("snapshot refused");
                return self.fail_copy(&copy);
            }
        };
        self.at(after, Happening::Copy(Box::new(copy)));
        Ok(())
    }

    fn view_source(
        &mut self,
        mut copy: Copy,
        session: u64,
        given: Generation,
    ) -> Result<(), String> {
        if !self.alive(copy.from, session) {
            return self.fail_copy(&copy);
        }
        let (mark, lineage, rows) = self.node(copy.from).snapshot(given)?;
        let last = mark.index();
        if mark == Mark::ZERO || last < copy.wanted.after {
            self.coverage.count("snapshot refused");
            return self.fail_copy(&copy);
        }
        let (partition, to, generation) = (copy.wanted.partition, copy.to, copy.generation);
        let leads = self.node(copy.from).core.as_ref().is_some_and(|core| {
            let primary = core.standing(partition).and_then(|s| s.primary);
            primary.is_some_and(|primary| primary.node == copy.from)
        });
        if !leads {
            self.coverage.count("snapshot given by a follower");
        }
        self.step(
            copy.from,
            Event::SnapshotServing {
                partition,
                to,
                from: last,
            },
        )?;
        self.step(
            to,
            Event::SnapshotBegun {
                partition,
                generation,
                last,
            },
        )?;
        copy.stage = Stage::Arrive {
            session,
            mark,
            lineage,
            rows,
        };
        let after = self.rng.random_range(2_000..60_000);
        self.at(after, Happening::Copy(Box::new(copy)));
        Ok(())
    }

    fn copy_arrives(&mut self, copy: Copy) -> Result<(), String> {
        self.end_copy(&copy)?;
        let Stage::Arrive {
            session,
            mark,
            ref lineage,
            ref rows,
        } = copy.stage
        else {
            return Ok(());
        };
        if !self.alive(copy.from, session) || self.noise(Noise::Drop, 0.15) {
            self.coverage.count("snapshot broken off");
            return self.fail_copy(&copy);
        }
        let (to, generation) = (copy.to, copy.generation);
        self.node(to)
            .install(generation, mark, lineage, rows.clone())?;
        self.holds(to, copy.wanted.partition, generation)?;
        self.coverage.count("snapshot installed");
        self.step(
            to,
            Event::SnapshotFetched {
                partition: copy.wanted.partition,
                generation,
                mark,
                lineage: lineage.clone(),
            },
        )
    }

    /// The source gives it no longer.
    fn end_copy(&mut self, copy: &Copy) -> Result<(), String> {
        let Stage::Arrive { session, mark, .. } = copy.stage else {
            return Ok(());
        };
        if !self.alive(copy.from, session) {
            return Ok(());
        }
        self.step(
            copy.from,
            Event::SnapshotServed {
                partition: copy.wanted.partition,
                to: copy.to,
                from: mark.index(),
            },
        )
    }

    fn fail_copy(&mut self, copy: &Copy) -> Result<(), String> {
        self.step(
            copy.to,
            Event::SnapshotFailed {
                partition: copy.wanted.partition,
                generation: copy.generation,
            },
        )
    }
}
