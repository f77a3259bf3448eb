//! What must hold of one partition, each in a file that names its rule; checked as the run
//! goes on, after whatever can break it, so that it stays cheap.

pub mod acknowledged;
pub mod commit;
pub mod deletion;
pub mod epochs;
pub mod history;
pub mod inspection;
pub mod joint;
pub mod learners;
pub mod leases;
pub mod liveness;
pub mod logs;
pub mod loss;
pub mod monotone;
pub mod near;
pub mod one_change;
pub mod primary;
pub mod retired;
pub mod settled;
pub mod state;
pub mod whole;

use std::fmt::Display;

use cairn_core::cluster::report::ReplicaReport;
use cairn_core::ids::{Index, Mark, Micros, NodeId, PartitionId, Position};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::{DurableRecord, LogEntry, RecoveredPartition, Standing};

use crate::digest::Digest;
use crate::node::Node;

const UNDER_LEASE: &str = "where W is 1 a write is acknowledged under the lease (rule 7)";

/// Whether an invariant holds; else its name, a colon, and what was seen.
pub type Check = Result<(), String>;

fn broken(name: &str, what: impl Display) -> String {
    format!("{name}: {what}")
}

/// Everything that the checker knows of one partition.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Rule 1.
    pub primary: primary::OnePrimary,
    /// Rules 3, 7, 11.
    pub acknowledged: acknowledged::Acknowledged,
    /// Rule 4.
    pub logs: logs::Logs,
    /// Rule 1.
    pub epochs: epochs::Epochs,
    /// Rule 2.
    pub inspections: inspection::Inspections,
    /// Rule 11.
    pub deletion: deletion::Deletion,
    /// Rule 12.
    pub wholeness: whole::Wholeness,
    /// Rules 8, 17.
    pub states: state::States,
    /// Rule 6.
    pub history: history::History,
    /// Rule 6.
    pub monotone: monotone::Monotone,
    /// Rule 6.
    pub near: near::Near,
    /// Rule 9.
    pub losses: loss::Losses,
    /// Rules 14, 15.
    pub liveness: liveness::Liveness,
    /// What the coordinators decided last.
    newest: Option<PartitionRecord>,
}

impl Invariants {
    /// The coordinators have committed a record.
    ///
    /// # Errors
    /// Where they were not allowed to.
    pub fn decided(&mut self, record: &PartitionRecord) -> Check {
        let before = self.newest.replace(record.clone());
        one_change::decided(before.as_ref(), record)?;
        learners::decided(before.as_ref(), record)?;
        self.acknowledged.configured(record.epoch, &record.config);
        self.primary.named(record)?;
        self.inspections
            .decided(record, &self.epochs, self.losses.allowed)?;
        joint::decided(before.as_ref(), record, &self.acknowledged)
    }

    /// A node tells the coordinators how it stands.
    ///
    /// # Errors
    /// Where it claims too much.
    pub fn reports(&mut self, node: NodeId, report: &ReplicaReport) -> Check {
        self.epochs.reports(node, report)?;
        let durable = self.epochs.durable(node);
        self.wholeness.reports(node, durable, report)
    }

