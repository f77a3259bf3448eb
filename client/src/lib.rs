//! The Rust client of Cairn.

#![forbid(unsafe_code)]

pub mod transport;
