//! When an announced absence is over.
//!
//! A node that is stopped on purpose is announced beforehand and waited for until then
//! ([`Command::ExpectBack`]). Once it is back the announcement has done its duty: if the node
//! fails now, that is no part of what was planned. So the leader takes the announcement back
//! as soon as the node is up in another process than at the time of the announcement, or again
//! after it was down.
//!
//! A leader knows only what it saw itself. One that took over when the node was back already
//! sees no return, and the announcement runs out by itself.

use super::Supervisor;
use crate::cluster::command::Command;
use crate::ids::{Micros, NodeId};

/// An announced absence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Announced {
    /// Until when, as it was announced.
    until_unix_ms: u64,
    seen: Seen,
}

/// What was seen of the node since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// Nothing yet.
    Nothing,
    /// This process, which is to end.
    Process(u64),
    /// That it was down.
    Down,
}

impl Supervisor {
    /// Looks at who was announced, and how they are. To be called whenever the state changes,
    /// so that no restart that follows an announcement is missed.
    pub(super) fn note_announced(&mut self) {
        let state = &self.state;
        self.announced.retain(|node, announced| {
            state.expected_back(*node) == Some(announced.until_unix_ms) && state.is_member(*node)
        });
        for node in state.members().map(|n| n.id) {
            let Some(until_unix_ms) = state.expected_back(node) else {
                continue;
            };
            let announced = self.announced.entry(node).or_insert(Announced {
                until_unix_ms,
                seen: Seen::Nothing,
            });
            let health = self.views.health(node);
            announced.seen = match announced.seen {
                Seen::Process(process) => Seen::Process(process),
                _ if health.is_down() => Seen::Down,
                Seen::Nothing if self.views.is_up(node) => {
                    let process = self.views.detector.session(node);
                    process.map_or(Seen::Nothing, Seen::Process)
                }
                seen => seen,
            };
        }
    }

    /// Takes back the announcements of those who are back, and have stayed for a while.
    pub(super) fn take_back_announcements(&self, now: Micros) -> impl Iterator<Item = Command> {
        self.announced
            .iter()
            .filter(move |(node, announced)| {
                let is_back = match announced.seen {
                    Seen::Nothing => false,
                    Seen::Process(process) => self.views.detector.session(**node) != Some(process),
                    Seen::Down => true,
                };
                is_back && self.is_up_for(now, **node, self.options.back_after)
            })
            .map(|(node, _)| Command::ExpectBack {
                node: *node,
                until_unix_ms: 0,
            })
    }

    /// A leader that takes over has seen nothing.
    pub(super) fn forget_announced(&mut self) {
        self.announced.clear();
    }

    /// Whether the node is away on purpose, or about to be.
    pub(super) fn is_announced(&self, node: NodeId) -> bool {
        let until = self.state.expected_back(node);
        until.is_some_and(|until| until > self.unix_ms)
    }
}
