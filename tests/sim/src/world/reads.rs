//! Reads of every level, and whether what they saw is what they promise (rule 6).
//!
//! A read is of one key, and of the whole partition as of some index: both are judged.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, Micros, NodeId, PartitionId, Position};
use cairn_core::kv::request::ReadLevel;
use cairn_core::kv::{DueKey, VersionedValue};
use cairn_core::replication::{
    Effect, Generation, PeerMessage, Proof, ProofLevel, ProofLook, ReadsArrived, Standing, Unproved,
};
use rand::Rng;

use super::clients::Clients;
use super::tallies::FIRST_TALLY;
use super::{Happening, World};
use crate::edge::{Work, number};

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

/// How many clients read: each sees its own reads in order.
const READERS: u32 = 3;
/// The first of them, in histories.
const FIRST_READER: u32 = 100;

/// What one process keeps for its reads of a partition.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    arrived: BTreeMap<ProofLevel, u64>,
    newest: BTreeMap<ProofLevel, (u64, Proof)>,
}

/// A read on its way.
#[derive(Debug)]
pub(super) struct Read {
    node: NodeId,
    session: u64,
    partition: PartitionId,
    level: ReadLevel,
    client: u32,
    key: Bytes,
    number: u64,
    began: Micros,
    /// What it must see at least.
    floor: Index,
    /// What it must see at least where it is of the level `any`.
    local_floor: Option<(Generation, Index)>,
    /// The try of a striped counter's client that it is.
    tally: Option<u64>,
    step: Step,
}

#[derive(Clone, Debug)]
enum Step {
    /// Waits for what allows it to read.
    Begun,
    /// From the primary: what must be applied.
    Covered(Epoch, Index),
    Proved(Proof),
    Looked(Looked),
}

/// The state was read, of that generation and up to there.
#[derive(Clone, Debug)]
struct Looked {
    generation: Generation,
    epoch: Epoch,
    seen: Index,
    proof: Option<Proof>,
    value: Option<VersionedValue>,
}

/// What came of a read.
#[derive(Debug)]
enum Came {
    /// Nothing yet.
    Later,
    /// It goes elsewhere, or there is nothing to be read here.
    Elsewhere,
    Read(Looked),
}

impl Read {
    /// What was past an index of a partition is lost (rule 9).
    pub(super) fn lower(&mut self, partition: PartitionId, to: Index) {
        if self.partition == partition {
            self.floor = self.floor.min(to);
        }
    }
}

impl World {
    /// A read of some level begins on some node.
    pub(super) fn begin_read(&mut self) -> Result<(), String> {
        if self.quiet {
            return Ok(());
        }
        // Each partition is read as often as a single one would be, once all is healed.
        let leisure = (self.leisure() / u64::from(self.partitions.count())).max(1);
        let after = self.rng.random_range(300..4_000) * leisure;
        self.at(after, Happening::Read);
        let n = self.rng.random_range(0..self.nodes.len());
        let level = ReadLevel::ALL[self.rng.random_range(0..ReadLevel::ALL.len())];
        let partition = self.partitions.draw(&mut self.rng);
        let n = match self.mapped_primary(partition) {
            Some(primary) if level == ReadLevel::Primary => primary,
            _ => n,
        };
        self.read_at(n, partition, level)
    }

