//! How fast replicas are copied while clients are served (rule 13).
//!
//! What a node's disk and network can do beside its clients is not known, and changes. So the
//! node watches what copies are there not to harm: how long its clients' writes take. While
//! nothing is copied it learns how long that is at rest; while something is, the rate rises
//! step by step as long as writes take about as long as that, and falls fast where they do
//! not, as TCP does with what a path carries (additive increase, multiplicative decrease;
//! Chiu and Jain, 1989). It never falls below what clients write, since such a copy would
//! never end, nor below a least rate: fewer copies than there should be are a danger too.

use cairn_core::ids::Micros;
use hdrhistogram::Histogram;

/// Bytes of copies in a second beside clients: at most, to begin with, and at least.
const MOST: u64 = 64 << 20;
const BEGIN: u64 = 8 << 20;
const LEAST: u64 = 4 << 20;
/// Fewer writes in a second than this, and what is received need not give way to clients.
const IDLE_WRITES: u64 = 100;
/// How often the rates are judged.
const JUDGED_EVERY: Micros = Micros::from_millis(500);
/// From fewer waits than this nothing is concluded.
const WAITS_LEAST: u64 = 20;
/// Of all waits, the part that must not have grown.
const QUANTILE: f64 = 0.95;
/// Waits that are no longer than at rest plus this are never too long: one flush more or
/// less says nothing.
const SLACK: Micros = Micros::from_millis(2);
/// What counts as the time at rest before any was seen.
const AT_REST_UNKNOWN: Micros = Micros::from_millis(10);
/// After so many judgements without a copy the next one begins anew.
const FORGOTTEN_AFTER: u32 = 20;

/// How fast copies may go on a node, all together, by its settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotRates {
    /// The most bytes in a second that are sent to other nodes; 0 for no fixed limit.
    pub send: u64,
    /// The most bytes in a second that are written; 0 for no fixed limit.
    pub receive: u64,
}

impl SnapshotRates {
    /// The rates for sending and receiving, 0 for any, where clients made so many writes,
    /// and the log took so many bytes, in the last second, and `beside` is what clients
    /// were seen to bear.
    fn in_force(self, writes: u64, written: u64, beside: u64) -> (u64, u64) {
        let least = written.saturating_mul(2);
        let limited = |limit: u64| match limit {
            0 => beside,
            limit => limit.min(beside),
        };
        let send = limited(self.send).max(least);
        let receive = if writes >= IDLE_WRITES {
            limited(self.receive).max(least)
        } else if self.receive == 0 {
            0
        } else {
            self.receive.max(least)
        };
        (send, receive)
    }

    /// Those of a node that has just started.
    pub(super) fn at_start(self) -> CopyRates {
        let (send, receive) = self.in_force(0, 0, BEGIN);
        CopyRates {
            snapshots: send,
            log: send,
            receive,
        }
    }
}

/// Bytes in a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CopyRates {
    /// Of snapshots that are read for other nodes.
    pub(super) snapshots: u64,
    /// From the log to learners that are far behind.
    pub(super) log: u64,
    /// Of snapshots that are written here; 0 for any.
    pub(super) receive: u64,
}

/// How many bytes of each kind have passed since the node started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Copied {
    pub(super) snapshots: u64,
    pub(super) log: u64,
    pub(super) received: u64,
}

/// The rates of copies, and what they are judged by.
#[derive(Debug)]
pub(super) struct Copies {
    settings: SnapshotRates,
    beside: Beside,
    /// How long writes waited since the last judgement, in microseconds.
    waits: Histogram<u32>,
    copied: Copied,
    next: Micros,
    /// Writes, and bytes to the log, of the last second.
    writes: u64,
    written: u64,
}

impl Copies {
    pub(super) fn new(settings: SnapshotRates) -> Self {
        Self {
            settings,
            beside: Beside::default(),
            waits: Histogram::new_with_bounds(1, 60_000_000, 2).expect("legal bounds"),
            copied: Copied::default(),
            next: Micros(0),
            writes: 0,
            written: 0,
        }
    }

    /// A client's write was answered so long after it arrived.
    pub(super) fn waited(&mut self, waited: Micros) {
        self.waits.saturating_record(waited.0.max(1));
    }

