//! What people and programs reach a cluster with: the `cairn` command, Redis's own tools,
//! and clients that speak TLS.

mod client_docs;
mod commands;
mod languages;
mod redis_tools;
mod tls;
