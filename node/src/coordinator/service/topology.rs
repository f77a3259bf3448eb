//! The map for clients, from whichever coordinator they ask: what is applied here
//! was committed, even where this coordinator lags.

use std::time::Duration;

use cairn_core::ids::MapVersion;
use cairn_proto::limits;
use cairn_proto::pb::kv::v1::topology_server::Topology;
use cairn_proto::pb::map::v1 as pb;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Office;

/// How long a watcher may take to make room before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// `cairn.kv.v1.Topology` over the coordinators' state.
#[derive(Clone, Debug)]
pub(in super::super) struct TopologyService {
    pub(in super::super) office: Office,
    pub(in super::super) shutdown: CancellationToken,
}

fn known(request: pb::MapRequest) -> Result<(String, MapVersion), Status> {
    if request.cluster_id.len() > limits::LABEL_BYTES {
        return Err(Status::invalid_argument("cluster_id is too long"));
    }
    Ok((request.cluster_id, MapVersion(request.version)))
}

#[tonic::async_trait]
impl Topology for TopologyService {
    async fn get(
        &self,
        request: Request<pb::MapRequest>,
    ) -> Result<Response<pb::MapUpdate>, Status> {
        let (cluster_id, version) = known(request.into_inner())?;
        let update = self.office.map_update(&cluster_id, version);
        Ok(Response::new((&update).into()))
    }

    type WatchStream = ReceiverStream<Result<pb::MapUpdate, Status>>;

    async fn watch(
        &self,
        request: Request<pb::MapRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (mut cluster_id, mut version) = known(request.into_inner())?;
        let (sender, receiver) = mpsc::channel(2);
        let Self { office, shutdown } = self.clone();
        let mut view = office.view.clone();
        tokio::spawn(async move {
            loop {
                view.borrow_and_update();
                let update = office.map_update(&cluster_id, version);
                version = update.version();
                cluster_id = office.view.borrow().map.cluster_id.clone();
                let sent = timeout(SEND_TIMEOUT, sender.send(Ok((&update).into()))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
                loop {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = sender.closed() => return,
                        changed = view.changed() => if changed.is_err() {
                            return;
                        },
                    }
                    if view.borrow_and_update().map.version > version {
                        break;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
