//! What people and programs reach a cluster with: the `cairn` command, Redis's own tools,
//! Redis clients of five languages, the Rust client as its page shows it, a browser,
//! and clients that speak TLS.

mod benchmark;
mod client_docs;
mod commands;
mod comparison;
mod languages;
mod redis_tools;
mod status_page;
mod tls;
mod users;
