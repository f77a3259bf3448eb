//! The coordinators: the shipped state machine, told what to do by rules that leave out
//! every reason, delay and preference of the shipped supervisor.
//!
//! Whatever the supervisor may decide is decided here at some time: an epoch is raised at
//! any moment, and whoever has the highest head of *some* inspection that suffices is
//! named. What the supervisor adds is patience and choice among these.

use std::fmt;
use std::sync::Arc;

use cairn_core::cluster::command::{Command, Direction, NodeRegistration, Response};
use cairn_core::cluster::report::{Order, ReplicaReport};
use cairn_core::cluster::settings::SettingsRequest;
use cairn_core::cluster::state::ClusterState;
use cairn_core::ids::{Epoch, Micros, NodeId, Position};
use cairn_core::record::{Addresses, Member, PartitionRecord, ReplicaSet};
use cairn_core::seeded::Bug;

use crate::Mistake;
use crate::message::{Body, Message};
use crate::node::{LEASE, P};

/// The coordinators at one moment.
pub struct Council {
    /// The fingerprint of the record, from which all else follows.
    pub print: u64,
    /// The record.
    pub record: Arc<PartitionRecord>,
    state: ClusterState,
    commands: u64,
}

impl fmt::Debug for Council {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record.fmt(f)
    }
}

fn registration(number: u64) -> NodeRegistration {
    NodeRegistration {
        uuid: format!("uuid-{number}"),
        incarnation: format!("incarnation-{number}"),
        name: format!("data-{number}"),
        addresses: Addresses::default(),
        zone: String::new(),
        weight: 100,
        features: 0,
        replace_dead: false,
    }
}

impl Council {
    /// A cluster of `nodes`, with one partition of three replicas and W=2 on the first
    /// three.
    ///
    /// # Panics
    /// Where the state machine refuses what it must take.
    #[must_use]
    pub fn new(nodes: u64) -> Self {
        let settings = SettingsRequest {
            replication_factor: Some(3),
            write_quorum: Some(2),
            partitions: Some(1),
            data_nodes: Some(nodes as u32),
            lease_ms: Some(LEASE.0 / 1_000),
            ..SettingsRequest::default()
        };
        let settings = settings.resolve().expect("legal settings").settings;
        let mut commands = vec![Command::CreateCluster {
            cluster_id: "model".into(),
            settings,
        }];
        commands.extend((1..=nodes).map(|n| Command::RegisterNode(registration(n))));
        let seats = vec![(1..=3).map(NodeId).collect()];
        commands.push(Command::MakeTable { seats });
        let mut state = ClusterState::default();
        let count = commands.len() as u64;
        for (index, command) in (1..).zip(commands) {
            let response = state.apply(index, command);
            assert!(!matches!(response, Response::Refused(_)), "{response:?}");
        }
        Self::of(state, count)
    }

    fn of(state: ClusterState, commands: u64) -> Self {
        let record = state.partition(P).expect("a table").clone();
        let text = format!("{record:?}");
        Self {
            print: xxhash_rust::xxh3::xxh3_64(text.as_bytes()),
            record,
            state,
            commands,
        }
    }

    /// Commits a command. `None` where it is refused.
    #[must_use]
    pub fn commit(&self, command: Command) -> Option<Self> {
        let mut state = self.state.clone();
        let commands = self.commands + 1;
        match state.apply(commands, command) {
            Response::Refused(_) => None,
            _ => Some(Self::of(state, commands)),
        }
    }

    /// What is told to the nodes once `self` has followed `before`: the record to all whom
    /// it concerns, and, where there is no primary, a fence to those who vote.
    #[must_use]
    pub fn tell(&self, before: Option<&Self>) -> Vec<Message> {
        let record = &self.record;
        let mut to = record.config.replicas();
        to.extend(before.map_or(Vec::new(), |b| b.record.config.replicas()));
        to.sort_unstable();
        to.dedup();
        let mut told: Vec<Message> = to
            .into_iter()
            .map(|m| Message::new(Some(m.node), Body::Record(record.clone())))
            .collect();
        let voters = record.config.voters().into_iter();
        told.extend(voters.filter_map(|m| self.fence(m.node)));
        told
    }

