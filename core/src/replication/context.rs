//! What a replica may use of the node that it lives on, for the time of one step.

use std::collections::VecDeque;

use super::durable::{DurableRecord, Generation};
use super::event::{DiskRoom, Effect};
use super::lease::{Grants, Holdings};
use super::message::PeerMessage;
use super::node::Timing;
use super::pace::Pace;
use super::proof::Questions;
use super::sources::Givers;
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
    pub(super) questions: &'a mut Questions,
    pub(super) givers: &'a mut Givers,
    pub(super) pace: &'a mut Pace,
    /// R where it is above N-W+1.
    pub(super) read_quorum: usize,
    pub(super) disk: DiskRoom,
    /// Bytes of entries in every log of the node that the store has not applied, as
    /// of the beginning of the step.
    pub(super) unapplied: usize,
    pub(super) coordinators: Option<bool>,
    /// Until then the process before this one may have granted leases for reads.
    pub(super) reads_unknown_until: Micros,
}

/// The numbers of WAL records and generations.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) appended: u64,
    pub(super) flushed: u64,
    pub(super) next_generation: u64,
    /// Which partition waits for which run of records, first and last, ascending.
    pub(super) waiting: VecDeque<(u64, u64, PartitionId)>,
    /// Since when a flush has been awaited without any having returned.
    pub(super) awaited_since: Option<Micros>,
    /// When a flush returned last, or the log was last found to be idle.
    pub(super) returned: Micros,
}

/// How long nothing is flushed before the log is probed (rule 1). Once a second per
/// node, whatever the number of its partitions, costs next to nothing.
const PROBE_EVERY: Micros = Micros::from_millis(1_000);

impl Numbers {
    pub(super) fn new(next_generation: u64, now: Micros) -> Self {
        Self {
            appended: 0,
            flushed: 0,
            next_generation,
            waiting: VecDeque::new(),
            awaited_since: None,
            returned: now,
        }
    }

    /// The log is durable up to `number`.
    pub(super) fn flushed_to(&mut self, number: u64, now: Micros) {
        self.flushed = self.flushed.max(number);
        self.returned = now;
        self.awaited_since = (self.flushed < self.appended).then_some(now);
    }

    /// Whether the log is to be probed now; then it counts as awaited.
    pub(super) fn probe(&mut self, now: Micros) -> bool {
        let due = self.awaited_since.is_none() && now >= self.returned.plus(PROBE_EVERY);
        if due {
            self.awaited_since = Some(now);
        }
        due
    }

    /// Whether the disk hangs: a flush has been awaited for `bound` and none returned.
    pub(super) fn stuck(&self, now: Micros, bound: Micros) -> bool {
        self.awaited_since
            .is_some_and(|since| now >= since.plus(bound))
    }
}

/// Partitions whose standing changed in this step.
#[derive(Clone, Debug, Default)]
pub(super) struct Changed(pub(super) Vec<PartitionId>);

impl Context<'_> {
    /// Hands a record to the WAL and returns its number.
    pub(super) fn append(&mut self, record: DurableRecord) -> u64 {
        let partition = record.partition();
        self.numbers.appended += 1;
        self.numbers.awaited_since.get_or_insert(self.now);
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
