//! Entries that are traced, on their way to the disks of W replicas.
//!
//! A primary's span of an entry begins as it is proposed and ends once it has committed. With
//! the entry each replica is told of the trace, once; its own span begins as that arrives and
//! ends once it answers that it has the entry on disk. Where nothing is traced there is nothing
//! here to look at.

use std::collections::BTreeMap;
use std::mem;
use std::ops::RangeInclusive;

use cairn_core::ids::{Index, Micros, NodeId, PartitionId};
use cairn_core::replication::PeerMessage;
use cairn_core::replication::message::AppendOutcome;
use cairn_proto::trace::{SpanContext, TracedEntry};

use crate::trace::{Span, Tracer};

/// The most entries that are followed at a time, of each kind: others are not traced.
const FOLLOWED_MAX: usize = 1024;
/// How long an entry is followed.
const PATIENCE: Micros = Micros::from_millis(30_000);

/// An entry of a partition.
type Entry = (PartitionId, Index);

/// Entries that are traced.
#[derive(Debug, Default)]
pub(super) struct Traces {
    tracer: Tracer,
    /// Proposed here.
    proposed: BTreeMap<Entry, Proposed>,
    /// Appended here for another primary.
    appended: BTreeMap<Entry, Followed>,
    /// To be told to other nodes in this turn.
    to_tell: Vec<(NodeId, Vec<TracedEntry>)>,
}

#[derive(Debug)]
struct Followed {
    span: Span,
    since: Micros,
}

#[derive(Debug)]
struct Proposed {
    followed: Followed,
    told: Vec<NodeId>,
}

impl Traces {
    pub(super) fn new(tracer: Tracer) -> Self {
        Self {
            tracer,
            ..Self::default()
        }
    }

    /// Whether nothing is followed.
    pub(super) fn is_idle(&self) -> bool {
        self.proposed.is_empty() && self.appended.is_empty()
    }

    /// Whether other nodes are to be told of something. What is followed may have ended since.
    pub(super) fn has_to_tell(&self) -> bool {
        !self.to_tell.is_empty()
    }

    /// A primary here proposed an entry.
    pub(super) fn proposed(&mut self, now: Micros, entry: Entry, above: SpanContext) {
        if self.proposed.len() >= FOLLOWED_MAX {
            return;
        }
        let proposed = Proposed {
            followed: follow(now, "replicate", entry, above),
            told: Vec::new(),
        };
        self.proposed.insert(entry, proposed);
    }

    /// Another node's entries are traced.
    pub(super) fn told(&mut self, now: Micros, entries: Vec<TracedEntry>) {
        if !self.tracer.is_on() {
            return;
        }
        for TracedEntry {
            partition,
            index,
            context,
        } in entries
        {
            if self.appended.len() >= FOLLOWED_MAX {
                return;
            }
            let entry = (partition, index);
            let followed = follow(now, "append", entry, context);
            self.appended.entry(entry).or_insert(followed);
        }
    }

    /// A message is about to leave.
    pub(super) fn sending(&mut self, to: NodeId, message: &PeerMessage) {
        match message {
            PeerMessage::Append(append) if !self.proposed.is_empty() => {
                let entries = append.entries.iter();
                let entries = entries.map(|entry| (append.partition, entry.position.index));
                for (partition, index) in entries {
                    let Some(proposed) = self.proposed.get_mut(&(partition, index)) else {
                        continue;
                    };
                    if proposed.told.contains(&to) {
                        continue;
                    }
                    proposed.told.push(to);
                    let traced = TracedEntry {
                        partition,
                        index,
                        context: proposed.followed.span.context(),
                    };
                    match self.to_tell.iter_mut().find(|(node, _)| *node == to) {
                        Some((_, entries)) => entries.push(traced),
                        None => self.to_tell.push((to, vec![traced])),
                    }
                }
            }
            PeerMessage::AppendReply(reply) if !self.appended.is_empty() => {
                if let AppendOutcome::Matched { index } = reply.outcome {
                    let on_disk = up_to(reply.partition, index);
                    for (_, followed) in self.appended.extract_if(on_disk, |_, _| true) {
                        self.tracer.end(followed.span, false);
                    }
                }
            }
            _ => {}
        }
    }

    /// Entries up to that one have committed.
    pub(super) fn committed(&mut self, partition: PartitionId, index: Index) {
        let committed = up_to(partition, index);
        for (_, proposed) in self.proposed.extract_if(committed, |_, _| true) {
            self.tracer.end(proposed.followed.span, false);
        }
    }

    /// What other nodes are to be told, with what was said of in this turn.
    pub(super) fn take_to_tell(&mut self) -> Vec<(NodeId, Vec<TracedEntry>)> {
        mem::take(&mut self.to_tell)
    }

    /// Gives up what nothing came of: a primary that was deposed, a replica that was replaced.
    pub(super) fn tick(&mut self, now: Micros) {
        if self.is_idle() {
            return;
        }
        let is_over = |followed: &Followed| now.minus(followed.since) >= PATIENCE;
        let proposed = self
            .proposed
            .extract_if(.., |_, one| is_over(&one.followed));
        let proposed = proposed.map(|(_, one)| one.followed);
        let appended = self.appended.extract_if(.., |_, one| is_over(one));
        for followed in proposed.chain(appended.map(|(_, one)| one)) {
            self.tracer.end(followed.span, true);
        }
    }
}

/// The entries of a partition up to that one.
fn up_to(partition: PartitionId, index: Index) -> RangeInclusive<Entry> {
    (partition, Index::ZERO)..=(partition, index)
}

fn follow(now: Micros, name: &'static str, entry: Entry, above: SpanContext) -> Followed {
    let mut span = Tracer::begin(name, above);
    span.set("cairn.partition", u64::from(entry.0.0));
    span.set("cairn.index", entry.1.0);
    Followed { span, since: now }
}
