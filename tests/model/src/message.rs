//! What is under way between the nodes, and between them and the coordinators.
//!
//! A message that was sent may be taken at any later moment, or never: loss, delay and
//! reordering need no steps of their own. It is gone once it was taken, but for records,
//! which anybody may be told at any time, and reports, which the coordinators keep.

use std::fmt;
use std::sync::Arc;

use cairn_core::cluster::report::{Order, ReplicaReport};
use cairn_core::ids::{Epoch, Micros, NodeId};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::message::AppendOutcome;
use cairn_core::replication::{Event, PeerMessage};

/// A message.
pub struct Message {
    /// The fingerprint of all of it.
    pub print: u64,
    /// To whom; `None`: to the coordinators.
    pub to: Option<NodeId>,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug)]
pub enum Body {
    /// A node to another.
    Peer {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: PeerMessage,
    },
    /// The coordinators ask.
    Order(Order),
    /// A committed record.
    Record(Arc<PartitionRecord>),
    /// A replica tells the coordinators how it stands.
    Report {
        /// What it says.
        report: ReplicaReport,
        /// When it was sent: its grants are counted from then.
        at: Micros,
    },
}

impl Message {
    /// A message, with its fingerprint.
    #[must_use]
    pub fn new(to: Option<NodeId>, body: Body) -> Self {
        let text = format!("{to:?} {body:?}");
        Self {
            // Small numbers are those of other inputs.
            print: xxhash_rust::xxh3::xxh3_64(text.as_bytes()) | 1 << 63,
            to,
            body,
        }
    }

    /// Whether it stays when it was taken.
    #[must_use]
    pub fn stays(&self) -> bool {
        matches!(self.body, Body::Record(_) | Body::Report { .. })
    }

    /// Whether nothing can come of it any more, where it is for a node that has durably
    /// promised `promised`, of which nothing takes it back: it is of an older epoch, in which
    /// that node neither follows nor leads again.
    #[must_use]
    pub fn is_void(&self, promised: Epoch) -> bool {
        match &self.body {
            Body::Peer { message, .. } => match message {
                PeerMessage::Append(append) => append.epoch < promised,
                PeerMessage::AppendReply(reply) => reply.epoch < promised,
                PeerMessage::Confirm(confirm) => confirm.epoch < promised,
                PeerMessage::ConfirmReply(reply) => reply.epoch < promised,
                _ => false,
            },
            Body::Order(Order::Fence { epoch, .. } | Order::HandOver { epoch, .. }) => {
                *epoch < promised
            }
            _ => false,
        }
    }

    /// Whether the other one counts as lost once this one is sent: of the rounds of a lease
    /// the newest is under way on each way.
    #[must_use]
    pub fn replaces(&self, other: &Self) -> bool {
        let round = |message: &Self| match &message.body {
            Body::Peer { from, message } => match message {
                PeerMessage::LeaseRenew(renew) => Some((*from, false, renew.round)),
                PeerMessage::LeaseReply(reply) => Some((*from, true, reply.round)),
                _ => None,
            },
            _ => None,
        };
        match (round(self), round(other)) {
            (Some((from, is_reply, newer)), Some((sender, replied, older))) => {
                let same_way = self.to == other.to && from == sender && is_reply == replied;
                same_way && newer > older
            }
            _ => false,
        }
    }

    /// Whether `answer` says no more than that another epoch is promised: a primary notes
    /// that it heard of somebody, which decides nothing here.
    #[must_use]
    pub fn is_merely_refused_by(&self, answer: &Self) -> bool {
        let of = |message: &Self| match &message.body {
            Body::Peer { message, .. } => match message {
                PeerMessage::Append(append) => Some((append.epoch, false)),
                PeerMessage::AppendReply(reply) => {
                    Some((reply.epoch, reply.outcome == AppendOutcome::Refused))
                }
                _ => None,
            },
            _ => None,
        };
        match (of(self), of(answer)) {
            (Some((asked, false)), Some((promised, true))) => promised > asked,
            _ => false,
        }
    }

    /// What a node is told by it.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        Some(match &self.body {
            Body::Peer { from, message } => Event::Peer {
                from: *from,
                message: message.clone(),
            },
            Body::Order(order) => Event::Order {
                order: order.clone(),
            },
            Body::Record(record) => Event::Record {
                record: record.clone(),
            },
            Body::Report { .. } => return None,
        })
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Peer { from, message } => {
                match message {
                    PeerMessage::Append(append) => {
                        write!(
                            f,
                            "Append of {} after {}",
                            append.epoch, append.previous.position
                        )?;
                        let entries = append.entries.iter().map(|e| e.position);
                        write!(
                            f,
                            ": {:?}, commit {}",
                            entries.collect::<Vec<_>>(),
                            append.commit
                        )
                    }
                    PeerMessage::AppendReply(reply) => match &reply.outcome {
                        AppendOutcome::Matched { index } => {
                            write!(f, "Matched in {} up to {index}", reply.epoch)
                        }
                        AppendOutcome::Diverged { head, .. } => {
                            write!(f, "Diverged in {}, head {head}", reply.epoch)
                        }
                        other => write!(f, "{other:?} for {}", reply.epoch),
                    },
                    PeerMessage::LeaseRenew(renew) => {
                        write!(f, "LeaseRenew {} of set {}", renew.round, renew.version)?;
                        write!(f, " {:?}, commits {:?}", renew.set, renew.commits)
                    }
                    PeerMessage::LeaseReply(reply) => {
                        write!(f, "LeaseReply {} of set {}", reply.round, reply.version)?;
                        write!(f, ", but for {:?}", reply.excluded)
                    }
                    other => write!(f, "{other:?}"),
                }?;
                write!(f, ", from {from}")
            }
            Body::Order(order) => write!(f, "{order:?}"),
            Body::Record(record) => {
                write!(f, "record {}.{}: primary ", record.epoch, record.revision)?;
                match record.primary {
                    Some(primary) => write!(f, "{}", primary.node),
                    None => write!(f, "none"),
                }
            }
            Body::Report { report, at } => {
                let ReplicaReport {
                    member,
                    promised,
                    head,
                    fenced,
                    ..
                } = report;
                write!(
                    f,
                    "report of {} at {at:?}: promised {promised}, ",
                    member.node
                )?;
                write!(
                    f,
                    "head {head}, fenced {fenced}, grants end in {:?}",
                    report.lease_remaining
                )
            }
        }
    }
}
