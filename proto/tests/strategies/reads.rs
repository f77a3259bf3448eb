//! What data nodes ask each other for the sake of reads.

use cairn_core::ids::{Epoch, Micros, ReplicaId};
use cairn_core::replication::message::{ReadAnswer, ReadAsk, Stand};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{partition, position};

pub(super) fn answer() -> BoxedStrategy<ReadAnswer> {
    let numbers = (partition(), any::<u64>(), any::<u64>(), any::<bool>());
    let stand = (numbers, position(), position(), any::<u64>()).prop_map(
        |(numbers, head, commit, reads_for)| Stand {
            partition: numbers.0,
            replica: ReplicaId(numbers.1),
            epoch: Epoch(numbers.2),
            leased: numbers.3,
            head,
            commit,
            reads_for: Micros(reads_for),
        },
    );
    (any::<u64>(), any::<u64>(), vec(stand, 0..5))
        .prop_map(|(session, number, stands)| ReadAnswer {
            session,
            number,
            stands,
        })
        .boxed()
}

pub(super) fn ask() -> BoxedStrategy<ReadAsk> {
    let partitions = || vec(partition(), 0..5);
    (any::<u64>(), any::<u64>(), partitions(), partitions())
        .prop_map(|(session, number, partitions, leases)| ReadAsk {
            session,
            number,
            partitions,
            leases,
        })
        .boxed()
}
