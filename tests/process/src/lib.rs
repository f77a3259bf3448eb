//! Runs a cluster of real processes, breaks it on purpose, and checks from outside
//! that it kept what it promised.
//!
//! - [`cluster`] starts, kills, stops and wipes nodes: the `cairn` binary under
//!   `CAIRN_*` variables, on free loopback ports, in a temporary directory.
//! - [`load`] writes and reads from many connections; [`ledger`] remembers what was
//!   acknowledged and judges what is read, [`gaps`] how long a partition was silent, and
//!   [`latencies`] how long requests took. None of that lives in a process that is killed.
//! - [`membership`] says what a change of it cost clients, and what it copied; [`cli`] runs
//!   what a person would type.
//! - [`history`] records what the Rust client saw, to be judged for linearizability.
//! - [`network`] runs nodes in network namespaces, and loses packets between them; [`proxy`]
//!   delays, holds up and cuts TCP connections.
//! - [`http2`] misuses gRPC as no proper client would.
//! - [`browser`] opens pages as a person's browser does.
//! - [`pod`] runs nodes as Kubernetes does, and [`certificates`] signs for clusters that speak TLS.
//! - [`power`] forgets at a kill what was not flushed; [`wal`] damages log segments.
//! - [`small_disk`] is a disk that can be filled up.
//! - [`operator`] is an operator as a process, and [`api_server`] the Kubernetes that it finds.
//! - [`prometheus`] collects metrics as a real one does, and [`metrics_table`] says which there
//!   are.
//! - [`runbook`] runs the commands of a page of the documentation.
//! - [`collector`] takes traces.
//! - [`waiting`] waits for conditions, with a bound.
//!
//! Nothing here asserts a duration: bounds only end what would hang.

pub mod access;
pub mod api_server;
pub mod binary;
pub mod browser;
pub mod certificates;
pub mod cli;
pub mod cluster;
pub mod collector;
pub mod gaps;
pub mod history;
pub mod http;
pub mod http2;
pub mod latencies;
pub mod ledger;
pub mod load;
pub mod membership;
pub mod metrics_table;
mod native;
pub mod network;
pub mod node;
pub mod operator;
pub mod pod;
pub mod ports;
pub mod power;
pub mod prometheus;
pub mod proxy;
pub mod resp;
pub mod resp3;
pub mod runbook;
pub mod seed;
pub mod skip;
pub mod slot_keys;
pub mod small_disk;
pub mod status;
pub mod waiting;
pub mod wal;
