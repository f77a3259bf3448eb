//! What the supervisor is told, and what it wants done.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::readers::ReadCopies;
use crate::cluster::command::{Command, Direction, Refusal, Response};
use crate::cluster::failure_detector::Health;
use crate::cluster::report::{Heartbeat, Order, ReplicaReport};
use crate::cluster::state::ClusterState;
use crate::features::CoordinatorFeatures;
use crate::ids::{Epoch, Micros, NodeId, PartitionId, Position};
use crate::record::Member;

/// Names a proposal, so that its outcome can be told. Counts up while one
/// supervisor lives, over changes of leadership too.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct ProposalId(pub u64);

/// Something that happened.
///
/// Heartbeats, streams and states may be told whether this coordinator leads or
/// not; what was told before [`Input::BecameLeader`] counts as seen.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed. To be told at least every 25 ms while leading.
    Tick {
        /// The wall clock, milliseconds since 1970 UTC, for planned absences.
        unix_ms: u64,
    },
    /// This coordinator leads from here on, and its state holds every entry that
    /// was committed before.
    BecameLeader {
        /// The Raft term in which: no other process comes to lead in it, this one
        /// restarted included.
        term: u64,
        /// The state.
        state: Arc<ClusterState>,
    },
    /// It leads no longer.
    LostLeadership,
    /// The state machine has applied more. Intermediate states may be left out.
    Applied {
        /// The newest state.
        state: Arc<ClusterState>,
    },
    /// What became of an [`Output::Propose`]. Told after the [`Input::Applied`] that
    /// holds its effect, where there is one.
    Proposal {
        /// Which.
        id: ProposalId,
        /// What became of it.
        outcome: ProposalOutcome,
    },
    /// A data node opened its stream of heartbeats; the next one is a full one.
    StreamOpened {
        /// Whose.
        node: NodeId,
    },
    /// The stream broke. Not told where another one took its place.
    StreamClosed {
        /// Whose.
        node: NodeId,
    },
    /// A data node's heartbeat, already known to be from who it says.
    Heartbeat(Heartbeat),
    /// An answer to an order.
    Report {
        /// The node that sent it, as the connection knows it.
        from: NodeId,
        /// The answer.
        report: ReplicaReport,
    },
    /// A person or the operator asks.
    Admin(AdminRequest),
    /// Every voter of the coordinators' group, and what it understands (rule 18). Told every
    /// few seconds while leading.
    Coordinators(Vec<CoordinatorFeatures>),
}

/// What became of a proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProposalOutcome {
    /// It was committed and applied.
    Applied(Response),
    /// It is certain that it never will be.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// What a person or the operator asks of the leader. Requests that only change the
/// state (`MarkGone`, `ExpectBack`, `ChangeSettings`) are proposed as commands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Let the primary hand over, to this node where one is named.
    HandOver {
        /// Which partition.
        partition: PartitionId,
        /// To whom.
        to: Option<NodeId>,
    },
    /// Promote now, whether or not the primary's lease is current. Leases are still
    /// waited out and too few reports still stop it.
    Promote {
        /// Which partition.
        partition: PartitionId,
    },
    /// A node is to get no primary until then, where another can have it. What it leads it
    /// keeps. A leader that takes over has not heard of it.
    Cordon {
        /// Which node.
        node: NodeId,
        /// Until when, in milliseconds since 1970 UTC; zero takes it back.
        until_unix_ms: u64,
    },
}

/// Something to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Propose the command to the Raft log and say [`Input::Proposal`].
    Propose {
        /// Comes back with the outcome.
        id: ProposalId,
        /// What.
        command: Box<Command>,
    },
    /// Send an order down the node's stream. It may be lost; it is sent again.
    SendOrder {
        /// To whom.
        node: NodeId,
        /// What.
        order: Order,
    },
    /// For the log, the metrics and the status page.
    Event(SupervisorEvent),
}

