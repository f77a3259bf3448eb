//! How a replica whose log cannot be caught up fetches a snapshot (rule 13).

use super::context::Context;
use super::durable::Generation;
use super::event::Effect;
use super::replica::{Part, Replica};
use crate::cluster::report::CopyProgress;
use crate::ids::{Epoch, Mark, NodeId, ReplicaId};
use crate::seeded::{Bug, is_seeded};

/// A snapshot that is being fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetching {
    pub(super) generation: Generation,
    pub(super) from: NodeId,
    pub(super) progress: CopyProgress,
}

impl Replica {
    /// The primary says that its log no longer reaches back to this one.
    pub(super) fn on_need_snapshot(
        &mut self,
        ctx: &mut Context<'_>,
        from: NodeId,
        epoch: Epoch,
        to: ReplicaId,
    ) {
        let primary = self.record.config.on_node(from);
        if to != self.me.replica
            || epoch != self.promised
            || self.corrupt
            || !matches!(self.part, Part::Follower)
            || self.fetching.is_some()
        {
            return;
        }
        let Some(primary) = primary else { return };
        let generation = ctx.fresh_generation();
        self.fetching = Some(Fetching {
            generation,
            from,
            progress: CopyProgress::default(),
        });
        ctx.effects.push(Effect::FetchSnapshot {
            partition: self.partition,
            from,
            replica: primary.replica,
            generation,
        });
    }

    /// A snapshot is durable in the store under `generation` (rule 13).
    pub(super) fn on_snapshot(
        &mut self,
        ctx: &mut Context<'_>,
        generation: Generation,
        mark: Mark,
        lineage: Vec<Mark>,
    ) {
        let Some(Fetching { from, .. }) = self
            .fetching
            .take_if(|fetching| fetching.generation == generation)
        else {
            return self.drop_generation(ctx, generation);
        };
        let held =
            self.log.mark_at(mark.index()) == Some(mark) || is_seeded(Bug::KeepTailUnderSnapshot);
        // Only after a promotion that lost entries (rule 9) can the snapshot be of
        // another line than what was applied here.
        let same_line = held || self.log.epoch_at(mark.index()) == Some(mark.epoch());
        let useless = mark.index() <= self.applying && same_line;
        if useless || !matches!(self.part, Part::Follower) || self.corrupt {
            return self.drop_generation(ctx, generation);
        }
        if mark.epoch() > self.promised {
            // What committed in that epoch came after it was raised.
            self.promise(ctx, mark.epoch());
        }
        self.switch_to(ctx, generation, mark, lineage, held, Some(from));
    }

    /// The fetch failed; the primary asks again.
    pub(super) fn on_snapshot_failed(&mut self, generation: Generation) {
        self.fetching
            .take_if(|fetching| fetching.generation == generation);
    }

    /// More of the snapshot has arrived.
    pub(super) fn on_snapshot_progress(&mut self, generation: Generation, progress: CopyProgress) {
        if let Some(fetching) = &mut self.fetching
            && fetching.generation == generation
        {
            fetching.progress = progress;
        }
    }

    /// The state was measured; `sizes` is ascending.
    pub(super) fn on_measured(&mut self, sizes: &[(Generation, u64)]) {
        let at = sizes.binary_search_by_key(&self.generation, |(generation, _)| *generation);
        if let Ok(at) = at {
            self.bytes = Some(sizes[at].1);
        }
    }

    fn drop_generation(&self, ctx: &mut Context<'_>, generation: Generation) {
        if generation != self.generation {
            ctx.effects.push(Effect::DropGeneration {
                partition: self.partition,
                generation,
            });
        }
    }
}
