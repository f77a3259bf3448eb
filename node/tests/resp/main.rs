//! The Redis listener, and the HTTP listener beside it, over keys in memory.

mod commands;
mod endpoints;
mod flow;
mod hostile;
mod http;
mod memory;
mod support;
mod tracking;
mod users;
mod writes;
