//! The errors that a client is told, in Redis's own words where Redis has some.
//!
//! Clients decide by the first word what to do. What each of them makes of these is
//! in `docs/redis.md`; the rule is: nothing that a client repeats by itself may be
//! said of a write that may have happened.

use cairn_core::ids::NodeId;
use cairn_core::kv::request::RequestError;
use cairn_core::record::ClusterMap;

use super::config::EndpointType;
use super::topology::moved_to;
use crate::side::Side;

pub(crate) const LONG_PATTERN: &[u8] = b"ERR a pattern has at most 1024 bytes";
pub(crate) const SYNTAX: &[u8] = b"ERR syntax error";
pub(crate) const NOT_AN_INTEGER: &[u8] = b"ERR value is not an integer or out of range";
pub(crate) const OVERFLOW: &[u8] = b"ERR increment or decrement would overflow";
pub(crate) const DECREMENT_OVERFLOW: &[u8] = b"ERR decrement would overflow";
pub(crate) const TOO_LONG: &[u8] = b"ERR string exceeds maximum allowed size (proto-max-bulk-len)";
pub(crate) const OFFSET: &[u8] = b"ERR offset is out of range";
pub(crate) const CROSS_SLOT: &[u8] = b"CROSSSLOT Keys in request don't hash to the same slot";
pub(crate) const NOT_SERVED: &[u8] = b"CLUSTERDOWN Hash slot not served";
pub(crate) const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";
pub(crate) const UNKNOWN: &[u8] =
    b"UNKNOWN the write may or may not have been applied: it was not acknowledged in time";
pub(crate) const NOT_READY: &[u8] = b"TRYAGAIN the primary of this slot is not ready yet";
pub(crate) const NOT_OUTSIDE: &[u8] =
    b"TRYAGAIN the primary of this slot has no address outside yet";
pub(crate) const OVERLOADED: &[u8] = b"TRYAGAIN the node has too many writes waiting";
pub(crate) const DISK_FULL: &[u8] =
    b"MISCONF Errors writing to the log: too few replicas have disk room. Reads are served";
pub(crate) const NO_AUTH: &[u8] = b"NOAUTH Authentication required.";
pub(crate) const NO_AUTH_HELLO: &[u8] = b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
pub(crate) const WRONG_PASSWORD: &[u8] =
    b"WRONGPASS invalid username-password pair or user is disabled.";
pub(crate) const NO_KEY_PERMISSION: &[u8] =
    b"NOPERM this user has no permissions to access one of the keys used as arguments";
pub(crate) const REPLY_TOO_LONG: &[u8] = b"ERR the reply would be too long, ask for fewer keys";

/// What a client is told where its request was not answered.
pub(crate) fn of_request(
    error: &RequestError,
    slot: u16,
    map: &ClusterMap,
    here: Option<NodeId>,
    (side, endpoint_type): (Side, EndpointType),
) -> Vec<u8> {
    match error {
        RequestError::Moved { primary, .. } => match primary {
            // A map that lags behind names this very node: the client would run in
            // a circle.
            Some(member) if Some(member.node) == here => NOT_READY.to_vec(),
            Some(member) => match map.nodes.get(&member.node) {
                Some(node) => match moved_to(&node.addresses, side, endpoint_type) {
                    Some(to) => format!("MOVED {slot} {to}").into_bytes(),
                    None => NOT_OUTSIDE.to_vec(),
                },
                None => NOT_SERVED.to_vec(),
            },
            None => NOT_SERVED.to_vec(),
        },
        RequestError::NotReady { .. } => NOT_READY.to_vec(),
        // Redis clients carry no sequence, so that no table ever judged this write.
        RequestError::Unknown | RequestError::Unjudged { .. } => UNKNOWN.to_vec(),
        RequestError::DiskFull => DISK_FULL.to_vec(),
        RequestError::Overloaded => OVERLOADED.to_vec(),
        RequestError::Limited { wait } => {
            let ms = wait.0.div_ceil(1_000);
            format!("LIMITED this key is asked for too often here: try again in {ms} ms").into()
        }
        RequestError::CrossPartition => CROSS_SLOT.to_vec(),
        RequestError::NoMap => NOT_SERVED.to_vec(),
        RequestError::IsCounter | RequestError::Striped(_) => {
            format!("WRONGTYPE {error}").into_bytes()
        }
    }
}
