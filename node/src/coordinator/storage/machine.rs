//! The state machine behind the log: the cluster's state in memory, rebuilt from
//! the last snapshot and the log.

use std::io::Cursor;
use std::sync::Arc;

use cairn_core::record::ClusterMap;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use super::format::{self, DecodeError, keys};
use super::writer::Writer;
use crate::coordinator::raft::{
    Applied, ClusterState, Entry, LogId, Membership, Snapshot, SnapshotMeta, StorageError,
    TypeConfig,
};

/// The cluster as far as it is applied here.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct View {
    /// The state.
    pub(in super::super) state: Arc<ClusterState>,
    /// The map made of it.
    pub(in super::super) map: Arc<ClusterMap>,
    /// The last entry that it is the state after. Later ones that were no commands are
    /// not counted.
    pub(in super::super) applied: Option<LogId>,
}

impl View {
    fn of(state: ClusterState, applied: Option<LogId>) -> Self {
        Self {
            map: Arc::new(state.map()),
            state: Arc::new(state),
            applied,
        }
    }
}

/// A snapshot as it stands on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) meta: SnapshotMeta,
    /// The cluster's state, JSON within JSON: what is sent to others as it is.
    pub(super) state: String,
}

#[derive(Debug)]
struct Position {
    applied: Option<LogId>,
    state: ClusterState,
    membership: Membership,
    snapshot: Option<Stored>,
    taken: u64,
}

impl Position {
    fn newest_snapshot(&self) -> Option<LogId> {
        self.snapshot.as_ref().and_then(|s| s.meta.last_log_id)
    }
}

/// The state machine.
#[derive(Clone, Debug)]
pub(in super::super) struct Machine {
    position: Arc<RwLock<Position>>,
    view: watch::Sender<View>,
    /// Held while a snapshot is written, so that one that was being built never
    /// replaces a newer one that was installed meanwhile.
    saving: Arc<Mutex<()>>,
    writer: Writer,
}

impl Machine {
    pub(super) fn restore(writer: Writer, snapshot: Option<&[u8]>) -> Result<Self, DecodeError> {
        let snapshot: Option<Stored> = snapshot.map(format::decode).transpose()?;
        let state: ClusterState = match &snapshot {
            Some(stored) => serde_json::from_str(&stored.state)?,
            None => ClusterState::default(),
        };
        let applied = snapshot.as_ref().and_then(|s| s.meta.last_log_id);
        let view = View::of(state.clone(), applied);
        let position = Position {
            applied,
            state,
            membership: snapshot
                .as_ref()
                .map(|s| s.meta.last_membership.clone())
                .unwrap_or_default(),
            snapshot,
            taken: 0,
        };
        Ok(Self {
            position: Arc::new(RwLock::new(position)),
            view: watch::channel(view).0,
            saving: Arc::default(),
            writer,
        })
    }

    /// The last entry that is applied.
    pub(super) fn applied(&self) -> Option<LogId> {
        self.position.read().applied
    }

    /// What is applied, as it changes. Raft tells a proposer of its outcome only
    /// after the view holds it.
    pub(in super::super) fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    async fn store(&self, stored: &Stored) -> Result<(), StorageError> {
        let bytes = format::encode(stored);
        self.writer
            .write(vec![(keys::SNAPSHOT.to_vec(), Some(bytes))])
            .await
            .map_err(|e| StorageIOError::write_snapshot(Some(stored.meta.signature()), &e).into())
    }
}

fn sendable(stored: &Stored) -> Snapshot {
    Snapshot {
        meta: stored.meta.clone(),
        snapshot: Box::new(Cursor::new(stored.state.clone().into_bytes())),
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (stored, applied) = {
            let mut position = self.position.write();
            position.taken += 1;
            let state = serde_json::to_string(&position.state)
                .map_err(|e| StorageIOError::read_state_machine(&e))?;
            let meta = SnapshotMeta {
                last_log_id: position.applied,
                last_membership: position.membership.clone(),
                snapshot_id: format!(
                    "{}-{}",
                    position.applied.map(|a| a.to_string()).unwrap_or_default(),
                    position.taken
                ),
            };
            (Stored { meta, state }, position.applied)
        };
        let _saving = self.saving.lock().await;
        let newest = self.position.read().newest_snapshot();
        if newest <= applied {
            self.store(&stored).await?;
            self.position.write().snapshot = Some(stored.clone());
        }
        Ok(sendable(&stored))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let position = self.position.read();
        Ok((position.applied, position.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        let mut position = self.position.write();
        let mut commanded = false;
        for entry in entries {
            position.applied = Some(entry.log_id);
            answers.push(Applied(match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(command) => {
                    commanded = true;
                    Some(position.state.apply(entry.log_id.index, command))
                }
                EntryPayload::Membership(membership) => {
                    position.membership = Membership::new(Some(entry.log_id), membership);
                    None
                }
            }));
        }
        if commanded {
            self.view.send_modify(|view| {
                if position.state.version() == view.map.version {
                    view.state = Arc::new(position.state.clone());
                    view.applied = position.applied;
                } else {
                    *view = View::of(position.state.clone(), position.applied);
                }
            });
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let broken = |e: &dyn std::error::Error| {
            StorageError::from(StorageIOError::read_snapshot(
                Some(meta.signature()),
                openraft::AnyError::error(e.to_string()),
            ))
        };
        let json = String::from_utf8(snapshot.into_inner()).map_err(|e| broken(&e))?;
        let state: ClusterState = serde_json::from_str(&json).map_err(|e| broken(&e))?;
        let stored = Stored {
            meta: meta.clone(),
            state: json,
        };
        let _saving = self.saving.lock().await;
        self.store(&stored).await?;
        {
            let mut position = self.position.write();
            position.state = state.clone();
            position.applied = meta.last_log_id;
            position.membership = meta.last_membership.clone();
            position.snapshot = Some(stored);
        }
        self.view.send_replace(View::of(state, meta.last_log_id));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.position.read().snapshot.as_ref().map(sendable))
    }
}
