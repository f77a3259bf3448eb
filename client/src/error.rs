//! What can come of a call that does not succeed, and what to do about it.

use std::time::Duration;

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint gave a map.
    #[error(
        "no map from {}: {reason}; check that these addresses are client ports of the cluster's \
         nodes and that the cluster is up",
        .endpoints.join(", ")
    )]
    Connect {
        /// What was tried.
        endpoints: Vec<String>,
        /// What went wrong last.
        reason: String,
    },
    /// The call was not answered before its deadline. Nothing was changed.
    #[error(
        "not answered within {within:?} after {attempts} attempts, and nothing was changed: \
         {reason}; try again, or look at `cairn status`"
    )]
    Unavailable {
        /// The deadline.
        within: Duration,
        /// How often it was tried.
        attempts: u32,
        /// What went wrong last.
        reason: String,
    },
    /// The write may have been applied, once, or may not have been.
    #[error(
        "the write may or may not have been applied, and never more than once: {reason}; read \
         the key to find out"
    )]
    OutcomeUnknown {
        /// What went wrong last.
        reason: String,
    },
    /// Too few replicas have disk room. Nothing was changed.
    #[error(
        "too few replicas have disk room for a write, and nothing was changed: free disk space \
         or add nodes; reads go on"
    )]
    DiskFull,
    /// The call itself is wrong. Nothing was changed.
    #[error("{field} {problem}")]
    Invalid {
        /// What is wrong.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// This cluster does not offer it. Nothing was changed.
    #[error("the cluster does not offer {what}")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// The cluster has users, and the credential is missing or not one of a user.
    /// Nothing was changed.
    #[error("not let in: {reason}")]
    Unauthenticated {
        /// What the node said.
        reason: String,
    },
    /// The user may not do it. Nothing was changed.
    #[error("permission denied: this user may not {what}")]
    PermissionDenied {
        /// What it may not do.
        what: String,
    },
    /// The value is not a decimal integer of 64 bits. Nothing was changed.
    #[error("the value is not a decimal integer of 64 bits, so that it cannot be incremented")]
    NotAnInteger,
    /// The increment would leave 64 bits. Nothing was changed.
    #[error("the increment would leave the range of 64 bits")]
    Overflow,
}
