//! What a replica may use of the node that it lives on, for the time of one step.

use std::collections::VecDeque;

use super::durable::{DurableRecord, Generation};
use super::event::Effect;
use super::lease::{Grants, Holdings};
use super::message::PeerMessage;
use super::node::Timing;
use crate::ids::{Micros, NodeId, PartitionId};

/// One step's surroundings.
pub(super) struct Context<'a> {
    pub(super) now: Micros,
    pub(super) session: u64,
    pub(super) timing: &'a Timing,
    pub(super) effects: &'a mut Vec<Effect>,
    pub(super) numbers: &'a mut Numbers,
    pub(super) holdings: &'a mut Holdings,
    pub(super) grants: &'a mut Grants,
    pub(super) changed: &'a mut Changed,
    pub(super) disk_full: bool,
    pub(super) coordinators: Option<bool>,
}

/// The numbers of WAL records and generations.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) appended: u64,
    pub(super) flushed: u64,
    pub(super) next_generation: u64,
    /// Which partition waits for which run of records, first and last, ascending.
    pub(super) waiting: VecDeque<(u64, u64, PartitionId)>,
}

/// Partitions whose standing changed in this step.
#[derive(Debug, Default)]
pub(super) struct Changed(pub(super) Vec<PartitionId>);

impl Context<'_> {
    /// Hands a record to the WAL and returns its number.
    pub(super) fn append(&mut self, record: DurableRecord) -> u64 {
        let partition = record.partition();
        self.numbers.appended += 1;
        let number = self.numbers.appended;
        match self.numbers.waiting.back_mut() {
            // One entry per run of records of a partition: it wakes with each flush
            // that reaches into the run.
            Some((_, last, same)) if *same == partition && *last + 1 == number => *last = number,
            _ => self.numbers.waiting.push_back((number, number, partition)),
        }
        self.effects.push(Effect::Append(record));
        number
    }

    pub(super) fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.effects.push(Effect::Send { to, message });
    }

    pub(super) fn fresh_generation(&mut self) -> Generation {
        let generation = Generation(self.numbers.next_generation);
        self.numbers.next_generation += 1;
        generation
    }

    pub(super) fn standing_changed(&mut self, partition: PartitionId) {
        if self.changed.0.last() != Some(&partition) {
            self.changed.0.push(partition);
        }
    }
}
