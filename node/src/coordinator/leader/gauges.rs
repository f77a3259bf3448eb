//! How the cluster stands, as figures: on the leader, for nobody else knows.

use cairn_core::cluster::status::{RebalanceStatus, Summary};
use cairn_core::cluster::supervisor::HeatFigures;

/// Sets them; all to zero on a coordinator that leads no longer.
pub(super) fn set(summary: Summary, rebalance: RebalanceStatus, heat: HeatFigures) {
    let HeatFigures {
        partitions: hot_partitions,
        hottest_requests_per_second,
        read_copies,
    } = heat;
    metrics::gauge!("cairn_coordinator_read_copies").set(read_copies as f64);
    metrics::gauge!("cairn_coordinator_hot_partitions").set(hot_partitions as f64);
    metrics::gauge!("cairn_coordinator_hottest_partition_requests_per_second")
        .set(hottest_requests_per_second as f64);
    let Summary {
        partitions,
        serving,
        degraded,
        moving,
        without_quorum,
        without_spare,
        lag_entries,
        nodes_up,
        nodes_down,
        nodes,
        lossy_promotions: _,
    } = summary;
    let RebalanceStatus {
        paused,
        planned: _,
        too_few_nodes,
        held_back,
        under_way,
        waiting,
        to_adjust: _,
        bytes_left,
    } = rebalance;
    for (label, count) in [
        ("unserved", partitions - serving.min(partitions)),
        ("degraded", degraded),
        ("moving", moving),
        ("without_quorum", without_quorum),
        ("without_spare", without_spare),
    ] {
        metrics::gauge!("cairn_coordinator_partitions", "state" => label).set(count as f64);
    }
    metrics::gauge!("cairn_coordinator_replica_lag_entries").set(lag_entries as f64);
    for (label, count) in [
        ("up", nodes_up),
        ("suspect", nodes.saturating_sub(nodes_up + nodes_down)),
        ("down", nodes_down),
    ] {
        metrics::gauge!("cairn_coordinator_data_nodes", "health" => label).set(count as f64);
    }
    for (label, count) in [("under_way", under_way), ("waiting", waiting)] {
        metrics::gauge!("cairn_coordinator_copies", "state" => label).set(count as f64);
    }
    metrics::gauge!("cairn_coordinator_copies_left_bytes").set(bytes_left as f64);
    let held = |held: bool| if held { 1.0 } else { 0.0 };
    for (label, why) in [
        ("paused", paused),
        ("too_few_nodes", too_few_nodes),
        ("too_many_down", held_back),
    ] {
        metrics::gauge!("cairn_coordinator_moves_held_back", "reason" => label).set(held(why));
    }
}
