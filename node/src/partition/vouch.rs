//! Whether this node still sees every change of what clients keep of a partition
//! ([`crate::tracking`]).
//!
//! A primary does under the lease of a read, a replica with the proof of one: then whatever
//! was acknowledged before the question has been applied, and so told. Where that cannot be
//! had, changes may be made elsewhere that nobody here hears of, and whoever keeps something
//! of the partition is told that it may have changed.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::{Epoch, Index, PartitionId};
use cairn_core::replication::{Proof, ProofLevel, ProofLook};
use cairn_core::tracking::{Vouch, VouchLook};
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

use super::board::Cell;
use super::clock;
use super::handle::Handle;
use super::inbox::Input;
use super::levels::ASK_AGAIN;
use super::shared::Shared;

/// How often it is looked whether changes are still seen.
const EVERY: Duration = Duration::from_secs(1);
/// How many partitions are asked about at a time.
const AT_ONCE: usize = 64;

/// Looks until it is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_idle = true;
    loop {
        ticks.tick().await;
        let is_idle = shared.tracker.is_idle();
        if !(is_idle && was_idle) {
            shared.tracker.publish();
        }
        was_idle = is_idle;
        if is_idle {
            continue;
        }
        let (mut partitions, every) = shared.tracker.partitions();
        if every {
            let node = shared.config.node;
            let led = shared.board.cells().filter_map(|(partition, cell)| {
                let leads = cell.load().is_some_and(|here| here.is_primary(node));
                leads.then_some(partition)
            });
            partitions.extend(led);
        }
        let shared = &shared;
        futures::stream::iter(partitions)
            .for_each_concurrent(AT_ONCE, |partition| async move {
                if !shared.vouches(partition).await {
                    shared.tracker.flush(partition);
                }
            })
            .await;
    }
}

impl Handle {
    /// Whether everything that was acknowledged in a partition before this was called has
    /// been told to whoever keeps something of it. Waits for the lease or a proof, as long as
    /// a request does.
    pub async fn vouches(&self, partition: PartitionId) -> bool {
        self.shared.vouches(partition).await
    }
}

impl Shared {
    async fn vouches(&self, partition: PartitionId) -> bool {
        let Some(cell) = self.board.cell(partition) else {
            return false;
        };
        let deadline = Instant::now() + self.config.request_timeout;
        match cell.load() {
            None => false,
            Some(here) if here.is_primary(self.config.node) => {
                self.vouches_as_primary(partition, cell, deadline).await
            }
            Some(_) => self.vouches_by_proof(partition, cell, deadline).await,
        }
    }

    async fn vouches_as_primary(
        &self,
        partition: PartitionId,
        cell: &Cell,
        deadline: Instant,
    ) -> bool {
        let mut covers: Option<(Epoch, Index)> = None;
        loop {
            let watching = cell.watch();
            let mut changed = std::pin::pin!(watching.changed());
            changed.as_mut().enable();
            let here = cell.load();
            let Some(here) = here.filter(|here| here.is_primary(self.config.node)) else {
                return false;
            };
            let clock = clock::boottime();
            if here.leads(clock) && covers.is_none_or(|(epoch, _)| epoch != here.epoch) {
                covers = Some((here.epoch, here.commit));
            }
            let look = VouchLook {
                serving: here.serving,
                clock,
                lease_until: here.lease_until,
                covers: covers.map_or(here.commit, |(_, index)| index),
                applied: here.applied,
            };
            match look.vouches() {
                Vouch::Yes => return true,
                Vouch::No => return false,
                Vouch::Wait => {
                    // The renewals of a partition that nobody asks are not published.
                    if !here.leads(clock) && cell.hurry() {
                        self.inbox.push(Input::HurryLease(partition));
                    }
                    self.hurry_applying();
                    if timeout_at(deadline, changed).await.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    async fn vouches_by_proof(
        &self,
        partition: PartitionId,
        cell: &Cell,
        deadline: Instant,
    ) -> bool {
        while Instant::now() < deadline {
            let level = ProofLevel::Replica;
            match self.proof(partition, cell, level, deadline).await {
                Err(_) | Ok(Proof::Elsewhere(_)) => return false,
                Ok(Proof::NotNow) => sleep_until((Instant::now() + ASK_AGAIN).min(deadline)).await,
                Ok(proof) => {
                    if self.reaches(partition, cell, proof, deadline).await {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Waits until the state here has come as far as a proof says. Not where the proof became
    /// void, or the state may not be read.
    async fn reaches(
        &self,
        partition: PartitionId,
        cell: &Cell,
        proof: Proof,
        deadline: Instant,
    ) -> bool {
        loop {
            let watching = cell.watch();
            let mut changed = std::pin::pin!(watching.changed());
            changed.as_mut().enable();
            let Ok(here) = self.readable(partition) else {
                return false;
            };
            match proof.look(here.epoch, here.applied) {
                ProofLook::Read => return true,
                ProofLook::Void => return false,
                ProofLook::Wait => {
                    self.hurry_applying();
                    if timeout_at(deadline, changed).await.is_err() {
                        return false;
                    }
                }
            }
        }
    }
}
