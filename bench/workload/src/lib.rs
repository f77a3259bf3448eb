//! What a load generator is made of, whoever it asks: which operation and which key comes
//! next, when it is due, what was seen of it, and as little of the Redis protocol as that takes.
//!
//! `cairn bench` drives a cluster with it, `cairn-bench` Cairn and its peers in turn. It opens
//! sockets only to ask a server for its slots; the requests themselves are the callers'.

pub mod directory;
pub mod distribution;
pub mod operation;
pub mod resp;
pub mod tally;
