//! What turns of the engine take of a processor, and for which partitions: one turn in so many is
//! timed, and stands for the others.

use std::time::Duration;

use cairn_core::ids::PartitionId;
use cairn_core::replication::PeerMessage;

use super::heat::Heat;
use crate::processor::thread_time;

/// One turn in so many is timed: under load a turn takes some hundred microseconds, and two looks
/// at the clock less than one.
const EVERY: u32 = 16;

/// Which turn is timed, and what it has been for.
#[derive(Debug, Default)]
pub(super) struct TurnSamples {
    /// How many turns are not timed until the next one that is.
    left: u32,
    /// Where this turn is timed: the thread's time when it began.
    since: Option<Duration>,
    /// Whom it was for, each as often as something was done for it.
    shares: Vec<(PartitionId, usize)>,
}

impl TurnSamples {
    /// A turn begins.
    pub(super) fn begin(&mut self) {
        if self.left > 0 {
            self.left -= 1;
        } else {
            self.left = EVERY - 1;
            self.since = Some(thread_time());
        }
    }

    /// Something is done for this partition.
    pub(super) fn note(&mut self, partition: PartitionId) {
        if self.since.is_some() {
            self.shares.push((partition, 1));
        }
    }

    /// A message of another node is taken.
    pub(super) fn message(&mut self, message: &PeerMessage) {
        match message {
            PeerMessage::Append(append) => self.note(append.partition),
            PeerMessage::AppendReply(reply) => self.note(reply.partition),
            // What keeps a partition alive is nobody's request.
            _ => {}
        }
    }

    /// The turn ends, on the thread on which it began.
    pub(super) fn end(&mut self, heat: &Heat) {
        if let Some(since) = self.since.take() {
            let time = thread_time().saturating_sub(since);
            heat.spent(&self.shares, time * EVERY);
            self.shares.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::heat::HotKeysShown;
    use super::*;

    #[test]
    fn one_turn_in_so_many_is_timed_and_shared_out_over_what_it_was_for() {
        let (busy, quiet) = (PartitionId(1), PartitionId(2));
        let heat = Heat::new(HotKeysShown::Off);
        let mut samples = TurnSamples::default();
        let turn = |samples: &mut TurnSamples| {
            samples.begin();
            for partition in [busy, busy, quiet, busy] {
                samples.note(partition);
            }
            std::hint::black_box((0..50_000_u64).fold(0, |sum, n| sum ^ std::hint::black_box(n)));
            samples.end(&heat);
            heat.take_spent()
        };
        let first = turn(&mut samples);
        let ratio = first[&busy].as_secs_f64() / first[&quiet].as_secs_f64();
        assert!((2.99..3.01).contains(&ratio), "{first:?}");
        for _ in 1..EVERY {
            assert_eq!(turn(&mut samples), BTreeMap::new());
        }
        assert_eq!(turn(&mut samples).len(), 2);
        assert!(samples.shares.is_empty());
    }
}
