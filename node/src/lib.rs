//! The processes of Cairn, as a library: data nodes and coordinators.

#[cfg(seeded_bugs)]
compile_error!("seeded bugs are for the simulator: what is shipped cannot carry them");

pub mod agent;
pub mod budget;
pub mod check;
pub mod coordinator;
pub mod coordinator_node;
mod counters;
pub mod data_node;
pub mod diagnosis;
pub mod disk;
pub mod grpc;
mod hot_keys;
pub mod http;
pub mod listener;
mod near;
pub mod partition;
pub mod peer;
mod processor;
mod reload;
pub mod resp;
#[cfg(test)]
mod samples;
pub mod settings;
mod side;
pub mod store;
pub mod tasks;
pub mod tls;
pub mod trace;
pub mod tracking;
pub mod users;
mod watchdog;
