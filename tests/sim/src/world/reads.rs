//! Reads of every level, and whether what they saw is what they promise (rule 6).
//!
//! The whole partition is one thing that is read: a read sees its state up to some index.
//! Strong reads are linearizable exactly where each sees at least what was acknowledged,
//! and what any strong read saw, before it began.

use cairn_core::ids::{Epoch, Index, Position};
use cairn_core::kv::request::ReadLevel;
use cairn_core::replication::{Proof, ProofLevel, ProofLook, Unproved};

use super::*;

/// How long a read waits before it is given up.
const PATIENCE: Micros = Micros::from_millis(700);

/// A mistake that is made on purpose, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// A replica answers under a proof that was asked for before the read arrived.
    AskedBefore,
    /// A primary tells its commit index without holding the lease.
    Unleased,
    /// A replica answers before it has applied what the proof says.
    Unapplied,
    /// Replicas that hold nothing of the log count among a read quorum.
    EmptyCount,
}

/// What the edge of one process keeps for its reads.
#[derive(Debug, Default)]
pub(super) struct Edge {
    arrived: BTreeMap<ProofLevel, u64>,
    newest: BTreeMap<ProofLevel, (u64, Proof)>,
}

/// A read on its way.
#[derive(Debug)]
pub(super) struct Read {
    node: NodeId,
    session: u64,
    level: ReadLevel,
    number: u64,
    began: Micros,
    /// What it must see at least.
    floor: Index,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Waits for what allows it to read.
    Begun,
    /// From the primary: what must be applied.
    Covered(Epoch, Index),
    Proved(Proof),
    /// The state was read, of that generation and up to there.
    Looked(Generation, Epoch, Index, Option<Proof>),
}

impl World {
    /// A read of some level begins on some node.
    pub(super) fn begin_read(&mut self) -> Result<(), String> {
        let after = self.rng.random_range(300..4_000);
        self.at(after, Happening::Read);
        let n = self.rng.random_range(0..self.nodes.len());
        let level = ReadLevel::ALL[self.rng.random_range(0..ReadLevel::ALL.len())];
        let (id, now) = (self.nodes[n].id, self.now);
        if self.nodes[n].core.is_none() || self.nodes[n].paused_until > now {
            return Ok(());
        }
        let session = self.nodes[n].session;
        let acknowledged = self.ledger.acknowledged.last_key_value();
        let acknowledged = acknowledged.map_or(Index::ZERO, |(index, _)| *index);
        let mut read = Read {
            node: id,
            session,
            level,
            number: 0,
            began: now,
            floor: acknowledged.max(self.ledger.observed),
            step: Step::Begun,
        };
        let proof_level = match level {
            ReadLevel::Replica => Some(ProofLevel::Replica),
            ReadLevel::Quorum => Some(ProofLevel::Quorum),
            ReadLevel::Primary | ReadLevel::Any => None,
        };
        if let Some(level) = proof_level {
            let edge = self.edges.entry((id.0, session)).or_default();
            let arrived = edge.arrived.entry(level).or_default();
            read.number = *arrived;
            *arrived += 1;
            let wanted = Unproved {
                partition: PARTITION,
                level,
                before: read.number + 1,
            };
            let clock = self.node(id).clock(now);
            let mut effects = Vec::new();
            if let Some(core) = &mut self.node(id).core {
                core.prove(clock, &[wanted], &mut effects);
            }
            self.carry_out(id, effects)?;
        }
        self.reads_begun += 1;
        let number = self.reads_begun;
        self.reads.insert(number, read);
        self.at(20, Happening::Look(id, number));
        Ok(())
    }

    /// What came of a question.
    pub(super) fn proved(&mut self, id: NodeId, level: ProofLevel, before: u64, proof: Proof) {
        let session = self.node(id).session;
        let edge = self.edges.entry((id.0, session)).or_default();
        let newest = edge.newest.entry(level).or_insert((before, proof));
        if newest.0 <= before {
            *newest = (before, proof);
        }
        self.say(|| format!("    {id} {level:?} reads below {before}: {proof:?}"));
    }

