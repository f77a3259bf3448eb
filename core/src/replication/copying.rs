//! How a replica that cannot be caught up from its primary's log gets a snapshot, and how
//! another one gives it (rule 13).
//!
//! Three take part: the primary, which chooses the source ([`super::sources`]), the replica
//! that is copied to, and the source. A snapshot is the source's own applied state, and so
//! holds nothing but committed entries (rule 4). What can go wrong between the three:
//!
//! - The source is of another epoch than the primary that asked. It refuses, and another
//!   one is tried: only in that epoch does it know what of its state is that primary's.
//! - The source promised that epoch, and what it applied before is of a line that was lost
//!   when the epoch was begun (rule 9). It gives nothing before all that it has applied is
//!   matched to the primary of that epoch; what is not is discarded, and never given.
//! - The primary is deposed while the copy is under way. What was committed in its epoch is
//!   in every later one, so that the copy is as good as before, and the next primary is told
//!   of it when it asks. Where the next epoch begins at a loss (rule 9), the copy is of a
//!   line that parts from the new primary's below what is applied, like any replica that
//!   followed the old one: it is discarded ([`Replica::on_append`]), and the next one comes.
//! - The source moves on to a later epoch between its word and the view of its state. The
//!   view may then hold entries of that epoch, committed in it; whoever installs it has
//!   promised that epoch from then on. Where the source discarded its state instead, the
//!   view is of a generation that holds nothing, which the edge refuses.
//! - The source truncates its log afterwards. It never does so below what it applied, other
//!   than at a loss, as above.
//! - The source, the network or this process ends half-way: the generation is thrown away,
//!   and the primary, told or asking again by itself, tries another source.

use super::context::Context;
use super::durable::Generation;
use super::event::Effect;
use super::message::{CopyNews, PeerMessage, SnapshotNews};
use super::replica::{Part, Replica};
use crate::cluster::report::CopyProgress;
use crate::ids::{Epoch, Index, Mark, NodeId, PartitionId, ReplicaId};
use crate::record::Member;
use crate::seeded::{Bug, is_seeded};

/// A snapshot that is being fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetching {
    pub(super) generation: Generation,
    source: Member,
    /// The primary that asked for it last.
    asked_by: NodeId,
    /// The last index that it will hold, once it has begun.
    last: Option<Index>,
    pub(super) progress: CopyProgress,
}

/// What is asked of the source of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotWanted {
    /// Which partition.
    pub partition: PartitionId,
    /// The replica whose state is wanted.
    pub replica: ReplicaId,
    /// The epoch of the primary that asked for it.
    pub epoch: Epoch,
    /// The last index that the state must hold at least. The primary has applied it.
    pub after: Index,
}

/// Why a replica gives no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GiveError {
    /// Another replica, or none, lives here, or it is damaged.
    #[error("no such replica is here whose state is whole")]
    NotHere,
    /// It has not come as far as what was asked for: it may in a moment.
    #[error("its state does not reach as far as that yet")]
    Behind,
    /// It has promised a higher epoch.
    #[error("it has gone on to {0}")]
    MovedOn(Epoch),
}

impl Replica {
    /// As the source of a snapshot: the prefix of the state that may be given.
    pub(super) fn give_snapshot(
        &mut self,
        ctx: &mut Context<'_>,
        wanted: &SnapshotWanted,
    ) -> Result<Generation, GiveError> {
        if wanted.replica != self.me.replica || self.corrupt {
            return Err(GiveError::NotHere);
        }
        if self.promised > wanted.epoch {
            return Err(GiveError::MovedOn(self.promised));
        }
        if self.promised < wanted.epoch {
            return Err(GiveError::Behind);
        }
        match self.part {
            Part::Primary(_) => {}
            Part::Suspended(_) => return Err(GiveError::Behind),
            Part::Follower => {
                // What the primary has applied is committed, here too as far as this log
                // is known to be the primary's (rule 4).
                self.learn_commit(ctx, wanted.after);
                if is_seeded(Bug::GiveUncommitted) {
                    self.commit = self.log.head().index();
                    self.apply_committed(ctx);
                }
                if self.matched < self.applying {
                    // It may be of a line that was lost when the epoch began (rule 9).
                    return Err(GiveError::Behind);
                }
            }
        }
        if self.applied < wanted.after || self.applied == Index::ZERO {
            return Err(GiveError::Behind);
        }
        Ok(self.generation)
    }

    /// The primary says that its log no longer reaches back to this one, and whose state is
    /// to be fetched.
    pub(super) fn on_need_snapshot(
        &mut self,
        ctx: &mut Context<'_>,
        from: NodeId,
        (epoch, to): (Epoch, ReplicaId),
        source: Option<Member>,
        after: Index,
    ) {
        if to != self.me.replica
            || epoch != self.promised
            || self.corrupt
            || !matches!(self.part, Part::Follower)
        {
            return;
        }
        if let Some(fetching) = &mut self.fetching {
            // It may be another primary than the one that asked for this copy, or the same
            // one again, which did not hear of it.
            fetching.asked_by = from;
            let begun = fetching.last.map(|last| (fetching.source, last));
            if let Some((source, last)) = begun {
                self.tell_news(ctx, from, source, CopyNews::Begun { last });
            }
            return;
        }
        // A build that names no source means itself.
        let Some(source) = source.or_else(|| self.record.config.on_node(from)) else {
            return;
        };
        let generation = ctx.fresh_generation();
        self.fetching = Some(Fetching {
            generation,
            source,
            asked_by: from,
            last: None,
            progress: CopyProgress::default(),
        });
        ctx.effects.push(Effect::FetchSnapshot {
            from: source.node,
            generation,
            wanted: SnapshotWanted {
                partition: self.partition,
                replica: source.replica,
                epoch,
                after,
            },
        });
    }

    fn tell_news(&self, ctx: &mut Context<'_>, to: NodeId, source: Member, news: CopyNews) {
        ctx.send(
            to,
            PeerMessage::SnapshotNews(SnapshotNews {
                partition: self.partition,
                epoch: self.promised,
                from: self.me.replica,
                source: source.replica,
                news,
            }),
        );
    }

    /// The copy has begun; `last` is the last index that it will hold.
    pub(super) fn on_snapshot_begun(
        &mut self,
        ctx: &mut Context<'_>,
        generation: Generation,
        last: Index,
    ) {
        if let Some(fetching) = &mut self.fetching
            && fetching.generation == generation
        {
            fetching.last = Some(last);
            let (to, source) = (fetching.asked_by, fetching.source);
            self.tell_news(ctx, to, source, CopyNews::Begun { last });
        }
    }

    /// A snapshot is durable in the store under `generation` (rule 13).
    pub(super) fn on_snapshot(
        &mut self,
        ctx: &mut Context<'_>,
        generation: Generation,
        mark: Mark,
        lineage: Vec<Mark>,
    ) {
        let Some(Fetching { asked_by, .. }) = self
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
        self.switch_to(ctx, generation, mark, lineage, held, Some(asked_by));
    }

    /// The fetch failed: the primary is to choose another source.
    pub(super) fn on_snapshot_failed(&mut self, ctx: &mut Context<'_>, generation: Generation) {
        let failed = self
            .fetching
            .take_if(|fetching| fetching.generation == generation);
        if let Some(Fetching {
            source, asked_by, ..
        }) = failed
        {
            self.tell_news(ctx, asked_by, source, CopyNews::Failed);
        }
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
