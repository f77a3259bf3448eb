//! The Redis listener, and the HTTP listener beside it, over keys in memory.

mod commands;
mod flow;
mod hostile;
mod http;
mod memory;
mod support;
mod writes;