    /// A read looks where it stands.
    pub(super) fn look(&mut self, number: u64) -> Result<(), String> {
        let Some(mut read) = self.reads.remove(&number) else {
            return Ok(());
        };
        if !self.alive(read.node, read.session) || self.now >= read.began.plus(PATIENCE) {
            return Ok(());
        }
        let Some(seen) = self.advance(&mut read)? else {
            let after = self.rng.random_range(50..2_000);
            let id = read.node;
            self.reads.insert(number, read);
            self.at(after, Happening::Look(id, number));
            return Ok(());
        };
        let Some(seen) = seen else {
            // It goes elsewhere, or there is nothing to be read here.
            self.coverage.count("read redirected");
            return Ok(());
        };
        self.say(|| format!("{} {:?} read saw {seen}", read.node, read.level));
        self.coverage.count(match read.level {
            ReadLevel::Primary => "primary read",
            ReadLevel::Quorum if !self.anybody_serves() => "quorum read without a primary",
            ReadLevel::Quorum => "quorum read",
            ReadLevel::Replica => "replica read",
            ReadLevel::Any => "any read",
        });
        if read.level == ReadLevel::Any {
            return Ok(());
        }
        if seen < read.floor {
            return Err(format!(
                "stale: a {} read on {} saw {seen}, and {} was known before it began",
                read.level.name(),
                read.node,
                read.floor
            ));
        }
        self.ledger.observed = self.ledger.observed.max(seen);
        Ok(())
    }

    fn anybody_serves(&self) -> bool {
        self.nodes.iter().any(|node| {
            let standing = node.core.as_ref().and_then(|core| core.standing(PARTITION));
            node.paused_until <= self.now
                && standing.is_some_and(|s| s.serving && s.lease_until > node.clock(self.now))
        })
    }

    /// Goes on with a read. `None`: later; `Some(None)`: it is not answered here.
    fn advance(&mut self, read: &mut Read) -> Result<Option<Option<Index>>, String> {
        let (now, planted) = (self.now, self.planted);
        let node = &self.nodes[(read.node.0 - 1) as usize];
        let clock = node.clock(now);
        let standing = node.core.as_ref().and_then(|core| core.standing(PARTITION));
        let Some(standing) = standing else {
            return Ok(Some(None));
        };
        let leads = standing.serving && standing.lease_until > clock;
        let applied = node.applied(standing.generation)?;
        match read.step {
            Step::Begun => match read.level {
                ReadLevel::Any => return Ok(Some(Some(applied))),
                ReadLevel::Primary if leads => {
                    read.step = Step::Covered(standing.epoch, standing.commit);
                }
                ReadLevel::Primary => return Ok(Some(None)),
                ReadLevel::Replica | ReadLevel::Quorum => {
                    let level = match read.level {
                        ReadLevel::Replica => ProofLevel::Replica,
                        _ => ProofLevel::Quorum,
                    };
                    let edge = self.edges.get(&(read.node.0, read.session));
                    let newest = edge.and_then(|edge| edge.newest.get(&level)).copied();
                    let covers =
                        |before: u64| read.number < before || planted == Some(Planted::AskedBefore);
                    match newest.filter(|(before, _)| covers(*before)) {
                        Some((_, Proof::Applied { epoch, index })) => {
                            read.step = Step::Proved(Proof::Applied { epoch, index });
                        }
                        Some(_) => return Ok(Some(None)),
                        None => {}
                    }
                }
            },
            Step::Covered(epoch, commit) => {
                if !leads || standing.epoch != epoch {
                    return Ok(Some(None));
                }
                if applied >= commit {
                    let generation = standing.generation;
                    read.step = Step::Looked(generation, epoch, applied, None);
                }
            }
            Step::Proved(proof) => {
                let applied_enough = if planted == Some(Planted::Unapplied) {
                    Index(u64::MAX)
                } else {
                    applied
                };
                match proof.look(standing.epoch, applied_enough) {
                    ProofLook::Void => return Ok(Some(None)),
                    ProofLook::Wait => {}
                    ProofLook::Read => {
                        let (generation, epoch) = (standing.generation, standing.epoch);
                        read.step = Step::Looked(generation, epoch, applied, Some(proof));
                    }
                }
            }
            Step::Looked(generation, epoch, seen, proof) => {
                let still = match proof {
                    Some(_) => standing.epoch == epoch,
                    None => leads && standing.epoch == epoch,
                };
                let same = standing.generation == generation;
                return Ok(Some((still && same).then_some(seen)));
            }
        }
        Ok(None)
    }

    /// What the mistake that was planted does to a message.
    pub(super) fn tamper(&self, message: &mut PeerMessage) {
        let PeerMessage::ReadAnswer(answer) = message else {
            return;
        };
        for stand in &mut answer.stands {
            match self.planted {
                Some(Planted::Unleased) => stand.leased = true,
                Some(Planted::EmptyCount) if !stand.leased => {
                    stand.head = Position::ZERO;
                    stand.commit = Position::ZERO;
                }
                _ => {}
            }
        }
    }
}
