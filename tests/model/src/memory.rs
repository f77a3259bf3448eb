//! What was worked out before: steps, nodes and messages, each kept once.
//!
//! Distinct nodes and steps are few beside the states of the cluster. They live as long
//! as the process, so that a state is a handful of references.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use cairn_core::cluster::command::Command;
use cairn_core::ids::{Index, Micros, NodeId};

use crate::council::Council;
use crate::message::Message;
use crate::node::{Input, Node, Stepped};

/// Passes on what is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 is hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// By a hash.
pub(crate) type ByPrint<T> = HashMap<u64, T, BuildHasherDefault<Hashed>>;

/// What came of a step.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing.
    Nothing,
    /// Something.
    Done {
        /// The node after it.
        node: &'static Node,
        /// What it sent, ascending by fingerprint.
        sent: Vec<&'static Message>,
        /// Up to where it acknowledged.
        committed: Option<Index>,
    },
    /// An assertion of the core failed.
    Panicked(String),
}

/// The memory of one thread.
#[derive(Debug, Default)]
pub struct Memory {
    outcomes: ByPrint<&'static Outcome>,
    nodes: ByPrint<&'static Node>,
    messages: ByPrint<&'static Message>,
    councils: ByPrint<&'static Council>,
    commands: ByPrint<Option<Told>>,
}

/// The coordinators after a command, and what they tell the nodes.
type Told = (&'static Council, &'static [&'static Message]);

fn mix(a: u64, b: u64) -> u64 {
    (a ^ b.rotate_left(31))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        ^ b
}

impl Memory {
    /// What comes of a step.
    pub fn step(&mut self, node: &'static Node, now: Micros, input: Input) -> &'static Outcome {
        let key = mix(mix(node.print, input.key()), now.0);
        if let Some(known) = self.outcomes.get(&key) {
            return known;
        }
        let outcome: &'static Outcome = Box::leak(Box::new(match node.step(now, input) {
            Err(said) => Outcome::Panicked(said),
            Ok(Stepped {
                node: next,
                sent,
                committed,
            }) => {
                let mut sent: Vec<_> = sent.into_iter().map(|m| self.message(m)).collect();
                sent.sort_unstable_by_key(|m| m.print);
                sent.dedup_by_key(|m| m.print);
                if next.print == node.print && sent.is_empty() && committed.is_none() {
                    Outcome::Nothing
                } else {
                    Outcome::Done {
                        node: self.node(next),
                        sent,
                        committed,
                    }
                }
            }
        }));
        self.outcomes.insert(key, outcome);
        outcome
    }

    /// Keeps a node.
    pub fn node(&mut self, node: Node) -> &'static Node {
        let print = node.print;
        self.nodes
            .entry(print)
            .or_insert_with(|| Box::leak(Box::new(node)))
    }

    /// Keeps a message.
    pub fn message(&mut self, message: Message) -> &'static Message {
        let print = message.print;
        self.messages
            .entry(print)
            .or_insert_with(|| Box::leak(Box::new(message)))
    }

    /// Keeps the coordinators.
    pub fn council(&mut self, council: Council) -> &'static Council {
        let print = council.print;
        self.councils
            .entry(print)
            .or_insert_with(|| Box::leak(Box::new(council)))
    }

    /// What comes of a command; `None` where it is refused.
    pub(crate) fn commit(&mut self, council: &'static Council, command: Command) -> Option<Told> {
        let text = format!("{command:?}");
        let key = mix(council.print, xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
        if let Some(known) = self.commands.get(&key) {
            return *known;
        }
        let told = council.commit(command).map(|next| {
            let sent = next.tell(Some(council)).into_iter();
            let mut sent: Vec<_> = sent.map(|m| self.message(m)).collect();
            sent.sort_unstable_by_key(|m| m.print);
            (self.council(next), &*sent.leak())
        });
        self.commands.insert(key, told);
        told
    }

    /// The fence that the coordinators ask of a node, where they do.
    pub(crate) fn fence(
        &mut self,
        council: &'static Council,
        node: NodeId,
    ) -> Option<&'static Message> {
        council.fence(node).map(|fence| self.message(fence))
    }

    /// Every node that was kept.
    pub fn nodes(&self) -> impl Iterator<Item = &'static Node> {
        self.nodes.values().copied()
    }

    /// How many different nodes there were, and steps of them.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.nodes.len(), self.outcomes.len())
    }
}
