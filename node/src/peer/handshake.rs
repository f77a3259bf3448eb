//! Who speaks to whom, settled before anything else is said (rule 18).

use cairn_core::ids::{MapVersion, NodeId};
use cairn_core::record::{ClusterMap, NodeStanding};
use cairn_proto::Malformed;
use cairn_proto::peer::Handshake;
use tonic::{Code, Status};

use super::LocalIdentity;

/// Why a node refuses to speak to another.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It does not parse, or is not there.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The other side is newer.
    #[error("the peer speaks wire format {theirs}, and this build only up to {ours}: upgrade it")]
    Format {
        /// The peer's.
        theirs: u32,
        /// This build's.
        ours: u32,
    },
    /// The other side belongs elsewhere.
    #[error("the peer belongs to cluster {theirs:?}, and this node to {ours:?}")]
    Cluster {
        /// The peer's.
        theirs: String,
        /// This node's.
        ours: String,
    },
    /// Somebody else was meant.
    #[error("the peer means node {meant:?}, and this node is {ours:?}")]
    Receiver {
        /// Whom the peer means.
        meant: String,
        /// This node's UUID.
        ours: String,
    },
    /// The map does not list the sender, yet or any more.
    #[error("{node} is not a member in the map of version {version}")]
    NotMember {
        /// Who it says it is.
        node: NodeId,
        /// The map's version.
        version: MapVersion,
    },
    /// The map lists another identity under that number.
    #[error("{node} is another identity: the map has {known}, and the peer says {says}")]
    Impostor {
        /// The number.
        node: NodeId,
        /// UUID and incarnation in the map.
        known: String,
        /// UUID and incarnation that the peer gave.
        says: String,
    },
}

impl From<HandshakeError> for Status {
    fn from(error: HandshakeError) -> Self {
        let code = match &error {
            HandshakeError::Malformed(_) => Code::InvalidArgument,
            HandshakeError::NotMember { .. } => Code::Unavailable,
            HandshakeError::Format { .. }
            | HandshakeError::Cluster { .. }
            | HandshakeError::Receiver { .. }
            | HandshakeError::Impostor { .. } => Code::FailedPrecondition,
        };
        Status::new(code, error.to_string())
    }
}

/// What this node says of itself.
pub(super) fn ours(own: &LocalIdentity, map: &ClusterMap, expected_uuid: String) -> Handshake {
    Handshake {
        format: cairn_proto::FORMAT,
        cluster_id: map.cluster_id.clone(),
        node: own.node,
        uuid: own.uuid.clone(),
        incarnation: own.incarnation.clone(),
        expected_uuid,
        features: cairn_proto::FEATURES,
        session: own.session,
    }
}

/// Checks what the other side said of itself.
pub(super) fn check(
    own: &LocalIdentity,
    map: &ClusterMap,
    theirs: &Handshake,
) -> Result<(), HandshakeError> {
    if theirs.format > cairn_proto::FORMAT {
        return Err(HandshakeError::Format {
            theirs: theirs.format,
            ours: cairn_proto::FORMAT,
        });
    }
    if theirs.cluster_id != map.cluster_id {
        return Err(HandshakeError::Cluster {
            theirs: theirs.cluster_id.clone(),
            ours: map.cluster_id.clone(),
        });
    }
    if !theirs.expected_uuid.is_empty() && theirs.expected_uuid != own.uuid {
        return Err(HandshakeError::Receiver {
            meant: theirs.expected_uuid.clone(),
            ours: own.uuid.clone(),
        });
    }
    let known = map
        .nodes
        .get(&theirs.node)
        .filter(|n| n.standing == NodeStanding::Member)
        .ok_or(HandshakeError::NotMember {
            node: theirs.node,
            version: map.version,
        })?;
    if known.uuid != theirs.uuid || known.incarnation != theirs.incarnation {
        return Err(HandshakeError::Impostor {
            node: theirs.node,
            known: format!("{}/{}", known.uuid, known.incarnation),
            says: format!("{}/{}", theirs.uuid, theirs.incarnation),
        });
    }
    Ok(())
}