    /// A read begins on the node of that place.
    pub(super) fn read_at(
        &mut self,
        n: usize,
        partition: PartitionId,
        level: ReadLevel,
    ) -> Result<(), String> {
        let (id, now) = (self.nodes[n].id, self.now);
        if self.nodes[n].core.is_none() || self.nodes[n].paused_until > now {
            return Ok(());
        }
        let session = self.nodes[n].session;
        let about = &self.partitions[partition];
        let acknowledged = about.invariants.acknowledged.newest();
        let acknowledged = acknowledged.map_or(Index::ZERO, |mark| mark.index());
        let client = FIRST_READER + self.rng.random_range(0..READERS);
        let mut read = Read {
            node: id,
            session,
            partition,
            level,
            client,
            key: Clients::any_key(&about.prefix, &mut self.rng),
            number: 0,
            began: now,
            floor: about.invariants.history.floor(acknowledged),
            local_floor: about.invariants.monotone.floor(client, id, session),
            tally: None,
            step: Step::Begun,
        };
        let proof_level = match level {
            ReadLevel::Replica => Some(ProofLevel::Replica),
            ReadLevel::Quorum => Some(ProofLevel::Quorum),
            ReadLevel::Primary | ReadLevel::Any => None,
        };
        if let Some(level) = proof_level {
            let proofs = self.proofs.entry((id.0, session, partition)).or_default();
            let arrived = proofs.arrived.entry(level).or_default();
            read.number = *arrived;
            *arrived += 1;
            let wanted = Unproved {
                partition,
                level,
                before: read.number + 1,
            };
            let clock = self.node(id).clock(now);
            let mut effects = Vec::new();
            if let Some(core) = &mut self.node(id).core {
                core.prove(clock, &[wanted], &mut effects);
            }
            let at_once = |effect: &Effect| {
                matches!(
                    effect,
                    Effect::Proved {
                        proof: Proof::Applied { .. },
                        ..
                    }
                )
            };
            let leased = level == ProofLevel::Replica && effects.iter().any(at_once);
            if leased {
                self.coverage.count("reads under a lease for reads");
            }
            self.carry_out(id, effects)?;
        }
        self.reads_begun += 1;
        let number = self.reads_begun;
        self.reads.insert(number, read);
        self.at(20, Happening::Look(id, number));
        Ok(())
    }

    /// A striped counter's client reads a key at a node.
    pub(super) fn begin_tally_read(
        &mut self,
        tally: u64,
        node: NodeId,
        partition: PartitionId,
        key: Bytes,
        after: u64,
    ) {
        let invariants = &self.partitions[partition].invariants;
        let acknowledged = invariants.acknowledged.newest();
        let acknowledged = acknowledged.map_or(Index::ZERO, |mark| mark.index());
        let read = Read {
            node,
            session: self.nodes[(node.0 - 1) as usize].session,
            partition,
            level: ReadLevel::Primary,
            client: FIRST_TALLY as u32,
            key,
            number: 0,
            began: self.now,
            floor: invariants.history.floor(acknowledged),
            local_floor: None,
            tally: Some(tally),
            step: Step::Begun,
        };
        self.reads_begun += 1;
        let number = self.reads_begun;
        self.reads.insert(number, read);
        self.at(after, Happening::Look(node, number));
    }

    /// Leases for reads that are used are renewed, as the engine has it done.
    pub(super) fn renew_reads(&mut self, id: NodeId, session: u64) -> Result<(), String> {
        let reads: Vec<ReadsArrived> = self
            .proofs
            .iter()
            .filter(|((node, of, _), _)| (*node, *of) == (id.0, session))
            .filter_map(|((.., partition), proofs)| {
                let before = *proofs.arrived.get(&ProofLevel::Replica)?;
                let partition = *partition;
                Some(ReadsArrived { partition, before })
            })
            .collect();
        let now = self.now;
        let clock = self.node(id).clock(now);
        let mut effects = Vec::new();
        if let Some(core) = &mut self.node(id).core {
            core.renew_reads(clock, &reads, &mut effects);
        }
        let asks = |effect: &Effect| {
            matches!(
                effect,
                Effect::Send {
                    message: PeerMessage::ReadAsk(_),
                    ..
                }
            )
        };
        if effects.iter().any(asks) {
            self.coverage.count("lease for reads renewed");
        }
        self.carry_out(id, effects)
    }

    /// The place of a partition's primary, for a reader that looks at the map: every other
    /// one does, so that each partition is read often enough, however many nodes there are.
    fn mapped_primary(&mut self, partition: PartitionId) -> Option<usize> {
        let looks = self.rng.random_bool(0.5);
        let primary = self.record(partition).filter(|_| looks)?.primary?;
        Some((primary.node.0 - 1) as usize)
    }

    /// What came of a question.
    pub(super) fn proved(
        &mut self,
        id: NodeId,
        partition: PartitionId,
        level: ProofLevel,
        (before, proof): (u64, Proof),
    ) {
        let session = self.node(id).session;
        let proofs = self.proofs.entry((id.0, session, partition)).or_default();
        let newest = proofs.newest.entry(level).or_insert((before, proof));
        if newest.0 <= before {
            *newest = (before, proof);
        }
        let of = self.partitions.of(partition);
        self.say(|| format!("    {id} {level:?} reads{of} below {before}: {proof:?}"));
    }

