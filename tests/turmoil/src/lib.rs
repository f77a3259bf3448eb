//! Runs whole nodes, as they ship, in turmoil's simulated network, and checks what they do.
//!
//! - [`network`] takes TCP's place under gRPC.
//! - [`fleet`] runs coordinators on simulated time, disks included: a run goes as fast as
//!   the machine allows.
//! - [`ledger`] holds what they did against what Raft promises.
//! - [`writers`] change the cluster's metadata as anybody does, through the network.
//! - [`storm`] draws what happens to them.
//! - [`cluster`] runs coordinators, data nodes and clients together. Engines, logs and stores
//!   have threads, which know nothing of simulated time: there it keeps pace with the
//!   machine's.

pub mod cluster;
pub mod fleet;
pub mod ledger;
pub mod network;
pub mod storm;
pub mod writers;
