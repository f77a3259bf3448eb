//! What the Raft leader runs.

mod io;

pub use io::{
    AdminRequest, Input, Output, PromotionReason, ProposalId, ProposalOutcome, SupervisorEvent,
    SupervisorOptions,
};

use std::sync::Arc;

use crate::cluster::state::ClusterState;
use crate::ids::Micros;

/// The leader's judgement.
#[derive(Debug)]
pub struct Supervisor {
    options: SupervisorOptions,
    state: Arc<ClusterState>,
}

impl Supervisor {
    /// Before anything was heard.
    #[must_use]
    pub fn new(options: SupervisorOptions) -> Self {
        Self {
            options,
            state: Arc::default(),
        }
    }

    /// Takes one input and tells what is to be done, in this order.
    #[must_use]
    pub fn step(&mut self, now: Micros, input: Input) -> Vec<Output> {
        let _ = (now, &self.options);
        if let Input::Applied { state } | Input::BecameLeader { state } = input {
            self.state = state;
        }
        Vec::new()
    }

    /// Whether the identity that holds `name` is down, so that another one may take
    /// its place: what goes into `NodeRegistration::replace_dead`.
    #[must_use]
    pub fn may_replace(&self, name: &str) -> bool {
        let _ = name;
        false
    }
}
