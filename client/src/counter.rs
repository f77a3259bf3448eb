//! Additions to striped counters, which go straight to a stripe.
//!
//! An addition has a name, so that a retry is applied once, and only the partition that it
//! goes to can judge the name. So the client sends it to a stripe itself: the node that it
//! first asks says over which stripes the counter is spread. That is kept for a while; a
//! stripe that is sealed by then refuses the addition, for good, and the client asks again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::counters::StripeName;
use cairn_core::counters::machine::Learned;
use cairn_core::kv::request::{WriteOp, WriteOutcome, WriteReply};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{Instant, sleep};

use crate::client::Inner;
use crate::error::Error;

/// How long an edition is gone by: far less than seals are kept.
const KEPT: Duration = Duration::from_secs(10);
/// Of how many counters the edition is kept.
const KEPT_MAX: usize = 16_384;
/// How long to wait where a stripe is sealed: somebody changes the counter.
const SEALED: Duration = Duration::from_millis(5);

/// What came of a write that may be for a striped counter.
#[derive(Debug)]
pub(crate) enum Written {
    /// It was judged.
    Reply(WriteReply),
    /// It is for a counter of this edition, and was not applied.
    Striped(Learned),
}

/// The editions that the client knows.
#[derive(Debug, Default)]
pub(crate) struct Editions {
    known: Mutex<HashMap<Bytes, Known>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    learned: Learned,
    /// What this client has added to it since.
    own: i64,
    at: Instant,
}

impl Editions {
    fn get(&self, key: &Bytes) -> Option<Learned> {
        let known = self.known.lock();
        let known = known.get(key).filter(|known| known.at.elapsed() < KEPT)?;
        Some(known.learned)
    }

    fn learn(&self, key: &Bytes, learned: Learned) {
        if !learned.may_be_kept() {
            return;
        }
        let mut known = self.known.lock();
        if known.len() >= KEPT_MAX && !known.contains_key(key) {
            known.retain(|_, known| known.at.elapsed() < KEPT);
            if known.len() >= KEPT_MAX {
                known.clear();
            }
        }
        known.insert(
            key.clone(),
            Known {
                learned,
                own: 0,
                at: Instant::now(),
            },
        );
    }

    fn forget(&self, key: &Bytes) {
        self.known.lock().remove(key);
    }

    /// Notes an addition; what the counter comes to, as far as this client knows.
    fn added(&self, key: &Bytes, learned: &Learned, delta: i64) -> i64 {
        let own = match self.known.lock().get_mut(key) {
            Some(known) if known.learned == *learned => {
                known.own = known.own.wrapping_add(delta);
                known.own
            }
            _ => delta,
        };
        learned.control.total.saturating_add(own)
    }
}

impl Inner {
    /// Adds to a key, which may be a striped counter.
    pub(crate) async fn increment(&self, key: Bytes, delta: i64) -> Result<WriteOutcome, Error> {
        let until = Instant::now() + self.options.deadline;
        let mut learned = self.editions.get(&key);
        let mut pause = SEALED;
        loop {
            let of = match learned.take() {
                Some(of) => of,
                None => {
                    let op = WriteOp::Increment {
                        key: key.clone(),
                        delta,
                    };
                    match self.write_or_learn(op, None).await? {
                        Written::Reply(reply) => return Ok(reply.outcome),
                        Written::Striped(of) => {
                            self.editions.learn(&key, of);
                            of
                        }
                    }
                }
            };
            let name = StripeName {
                counter: key.clone(),
                edition: of.control.edition,
                stripe: rand::rng().random_range(0..of.control.stripes),
            };
            let op = WriteOp::Increment {
                key: name.key(of.control.stripes),
                delta,
            };
            let outcome = match self.write_or_learn(op, None).await? {
                Written::Reply(reply) => reply.outcome,
                // No stripe is a counter.
                Written::Striped(_) => WriteOutcome::NotAnInteger,
            };
            match outcome {
                WriteOutcome::Integer(_) => {
                    return Ok(WriteOutcome::Integer(self.editions.added(&key, &of, delta)));
                }
                WriteOutcome::NotAnInteger => self.editions.forget(&key),
                other => return Ok(other),
            }
            if Instant::now() + pause >= until {
                return Err(Error::Unavailable {
                    within: self.options.deadline,
                    attempts: 1,
                    reason: "the counter is being changed".to_owned(),
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(SEALED * 20);
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::counters::Control;
    use cairn_core::ids::Position;

    use super::*;

    fn learned(edition: u64, expires_at: Option<u64>) -> Learned {
        Learned {
            control: Control {
                edition,
                stripes: 4,
                base: 0,
                total: 100,
                counted_at_ms: 0,
            },
            version: Position::ZERO,
            expires_at,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_edition_is_kept_for_a_while_unless_it_expires() {
        let editions = Editions::default();
        let (key, expiring) = (Bytes::from("a"), Bytes::from("b"));
        editions.learn(&key, learned(1, None));
        editions.learn(&expiring, learned(2, Some(5)));
        assert_eq!(editions.get(&key), Some(learned(1, None)));
        assert_eq!(editions.get(&expiring), None);
        assert_eq!(editions.added(&key, &learned(1, None), 5), 105);
        assert_eq!(editions.added(&key, &learned(1, None), 5), 110);
        assert_eq!(editions.added(&key, &learned(3, None), 5), 105);
        tokio::time::advance(KEPT).await;
        assert_eq!(editions.get(&key), None);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let editions = Editions::default();
        for n in 0..KEPT_MAX + 5 {
            editions.learn(&Bytes::from(n.to_string()), learned(1, None));
        }
        assert!(editions.known.lock().len() <= KEPT_MAX);
    }
}
