//! What took place in the states that were visited: an exploration in which nothing does
//! proves nothing.

use cairn_core::ids::Epoch;

use crate::invariants::may_answer;
use crate::world::State;

macro_rules! things {
    ($($field:ident $name:literal),* $(,)?) => {
        /// In how many states each thing was seen.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Seen {
            $(#[doc = $name] pub $field: u64,)*
        }

        impl Seen {
            /// Adds another one.
            pub fn merge(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// By name.
            pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($name, self.$field)),*].into_iter()
            }
        }
    };
}

things! {
    acknowledged "a write is acknowledged",
    acknowledged_later "a write is acknowledged in a later epoch",
    all_acknowledged "both writes are acknowledged",
    promoted "a primary of a later epoch serves",
    deposed_serves "a primary of an earlier epoch has not heard of it",
    cut "a log was cut",
    resumed "a primary that restarted serves",
    leased "a lease is held",
    leased_later "a lease of a later epoch is held",
    lapsed "a lease has lapsed",
    joint_served "a primary serves while joint",
    left_forward "joint was left for the new set",
    left_backward "joint was left for the old set",
    removed "a replica was removed",
}

impl Seen {
    /// Looks at a state.
    pub fn look(&mut self, state: &State) {
        let now = state.time();
        let count = |n: &mut u64, is: bool| *n += u64::from(is);
        let nodes = || state.nodes.iter().filter(|n| n.view.role.is_some());
        let serving = || nodes().filter(|n| n.view.serving);
        let newest = serving().map(|n| n.view.epoch).max().unwrap_or(Epoch::ZERO);
        let record = &state.council.record;
        count(&mut self.acknowledged, state.acked.iter().any(|e| *e > 0));
        count(
            &mut self.acknowledged_later,
            state.acked.iter().any(|e| *e > 1),
        );
        count(
            &mut self.all_acknowledged,
            state.acked.iter().all(|e| *e > 0),
        );
        count(
            &mut self.promoted,
            serving().any(|n| n.view.epoch > Epoch(1)),
        );
        count(
            &mut self.deposed_serves,
            serving().any(|n| n.view.epoch < newest),
        );
        count(&mut self.cut, nodes().any(|n| n.view.has_cut));
        count(&mut self.resumed, serving().any(|n| n.view.restarted));
        count(&mut self.leased, nodes().any(|n| may_answer(n, now)));
        count(
            &mut self.leased_later,
            nodes().any(|n| may_answer(n, now) && n.view.epoch > Epoch(1)),
        );
        count(
            &mut self.lapsed,
            serving().any(|n| n.view.lease_until.0 > 0 && n.view.lease_until <= now),
        );
        let is_joint = |n: &crate::node::Node| {
            let known = n.view.record.as_ref();
            known.is_some_and(|r| r.config.joint.is_some() && r.epoch == n.view.epoch)
        };
        count(&mut self.joint_served, serving().any(|n| is_joint(n)));
        let plain = record.config.joint.is_none() && record.config.learners.is_empty();
        let moved = record.config.current.members.iter().any(|m| m.node.0 == 4);
        count(&mut self.left_forward, plain && moved);
        count(&mut self.left_backward, plain && !moved && state.served > 0);
        let third = &state.nodes[2].view;
        count(&mut self.removed, third.role.is_none());
    }
}