/// Why a partition gets a new primary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromotionReason {
    /// Its epoch has none.
    NoPrimary,
    /// The primary's node is down.
    PrimaryDown,
    /// The primary's node was declared gone.
    PrimaryGone,
    /// The primary's node is silent, though its peers reach its ports, and the
    /// replicas' grants to it have lapsed.
    PrimarySilent,
    /// The primary's node speaks to the coordinators, its peers do not reach it.
    PrimaryUnreachable,
    /// Its peers get no answer from the port for clients of the primary's node.
    ClientPortDead,
    /// The primary's process restarted.
    PrimaryRestarted,
    /// The primary serves nobody: too few members answer it, while enough of the
    /// others are up.
    PrimaryCutOff,
    /// The primary says that it cannot serve.
    PrimaryAsked,
    /// The primary found damage.
    PrimaryCorrupt,
    /// The primary's node has no such replica.
    PrimaryMissing,
    /// The primary has not begun to serve for too long.
    NotServing,
    /// The primary handed over.
    HandedOver,
    /// A person asked.
    Requested,
}

impl PromotionReason {
    /// Whether the primary may well be serving somebody: then a partition that was
    /// promoted again and again is left alone for a while (rule 15). Where the
    /// primary is dead or says so itself, a rest would only be an outage.
    #[must_use]
    pub fn may_be_mistaken(self) -> bool {
        match self {
            Self::PrimaryUnreachable
            | Self::PrimarySilent
            | Self::ClientPortDead
            | Self::PrimaryCutOff
            | Self::NotServing => true,
            Self::NoPrimary
            | Self::PrimaryDown
            | Self::PrimaryGone
            | Self::PrimaryRestarted
            | Self::PrimaryAsked
            | Self::PrimaryCorrupt
            | Self::PrimaryMissing
            | Self::HandedOver
            | Self::Requested => false,
        }
    }
}

/// For the log, the metrics and the status page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SupervisorEvent {
    /// A node's health changed.
    NodeHealth {
        /// Whose.
        node: NodeId,
        /// From what.
        from: Health,
        /// To what.
        to: Health,
    },
    /// A partition needs a new primary.
    PromotionStarted {
        /// Which.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// Why.
        reason: PromotionReason,
    },
    /// The trouble went away before anything was changed.
    PromotionAbandoned {
        /// Which.
        partition: PartitionId,
    },
    /// Too few replicas answer for a promotion.
    PromotionBlocked {
        /// Which.
        partition: PartitionId,
        /// How many whole replicas answered, in the set that lacks most.
        have: usize,
        /// How many are needed there.
        need: usize,
    },
    /// A primary was named.
    Promoted {
        /// Which partition.
        partition: PartitionId,
        /// The new epoch.
        epoch: Epoch,
        /// Who.
        primary: Member,
        /// Its head when inspected.
        head: Position,
        /// Since the trouble was seen.
        took: Micros,
        /// Of which leases were waited for, after enough replicas had answered.
        waited_for_leases: Micros,
    },
    /// A primary was named from too few reports: acknowledged writes may be lost.
    PossibleLoss {
        /// Which partition.
        partition: PartitionId,
        /// How many replicas did not answer; zero where another leader named it.
        absent: usize,
        /// Entries that an absent one was known to hold past the chosen head.
        entries_known: u64,
    },
    /// A primary serves.
    Serving {
        /// Which partition.
        partition: PartitionId,
        /// In which epoch.
        epoch: Epoch,
        /// For how long, as seen from here, nobody did.
        unserved: Micros,
    },
    /// A primary is asked to hand over.
    HandOverOrdered {
        /// Which partition.
        partition: PartitionId,
        /// To whom.
        to: Member,
    },
    /// Members were dropped so that writes can go on (rule 10).
    Shrunk {
        /// Which partition.
        partition: PartitionId,
        /// Who is left.
        left: usize,
    },
    /// A replica is being made.
    LearnerAdded {
        /// Which partition.
        partition: PartitionId,
        /// Where.
        node: NodeId,
    },
    /// A replica that was being made is given up.
    LearnerRemoved {
        /// Which partition.
        partition: PartitionId,
        /// Where.
        node: NodeId,
    },
    /// A copy for reads alone is being made.
    ReaderAdded {
        /// Which partition.
        partition: PartitionId,
        /// Where.
        node: NodeId,
    },
    /// A copy for reads alone goes.
    ReaderRemoved {
        /// Which partition.
        partition: PartitionId,
        /// Where.
        node: NodeId,
    },
    /// A joint configuration was entered.
    JointEntered {
        /// Which partition.
        partition: PartitionId,
    },
    /// A joint configuration was left.
    JointLeft {
        /// Which partition.
        partition: PartitionId,
        /// To which side.
        direction: Direction,
    },
    /// Nodes that are to hold the data changed, and the seats follow.
    Planned {
        /// How many partitions get other seats.
        partitions: usize,
        /// How many replicas have to be made for it.
        copies: usize,
    },
    /// Nodes stayed away for longer than the grace, but too many are down at once to
    /// believe that their data is lost.
    ReplacementHeldBack {
        /// How many are down.
        down: usize,
        /// Of how many.
        nodes: usize,
    },
    /// A proposal was refused: another leader was faster, or the state forbids it.
    ProposalRefused {
        /// About which partition, if about one.
        partition: Option<PartitionId>,
        /// Why.
        refusal: Refusal,
    },
    /// An admin's request cannot be carried out.
    RequestRefused {
        /// About which partition.
        partition: PartitionId,
        /// Why.
        reason: String,
    },
}

