//! What the supervisor tells: logs, metrics, and the recent past for people.

use std::collections::VecDeque;

use cairn_core::cluster::SupervisorEvent;
use cairn_core::ids::Micros;
use serde::Serialize;

use crate::partition::wall_ms;

/// How many events are kept to be shown.
const KEPT: usize = 256;

/// An event and when it was.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct Noted {
    /// Milliseconds since 1970 UTC.
    pub(in super::super) at_unix_ms: u64,
    /// What.
    pub(in super::super) event: SupervisorEvent,
}

#[derive(Debug, Default)]
pub(super) struct Chronicle {
    events: VecDeque<Noted>,
}

fn seconds(span: Micros) -> f64 {
    span.0 as f64 / 1e6
}

/// Counts nothing yet of what an alert must see the first time: what is first seen at 1 has
/// increased by nothing.
pub(super) fn register() {
    for counter in [
        metrics::counter!("cairn_coordinator_possible_losses_total"),
        metrics::counter!("cairn_coordinator_lost_entries_known_total"),
        metrics::counter!("cairn_coordinator_reigns_total"),
    ] {
        counter.increment(0);
    }
}

impl Chronicle {
    /// A reign begins: nothing was seen yet.
    pub(super) fn begin(&mut self) {
        self.events.clear();
    }

    /// The last events, oldest first.
    pub(super) fn recent(&self) -> Vec<Noted> {
        self.events.iter().cloned().collect()
    }

    pub(super) fn note(&mut self, event: SupervisorEvent) {
        self.tell(&event);
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Noted {
            at_unix_ms: wall_ms(),
            event,
        });
    }

    fn tell(&mut self, event: &SupervisorEvent) {
        match event {
            SupervisorEvent::NodeHealth { node, from, to } => {
                tracing::info!(%node, ?from, ?to, "a data node's health changed");
            }
            SupervisorEvent::PromotionStarted {
                partition,
                epoch,
                reason,
            } => {
                tracing::info!(%partition, %epoch, ?reason, "looking for a primary");
                metrics::counter!(
                    "cairn_coordinator_promotions_started_total",
                    "reason" => reason_label(reason)
                )
                .increment(1);
            }
            SupervisorEvent::PromotionAbandoned { partition } => {
                tracing::info!(%partition, "no new primary is needed after all");
            }
            SupervisorEvent::PromotionBlocked {
                partition,
                have,
                need,
            } => {
                tracing::warn!(%partition, have, need, "too few replicas answer for a promotion");
            }
            SupervisorEvent::Promoted {
                partition,
                epoch,
                primary,
                head,
                took,
                waited_for_leases,
            } => {
                tracing::info!(
                    %partition, %epoch, node = %primary.node, %head, ?took, ?waited_for_leases,
                    "a primary is named"
                );
                metrics::counter!("cairn_coordinator_promotions_total").increment(1);
                metrics::histogram!("cairn_coordinator_promotion_seconds").record(seconds(*took));
                metrics::histogram!("cairn_coordinator_promotion_lease_wait_seconds")
                    .record(seconds(*waited_for_leases));
            }
            SupervisorEvent::PossibleLoss {
                partition,
                absent,
                entries_known,
            } => {
                tracing::error!(
                    %partition, absent, entries_known,
                    "a primary was named from too few reports: acknowledged writes may be lost"
                );
                metrics::counter!("cairn_coordinator_possible_losses_total").increment(1);
                metrics::counter!("cairn_coordinator_lost_entries_known_total")
                    .increment(*entries_known);
            }
            SupervisorEvent::Serving {
                partition,
                epoch,
                unserved,
            } => {
                tracing::info!(%partition, %epoch, ?unserved, "a primary serves");
                metrics::histogram!("cairn_coordinator_unserved_seconds")
                    .record(seconds(*unserved));
            }
            SupervisorEvent::ProposalRefused { partition, refusal } => {
                tracing::debug!(?partition, %refusal, "a proposal was refused");
                metrics::counter!("cairn_coordinator_proposals_refused_total").increment(1);
            }
            SupervisorEvent::RequestRefused { partition, reason } => {
                tracing::warn!(%partition, reason, "a request is refused");
            }
            SupervisorEvent::Planned { partitions, copies } => {
                tracing::info!(partitions, copies, "other nodes are to hold the data");
                metrics::counter!("cairn_coordinator_plans_total").increment(1);
                metrics::counter!("cairn_coordinator_planned_copies_total")
                    .increment(u64::try_from(*copies).unwrap_or(u64::MAX));
            }
            SupervisorEvent::ReplacementHeldBack { down, nodes } => {
                tracing::error!(
                    down,
                    nodes,
                    "nodes have been away for longer than the grace, but too many are down at \
                     once to believe that their data is lost: nobody is replaced"
                );
            }
            SupervisorEvent::HandOverOrdered { .. }
            | SupervisorEvent::Shrunk { .. }
            | SupervisorEvent::LearnerAdded { .. }
            | SupervisorEvent::LearnerRemoved { .. }
            | SupervisorEvent::ReaderAdded { .. }
            | SupervisorEvent::ReaderRemoved { .. }
            | SupervisorEvent::JointEntered { .. }
            | SupervisorEvent::JointLeft { .. } => {
                tracing::info!(?event, "a partition is changed");
                metrics::counter!("cairn_coordinator_reconfigurations_total").increment(1);
            }
        }
    }
}

/// The reason as the manifest and the metrics spell it.
fn reason_label(reason: &impl Serialize) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(text)) => text,
        _ => "other".to_owned(),
    }
}