    /// A node was stepped.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn stepped(
        &mut self,
        nodes: &[Node],
        id: NodeId,
        partition: PartitionId,
        now: Micros,
    ) -> Check {
        let Some(node) = nodes.iter().find(|node| node.id == id) else {
            return Ok(());
        };
        let Some(core) = &node.core else {
            return Ok(());
        };
        let Some(standing) = core.standing(partition) else {
            return Ok(());
        };
        self.epochs.check(id, node.session, &standing)?;
        let begins = standing.serving && self.primary.serves(id, &standing)?;
        if begins && let Some(configuration) = self.acknowledged.configuration(standing.epoch) {
            learners::serves(id, &standing, configuration)?;
        }
        if self.losses.allowed {
            self.reconcile(id, core, partition, &standing)?;
        } else if begins {
            self.acknowledged.serves(id, core, partition, &standing)?;
        }
        if self.trusts(&standing) {
            let who = (id, node.session);
            self.logs.check(who, core, partition, &standing)?;
        }
        if standing.serving {
            leases::check(nodes, id, partition, now)?;
        }
        Ok(())
    }

    /// Whether what a node holds to be committed is: where writes may be lost, a replica
    /// may still hold what was.
    fn trusts(&self, standing: &Standing) -> bool {
        !self.losses.allowed || self.losses.is_newest(standing)
    }

    /// A node is about to write a record.
    ///
    /// # Errors
    /// Where it must not.
    pub fn appends(&mut self, node: NodeId, record: &DurableRecord) -> Check {
        self.wholeness.appends(node, record);
        self.deletion.appends(node, record, self.newest.as_ref())
    }

    /// A node was retired.
    ///
    /// # Errors
    /// Where what it holds is needed.
    pub fn retired(&self, node: NodeId) -> Check {
        let newest = self.newest.as_ref();
        newest.map_or(Ok(()), |newest| {
            retired::is_not_the_last(node, newest, &self.acknowledged)
        })
    }

    /// A node has flushed a record.
    ///
    /// # Errors
    /// Where an entry stands where another one does.
    pub fn flushed(&mut self, node: NodeId, record: &DurableRecord) -> Check {
        self.epochs.flushed(node, record);
        self.acknowledged.flushed(node, record);
        self.wholeness.flushed(node, record);
        match record {
            DurableRecord::Entry { entry, .. } => self.primary.flushed(node, entry.mark()),
            _ => Ok(()),
        }
    }

    /// A process starts.
    ///
    /// # Errors
    /// Where its disk forgot a promise.
    pub fn recovered(&mut self, node: NodeId, found: Option<&RecoveredPartition>) -> Check {
        self.acknowledged.recovered(node, found);
        self.deletion.recovered(node, found);
        self.wholeness.recovered(node, found)?;
        self.epochs.recovered(node, found)
    }

    /// A node is about to apply entries.
    ///
    /// # Errors
    /// Where they are not committed, or not everywhere the same.
    pub fn applies(
        &mut self,
        node: NodeId,
        partition: PartitionId,
        standing: &Standing,
        entries: &[LogEntry],
    ) -> Check {
        commit::applies(node, standing, entries)?;
        if !self.trusts(standing) {
            return Ok(());
        }
        for entry in entries {
            self.logs.claim(node, entry.mark())?;
        }
        self.states.follow(partition, entries)
    }

    /// A node's state holds that mark.
    ///
    /// # Errors
    /// Where it is another state than elsewhere.
    pub fn holds(&mut self, node: NodeId, mark: Mark, digest: Digest) -> Check {
        if mark.index() > Index::ZERO && !self.losses.allowed {
            self.logs.claim(node, mark)?;
        }
        self.states.check(node, mark, digest, self.losses.allowed)
    }

    /// A primary acknowledges a write.
    ///
    /// # Errors
    /// Where it may not.
    pub fn acknowledge(
        &mut self,
        (node, clock): (NodeId, Micros),
        standing: &Standing,
        mark: Mark,
    ) -> Check {
        if standing.ack_needs_lease && standing.lease_until <= clock {
            return Err(broken(
                UNDER_LEASE,
                format!("{node} acknowledged {mark:?} without it"),
            ));
        }
        if !self.trusts(standing) {
            return Err(broken(
                UNDER_LEASE,
                format!(
                    "{node} acknowledged {mark:?} in {}, a newer primary's time",
                    standing.epoch
                ),
            ));
        }
        self.logs.claim(node, mark)?;
        self.acknowledged.acknowledge(node, standing, mark)
    }

    /// A primary acknowledges a write again, to a retry.
    ///
    /// # Errors
    /// Where another entry was committed there.
    pub fn repeated(&mut self, node: NodeId, position: Position) -> Check {
        match self.logs.at(position.index) {
            Some(mark) if mark.position == position => Ok(()),
            // What a primary that came back has no longer in memory is not in the line.
            None if self.losses.allowed => Ok(()),
            other => Err(broken(
                "a retry is answered by what committed (rule 8)",
                format!("{node} answered for {position}, and {other:?} was committed there"),
            )),
        }
    }
}
