//! What answers and refusals mean to a caller.

use std::time::{Duration, Instant};

use cairn_core::kv::request::WriteReply;
use cairn_proto::Malformed;
use cairn_proto::kv::{KvError, check_key};
use cairn_proto::pb::kv::v1 as pb;

use tokio::time::sleep;

use crate::error::Error;

/// The refusals that no retry mends.
pub(crate) fn final_refusal(refusal: &KvError) -> Option<Error> {
    match refusal {
        KvError::DiskFull => Some(Error::DiskFull),
        KvError::Invalid { field, problem } => Some(Error::Invalid {
            field: field.clone(),
            problem: problem.clone(),
        }),
        KvError::Unsupported { what } => Some(Error::Unsupported { what: what.clone() }),
        KvError::PermissionDenied { what } => Some(Error::PermissionDenied { what: what.clone() }),
        KvError::CrossPartition | KvError::IsCounter => Some(Error::Invalid {
            field: "key".to_owned(),
            problem: refusal.to_string(),
        }),
        KvError::Moved { .. }
        | KvError::NotReady { .. }
        | KvError::Unknown
        | KvError::Unjudged { .. }
        | KvError::Overloaded
        | KvError::Limited { .. }
        | KvError::Striped(_)
        | KvError::NoMap => None,
    }
}

/// Waits as long as a node wants a key left alone, which is no failure of the node: asked sooner
/// it would refuse again.
pub(crate) async fn wait_out(wait_ms: u32, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    sleep(Duration::from_millis(u64::from(wait_ms)).min(left)).await;
}

pub(crate) fn checked(key: &[u8]) -> Result<(), Error> {
    check_key(key).map_err(|error| invalid(&error))
}

pub(crate) fn invalid(error: &Malformed) -> Error {
    Error::Invalid {
        field: error.field().to_owned(),
        problem: error.problem().to_owned(),
    }
}

pub(crate) fn write_reply(reply: pb::answer::Reply) -> Result<WriteReply, String> {
    use pb::answer::Reply;
    let reply = match reply {
        Reply::Put(put) => WriteReply::try_from(put),
        Reply::Delete(delete) => WriteReply::try_from(delete),
        Reply::Increment(increment) => WriteReply::try_from(increment),
        Reply::Batch(batch) => WriteReply::try_from(batch),
        Reply::Get(_) | Reply::Error(_) => {
            return Err("the answer does not fit a write".to_owned());
        }
    };
    reply.map_err(|error| error.to_string())
}
