//! Tells which keys this node is asked for far more than others.

use cairn_core::hot::HotKey;
use cairn_proto::pb::hot::v1::hot_keys_server::{self, HotKeys, HotKeysServer};
use cairn_proto::pb::hot::v1::{self as pb, ListReply, ListRequest};
use tonic::{Request, Response, Status};

use crate::grpc::admins_only;
use crate::partition::{self, Handle};

/// The name of the service.
pub(crate) const SERVICE: &str = hot_keys_server::SERVICE_NAME;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct HotKeysService {
    handle: Handle,
    /// The listener that it is on, to count whom it refuses.
    listener: &'static str,
}

/// The service on a listener of this name.
pub(crate) fn service(handle: Handle, listener: &'static str) -> HotKeysServer<HotKeysService> {
    HotKeysServer::new(HotKeysService { handle, listener })
}

#[tonic::async_trait]
impl HotKeys for HotKeysService {
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        admins_only(
            request.extensions(),
            self.listener,
            "permission denied: to be told of hot keys takes the role admin",
        )?;
        let Some(heated) = self.handle.hot_keys() else {
            return Ok(Response::new(ListReply {
                off: true,
                ..ListReply::default()
            }));
        };
        Ok(Response::new(ListReply {
            requests_per_second: heated.requests_per_second,
            keys: heated.keys.iter().map(message).collect(),
            off: false,
        }))
    }
}

fn message(key: &HotKey) -> pb::HotKey {
    pb::HotKey {
        partition: key.partition.0,
        hash: key.hash.0,
        key: key.key.clone(),
        reads_per_second: key.reads_per_second,
        writes_per_second: key.writes_per_second,
        bytes_per_second: key.bytes_per_second,
        share: key.share,
        hot_for_ms: partition::boottime().minus(key.since).0 / 1_000,
    }
}
