//! The service `cairn.kv.v1.Keyspace`: scans and watches.
//!
//! A watch of which the client takes nothing for a while is ended like any other answer
//! ([`super::patience`]): its place is free for others, and the client goes on from the last
//! position that it read.

use std::pin::Pin;
use std::sync::Arc;

use cairn_core::kv::request::RequestError;
use cairn_core::kv::scan::ScanQuery;
use cairn_core::kv::watch::KeyFilter;
use cairn_core::record::ClusterMap;
use cairn_proto::keyspace::{WatchEnd, WatchQuery, WatchUpdate};
use cairn_proto::kv::KvError;
use cairn_proto::limits;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::keyspace_server;
use futures::{Stream, StreamExt};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::answers::{Answers, Sent};
use super::authenticate::{caller_of, status_of};
use super::service::{permit, refusal};
use crate::partition::{Ended, Handle, Step};
use crate::side::Side;
use crate::users::{Caller, Denied, Permissions};

/// What one watch may have encoded and unread: each update waits for the one before.
type Updates = Pin<Box<dyn Stream<Item = Result<pb::WatchReply, Status>> + Send>>;

/// Serves scans and watches of the partitions of this node.
#[derive(Clone, Debug)]
pub struct KeyspaceServer {
    handle: Handle,
    side: Side,
    shutdown: CancellationToken,
}

impl KeyspaceServer {
    /// Watches end with `shutdown`.
    #[must_use]
    pub fn new(handle: Handle, shutdown: CancellationToken) -> Self {
        Self {
            handle,
            side: Side::Inside,
            shutdown,
        }
    }

    /// The same as clients of that side are told it.
    #[must_use]
    pub(crate) fn on(self, side: Side) -> Self {
        Self { side, ..self }
    }

    /// The service for tonic's router.
    #[must_use]
    pub fn into_server(self) -> keyspace_server::KeyspaceServer<Self> {
        keyspace_server::KeyspaceServer::new(self)
            .max_decoding_message_size(limits::CLIENT_MESSAGE_BYTES)
            // One entry is told whole, and may be as long as nodes tell it each other.
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES)
    }

    fn refusal(&self, error: RequestError) -> KvError {
        refusal(error, self.side, || -> Arc<ClusterMap> {
            self.handle.map()
        })
    }

    fn update(&self, step: Step) -> WatchUpdate {
        match step {
            Step::Events {
                partition,
                events,
                position,
            } => WatchUpdate::Events {
                partition,
                events,
                position,
            },
            Step::Positions(positions) => WatchUpdate::Positions(positions),
            Step::Ended { partition, why } => WatchUpdate::End {
                partition,
                why: match why {
                    Ended::Compacted => WatchEnd::Compacted,
                    Ended::Refused(error) => WatchEnd::Refused(self.refusal(error)),
                },
            },
        }
    }
}

/// Refuses a watch of keys that the caller may not read.
fn may_watch(caller: &Caller, filter: &KeyFilter) -> Result<(), Status> {
    let may = |own: &Permissions| match filter {
        KeyFilter::Key(key) => own.may_read(key),
        KeyFilter::Prefix(prefix) => own.may_read_prefix(prefix),
    };
    if !caller.is_let_in() {
        return Err(status_of(Denied::Wrong));
    }
    Ok(permit(caller, may, "read all that this watch would tell")?)
}

#[tonic::async_trait]
impl keyspace_server::Keyspace for KeyspaceServer {
    type WatchStream = Updates;

    async fn scan(
        &self,
        request: Request<pb::ScanRequest>,
    ) -> Result<Response<pb::ScanReply>, Status> {
        let caller = caller_of(request.extensions());
        let answers = Answers::of(request.extensions());
        let query = ScanQuery::try_from(request.into_inner()).map_err(KvError::from)?;
        permit(
            &caller,
            |own| own.may_read_prefix(&query.prefix),
            "read all keys of this prefix",
        )?;
        let mut room = answers.room(limits::SCAN_BYTES).await;
        let page = self.handle.scan(query).await;
        let page: pb::ScanReply = page.map_err(|error| self.refusal(error))?.into();
        room.shrink_to(page.encoded_len());
        Ok(Sent::with(page, room))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Updates>, Status> {
        let caller = caller_of(request.extensions());
        let query = WatchQuery::try_from(request.into_inner()).map_err(KvError::from)?;
        let WatchQuery {
            filter,
            from,
            heartbeat,
        } = query;
        may_watch(&caller, &filter)?;
        let watcher = self.handle.watch(filter.clone(), from, heartbeat);
        let watcher = watcher.map_err(|error| self.refusal(error))?;
        let watching = Some((watcher, caller, filter, self.clone()));
        let updates = futures::stream::unfold(watching, |watching| async {
            let (mut watcher, mut caller, filter, server) = watching?;
            let step = watcher.next().await?;
            // The users may be others by now.
            caller.refresh();
            if let Err(status) = may_watch(&caller, &filter) {
                return Some((Err(status), None));
            }
            let update = server.update(step);
            Some((Ok(update.into()), Some((watcher, caller, filter, server))))
        });
        let ended = self.shutdown.clone().cancelled_owned();
        Ok(Response::new(Box::pin(updates.take_until(ended))))
    }
}
