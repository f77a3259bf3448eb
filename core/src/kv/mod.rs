//! What a write means.

pub mod request;
