//! The HTTP listener of every process: `/livez`, `/readyz` and `/metrics`.

pub mod health;
pub mod metrics;
mod server;

pub use health::{Check, Health, Probe};
pub use server::{HttpConfig, HttpState, serve};
