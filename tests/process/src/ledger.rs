//! What was promised, and whether a read keeps it.
//!
//! A [`Register`] is a key that one writer sets to increasing numbers; a
//! [`Counter`] is a key that anyone increments by one. Both say what a read may
//! return, given which writes were acknowledged, refused or left unknown.

use std::collections::BTreeSet;

/// What became of a write, as its client saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Acknowledged: it must never be lost.
    Acknowledged,
    /// Refused with the assurance that nothing was done: it must never be seen.
    Refused,
    /// It may have happened, and may still.
    Unknown,
}

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// Something acknowledged, or already seen, is gone.
    Lost {
        /// The least that had to be there.
        least: u64,
        /// What was there.
        found: u64,
    },
    /// Something that was refused happened.
    RefusedHappened {
        /// Which write.
        number: u64,
    },
    /// Something that nobody tried.
    Invented {
        /// What was there.
        found: u64,
        /// The most that could be.
        most: u64,
    },
    /// Two acknowledged increments returned the same value.
    SameReply {
        /// Which.
        value: u64,
    },
}

/// What is known of a key that one writer sets to 1, 2, 3, ...; 0 means "no value".
#[derive(Clone, Debug, Default)]
pub struct Register {
    tried: u64,
    floor: u64,
    unknown: BTreeSet<u64>,
    refused: BTreeSet<u64>,
}

impl Register {
    /// The number to write next.
    pub fn begin(&mut self) -> u64 {
        self.tried += 1;
        self.tried
    }

    /// What became of it.
    pub fn end(&mut self, number: u64, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => self.floor = self.floor.max(number),
            Outcome::Refused => {
                self.refused.insert(number);
            }
            Outcome::Unknown => {
                self.unknown.insert(number);
            }
        }
    }

    /// The least that a strong read which begins now must return: the last
    /// acknowledged value, or a later one that was already read.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Judges a strong read that began when the floor was `floor`.
    ///
    /// A value below the floor is right where its write's outcome is unknown: such a
    /// write takes effect at any time after it was sent, also after a later one.
    ///
    /// # Errors
    /// See [`Violation`].
    pub fn judge(&mut self, floor: u64, found: u64) -> Result<(), Violation> {
        if found > self.tried {
            return Err(Violation::Invented {
                found,
                most: self.tried,
            });
        }
        if self.refused.contains(&found) {
            return Err(Violation::RefusedHappened { number: found });
        }
        if found < floor && !self.unknown.contains(&found) {
            return Err(Violation::Lost {
                least: floor,
                found,
            });
        }
        self.floor = self.floor.max(found);
        Ok(())
    }
}

/// What is known of a key that is incremented by one.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    tried: u64,
    acknowledged: u64,
    refused: u64,
    replies: BTreeSet<u64>,
}

impl Counter {
    /// An increment is sent.
    pub fn begin(&mut self) {
        self.tried += 1;
    }

    /// It was acknowledged with the counter's new value.
    ///
    /// # Errors
    /// Where the value cannot be, or was already another increment's.
    pub fn acknowledged(&mut self, value: u64) -> Result<(), Violation> {
        self.acknowledged += 1;
        if value > self.most() {
            return Err(Violation::Invented {
                found: value,
                most: self.most(),
            });
        }
        if !self.replies.insert(value) {
            return Err(Violation::SameReply { value });
        }
        Ok(())
    }

    /// It was refused: nothing was done.
    pub fn refused(&mut self) {
        self.refused += 1;
    }

    /// The least that a strong read which begins now must return.
    #[must_use]
    pub fn least(&self) -> u64 {
        let seen = self.replies.last().copied().unwrap_or(0);
        self.acknowledged.max(seen)
    }

    /// The most that it may: what was tried and not refused.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.tried - self.refused
    }

    /// How many increments have an outcome that nobody knows.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.most() - self.acknowledged
    }

    /// Judges a strong read that began when [`Self::least`] was `least`.
    ///
    /// # Errors
    /// See [`Violation`].
    pub fn judge(&self, least: u64, found: u64) -> Result<(), Violation> {
        if found < least {
            return Err(Violation::Lost { least, found });
        }
        if found > self.most() {
            return Err(Violation::Invented {
                found,
                most: self.most(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(outcomes: &[Outcome]) -> Register {
        let mut register = Register::default();
        for &outcome in outcomes {
            let number = register.begin();
            register.end(number, outcome);
        }
        register
    }

    #[test]
    fn a_register_must_show_the_last_acknowledged_value() {
        let mut register = written(&[Outcome::Acknowledged, Outcome::Acknowledged]);
        assert_eq!(register.judge(2, 2), Ok(()));
        assert_eq!(
            register.judge(2, 1),
            Err(Violation::Lost { least: 2, found: 1 })
        );
        assert_eq!(
            register.judge(2, 0),
            Err(Violation::Lost { least: 2, found: 0 })
        );
        assert_eq!(
            register.judge(2, 3),
            Err(Violation::Invented { found: 3, most: 2 })
        );
    }

    #[test]
    fn an_unknown_write_may_be_seen_or_not_and_late_too() {
        let mut register = written(&[Outcome::Acknowledged, Outcome::Unknown]);
        assert_eq!(register.judge(1, 1), Ok(()));
        assert_eq!(register.judge(1, 2), Ok(()));
        let mut late = written(&[
            Outcome::Acknowledged,
            Outcome::Unknown,
            Outcome::Acknowledged,
        ]);
        assert_eq!(late.judge(3, 2), Ok(()));
        assert_eq!(
            late.judge(3, 1),
            Err(Violation::Lost { least: 3, found: 1 })
        );
    }

    #[test]
    fn what_was_read_once_does_not_go_away() {
        let mut register = written(&[Outcome::Acknowledged]);
        let second = register.begin();
        assert_eq!(register.judge(1, second), Ok(()));
        assert_eq!(register.floor(), 2);
        assert_eq!(
            register.judge(register.floor(), 1),
            Err(Violation::Lost { least: 2, found: 1 })
        );
    }

    #[test]
    fn a_refused_write_is_never_seen() {
        let mut register = written(&[Outcome::Acknowledged, Outcome::Refused]);
        assert_eq!(
            register.judge(1, 2),
            Err(Violation::RefusedHappened { number: 2 })
        );
    }

    #[test]
    fn a_counter_lies_between_what_was_acknowledged_and_what_was_tried() {
        let mut counter = Counter::default();
        for value in 1..=3 {
            counter.begin();
            assert_eq!(counter.acknowledged(value), Ok(()));
        }
        counter.begin();
        counter.begin();
        counter.refused();
        assert_eq!(
            (counter.least(), counter.most(), counter.unknown()),
            (3, 4, 1)
        );
        assert_eq!(counter.judge(3, 3), Ok(()));
        assert_eq!(counter.judge(3, 4), Ok(()));
        assert_eq!(
            counter.judge(3, 2),
            Err(Violation::Lost { least: 3, found: 2 })
        );
        assert_eq!(
            counter.judge(3, 5),
            Err(Violation::Invented { found: 5, most: 4 })
        );
    }

    #[test]
    fn two_increments_never_share_a_reply() {
        let mut counter = Counter::default();
        counter.begin();
        counter.begin();
        assert_eq!(counter.acknowledged(1), Ok(()));
        assert_eq!(
            counter.acknowledged(1),
            Err(Violation::SameReply { value: 1 })
        );
    }
}
