//! When partitions get copies for reads alone.

use std::time::Duration;

use cairn_core::cluster::supervisor::ReadCopies;
use cairn_core::ids::Micros;

use super::reader::Reader;

fn micros(span: Duration) -> Micros {
    Micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}

/// Reads them.
pub(super) fn read(reader: &Reader<'_>) -> ReadCopies {
    let usual = ReadCopies::default();
    let most = |name, usual, range| reader.number::<usize>(name, range).unwrap_or(usual);
    let hot_for = reader.millis("CAIRN_READ_COPIES_AFTER_MS", 10_000, 100..=3_600_000);
    let cool_for = reader.millis("CAIRN_READ_COPIES_KEEP_MS", 60_000, 100..=86_400_000);
    ReadCopies {
        per_partition: most(
            "CAIRN_READ_COPIES_PER_PARTITION",
            usual.per_partition,
            0..=cairn_core::cluster::state::READERS_MAX,
        ),
        in_all: most("CAIRN_READ_COPIES_MAX", usual.in_all, 0..=16_384),
        hot_at: reader
            .number("CAIRN_READ_COPIES_AT", 1..=u64::MAX / 2)
            .unwrap_or(usual.hot_at),
        hot_for: micros(hot_for),
        cool_for: micros(cool_for),
        ..usual
    }
}
