//! Whether the node is back among the others since its process started.

use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_core::ids::Micros;
use cairn_core::replication::NodeCore;

/// How long a process that has just started may count as away: what keeps a replica away for
/// longer is none of a short absence.
const AWAY_MAX: Micros = Micros::from_millis(30_000);

/// Looks at every tick, until all replicas are back.
#[derive(Debug)]
pub(super) struct Return {
    until: Option<Micros>,
}

impl Return {
    pub(super) fn begin(now: Micros) -> Self {
        Self {
            until: Some(now.plus(AWAY_MAX)),
        }
    }

    /// Tells how many replicas are away still. Once none was, there are none.
    pub(super) fn look(&mut self, core: &NodeCore, now: Micros, told: &AtomicUsize) {
        let Some(until) = self.until else { return };
        let away = if now < until { core.away() } else { 0 };
        if away == 0 {
            self.until = None;
        }
        told.store(away, Ordering::Relaxed);
    }
}
