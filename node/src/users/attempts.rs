//! What is done against guessing: passwords are hashed one after another, each address
//! in its turn, and every refusal is counted and now and then logged.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Denied, Origin};
use crate::settings::allowed_cpus;

/// How often refusals are logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why someone is not let in, for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// No credential was given.
    Missing,
    /// It was not right.
    Wrong,
}

/// The turns, and what is known of the refusals.
#[derive(Debug)]
pub(super) struct Attempts {
    /// Passwords that are hashed at a time: each takes 19 MiB, and a processor.
    hashing: Arc<Semaphore>,
    /// One place in the queue per address, so that whoever guesses a thousand times
    /// keeps another address waiting for one of them.
    lanes: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
    refusals: Mutex<Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    logged: Option<Instant>,
    /// Since then.
    unlogged: u64,
}

/// The right to hash a password now.
#[derive(Debug)]
pub(super) struct Turn {
    _lane: Option<OwnedSemaphorePermit>,
    _hashing: Option<OwnedSemaphorePermit>,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self {
            hashing: Arc::new(Semaphore::new((allowed_cpus() / 2).max(1))),
            lanes: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, from: Origin) -> Turn {
        let lane = self.lane(from.address);
        // Neither is ever closed.
        let _lane = lane.acquire_owned().await.ok();
        let _hashing = Arc::clone(&self.hashing).acquire_owned().await.ok();
        Turn { _lane, _hashing }
    }

    fn lane(&self, address: IpAddr) -> Arc<Semaphore> {
        let address = household(address);
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get(&address).and_then(Weak::upgrade) {
            return lane;
        }
        // As many stay as wait: what the others left goes before it doubles.
        if lanes.len() == lanes.capacity() {
            lanes.retain(|_, lane| lane.strong_count() > 0);
        }
        let lane = Arc::new(Semaphore::new(1));
        lanes.insert(address, Arc::downgrade(&lane));
        lane
    }

    /// Counts someone who was let in.
    pub(super) fn admit(&self, from: Origin) {
        metrics::counter!("cairn_logins_total", "listener" => from.listener).increment(1);
    }

    /// Counts, and now and then logs, someone who is not let in. `name` is one of the
    /// file's: what is not may be a password that was typed in the wrong place.
    pub(super) fn deny(&self, why: Failure, name: Option<&str>, from: Origin) -> Denied {
        let (reason, denied) = match why {
            Failure::Missing => ("missing", Denied::Missing),
            Failure::Wrong => ("wrong", Denied::Wrong),
        };
        metrics::counter!(
            "cairn_logins_failed_total", "listener" => from.listener, "reason" => reason
        )
        .increment(1);
        let mut refusals = self.refusals.lock();
        let now = Instant::now();
        if refusals
            .logged
            .is_some_and(|logged| now.duration_since(logged) < LOG_INTERVAL)
        {
            refusals.unlogged += 1;
            return denied;
        }
        let unlogged = std::mem::take(&mut refusals.unlogged);
        refusals.logged = Some(now);
        drop(refusals);
        tracing::warn!(
            listener = from.listener,
            address = %from.address,
            user = name.unwrap_or("not known"),
            credential = reason,
            others_since_the_last_line = unlogged,
            "refused a login"
        );
        denied
    }
}

/// Whom an address belongs to: with IPv6 one that asks has a whole /64 of them.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let network = u128::from(six) & (u128::MAX << 64);
            IpAddr::V6(network.into())
        }
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> Origin {
        Origin {
            listener: "resp",
            address: [127, 0, 0, last].into(),
        }
    }

    #[tokio::test]
    async fn an_address_that_guesses_often_keeps_another_waiting_for_one_guess() {
        let attempts = Arc::new(Attempts {
            hashing: Arc::new(Semaphore::new(1)),
            ..Attempts::new()
        });
        let first = attempts.turn(from(1)).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for address in [1, 1, 1, 1, 2] {
            let (attempts, order) = (Arc::clone(&attempts), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _turn = attempts.turn(from(address)).await;
                order.lock().push(address);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.expect("it ends");
        }
        let order = order.lock().clone();
        let other = order.iter().position(|&address| address == 2);
        assert!(other.is_some_and(|at| at <= 1), "{order:?}");
    }

    #[test]
    fn addresses_that_left_are_forgotten() {
        let attempts = Attempts::new();
        for high in 0..100u8 {
            for low in 0..100 {
                drop(attempts.lane([10, 0, high, low].into()));
            }
        }
        assert!(attempts.lanes.lock().capacity() < 100);
    }
}
