//! The HTTP listener of every process: `/livez`, `/readyz` and `/metrics`, and further
//! routes such as a coordinator's status page.

pub mod health;
pub mod metrics;
mod server;

pub use health::{Check, Health, Probe};
pub use server::{HttpConfig, HttpState, serve};
