//! Whether changes of what was read are still seen.

use crate::ids::ReplicaId;
use crate::replication::{Generation, Standing};

/// What of a replica decides whether a change of what was read of it shows there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The replica.
    pub replica: ReplicaId,
    /// Its state.
    pub generation: Generation,
    /// Whether it serves as primary.
    pub serving: bool,
}

impl From<&Standing> for Seen {
    fn from(standing: &Standing) -> Self {
        Self {
            replica: standing.replica,
            generation: standing.generation,
            serving: standing.serving,
        }
    }
}

impl Seen {
    /// Whether what was read before may change unseen once the replica stands so: there is
    /// none any more, its state is another one, or another node serves. A replica that goes on
    /// sees changes too, only later, and whether it does nobody may know.
    #[must_use]
    pub fn ends(self, now: Option<Self>) -> bool {
        now.is_none_or(|now| {
            (self.replica, self.generation) != (now.replica, now.generation)
                || (self.serving && !now.serving)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen_as_long_as_the_state_is_the_same_and_nobody_took_over() {
        let follows = Seen {
            replica: ReplicaId(1),
            generation: Generation(1),
            serving: false,
        };
        let serves = Seen {
            serving: true,
            ..follows
        };
        let copied = Seen {
            generation: Generation(2),
            ..follows
        };
        let another = Seen {
            replica: ReplicaId(2),
            ..follows
        };
        assert!(!follows.ends(Some(follows)) && !follows.ends(Some(serves)));
        assert!(!serves.ends(Some(serves)));
        assert!(serves.ends(Some(follows)) && serves.ends(None));
        assert!(follows.ends(Some(copied)) && follows.ends(Some(another)));
    }
}
