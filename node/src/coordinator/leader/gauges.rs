//! How the cluster stands, as figures: on the leader, for nobody else knows.

use cairn_core::cluster::status::{RebalanceStatus, Summary};

/// Sets them; all to zero on a coordinator that leads no longer.
pub(super) fn set(summary: Summary, rebalance: RebalanceStatus) {
    let Summary {
        partitions,
        serving,
        degraded,
        moving,
        nodes_up: _,
        nodes: _,
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
    ] {
        metrics::gauge!("cairn_coordinator_partitions", "state" => label).set(count as f64);
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
