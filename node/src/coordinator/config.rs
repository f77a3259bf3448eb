//! What a coordinator is told when it starts.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cairn_client::transport::Dialer;
use cairn_core::cluster::supervisor::ReadCopies;
use cairn_core::record::ClusterSettings;

use crate::listener::TlsSource;
use crate::users::Users;

/// The most coordinators of a group: more would only make its commits slower.
pub(super) const COORDINATORS_MAX: usize = 5;

/// One configured coordinator: its fixed name, and where its peer port answers.
///
/// Written as `name=host:port`, several of them separated by commas
/// (`CAIRN_COORDINATORS`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoordinatorAddress {
    /// The label by which the coordinators know each other.
    pub name: String,
    /// `host:port` of the port between nodes.
    pub peer: String,
}

/// Why a list of coordinators is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// One item is not `name=host:port`.
    #[error("`{0}` is not of the form name=host:port")]
    Form(String),
    /// A name stands twice.
    #[error("the coordinator `{0}` is listed twice")]
    Twice(String),
    /// The list is empty.
    #[error("no coordinator is listed")]
    Empty,
    /// Neither 1, 3 nor 5: an even number survives no more losses than one fewer.
    #[error("{0} coordinators are listed: there must be 1, 3 or 5")]
    Count(usize),
}

impl FromStr for CoordinatorAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.to_owned());
        let (name, peer) = text.trim().split_once('=').ok_or_else(form)?;
        let (host, port) = peer.rsplit_once(':').ok_or_else(form)?;
        let well_named = !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !well_named || host.is_empty() || port.parse::<u16>().is_err() {
            return Err(form());
        }
        Ok(Self {
            name: name.to_owned(),
            peer: peer.to_owned(),
        })
    }
}

impl fmt::Display for CoordinatorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.peer)
    }
}

impl CoordinatorAddress {
    /// Reads a whole list. The order of the list means nothing: it is sorted by name.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn parse_list(text: &str) -> Result<Vec<Self>, AddressError> {
        let mut all = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<Self>, _>>()?;
        all.sort();
        if let Some(pair) = all.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(AddressError::Twice(pair[0].name.clone()));
        }
        match all.len() {
            0 => Err(AddressError::Empty),
            n if n % 2 == 0 || n > COORDINATORS_MAX => Err(AddressError::Count(n)),
            _ => Ok(all),
        }
    }
}

/// The timings of the coordinators' Raft group, the same on all of them.
///
/// Whose turn it is to stand for election, where several may, is decided beside Raft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RaftTimings {
    /// How often a leader is heard. Also how long it waits for one append to be
    /// answered, the follower's flush included.
    pub heartbeat: Duration,
    /// The election timeout. A leader that falls silent is replaced after about twice
    /// this.
    pub election: Duration,
}

impl Default for RaftTimings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(80),
            election: Duration::from_millis(300),
        }
    }
}

/// All that a coordinator needs to run.
#[derive(Clone)]
pub struct CoordinatorConfig {
    /// This coordinator's name, one of `coordinators`.
    pub name: String,
    /// A directory of its own.
    pub data_dir: PathBuf,
    /// Coordinators, this one included: all of them where the group is to be made, else
    /// enough to find one that knows the others.
    pub coordinators: Vec<CoordinatorAddress>,
    /// Where the port between nodes listens, `ip:port`.
    pub peer_listen: String,
    /// Where the port for clients listens, `ip:port`.
    pub client_listen: String,
    /// Where clients reach the port for clients, `host:port`.
    pub client_advertise: String,
    /// Where people reach the HTTP port, `host:port`; empty where there is none.
    pub http_advertise: String,
    /// How the other coordinators are reached.
    pub dialer: Dialer,
    /// TLS on the port between nodes, where it is wanted.
    pub peer_tls: Option<TlsSource>,
    /// TLS on the port for clients, where it is wanted.
    pub client_tls: Option<TlsSource>,
    /// Who may call on the port for clients.
    pub users: Users,
    /// The settings that a new cluster is made with. An existing one keeps its own.
    pub cluster: ClusterSettings,
    /// Raft's timings.
    pub raft: RaftTimings,
    /// How often the leader's supervisor looks at the time.
    pub tick: Duration,
    /// After how many Raft entries a snapshot is taken.
    pub snapshot_every: u64,
    /// When partitions get copies for reads alone.
    pub read_copies: ReadCopies,
    /// How long stopping may take in all.
    pub drain_timeout: Duration,
    /// The manifest that governs the cluster, if one does: for the leader to name where it
    /// refuses a change for its sake.
    pub managed_by: Option<String>,
}

impl fmt::Debug for CoordinatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoordinatorConfig")
            .field("name", &self.name)
            .field("data_dir", &self.data_dir)
            .field("coordinators", &self.coordinators)
            .field("cluster", &self.cluster)
            .field("raft", &self.raft)
            .finish_non_exhaustive()
    }
}

/// Why a configuration is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// The list of coordinators.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// The own name is not in the list.
    #[error("this coordinator's name `{0}` is not among the configured coordinators: {1}")]
    NotListed(String, String),
    /// Raft's timings.
    #[error(
        "the election timeout ({election_ms} ms) must be at least three times the heartbeat ({heartbeat_ms} ms)"
    )]
    Timings {
        /// As configured.
        election_ms: u128,
        /// As configured.
        heartbeat_ms: u128,
    },
}

impl CoordinatorConfig {
    /// Checks the whole.
    ///
    /// # Errors
    /// Where the configuration does not hold together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let list = self
            .coordinators
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        let sorted = CoordinatorAddress::parse_list(&list)?;
        let heartbeat_ms = self.raft.heartbeat.as_millis();
        let election_ms = self.raft.election.as_millis();
        if heartbeat_ms == 0 || election_ms < heartbeat_ms * 3 {
            return Err(ConfigError::Timings {
                election_ms,
                heartbeat_ms,
            });
        }
        if !sorted.iter().any(|c| c.name == self.name) {
            return Err(ConfigError::NotListed(self.name.clone(), list));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_sorted_and_checked() {
        let list = CoordinatorAddress::parse_list("b=h:2, a=h:1 ,c=[::1]:3").unwrap();
        let names: Vec<_> = list.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(list[2].peer, "[::1]:3");
        for (text, error) in [
            ("", AddressError::Empty),
            ("a=h:1,b=h:2", AddressError::Count(2)),
            ("a=h:1,a=h:2,b=h:3", AddressError::Twice("a".into())),
            ("a", AddressError::Form("a".into())),
            ("a=h", AddressError::Form("a=h".into())),
            ("a=h:x", AddressError::Form("a=h:x".into())),
        ] {
            assert_eq!(CoordinatorAddress::parse_list(text), Err(error));
        }
    }
}
