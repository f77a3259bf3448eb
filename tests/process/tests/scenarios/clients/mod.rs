//! What people and programs reach a cluster with: the `cairn` command, Redis's own tools,
//! and clients that speak TLS.

mod commands;
mod redis_tools;
mod tls;
mod users;
