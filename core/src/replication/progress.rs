//! What a primary knows of one other replica, and how much it may send it.

use std::collections::VecDeque;

use crate::ids::{Index, Micros, ReplicaId};
use crate::record::Member;

/// How the primary sends to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// One append at a time, until the logs are known to share `next - 1`.
    Probe,
    /// Appends follow each other within the window.
    Stream,
    /// It was told to fetch a snapshot.
    Snapshot,
}

/// A replica this close to the head counts as caught up.
pub(super) const CAUGHT_UP: u64 = 256;

/// The way of a replica from far behind to the head.
#[derive(Debug, Clone, Default)]
pub(super) struct CatchUp {
    /// It was told to fetch a snapshot, and has not caught up since.
    pub(super) rebuilding: bool,
    /// How many snapshots it began to fetch without catching up.
    pub(super) begun: u32,
    /// Whose state it was told to fetch, or fetches.
    pub(super) source: Option<ReplicaId>,
    /// The snapshot that it said to have begun last: whose, and its last index.
    pub(super) copy: Option<(ReplicaId, Index)>,
    /// Sources that failed since all were to be tried.
    pub(super) tried: Vec<ReplicaId>,
    /// The last index of the snapshot that it fetches or has fetched: until it has
    /// matched that, this is where it will want the log from.
    pub(super) snapshot: Option<Index>,
    /// For how long writes have been slowed for it.
    pub(super) slowed: Micros,
    /// Since when no log is kept and no write slowed for it any more.
    pub(super) given_up: Option<Micros>,
}

impl CatchUp {
    /// No snapshot comes of that source. Whether it is the one that was chosen last.
    pub(super) fn failed(&mut self, source: ReplicaId) -> bool {
        if !self.tried.contains(&source) {
            self.tried.push(source);
        }
        let current = self.source == Some(source);
        if current {
            self.source = None;
            self.copy = None;
            self.snapshot = None;
        }
        current
    }
}

/// One replica, as its primary sees it. Lives for one epoch.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) member: Member,
    pub(super) flow: Flow,
    /// The last index known to be matched and flushed there, in this epoch.
    pub(super) matched: Index,
    /// The next index to send.
    pub(super) next: Index,
    /// The newest commit index that it was told.
    pub(super) commit_told: Index,
    /// When something was sent that awaits an answer.
    pub(super) awaiting_since: Option<Micros>,
    /// When it last answered.
    pub(super) heard: Option<Micros>,
    /// How often the same was sent again without an answer.
    pub(super) retries: u32,
    /// How often it refused where the lineages said that the logs agree.
    pub(super) disagreements: u32,
    /// Since when entries that were sent to it have waited to be matched. Unlike
    /// `awaiting_since` it is not begun anew when they are sent again: a replica
    /// whose disk hangs answers everything but this.
    pub(super) unmatched_since: Option<Micros>,
    /// Since when it has had no room for data.
    pub(super) full_since: Option<Micros>,
    /// What is known of its being brought up from far behind (rule 13).
    pub(super) catch_up: CatchUp,
    in_flight: VecDeque<(Index, usize)>,
    in_flight_bytes: usize,
}

impl Progress {
    pub(super) fn new(member: Member, next: Index) -> Self {
        Self {
            member,
            flow: Flow::Probe,
            matched: Index::ZERO,
            next,
            commit_told: Index::ZERO,
            awaiting_since: None,
            heard: None,
            retries: 0,
            disagreements: 0,
            unmatched_since: None,
            full_since: None,
            catch_up: CatchUp::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }

    /// Whether another append may be sent now.
    pub(super) fn may_send(&self, window_bytes: usize) -> bool {
        match self.flow {
            Flow::Probe => self.awaiting_since.is_none(),
            Flow::Stream => self.in_flight_bytes < window_bytes,
            Flow::Snapshot => false,
        }
    }

    /// Whether there is something to send to it, and it is not under way only because it
    /// had to wait: a learner that is far behind ([`super::pace`]).
    pub(super) fn is_held(&self, durable: Index) -> bool {
        self.flow == Flow::Stream && self.in_flight.is_empty() && self.next <= durable
    }

    /// Notes an append up to `last` of so many bytes.
    pub(super) fn sent(&mut self, last: Index, bytes: usize, now: Micros) {
        self.awaiting_since.get_or_insert(now);
        if last > self.matched && bytes > 0 {
            self.unmatched_since.get_or_insert(now);
        }
        if self.flow == Flow::Stream {
            self.next = last.next();
            self.in_flight.push_back((last, bytes));
            self.in_flight_bytes += bytes;
        }
    }

    /// Everything up to `index` is matched and flushed there.
    pub(super) fn matched_to(&mut self, index: Index, now: Micros) {
        self.heard = Some(now);
        self.retries = 0;
        self.disagreements = 0;
        self.matched = self.matched.max(index);
        if self.catch_up.snapshot.is_some_and(|mark| mark <= index) {
            self.catch_up.snapshot = None;
        }
        if self.flow != Flow::Stream {
            self.flow = Flow::Stream;
            self.clear_flight();
            self.next = self.matched.next();
        }
        self.next = self.next.max(self.matched.next());
        while let Some(&(last, bytes)) = self.in_flight.front() {
            if last > self.matched {
                break;
            }
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
        }
        self.awaiting_since = (!self.in_flight.is_empty()).then_some(now);
        self.unmatched_since = self.awaiting_since;
    }

    /// Sends from `next` on, one at a time, until it matches.
    pub(super) fn probe_from(&mut self, next: Index) {
        self.flow = Flow::Probe;
        self.next = next.max(self.matched.next());
        self.clear_flight();
    }

    /// It must fetch a snapshot.
    pub(super) fn wait_for_snapshot(&mut self, now: Micros) {
        self.catch_up.rebuilding = true;
        self.unmatched_since = None;
        self.flow = Flow::Snapshot;
        self.clear_flight();
        self.awaiting_since = Some(now);
    }

    /// Whether the answer is overdue: what was sent may be lost. The wait doubles
    /// with each retry, up to eight times.
    pub(super) fn overdue(&self, now: Micros, resend: Micros) -> bool {
        let wait = Micros(resend.0 << self.retries.min(3));
        self.awaiting_since
            .is_some_and(|since| now >= since.plus(wait))
    }

    /// Whether it is close enough to the head to become a member, or to take over.
    pub(super) fn caught_up(&self, head: Index) -> bool {
        self.matched > Index::ZERO && head.0.saturating_sub(self.matched.0) <= CAUGHT_UP
    }

    /// Whether it takes what it is sent: it was heard of within `patience`, by
    /// `lease_answer` where it grants one, and for no longer than `stuck` have
    /// entries waited to be matched, or was there no room for them (rules 10, 15).
    pub(super) fn answering(
        &self,
        now: Micros,
        lease_answer: Option<Micros>,
        (patience, stuck): (Micros, Micros),
    ) -> bool {
        let late = |since: Option<Micros>, bound: Micros| {
            since.is_some_and(|since| now >= since.plus(bound))
        };
        self.heard
            .max(lease_answer)
            .is_some_and(|at| now < at.plus(patience))
            && !late(self.unmatched_since, stuck.max(patience))
            && !late(self.full_since, stuck)
    }

    fn clear_flight(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.awaiting_since = None;
    }
}
