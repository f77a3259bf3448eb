//! How a client behaves.

use std::time::Duration;

use cairn_core::kv::request::WriteLevel;
use cairn_proto::kv::Consistency;

use crate::near::NearCacheOptions;
use crate::transport::Dialer;

/// How a client behaves. The defaults suit most uses.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a call may take in all, its retries included.
    pub deadline: Duration,
    /// How long one attempt may go unanswered before the call is tried again.
    pub attempt_timeout: Duration,
    /// The first pause between two attempts; the following ones double.
    pub backoff_min: Duration,
    /// The longest pause between two attempts.
    pub backoff_max: Duration,
    /// The most calls that wait on one connection; further ones wait for room.
    pub calls_in_flight_max: usize,
    /// How connections are made.
    pub dialer: Dialer,
    /// How current reads are that name no consistency.
    pub consistency: Consistency,
    /// When writes are acknowledged that name no level.
    pub write_level: WriteLevel,
    /// Whether what [`crate::Client::get_within`] reads is kept, and how much. `None`: nothing.
    pub near_cache: Option<NearCacheOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(250),
            calls_in_flight_max: 8192,
            dialer: Dialer::default(),
            consistency: Consistency::Default,
            write_level: WriteLevel::Quorum,
            near_cache: None,
        }
    }
}
