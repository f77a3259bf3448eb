//! Which replica a snapshot comes from: the primary chooses, for each replica that needs
//! one (rule 13).
//!
//! A member that follows closely and answers is chosen before the primary, whose disk and
//! network serve the clients; of several the one whose node gives the fewest snapshots. A
//! source that failed is not chosen again before all others have been tried, the primary
//! last. Nothing here decides about safety: the source itself says whether it may give
//! ([`super::copying`]), and a bad choice costs time.

use std::collections::BTreeMap;

use super::context::Context;
use super::message::{CopyNews, PeerMessage, SnapshotNews};
use super::primary::Leadership;
use super::progress::{Flow, Progress};
use super::replica::{Part, Replica};
use crate::ids::{NodeId, PartitionId, ReplicaId};
use crate::record::Member;

/// The copies that the primaries of this node have asked for, each with the node that is to
/// give it: one asks for many at once, and has not heard yet how many each gives.
#[derive(Clone, Debug, Default)]
pub(super) struct Givers(BTreeMap<(PartitionId, ReplicaId), NodeId>);

impl Givers {
    fn set(&mut self, partition: PartitionId, to: ReplicaId, giver: NodeId) {
        self.0.insert((partition, to), giver);
    }

    /// A copy came to its end, or to nothing.
    pub(super) fn remove(&mut self, partition: PartitionId, to: ReplicaId) {
        self.0.remove(&(partition, to));
    }

    /// Only the copies of the partition to those replicas are the primary's to see to.
    pub(super) fn retain(&mut self, partition: PartitionId, keep: impl Fn(ReplicaId) -> bool) {
        self.0.retain(|(p, to), _| *p != partition || keep(*to));
    }

    fn count(&self, giver: NodeId) -> usize {
        self.0.values().filter(|node| **node == giver).count()
    }
}

impl Replica {
    /// Whose state is to be copied to the replica.
    fn source_for(&self, ctx: &Context<'_>, leadership: &Leadership, learner: &Progress) -> Member {
        let (head, base) = (self.log.head().index(), self.log.base().index());
        let tried = &learner.catch_up.tried;
        let fits = |p: &Progress| {
            self.record.config.is_voter(p.member.replica)
                && p.member.node != learner.member.node
                && !tried.contains(&p.member.replica)
                && !p.catch_up.rebuilding
                && p.caught_up(head)
                && p.matched >= base
                && p.answers(ctx.now, ctx.holdings, ctx.timing)
        };
        let mut candidates: Vec<Member> = leadership
            .followers
            .values()
            .filter(|p| fits(p))
            .map(|p| p.member)
            .collect();
        if let Some(same) = candidates
            .iter()
            .find(|m| learner.catch_up.source == Some(m.replica))
        {
            return *same;
        }
        // Of equals not the same one in every partition.
        let first = self.partition.0 as usize % candidates.len().max(1);
        candidates.rotate_left(first);
        let busy = |m: &Member| ctx.holdings.giving(m.node).max(ctx.givers.count(m.node));
        candidates.into_iter().min_by_key(busy).unwrap_or(self.me)
    }

    /// The log no longer reaches back to that replica's.
    pub(super) fn ask_for_snapshot(&mut self, ctx: &mut Context<'_>, id: ReplicaId) {
        let (partition, applied) = (self.partition, self.applied);
        let source = match &self.part {
            Part::Primary(leadership) => match leadership.followers.get(&id) {
                Some(learner) => self.source_for(ctx, leadership, learner),
                None => return,
            },
            _ => return,
        };
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        // What the source surely has, and this log reaches back to as a rule.
        let has = leadership.followers.get(&source.replica).map(|p| p.matched);
        let after = applied.min(has.unwrap_or(applied));
        let epoch = leadership.epoch;
        let Some(progress) = leadership.followers.get_mut(&id) else {
            return;
        };
        progress.wait_for_snapshot(ctx.now);
        progress.catch_up.source = Some(source.replica);
        ctx.givers.set(partition, id, source.node);
        ctx.send(
            progress.member.node,
            PeerMessage::NeedSnapshot {
                partition,
                epoch,
                to: id,
                source: Some(source),
                after,
            },
        );
    }

    /// A replica tells of the snapshot that it fetches.
    pub(super) fn on_snapshot_news(
        &mut self,
        ctx: &mut Context<'_>,
        from: NodeId,
        news: &SnapshotNews,
    ) {
        let (head, base) = (self.log.head().index(), self.log.base().index());
        let (partition, me) = (self.partition, self.me);
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        let source = match leadership.followers.get(&news.source) {
            Some(progress) => Some(progress.member),
            None => (news.source == me.replica).then_some(me),
        };
        let current = leadership.epoch == news.epoch;
        let Some(progress) = leadership
            .followers
            .get_mut(&news.from)
            .filter(|p| current && p.member.node == from)
        else {
            return;
        };
        progress.heard = Some(ctx.now);
        match news.news {
            CopyNews::Begun { last } => {
                if last <= progress.matched || last > head {
                    // Late: it has more by now. Or nonsense.
                    return;
                }
                let copy = Some((news.source, last));
                progress.catch_up.begun += u32::from(progress.catch_up.copy != copy);
                progress.catch_up.copy = copy;
                // Where the log has gone past it the copy comes to nothing.
                progress.catch_up.snapshot = (last >= base).then_some(last);
                progress.catch_up.source = Some(news.source);
                if let Some(source) = source {
                    ctx.givers.set(partition, news.from, source.node);
                }
            }
            CopyNews::Failed => {
                if !progress.catch_up.rebuilding {
                    // Late: it has caught up since.
                    return;
                }
                // It may be of a source that another one has taken the place of, for which
                // it was busy until now.
                let was_current = progress.catch_up.failed(news.source);
                if was_current {
                    ctx.givers.remove(partition, news.from);
                }
                if was_current && news.source == me.replica {
                    // All have been tried. The next round begins when it is asked again.
                    progress.catch_up.tried.clear();
                } else if progress.flow == Flow::Snapshot {
                    self.ask_for_snapshot(ctx, news.from);
                }
            }
        }
    }
}