    /// What is asked of a voter while there is no primary.
    #[must_use]
    pub fn fence(&self, node: NodeId) -> Option<Message> {
        let record = &self.record;
        let votes = record.config.voters().iter().any(|m| m.node == node);
        (votes && record.primary.is_none()).then(|| {
            let order = Order::Fence {
                partition: P,
                epoch: record.epoch,
                round: record.epoch.0,
            };
            Message::new(Some(node), Body::Order(order))
        })
    }

    /// Who may be named: each voter that has the highest head of an inspection that
    /// suffices, of replicas whose grants are over at `now` (`None`: leases are left out).
    #[must_use]
    pub fn nameable<'a>(
        &self,
        reports: impl Iterator<Item = (&'a ReplicaReport, Micros)>,
        now: Option<Micros>,
        mistake: Option<Mistake>,
    ) -> Vec<Member> {
        let record = &self.record;
        let made = |bug| mistake == Some(Mistake::Seeded(bug));
        if record.primary.is_some() && !made(Bug::NameTwoPrimaries) {
            return Vec::new();
        }
        let rank = |head: Position| match made(Bug::RankByIndex) {
            true => (Epoch::ZERO, head.index),
            false => (head.epoch, head.index),
        };
        let counted: Vec<(Member, _)> = reports
            .filter(|(report, at)| {
                let over = now.is_none_or(|now| now >= at.plus(report.lease_remaining));
                let counts = report.fenced && report.promised == record.epoch && report.whole;
                counts && (over || made(Bug::NameBeforeLeasesEnd))
            })
            .map(|(report, _)| (report.member, rank(report.head)))
            .collect();
        let needed = |set: &ReplicaSet| {
            let fewer = mistake == Some(Mistake::InspectOneFewer);
            set.inspection_quorum() - usize::from(fewer)
        };
        let voters = record.config.voters();
        let suffices = |head| {
            let with: Vec<Member> = voters
                .iter()
                .filter(|m| counted.iter().any(|(of, h)| of == *m && *h <= head))
                .copied()
                .collect();
            record.config.sets().all(|set| {
                let strangers = made(Bug::CountStrangers);
                let have = with.iter().filter(|m| strangers || set.members.contains(m));
                have.count() >= needed(set)
            })
        };
        voters
            .iter()
            .filter(|m| {
                let heads = counted.iter().filter(|(of, _)| of == *m);
                heads.map(|(_, head)| *head).max().is_some_and(suffices)
            })
            .copied()
            .collect()
    }

    /// The first half of a promotion.
    #[must_use]
    pub fn raise(&self) -> Command {
        Command::RaiseEpoch {
            partition: P,
            epoch: self.record.epoch,
        }
    }

    /// The second half.
    #[must_use]
    pub fn name(&self, primary: Member) -> Command {
        Command::NamePrimary {
            partition: P,
            epoch: self.record.epoch,
            primary,
            loss: None,
        }
    }

    /// A learner on a node.
    #[must_use]
    pub fn add_learner(&self, node: NodeId) -> Command {
        Command::AddLearner {
            partition: P,
            epoch: self.record.epoch,
            revision: self.record.revision,
            node,
        }
    }

    /// Joint, to put the learner in the place of the last member. `None` where there is no
    /// learner.
    #[must_use]
    pub fn enter_joint(&self) -> Option<Command> {
        let config = &self.record.config;
        let mut set = config.current.clone();
        *set.members.last_mut()? = *config.learners.first()?;
        Some(Command::EnterJoint {
            partition: P,
            epoch: self.record.epoch,
            revision: self.record.revision,
            set,
        })
    }

    /// One set again.
    #[must_use]
    pub fn leave_joint(&self, direction: Direction) -> Command {
        Command::LeaveJoint {
            partition: P,
            epoch: self.record.epoch,
            direction,
        }
    }
}
