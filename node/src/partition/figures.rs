//! The engine's metrics. Handles are kept, since looking one up costs more than
//! counting.

use cairn_core::ids::Micros;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The engine's metrics.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) writes: Counter,
    /// Increments that share their entry with others.
    pub(super) combined: Counter,
    turns: Counter,
    inputs_per_turn: Histogram,
    /// For how long the first input of a turn waited for it.
    waits: Histogram,
    pub(super) flush_seconds: Histogram,
    /// For how long the oldest flush under way has been awaited.
    pub(super) flush_awaited: Gauge,
    pub(super) commit_seconds: Histogram,
    pub(super) waiting: Gauge,
    pub(super) serving: Gauge,
    pub(super) depositions: Counter,
    pub(super) lease_lapses: Counter,
    pub(super) lookups: Counter,
    /// Partitions whose writes are slowed for a replica that catches up.
    pub(super) pushing_back: Gauge,
    /// Writes that were held for that.
    pub(super) pushed_back: Counter,
    /// Bytes in a second that copies for other nodes may take.
    pub(super) copy_rate: Gauge,
    /// Keys that were deleted because their time was past.
    pub(super) expired: Counter,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            writes: counter!("cairn_writes_total"),
            combined: counter!("cairn_combined_writes_total"),
            turns: counter!("cairn_engine_turns_total"),
            inputs_per_turn: histogram!("cairn_engine_turn_inputs"),
            waits: histogram!("cairn_engine_wait_seconds"),
            flush_seconds: histogram!("cairn_wal_flush_wait_seconds"),
            flush_awaited: gauge!("cairn_wal_flush_awaited_seconds"),
            commit_seconds: histogram!("cairn_write_commit_seconds"),
            waiting: gauge!("cairn_writes_waiting"),
            serving: gauge!("cairn_partitions_serving"),
            depositions: counter!("cairn_primary_depositions_total"),
            lease_lapses: counter!("cairn_lease_lapses_total"),
            lookups: counter!("cairn_write_lookups_total"),
            pushing_back: gauge!("cairn_partitions_pushing_back"),
            pushed_back: counter!("cairn_writes_pushed_back_total"),
            copy_rate: gauge!("cairn_copy_rate_bytes_per_second"),
            expired: counter!("cairn_expired_keys_total"),
        }
    }

    /// A turn begins that takes so many inputs, of which the first waited for so long.
    pub(super) fn turn(&self, inputs: usize, waited: Option<Micros>) {
        if inputs > 0 {
            self.turns.increment(1);
            self.inputs_per_turn.record(inputs as f64);
        }
        if let Some(waited) = waited {
            self.waits.record(waited.0 as f64 / 1e6);
        }
    }
}

/// The metrics of reads, which are counted where they are served.
#[derive(Debug)]
pub(super) struct ReadFigures {
    /// Answered from the cache, without waiting.
    pub(super) at_once: Counter,
    /// Everything else.
    pub(super) waited: Counter,
    /// Answered from a replica's own state.
    pub(super) local: Counter,
    /// By a replica, under a proof of its primary's.
    pub(super) replica: Counter,
    /// Of those: under a lease for reads, without asking it.
    pub(super) leased: Counter,
    /// Under a proof of a read quorum.
    pub(super) quorum: Counter,
    /// Sent to another replica, since this one could not prove to be current.
    pub(super) redirected: Counter,
}

impl ReadFigures {
    pub(super) fn new() -> Self {
        Self {
            at_once: counter!("cairn_reads_total", "served" => "at_once"),
            waited: counter!("cairn_reads_total", "served" => "after_waiting"),
            local: counter!("cairn_reads_total", "served" => "local_state"),
            replica: counter!("cairn_reads_total", "served" => "replica"),
            leased: counter!("cairn_reads_leased_total"),
            quorum: counter!("cairn_reads_total", "served" => "quorum"),
            redirected: counter!("cairn_reads_redirected_total"),
        }
    }
}
