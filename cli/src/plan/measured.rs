//! What one node was measured to do: the defaults of `cairn plan`, in this one place.
//!
//! Each constant names the figure that it is taken from; `docs/capacity.md` holds the table of
//! them with the commands, and a test keeps both the same. They are rounded to the careful side:
//! who has figures of their own hardware gives them by the flag beside each.

#[cfg(test)]
use super::model::Costs;

/// Processor time of the primary for one write, in microseconds.
///
/// `cairn-bench compare --systems cairn-3 --workloads write`: the servers' CPU per operation is
/// that of the primary and of two other replicas; of 90 us, 40 are taken as the primary's.
pub(super) const LEAD_CPU_US: f64 = 40.0;
/// Processor time of each other replica for one write, in microseconds: the rest of the above.
pub(super) const FOLLOW_CPU_US: f64 = 25.0;
/// Processor time of a strong read, in microseconds.
///
/// `cairn-bench compare --systems cairn-3 --workloads read`: the servers' CPU per operation.
pub(super) const READ_CPU_US: f64 = 20.0;
/// Processor time for each KiB of a value that is read or written, in microseconds.
///
/// `cairn-bench compare --systems cairn-3 --workloads write --value-size 16384`, less the above.
pub(super) const KIB_CPU_US: f64 = 4.0;
/// Bytes that reach the disk of a replica for each byte of keys and values that are written: the
/// log, the store's journal, its tables and their compaction.
///
/// `cairn-bench compare --systems cairn-3 --workloads write --seconds 60 --keys 2000000`: to disk
/// B per operation, divided by three replicas and by the bytes of key and value. It grows with the
/// levels of the store, which are more for a terabyte than for what a run writes.
pub(super) const WRITE_AMPLIFICATION: f64 = 12.0;
/// Flushes of a disk in a second, one after the other.
///
/// The column `fdatasync/s` of any run, on the disk that nodes will have.
pub(super) const FLUSHES_PER_SECOND: f64 = 2_000.0;
/// Entries that one flush may cover before writes wait noticeably longer than a flush.
///
/// `cairn-bench compare --systems cairn-3 --workloads write --connections 256`: operations per
/// second, divided by nodes and by flushes.
pub(super) const ENTRIES_PER_FLUSH: f64 = 64.0;
/// Bytes that a disk writes in a second: a provisioned cloud volume.
pub(super) const DISK_BYTES_PER_SECOND: f64 = 500e6;
/// Bytes that a node's network carries in a second, each way: one gigabit, less its overhead.
pub(super) const NETWORK_BYTES_PER_SECOND: f64 = 110e6;
/// Bytes that a replica's store takes for each byte of keys and values, while compaction is
/// under way.
///
/// `du` of a data directory after the long write of [`WRITE_AMPLIFICATION`], less the log.
pub(super) const SPACE_AMPLIFICATION: f64 = 1.4;
/// Bytes of each key beside itself and its value: version, expiry, index, filter.
pub(super) const KEY_OVERHEAD_BYTES: f64 = 48.0;
/// Bytes of memory for each key on the node: filters and index of the store.
pub(super) const KEY_MEMORY_BYTES: f64 = 2.0;
/// Bytes of memory of a node that does little: the caches, memtables and bounds of
/// `docs/settings.md` filled, and the process itself.
pub(super) const BASE_MEMORY_BYTES: f64 = 768e6;
/// Disk beside the state: the log with what it retains, journals, the room that is kept free.
pub(super) const BASE_DISK_BYTES: f64 = 1.5e9;
/// Bytes of a copy that a new replica's node takes in a second while it serves clients.
pub(super) const COPY_BYTES_PER_SECOND: f64 = 40e6;