    /// A read looks where it stands.
    pub(super) fn look(&mut self, number: u64) -> Result<(), String> {
        let Some(mut read) = self.reads.remove(&number) else {
            return Ok(());
        };
        if !self.alive(read.node, read.session) || self.now >= read.began.plus(PATIENCE) {
            return match read.tally {
                Some(tally) => self.tally_read(tally, None),
                None => Ok(()),
            };
        }
        let looked = match self.advance(&mut read)? {
            Came::Read(looked) => looked,
            Came::Elsewhere => {
                if let Some(tally) = read.tally {
                    return self.tally_read(tally, None);
                }
                self.coverage.count("read redirected");
                return Ok(());
            }
            Came::Later => {
                // The longer it waits the seldomer it looks.
                let waited = self.now.minus(read.began).0;
                let after = self.rng.random_range(50..2_000 + waited / 4);
                let id = read.node;
                self.reads.insert(number, read);
                self.at(after, Happening::Look(id, number));
                return Ok(());
            }
        };
        self.seen(&read, looked)
    }

    /// A read returns to its client.
    fn seen(&mut self, read: &Read, looked: Looked) -> Result<(), String> {
        let Looked {
            seen,
            generation,
            value,
            ..
        } = looked;
        let found = read.tally.map(|_| value.clone());
        let value = value.map(|stored| (number(&stored), stored.version));
        let (id, level, partition) = (read.node, read.level, read.partition);
        let of = self.partitions.of(partition);
        self.say(|| {
            format!(
                "{id} {level:?} read of {:?}{of} by {} saw {value:?} as of {seen}",
                read.key, read.client
            )
        });
        self.coverage.count(match level {
            ReadLevel::Primary => "primary read",
            ReadLevel::Quorum if !self.anybody_serves(partition) => "quorum read without a primary",
            ReadLevel::Quorum => "quorum read",
            ReadLevel::Replica => "replica read",
            ReadLevel::Any => "any read",
        });
        let reader = self.record(partition).is_some_and(|record| {
            let mut readers = record.config.readers.iter();
            readers.any(|m| m.node == id)
        });
        if reader {
            self.coverage.count(match level {
                ReadLevel::Replica => "replica read of a copy for reads",
                ReadLevel::Any => "any read of a copy for reads",
                ReadLevel::Primary | ReadLevel::Quorum => "",
            });
        }
        let invariants = &mut self.partitions[partition].invariants;
        if level == ReadLevel::Any {
            let monotone = invariants.monotone.saw(
                read.client,
                (id, read.session),
                (generation, seen),
                read.local_floor,
            );
            return monotone.map_err(self.partitions.broken(partition));
        }
        if level == ReadLevel::Primary {
            invariants.liveness.read = self.now;
        }
        let what = || format!("a {} read on {id}", level.name());
        let saw = invariants.history.saw(what, seen, read.floor);
        saw.map_err(self.partitions.broken(partition))?;
        if let Some(tally) = read.tally {
            return self.tally_read(tally, found);
        }
        let history = &mut self.partitions[partition].invariants.history;
        let times = (read.began.0, self.now.0);
        let integer = value.and_then(|(integer, _)| integer);
        history.read(read.client, &read.key, times, integer);
        if let Some((Some(integer), version)) = value {
            self.clients.saw(&read.key, integer, version);
        }
        Ok(())
    }

    fn anybody_serves(&self, partition: PartitionId) -> bool {
        self.nodes.iter().any(|node| {
            let standing = self.standing(node.id, partition);
            node.paused_until <= self.now
                && standing.is_some_and(|s| s.serving && s.lease_until > node.clock(self.now))
        })
    }

    /// Whether a replica's own state may be read, however old: it is whole, still one of
    /// the partition's, and what it lacked when it was made was installed.
    fn readable(&self, read: &Read, standing: &Standing, applied: Index) -> bool {
        let node = &self.nodes[(read.node.0 - 1) as usize];
        let removed = self.record(read.partition).is_some_and(|record| {
            let listed = record.config.replicas();
            record.epoch >= standing.epoch && listed.iter().all(|m| m.replica != standing.replica)
        });
        !node.corrupt.contains(&read.partition) && !removed && applied > Index::ZERO
    }

