//! What a replica has room for: on the disk, in memory (rules 13, 15 and 17).
//!
//! A disk that counts as full still takes what must go on: barriers, the log that a
//! new primary inherited, and entries that only delete, or nobody could ever make
//! room. That comes out of a reserve; once the reserve is spent, barriers alone pass.
//!
//! In memory, what the store has not applied cannot go. A primary therefore proposes
//! nothing while there is too much of it, of whatever cause: followers that do not
//! acknowledge, or a store that does not apply. A follower's log grows by what its
//! primary has proposed, which is bounded there; what it must bound itself is the part
//! that has committed and waits for its own store. It then takes nothing more without
//! a word, and the primary's window pushes back.

use bytes::Bytes;

use super::context::Context;
use super::entry::{EntryKind, LogEntry};
use super::event::DiskRoom;
use super::lease::Holdings;
use super::message::Append;
use super::node::ProposeError;
use super::quorum;
use super::replica::{Part, Replica};
use crate::kv::EntryBody;
use crate::record::Member;

/// Whether entries can be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    Enough,
    /// There is none on the disk.
    DiskFull,
    /// The store is too far behind: what is sent again later is taken.
    Later,
}

/// Whether all that an entry does is to delete. An expiry is such an entry, and so is
/// one that only tidies the expiry index up.
fn only_deletes(body: &Bytes) -> bool {
    EntryBody::decode(body.clone()).is_ok_and(|body| {
        let deletes = !body.writes.is_empty() || !body.unindexed.is_empty();
        deletes && body.writes.iter().all(|(_, value)| value.is_none())
    })
}

impl Replica {
    /// Whether a write may be proposed now; counts it where writes are slowed.
    pub(super) fn admit(&mut self, ctx: &Context<'_>, body: &Bytes) -> Result<(), ProposeError> {
        let full = self.blocked_by_disk(ctx.holdings, ctx.disk != DiskRoom::Ample);
        if full && (ctx.disk == DiskRoom::Spent || !only_deletes(body)) {
            return Err(ProposeError::DiskFull);
        }
        let bound = ctx.timing.unapplied_bytes;
        if ctx.unapplied > bound || self.unapplied_bytes() > bound / 2 {
            return Err(ProposeError::Overloaded);
        }
        if let Part::Primary(leadership) = &mut self.part
            && !leadership.admit(body.len())
        {
            return Err(ProposeError::PushedBack);
        }
        Ok(())
    }

    /// Whether data cannot commit for want of disk room.
    pub(super) fn blocked_by_disk(&self, holdings: &Holdings, own: bool) -> bool {
        let has_room = |m: &Member| {
            if *m == self.me {
                !own
            } else {
                !holdings.disk_full(m.node)
            }
        };
        own || !quorum::can_write(&self.record.config, has_room)
    }

    /// Whether there is room for what a primary sends.
    pub(super) fn room_for(&self, ctx: &Context<'_>, append: &Append) -> Room {
        let is_new_write = |e: &LogEntry| {
            e.kind == EntryKind::Write && self.log.mark_at(e.position.index) != Some(e.mark())
        };
        let fits = |e: &LogEntry| match ctx.disk {
            DiskRoom::Ample => true,
            // Without what the primary inherited its barrier cannot commit.
            DiskRoom::Reserve => e.position.epoch < append.epoch || only_deletes(&e.body),
            DiskRoom::Spent => false,
        };
        let bound = ctx.timing.unapplied_bytes;
        let waiting = self
            .unapplied_bytes()
            .saturating_sub(self.log.bytes_after(self.commit));
        let stalled = waiting > bound / 2 || (ctx.unapplied / 2 > bound && waiting > bound / 16);
        if ctx.disk == DiskRoom::Ample && !stalled {
            return Room::Enough;
        }
        let mut writes = append.entries.iter().filter(|e| is_new_write(e)).peekable();
        if stalled && writes.peek().is_some() {
            return Room::Later;
        }
        if writes.all(fits) {
            Room::Enough
        } else {
            Room::DiskFull
        }
    }

    /// About how many bytes of the log the store has not applied.
    pub(super) fn unapplied_bytes(&self) -> usize {
        self.log.bytes_after(self.applied)
    }
}
