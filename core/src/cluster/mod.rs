//! What the coordinators decide, and how they come to it.

pub mod report;
