//! Counts writes that are refused for want of something that an operator can give more of.

use cairn_core::kv::request::RequestError;
use metrics::{Counter, counter};

/// The counters. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RefusedWrites {
    overloaded: Counter,
    disk_full: Counter,
}

impl RefusedWrites {
    pub(super) fn new() -> Self {
        let refused = |reason| counter!("cairn_writes_refused_total", "reason" => reason);
        Self {
            overloaded: refused("overloaded"),
            disk_full: refused("disk_full"),
        }
    }

    /// Counts a write that ends so. What clients go elsewhere with is counted nowhere.
    pub(super) fn count(&self, error: &RequestError) {
        match error {
            RequestError::Overloaded => self.overloaded.increment(1),
            RequestError::DiskFull => self.disk_full.increment(1),
            RequestError::Moved { .. }
            | RequestError::NotReady { .. }
            | RequestError::Unknown
            | RequestError::Unjudged { .. }
            | RequestError::Limited { .. }
            | RequestError::CrossPartition
            | RequestError::NoMap
            | RequestError::IsCounter
            | RequestError::Striped(_) => {}
        }
    }
}
