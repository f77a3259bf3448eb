//! Which data nodes are up.

use serde::{Deserialize, Serialize};

/// How a node is, as its leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not heard of yet by a leader that just started.
    Unknown,
    /// Heard of lately.
    Up,
    /// Silent, but its peers reach it, or nobody is left to ask.
    Suspect(SuspectReason),
    /// Counts as failed.
    Down(DownReason),
}

/// Why a silent node is not down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SuspectReason {
    /// Not silent for long enough.
    Silent,
    /// Its peers still reach it: only this coordinator lost sight of it.
    PeersReachIt,
    /// This coordinator hears of nobody: it is the one that is cut off.
    Blind,
}

/// Why a node is down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownReason {
    /// Its stream broke and its peers get no answer from it.
    PeersConfirm,
    /// Silent for too long, and its peers get no answer from it.
    SilentAndPeersConfirm,
    /// Silent for too long, and no peer can tell.
    Silent,
}
