//! Starting and stopping the engine.
//!
//! The storage calls back into the engine, the peers deliver to it, and it hands
//! things to both: [`Prepared`] breaks that circle. Its handle takes things from the
//! start; they wait until the engine runs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cairn_core::record::ClusterMap;
use cairn_core::replication::{Event, NodeCore, RecoveredPartition};
use cairn_storage::wal::LogReader;
use futures::FutureExt;
use tokio::runtime;
use tokio::sync::Semaphore;

use super::clock;
use super::config::EngineConfig;
use super::engine::{Engine, Parts};
use super::expiry;
use super::handle::Handle;
use super::heat;
use super::inbox::Input;
use super::links::Links;
use super::shared::Shared;
use super::snapshot::Fetcher;
use super::vouch;
use crate::disk::{DirectoryDisk, WalHandle};
use crate::peer::Throttle;
use crate::store::{Applied, ApplyHandle, StateReader, StorageCallbacks};
use crate::tracking::Watching;

/// An engine that does not run yet.
#[derive(Debug)]
pub struct Prepared {
    shared: Arc<Shared>,
}

/// An opened storage, as the engine uses it.
#[derive(Debug)]
pub struct EngineStorage {
    /// The write-ahead log.
    pub wal: WalHandle,
    /// The apply thread.
    pub apply: ApplyHandle,
    /// Reads and snapshots.
    pub reader: StateReader,
    /// Reads of the log on disk.
    pub log: LogReader<DirectoryDisk>,
    /// What recovery found.
    pub recovered: Vec<RecoveredPartition>,
    /// Above every generation that the node ever used.
    pub next_generation: u64,
}

impl Prepared {
    /// Prepares an engine for this node and the newest map that it has.
    #[must_use]
    pub fn new(config: EngineConfig, map: Arc<ArcSwap<ClusterMap>>) -> Self {
        Self {
            shared: Arc::new(Shared::new(config, map)),
        }
    }

    /// The door. What it is given waits until the engine runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// What the storage is to call.
    #[must_use]
    pub fn callbacks(&self) -> StorageCallbacks {
        let (flushed, applied, spent, keys, corrupt, disk, space, sizes) = (
            Arc::clone(&self.shared),
            Arc::clone(&self.shared),
            Arc::clone(&self.shared),
            Arc::clone(&self.shared),
            Arc::clone(&self.shared),
            Arc::clone(&self.shared),
            Arc::clone(&self.shared),
            Arc::clone(&self.shared),
        );
        StorageCallbacks {
            flushed: Box::new(move |number| {
                let event = Event::Flushed { number };
                flushed.inbox.push(Input::Event(event));
            }),
            applied: Box::new(move |all: &[Applied]| {
                // Reads wait for this, and are told at once; the engine only tidies up.
                for one in all {
                    if let Some(cell) = applied.board.cell(one.partition) {
                        cell.publish_applied(one.generation, one.index);
                    }
                }
                applied.inbox.push_quietly(Input::Applied(all.to_vec()));
            }),
            spent: Box::new(move |shares, time| spent.heat.spent(shares, time)),
            keys: Arc::new(Watching {
                tracker: Arc::clone(&keys.tracker),
                leads: move |partition| {
                    let here = keys.board.load(partition);
                    here.is_some_and(|here| here.is_primary(keys.config.node))
                },
            }),
            corrupt: Arc::new(move |partition| {
                let event = Event::Corrupt {
                    partitions: vec![partition],
                };
                corrupt.inbox.push(Input::Event(event));
            }),
            disk_room: Box::new(move |room| {
                let event = Event::DiskRoom { room };
                disk.inbox.push(Input::Event(event));
            }),
            disk_space: Box::new(move |now| *space.disk_space.lock() = Some(now)),
            sizes: Box::new(move |news| {
                let event = Event::StateMeasured { sizes: news };
                sizes.inbox.push_quietly(Input::Event(event));
            }),
        }
    }

    /// Starts the engine on `runtime`, which runs as well what the engine waits for: reads of the
    /// store, and snapshots.
    #[must_use]
    pub fn start(
        self,
        storage: EngineStorage,
        links: Links,
        runtime: runtime::Handle,
    ) -> RunningEngine {
        let EngineStorage {
            wal,
            apply,
            reader,
            log,
            recovered,
            next_generation,
        } = storage;
        let shared = self.shared;
        let config = &shared.config;
        shared.reader.store(Some(Arc::new(reader.clone())));
        shared.log.store(Some(Arc::new(log)));
        let applied = recovered
            .iter()
            .filter(|found| found.meta.replica.is_some())
            .map(|found| {
                let meta = &found.meta;
                (meta.partition, meta.generation, found.applied.index())
            })
            .collect();
        for found in recovered.iter().filter(|found| found.corrupt) {
            if let Some(replica) = found.meta.replica {
                shared.set_damaged(found.meta.partition, replica);
            }
        }
        let core = NodeCore::new(
            config.node,
            config.session,
            config.timing,
            next_generation,
            recovered,
            clock::boottime(),
        );
        let fetcher = Fetcher {
            shared: Arc::clone(&shared),
            source: Arc::clone(&links.snapshots),
            reader: reader.clone(),
            apply: apply.clone(),
            at_once: Arc::new(Semaphore::new(config.snapshots_at_once.max(1))),
            throttle: Throttle::new(config.snapshot_rates.at_start().receive),
        };
        let on = runtime.clone();
        let expirer = runtime.spawn(expiry::run(Arc::clone(&shared)));
        let heat = runtime.spawn(heat::run(Arc::clone(&shared), Arc::clone(&links.agent)));
        let vouching = runtime.spawn(vouch::run(Arc::clone(&shared)));
        let engine = Engine::new(Parts {
            shared: Arc::clone(&shared),
            core,
            wal,
            apply,
            reader,
            links,
            fetcher,
            runtime,
            applied,
        });
        let running = on.spawn(async move {
            if AssertUnwindSafe(engine.run()).catch_unwind().await.is_err() {
                // The panic hook has printed where. What the core holds cannot be
                // trusted any more, and nothing may be answered from it.
                tracing::error!("the engine panicked: the process ends");
                eprintln!("cairn: the engine panicked; the process ends");
                std::process::abort();
            }
        });
        RunningEngine {
            handle: Handle { shared },
            engine: Some(running),
            tasks: [expirer, heat, vouching],
        }
    }
}

/// A running engine. It is stopped with [`Self::stop`]; it is told to stop, and not waited for,
/// when this is dropped: then it may use what it was given for a turn longer.
#[derive(Debug)]
pub struct RunningEngine {
    handle: Handle,
    engine: Option<tokio::task::JoinHandle<()>>,
    tasks: [tokio::task::JoinHandle<()>; 3],
}

impl RunningEngine {
    /// The door.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops the engine and waits for its last turn. Whatever was not answered is
    /// answered as unknown.
    pub async fn stop(mut self) {
        self.end();
        if let Some(engine) = self.engine.take() {
            // It does not end by a panic: that ends the process.
            let _ = engine.await;
        }
    }

    fn end(&self) {
        for task in &self.tasks {
            task.abort();
        }
        self.handle.shared.inbox.push(Input::Stop);
    }
}

impl Drop for RunningEngine {
    fn drop(&mut self) {
        self.end();
    }
}