/// The supervisor's timings and bounds. The defaults suit a data centre.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SupervisorOptions {
    /// How long to wait for the rest once enough replicas have answered (rule 2:
    /// "ask all, and wait briefly for all"). Nodes that are down are not waited for.
    pub gather: Micros,
    /// When an unanswered order is sent again, at first; it backs off from there.
    pub resend: Micros,
    /// The longest pause between two tries.
    pub resend_longest: Micros,
    /// When a proposal of which nothing was heard counts as lost.
    pub proposal_timeout: Micros,
    /// How long the node of a primary may be silent, where it is not known to have
    /// failed, before its replicas are asked whether their grants have lapsed.
    pub ask_after: Micros,
    /// How long a primary that was named, on a node that is up, may take before it
    /// serves, counted from the last time that it got any further.
    pub serve_timeout: Micros,
    /// The same where it brings another member up to its log first, which shows no
    /// progress while a snapshot travels, or where nothing was heard of it yet.
    pub catch_up_timeout: Micros,
    /// How long a member may be silent where that stops writes, before it is dropped
    /// (rule 10).
    pub shrink_after: Micros,
    /// How long a replica may be missing or a seat empty before a replacement begins.
    pub repair_after: Micros,
    /// How long a learner or joiner may be silent before it is given up.
    pub joiner_timeout: Micros,
    /// How long after a learner that was too slow was given up the next one is made:
    /// it would slow the clients again. It doubles with each.
    pub slow_learner_rest: Micros,
    /// How long too few members may answer a primary, where others could serve, before
    /// one of them is promoted.
    pub cut_off_after: Micros,
    /// How long other nodes must have been there for before the seats are given anew:
    /// several that join or leave together make one plan.
    pub plan_after: Micros,
    /// How long a node that was away must have been up before it gets anything.
    pub back_after: Micros,
    /// How long a primary may take to hand over before it is asked again.
    pub hand_over_timeout: Micros,
    /// Whether primaries go back to where the ring puts them.
    pub balance_primaries: bool,
    /// For how long nothing must have happened before they do.
    pub balance_after: Micros,
    /// The most handovers for balance at a time.
    pub balance_at_once: usize,
    /// Within which time promotions of one partition count as flapping.
    pub flap_window: Micros,
    /// When copies for reads alone are made, and how many.
    pub read_copies: ReadCopies,
}

impl Default for SupervisorOptions {
    fn default() -> Self {
        Self {
            gather: Micros::from_millis(150),
            resend: Micros::from_millis(60),
            resend_longest: Micros::from_millis(1_000),
            proposal_timeout: Micros::from_millis(1_000),
            ask_after: Micros::from_millis(400),
            serve_timeout: Micros::from_millis(1_000),
            catch_up_timeout: Micros::from_millis(3_000),
            shrink_after: Micros::from_millis(1_000),
            repair_after: Micros::from_millis(2_000),
            joiner_timeout: Micros::from_millis(30_000),
            slow_learner_rest: Micros::from_millis(60_000),
            cut_off_after: Micros::from_millis(1_000),
            plan_after: Micros::from_millis(3_000),
            back_after: Micros::from_millis(5_000),
            hand_over_timeout: Micros::from_millis(2_000),
            balance_primaries: true,
            balance_after: Micros::from_millis(30_000),
            balance_at_once: 4,
            flap_window: Micros::from_millis(20_000),
            read_copies: ReadCopies::default(),
        }
    }
}