    /// What clients wrote, and what the log took, in the last second.
    pub(super) fn second(&mut self, writes: u64, written: u64) {
        (self.writes, self.written) = (writes, written);
    }

    /// The rates from now on, where it is time to judge them.
    pub(super) fn judge(&mut self, now: Micros, copied: Copied) -> Option<CopyRates> {
        if now < self.next {
            return None;
        }
        self.next = now.plus(JUDGED_EVERY);
        let before = std::mem::replace(&mut self.copied, copied);
        let wait = (self.waits.len() >= WAITS_LEAST)
            .then(|| Micros(self.waits.value_at_quantile(QUANTILE)));
        self.waits.reset();
        let beside = self.beside.judge(wait, before != copied);
        let (send, receive) = self.settings.in_force(self.writes, self.written, beside);
        // The two share it where both are at work.
        let both = before.snapshots != copied.snapshots && before.log != copied.log;
        let send = if both { (send / 2).max(1) } else { send };
        Some(CopyRates {
            snapshots: send,
            log: send,
            receive,
        })
    }
}

/// What copies may take beside clients, from how long those wait.
#[derive(Clone, Copy, Debug)]
struct Beside {
    rate: u64,
    /// How long writes take where nothing is copied.
    at_rest: Option<Micros>,
    /// How often nothing was copied, one judgement after the other.
    resting: u32,
}

impl Default for Beside {
    fn default() -> Self {
        Self {
            rate: BEGIN,
            at_rest: None,
            resting: 0,
        }
    }
}

impl Beside {
    /// Writes waited so long, which is not known where there were few, and something was
    /// copied or not.
    fn judge(&mut self, wait: Option<Micros>, copying: bool) -> u64 {
        if !copying {
            self.rest(wait);
            return self.rate;
        }
        self.resting = 0;
        let at_rest = self.at_rest.unwrap_or(AT_REST_UNKNOWN);
        let bound = Micros(at_rest.0.saturating_mul(2)).max(at_rest.plus(SLACK));
        match wait {
            Some(wait) if wait > bound => {
                if self.rate == LEAST {
                    // It is not the copies, then: the load is another one by now.
                    self.at_rest = Some(nearer(at_rest, wait, 50));
                }
                self.rate = (self.rate / 3 * 2).max(LEAST);
            }
            Some(_) => self.rate = (self.rate / 4 * 5).min(MOST),
            // There is hardly a client to give way to.
            None => self.rate = (self.rate * 2).min(MOST),
        }
        self.rate
    }

    fn rest(&mut self, wait: Option<Micros>) {
        self.resting = self.resting.saturating_add(1);
        if self.resting == FORGOTTEN_AFTER {
            self.rate = BEGIN;
        }
        if let Some(wait) = wait {
            self.at_rest = Some(match self.at_rest {
                // What slows writes down for a while, a copy between others on the same
                // disk for instance, is not how they are at rest.
                Some(before) if wait > before => nearer(before, wait, 50),
                Some(before) => nearer(before, wait, 3),
                None => wait,
            });
        }
    }
}

