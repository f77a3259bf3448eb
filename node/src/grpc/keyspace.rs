//! The service `cairn.kv.v1.Keyspace`: scans and watches.
//!
//! A watch that nobody reads is given up after a while: its place is free for others, and
//! nothing is kept for it but how far it had come, which is the first that it is told when
//! it is read again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::{PartitionId, Position};
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
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use super::answers::{Answers, Sent};
use super::authenticate::{caller_of, status_of};
use super::service::{permit, refusal};
use crate::partition::{Ended, Handle, Step, Watcher};
use crate::users::{Caller, Denied, Permissions};

/// What one watch may have encoded and unread: each update waits for the one before.
type Updates = Pin<Box<dyn Stream<Item = Result<pb::WatchReply, Status>> + Send>>;

/// Serves scans and watches of the partitions of this node.
#[derive(Clone, Debug)]
pub struct KeyspaceServer {
    handle: Handle,
    stall_timeout: Duration,
    shutdown: CancellationToken,
}

impl KeyspaceServer {
    /// Watches that are not read for `stall_timeout` are given up, and all end with
    /// `shutdown`.
    #[must_use]
    pub fn new(handle: Handle, stall_timeout: Duration, shutdown: CancellationToken) -> Self {
        Self {
            handle,
            stall_timeout,
            shutdown,
        }
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
        refusal(error, || -> Arc<ClusterMap> { self.handle.map() })
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

/// The watcher of a stream, while nothing is asked of it and after.
enum Watch {
    /// Somebody waits for what comes next, and has the watcher.
    Awaited,
    /// Nobody has asked for more since then.
    Unread { watcher: Watcher, since: Instant },
    /// Nobody did for too long. How far it had come, as far as that was not told yet.
    GivenUp(VecDeque<(PartitionId, Option<Position>)>),
}

impl Watch {
    fn unread(watcher: Watcher) -> Self {
        Self::Unread {
            watcher,
            since: Instant::now(),
        }
    }
}

/// Gives a watch up once it was not read for so long.
async fn give_up_unread(watch: Arc<Mutex<Watch>>, within: Duration) {
    let mut due = Instant::now() + within;
    loop {
        sleep_until(due).await;
        let mut watch = watch.lock();
        due = match &*watch {
            Watch::Awaited => Instant::now() + within,
            Watch::Unread { since, .. } if since.elapsed() < within => *since + within,
            Watch::Unread { watcher, .. } => {
                let progress = watcher.progress();
                tracing::info!(partitions = progress.len(), "a watch is not read: given up");
                *watch = Watch::GivenUp(progress.into());
                return;
            }
            Watch::GivenUp(_) => return,
        };
    }
}

/// What a watch tells next; `None` at its end.
async fn next_update(server: &KeyspaceServer, watch: &Mutex<Watch>) -> Option<WatchUpdate> {
    let mut watcher = {
        let mut watch = watch.lock();
        match std::mem::replace(&mut *watch, Watch::Awaited) {
            Watch::Awaited => return None,
            Watch::Unread { watcher, .. } => watcher,
            Watch::GivenUp(mut progress) => {
                let (partition, position) = progress.pop_front()?;
                *watch = Watch::GivenUp(progress);
                return Some(WatchUpdate::End {
                    partition,
                    why: WatchEnd::Slow(position),
                });
            }
        }
    };
    let step = watcher.next().await?;
    *watch.lock() = Watch::unread(watcher);
    Some(server.update(step))
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
        let room = answers.room(limits::SCAN_BYTES).await;
        let page = self.handle.scan(query).await;
        let page = page.map_err(|error| self.refusal(error))?;
        Ok(Sent::with(page.into(), room))
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
        let watch = Arc::new(Mutex::new(Watch::unread(watcher)));
        let timer = tokio::spawn(give_up_unread(Arc::clone(&watch), self.stall_timeout));
        let timer = AbortOnDropHandle::new(timer);
        let watching = Some((watch, caller, filter, self.clone(), timer));
        let updates = futures::stream::unfold(watching, |watching| async {
            let (watch, mut caller, filter, server, timer) = watching?;
            let update = next_update(&server, &watch).await?;
            // The users may be others by now.
            caller.refresh();
            if let Err(status) = may_watch(&caller, &filter) {
                return Some((Err(status), None));
            }
            Some((
                Ok(update.into()),
                Some((watch, caller, filter, server, timer)),
            ))
        });
        let ended = self.shutdown.clone().cancelled_owned();
        Ok(Response::new(Box::pin(updates.take_until(ended))))
    }
}
