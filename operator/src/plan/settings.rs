//! Agreed numbers.

use cairn_core::cluster::settings as core;
use cairn_core::counters::Declared;
use cairn_crds::KvClusterSpec;

use crate::names::Role;
use crate::store::{self, Health, Store};

use super::duties::{Duties, Duty};
use super::view::View;
use super::{Admin, AgreedSettings, Plan, Step, Topic};

/// How long a node may stay away, milliseconds.
pub(super) fn replace_after_ms(spec: &KvClusterSpec) -> u64 {
    let asked = spec.timings.replace_after_ms;
    asked.map_or(core::REPLACE_AFTER_MS_DEFAULT, u64::from)
}

/// What is asked for, every number of it: what the manifest leaves out is its default.
fn asked(spec: &KvClusterSpec) -> store::Settings {
    let timings = &spec.timings;
    let window = spec.limits.idempotence_window;
    store::Settings {
        replication_factor: spec.replication_factor.into(),
        write_quorum: spec.settled_write_quorum().into(),
        min_in_sync: spec.settled_min_in_sync().into(),
        lease_ms: timings.lease_ms.map_or(core::LEASE_MS_DEFAULT, u64::from),
        node_timeout_ms: timings
            .node_timeout_ms
            .map_or(core::NODE_TIMEOUT_MS_DEFAULT, u64::from),
        replace_after_ms: replace_after_ms(spec),
        moves_per_node: timings
            .moves_per_node
            .unwrap_or_else(|| core::MOVES_PER_NODE_DEFAULT.into()),
        idempotence_window: window.unwrap_or(core::IDEMPOTENCE_WINDOW_DEFAULT),
        counters: spec.declared_counters(),
    }
}

/// What is asked for of counters, and no stripes for those that are left out and were agreed
/// on: they may be striped, so that the coordinators let none be taken out.
fn counters(asked: &str, agreed: &str) -> String {
    let (Ok(asked), Ok(before)) = (Declared::parse(asked), Declared::parse(agreed)) else {
        // Told of elsewhere.
        return agreed.to_owned();
    };
    let mut prefixes = before.prefixes().clone();
    prefixes.values_mut().for_each(|stripes| *stripes = 0);
    prefixes.extend(asked.prefixes().clone());
    Declared::new(prefixes).map_or_else(|_| agreed.to_owned(), |declared| declared.spell())
}

/// Has the coordinators agree on what the manifest says.
///
/// More copies wait for the data nodes that they need. RF, W and minInSync go together
/// wherever one of them differs: the coordinators would have the others follow RF, and W
/// would pass through a value that nobody asked for.
pub(super) fn agree(view: View<'_>, store: &Store, duties: &Duties<'_>, plan: &mut Plan) {
    let Some(agreed) = &store.settings else {
        return;
    };
    let mut asked = asked(&view.cluster.spec);
    asked.counters = counters(&asked.counters, &agreed.counters);
    let able = duties.all(Role::Data).filter(|(node, duty)| {
        let stays = !matches!(duty, Duty::GiveUp(_) | Duty::Leave | Duty::Empty);
        let is_up = |member: &store::Node| {
            member.health == Health::Up && (member.leaving.is_none() || *duty == Duty::Return)
        };
        stays && node.member.is_some_and(is_up)
    });
    let able = u32::try_from(able.count()).unwrap_or(u32::MAX);
    if asked.replication_factor > agreed.replication_factor && able < asked.replication_factor {
        let text = format!(
            "replicationFactor becomes {} once as many data nodes are up: there are {able}.",
            asked.replication_factor
        );
        plan.note_of_all(Topic::Settings, &text);
        asked.replication_factor = agreed.replication_factor;
        asked.write_quorum = agreed.write_quorum;
        asked.min_in_sync = agreed.min_in_sync;
    }
    if asked == *agreed {
        return;
    }
    // Without `..`: a new number must be looked at here.
    let store::Settings {
        replication_factor,
        write_quorum,
        min_in_sync,
        lease_ms,
        node_timeout_ms,
        replace_after_ms,
        moves_per_node,
        idempotence_window,
        counters,
    } = asked;
    let quorums = (replication_factor, write_quorum, min_in_sync);
    let copies_change = quorums
        != (
            agreed.replication_factor,
            agreed.write_quorum,
            agreed.min_in_sync,
        );
    let change = AgreedSettings {
        replication_factor: copies_change.then_some(replication_factor),
        write_quorum: copies_change.then_some(write_quorum),
        min_in_sync: copies_change.then_some(min_in_sync),
        lease_ms: changed(lease_ms, agreed.lease_ms),
        node_timeout_ms: changed(node_timeout_ms, agreed.node_timeout_ms),
        replace_after_ms: changed(replace_after_ms, agreed.replace_after_ms),
        moves_per_node: changed(moves_per_node, agreed.moves_per_node),
        idempotence_window: changed(idempotence_window, agreed.idempotence_window),
        counters: (counters != agreed.counters).then_some(counters),
    };
    plan.steps.push(Step::Admin(Admin::Settings(change)));
    plan.note_of_all(Topic::Settings, "The agreed numbers are changed.");
}

fn changed<T: PartialEq>(asked: T, agreed: T) -> Option<T> {
    (asked != agreed).then_some(asked)
}

/// Holds moves back, or lets them go on.
pub(super) fn pause_moves(view: View<'_>, store: &Store, plan: &mut Plan) {
    let paused = view.cluster.spec.maintenance.rebalance_paused;
    if store.rebalance.paused != paused {
        plan.steps.push(Step::Admin(Admin::PauseMoves(paused)));
    }
    if paused {
        let text = "Moves that no lost copy asks for are held back by \
                    maintenance.rebalancePaused.";
        plan.note_of_all(Topic::Maintenance, text);
    }
}