    /// Goes on with a read.
    fn advance(&mut self, read: &mut Read) -> Result<Came, String> {
        let (now, planted) = (self.now, self.options.planted);
        let node = &self.nodes[(read.node.0 - 1) as usize];
        let clock = node.clock(now);
        let Some(standing) = self.standing(read.node, read.partition) else {
            return Ok(Came::Elsewhere);
        };
        let leads = standing.serving && standing.lease_until > clock;
        let generation = standing.generation;
        let applied = node.applied(generation)?;
        let look = |epoch, proof| {
            let value = node.value(generation, &read.key)?;
            Ok::<_, String>(Step::Looked(Looked {
                generation,
                epoch,
                seen: applied,
                proof,
                value,
            }))
        };
        match &read.step {
            Step::Begun => match read.level {
                ReadLevel::Any if self.readable(read, &standing, applied) => {
                    read.step = look(standing.epoch, None)?;
                }
                ReadLevel::Any => return Ok(Came::Elsewhere),
                ReadLevel::Primary if leads => {
                    read.step = Step::Covered(standing.epoch, standing.commit);
                }
                ReadLevel::Primary => return Ok(Came::Elsewhere),
                ReadLevel::Replica | ReadLevel::Quorum => {
                    let level = match read.level {
                        ReadLevel::Replica => ProofLevel::Replica,
                        _ => ProofLevel::Quorum,
                    };
                    let process = (read.node.0, read.session, read.partition);
                    let proofs = self.proofs.get(&process);
                    let newest = proofs.and_then(|proofs| proofs.newest.get(&level)).copied();
                    let covers =
                        |before: u64| read.number < before || planted == Some(Planted::AskedBefore);
                    match newest.filter(|(before, _)| covers(*before)) {
                        Some((_, Proof::Applied { epoch, index })) => {
                            read.step = Step::Proved(Proof::Applied { epoch, index });
                        }
                        Some(_) => return Ok(Came::Elsewhere),
                        None => {}
                    }
                }
            },
            Step::Covered(epoch, commit) => {
                if !leads || standing.epoch != *epoch {
                    return Ok(Came::Elsewhere);
                }
                if applied >= *commit {
                    read.step = look(*epoch, None)?;
                }
            }
            Step::Proved(proof) => {
                let applied_enough = if planted == Some(Planted::Unapplied) {
                    Index(u64::MAX)
                } else {
                    applied
                };
                match proof.look(standing.epoch, applied_enough) {
                    ProofLook::Void => return Ok(Came::Elsewhere),
                    ProofLook::Wait => {}
                    ProofLook::Read => read.step = look(standing.epoch, Some(*proof))?,
                }
            }
            Step::Looked(looked) => {
                let still = match (read.level, looked.proof) {
                    (ReadLevel::Any, _) => self.readable(read, &standing, applied),
                    (_, Some(_)) => standing.epoch == looked.epoch,
                    (_, None) => leads && standing.epoch == looked.epoch,
                };
                if !still || generation != looked.generation {
                    return Ok(Came::Elsewhere);
                }
                let wall_ms = node.wall_ms(now);
                let expired = looked.value.as_ref().filter(|v| v.value.expired(wall_ms));
                if expired.is_some() && read.level == ReadLevel::Any {
                    return Ok(Came::Elsewhere);
                }
                if expired.is_some() {
                    return self.meets_expired(read);
                }
                return Ok(Came::Read(looked.clone()));
            }
        }
        Ok(Came::Later)
    }

    /// A strong read meets a value whose time is past: the primary's entry must take it
    /// away first, and others cannot write one.
    fn meets_expired(&mut self, read: &mut Read) -> Result<Came, String> {
        if read.level != ReadLevel::Primary {
            return Ok(Came::Elsewhere);
        }
        self.coverage.count("read of an expired value");
        let due = DueKey {
            key: read.key.clone(),
            row: None,
        };
        read.step = Step::Begun;
        self.request(read.node, read.partition, Work::Expire(vec![due]))?;
        Ok(Came::Later)
    }

    /// What the mistake that was planted does to a message.
    pub(super) fn tamper(&self, message: &mut PeerMessage) {
        let PeerMessage::ReadAnswer(answer) = message else {
            return;
        };
        for stand in &mut answer.stands {
            match self.options.planted {
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
