//! The Redis listener over keys in memory: what the protocol alone costs.
//!
//! `cargo run --release -p cairn-node --example resp_memory -- 6379`, then
//! `redis-benchmark --cluster -p 6379 -t set,get`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use cairn_node::resp::{RespConfig, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[allow(dead_code)]
#[path = "../tests/resp/memory.rs"]
mod memory;

fn main() -> anyhow::Result<()> {
    let port: u16 = match std::env::args().nth(1) {
        Some(port) => port.parse()?,
        None => 6379,
    };
    let threads: usize = match std::env::args().nth(2) {
        Some(threads) => threads.parse()?,
        None => 1,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?
        .block_on(run(port))
}

async fn run(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let map = Arc::new(ArcSwap::from_pointee(memory::cluster_map(
        1,
        port,
        &[Some(1)],
    )));
    let backend = memory::Shared(Arc::new(memory::Memory::new(memory::Answering::AtOnce)));
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    serve(
        listener,
        None,
        Arc::new(backend),
        map,
        RespConfig::default(),
        shutdown,
    )
    .await?;
    Ok(())
}