/// All of them.
#[cfg(test)]
pub(super) const COSTS: Costs = Costs {
    lead_cpu_us: LEAD_CPU_US,
    follow_cpu_us: FOLLOW_CPU_US,
    read_cpu_us: READ_CPU_US,
    kib_cpu_us: KIB_CPU_US,
    write_amplification: WRITE_AMPLIFICATION,
    entries_per_flush: ENTRIES_PER_FLUSH,
    space_amplification: SPACE_AMPLIFICATION,
    key_overhead_bytes: KEY_OVERHEAD_BYTES,
    key_memory_bytes: KEY_MEMORY_BYTES,
    base_memory_bytes: BASE_MEMORY_BYTES,
    base_disk_bytes: BASE_DISK_BYTES,
};

/// The table of `docs/capacity.md`: flag, value, what it is, what it is taken from.
#[cfg(test)]
pub(super) fn markdown() -> String {
    use super::size::decimal;
    let compare = "cairn-bench compare --systems cairn-3";
    let rows = [
        (
            "`--lead-cpu-us`",
            format!("{LEAD_CPU_US} us"),
            "processor time of the primary for one write",
            format!("`{compare} --workloads write`: servers' CPU"),
        ),
        (
            "`--follow-cpu-us`",
            format!("{FOLLOW_CPU_US} us"),
            "processor time of each other replica for one write",
            "the same".to_owned(),
        ),
        (
            "`--read-cpu-us`",
            format!("{READ_CPU_US} us"),
            "processor time of a strong read",
            format!("`{compare} --workloads read`: servers' CPU"),
        ),
        (
            "`--kib-cpu-us`",
            format!("{KIB_CPU_US} us"),
            "processor time for each KiB of a value, on top",
            format!("`{compare} --workloads write --value-size 16384`"),
        ),
        (
            "`--write-amplification`",
            format!("{WRITE_AMPLIFICATION}"),
            "bytes to disk of a replica for each byte of key and value",
            format!("`{compare} --workloads write --seconds 60 --keys 2000000`: to disk"),
        ),
        (
            "`--entries-per-flush`",
            format!("{ENTRIES_PER_FLUSH}"),
            "entries that one flush may cover",
            format!("`{compare} --workloads write --connections 256`"),
        ),
        (
            "`--space-amplification`",
            format!("{SPACE_AMPLIFICATION}"),
            "bytes of a replica's store for each byte of key and value",
            "`du` after the long write".to_owned(),
        ),
        (
            "`--key-overhead`",
            decimal(KEY_OVERHEAD_BYTES),
            "disk for each key beside it and its value",
            "the formats of rows".to_owned(),
        ),
        (
            "`--key-memory`",
            decimal(KEY_MEMORY_BYTES),
            "memory for each key on the node",
            "filters of ten bits and an index".to_owned(),
        ),
        (
            "`--base-memory`",
            decimal(BASE_MEMORY_BYTES),
            "memory beside that",
            "the bounds in settings.md, filled".to_owned(),
        ),
        (
            "`--base-disk`",
            decimal(BASE_DISK_BYTES),
            "disk beside the state",
            "the bounds in settings.md, filled".to_owned(),
        ),
        (
            "`--node-flushes`",
            format!("{FLUSHES_PER_SECOND}/s"),
            "flushes of a disk, one after the other",
            "`fdatasync/s` of any run on that disk".to_owned(),
        ),
        (
            "`--node-disk`",
            format!("{}/s", decimal(DISK_BYTES_PER_SECOND)),
            "bytes that a disk writes",
            "assumed: a provisioned cloud volume".to_owned(),
        ),
        (
            "`--node-network`",
            format!("{}/s", decimal(NETWORK_BYTES_PER_SECOND)),
            "bytes that the network carries, each way",
            "assumed: one gigabit".to_owned(),
        ),
        (
            "`--copy-rate`",
            format!("{}/s", decimal(COPY_BYTES_PER_SECOND)),
            "bytes of a copy that a node takes in while it serves",
            "assumed: what is left of disk and network".to_owned(),
        ),
    ];
    let mut text = "| flag | default | what | taken from |\n| --- | --- | --- | --- |\n".to_owned();
    for (flag, value, what, from) in rows {
        text.push_str(&format!("| {flag} | {value} | {what} | {from} |\n"));
    }
    text
}