/// A part of the way from one to the other.
fn nearer(from: Micros, to: Micros, part: u64) -> Micros {
    if to > from {
        from.plus(Micros(to.minus(from).0.div_ceil(part)))
    } else {
        from.minus(Micros(from.minus(to).0.div_ceil(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Option<Micros> = Some(Micros::from_millis(3));
    const SLOW: Option<Micros> = Some(Micros::from_millis(30));

    /// What becomes of the rate where that lasts.
    fn lasting(beside: &mut Beside, wait: Option<Micros>, copying: bool, times: u32) -> u64 {
        (0..times)
            .map(|_| beside.judge(wait, copying))
            .last()
            .unwrap_or(0)
    }

    #[test]
    fn copies_take_more_while_writes_are_as_fast_as_at_rest_and_less_once_they_are_not() {
        let mut beside = Beside::default();
        assert_eq!(lasting(&mut beside, FAST, false, 10), BEGIN);
        assert_eq!(lasting(&mut beside, FAST, true, 30), MOST);
        let before = beside.rate;
        assert!(beside.judge(SLOW, true) <= before * 2 / 3);
        assert_eq!(lasting(&mut beside, SLOW, true, 20), LEAST);
        // They recover as soon as writes do.
        assert!(beside.judge(FAST, true) > LEAST);
        // After a rest it is not known any more what is borne.
        lasting(&mut beside, FAST, true, 30);
        assert_eq!(lasting(&mut beside, FAST, false, FORGOTTEN_AFTER), BEGIN);
    }

    #[test]
    fn a_load_that_is_slower_for_good_does_not_hold_copies_at_the_least_for_ever() {
        let mut beside = Beside::default();
        lasting(&mut beside, FAST, false, 10);
        assert_eq!(lasting(&mut beside, SLOW, true, 30), LEAST);
        assert!(lasting(&mut beside, SLOW, true, 1_000) > LEAST);
    }

    #[test]
    fn what_slows_writes_for_a_moment_is_not_taken_for_rest() {
        let mut beside = Beside::default();
        lasting(&mut beside, FAST, false, 10);
        lasting(&mut beside, SLOW, false, 3);
        let at_rest = beside.at_rest.expect("seen");
        assert!(at_rest < Micros::from_millis(10), "{at_rest:?}");
        lasting(&mut beside, FAST, false, 10);
        assert!(beside.at_rest.expect("seen") < Micros::from_millis(4));
    }

    #[test]
    fn without_clients_copies_soon_take_all() {
        let mut beside = Beside::default();
        assert_eq!(lasting(&mut beside, None, true, 3), MOST);
    }

    #[test]
    fn snapshots_give_way_to_clients_within_their_limits_and_never_fall_behind_writes() {
        let free = SnapshotRates::default();
        let limited = SnapshotRates {
            send: 5 << 20,
            receive: 3 << 20,
        };
        let (busy, idle) = (IDLE_WRITES, IDLE_WRITES - 1);
        assert_eq!(free.in_force(idle, 0, MOST), (MOST, 0));
        assert_eq!(free.in_force(busy, 0, BEGIN), (BEGIN, BEGIN));
        assert_eq!(limited.in_force(idle, 0, MOST), (5 << 20, 3 << 20));
        assert_eq!(limited.in_force(busy, 1 << 20, MOST), (5 << 20, 3 << 20));
        // Faster than what is written, whatever was set.
        assert_eq!(limited.in_force(busy, 4 << 20, LEAST), (8 << 20, 8 << 20));
        assert_eq!(limited.in_force(idle, 2 << 20, MOST), (5 << 20, 4 << 20));
        let most = free.in_force(busy, u64::MAX, LEAST);
        assert_eq!(most, (u64::MAX, u64::MAX));
        // A high limit does not outrun what clients leave.
        let high = SnapshotRates {
            send: 1 << 30,
            receive: 1 << 30,
        };
        assert_eq!(high.in_force(busy, 0, BEGIN), (BEGIN, BEGIN));
        assert_eq!(high.in_force(idle, 0, BEGIN), (BEGIN, 1 << 30));
    }

    #[test]
    fn rates_are_judged_by_what_was_waited_and_shared_by_what_goes_on() {
        let mut copies = Copies::new(SnapshotRates::default());
        let mut now = Micros(1);
        let mut copied = Copied::default();
        let mut judge = |copies: &mut Copies, wait: Micros, copied: Copied| {
            now = now.plus(JUDGED_EVERY);
            copies.second(1_000, 0);
            for _ in 0..WAITS_LEAST {
                copies.waited(wait);
            }
            let rates = copies.judge(now, copied).expect("it is time");
            assert_eq!(copies.judge(now.plus(Micros(1)), copied), None);
            rates
        };
        let (fast, slow) = (Micros::from_millis(3), Micros::from_millis(30));
        for _ in 0..10 {
            let rates = judge(&mut copies, fast, copied);
            assert_eq!((rates.snapshots, rates.receive), (BEGIN, BEGIN));
        }
        copied.snapshots += 1;
        let alone = judge(&mut copies, fast, copied);
        assert!(alone.snapshots > BEGIN && alone.log == alone.snapshots);
        (copied.snapshots, copied.log) = (copied.snapshots + 1, copied.log + 1);
        let shared = judge(&mut copies, fast, copied);
        assert!(shared.snapshots + shared.log <= shared.receive + 1);
        for _ in 0..20 {
            copied.received += 1;
            judge(&mut copies, slow, copied);
        }
        copied.received += 1;
        assert_eq!(judge(&mut copies, slow, copied).receive, LEAST);
    }
}
