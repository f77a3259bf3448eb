//! What the coordinators decide, and how they come to it.
//!
//! - [`settings`]: what a cluster can be asked to be, and what is refused.
//! - [`ring`] and [`placement`]: which nodes hold a partition.
//! - [`rebalance`]: which partitions get other seats when the nodes change.
//! - [`command`] and [`state`]: the state machine behind the coordinators' Raft log.
//! - [`failure_detector`]: which nodes are up, by what was heard of them.
//! - [`supervisor`]: what the Raft leader runs: promotion (rules 1, 2, 9) and
//!   reconfiguration (rules 10, 11) of every partition.
//! - [`report`]: what coordinators and data nodes say to each other.
//! - [`status`]: what people are shown.

pub mod command;
pub mod failure_detector;
pub mod placement;
pub mod rebalance;
pub mod report;
pub mod ring;
pub mod settings;
pub mod state;
pub mod status;
pub mod supervisor;

pub use command::{Command, Direction, Loss, NodeRegistration, Refusal, Response};
pub use state::ClusterState;
pub use supervisor::{
    AdminRequest, Input, Output, ProposalId, ProposalOutcome, Supervisor, SupervisorEvent,
    SupervisorOptions,
};
