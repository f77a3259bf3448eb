//! The whole of it: nodes, messages, coordinators, and what may happen next.

use std::fmt;

use cairn_core::cluster::command::{Command, Direction};
use cairn_core::cluster::report::Order;
use cairn_core::ids::{Epoch, Index, Micros, NodeId};
use cairn_core::record::Member;
use cairn_core::replication::PeerMessage;
use cairn_core::seeded::Bug;
use xxhash_rust::xxh3::Xxh3;

use crate::Mistake;
use crate::council::Council;
use crate::invariants;
use crate::memory::{Memory, Outcome};
use crate::message::{Body, Message};
use crate::node::{Input, Node, P, START, UNIT};

/// The most nodes that there are.
pub const NODES: usize = 4;
/// The most writes that there are.
pub const WRITES: usize = 2;

/// What may happen, and how often: within these bounds all of it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The highest epoch; the first one is 1.
    pub epochs: u64,
    /// How often an epoch is raised for a promotion.
    pub promotions: u8,
    /// How many writes are proposed.
    pub writes: u8,
    /// How often a process ends and starts again.
    pub crashes: u8,
    /// How often a primary sends to a node what it has not acknowledged.
    pub reconnects: u8,
    /// How often a message that was taken stays, to be taken again.
    pub repeats: u8,
    /// Whether records reach everyone, and not only the primary that they name and whom they
    /// remove: a follower hears of an epoch from a fence or from its primary too.
    pub records_to_all: bool,
    /// Whether a flush may end after any record, and not only after the last.
    pub partial_flushes: bool,
    /// How many units of time pass. None: nobody asks for a lease, nobody waits for one.
    /// A primary asks one of the others, who with it are W.
    pub time: u8,
    /// A learner stands by to take the place of the third member, and for which set joint
    /// is left then.
    pub joint: Option<Joint>,
    /// How often a primary is asked to hand over.
    pub hand_overs: u8,
}

/// For which set joint is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joint {
    /// For the new one.
    Forward,
    /// For the old one.
    Backward,
}

impl Scope {
    /// Nothing but what is said.
    pub const NONE: Self = Self {
        epochs: 1,
        promotions: 0,
        writes: 0,
        crashes: 0,
        reconnects: 0,
        repeats: 0,
        records_to_all: false,
        partial_flushes: false,
        time: 0,
        joint: None,
        hand_overs: 0,
    };
}

/// The cluster at one moment.
#[derive(Clone, Debug)]
pub struct State {
    /// The data nodes.
    pub nodes: [&'static Node; NODES],
    /// What is under way, ascending by fingerprint.
    pub messages: Box<[&'static Message]>,
    /// The coordinators.
    pub council: &'static Council,
    /// How many units have passed.
    pub now: u8,
    /// In which epoch each write was acknowledged; 0: it was not.
    pub acked: [u8; WRITES],
    /// The highest epoch of which a primary was seen to serve; only where that decides
    /// something.
    pub served: u8,
    /// What no longer holds.
    pub broken: Option<Box<str>>,
    promotions: u8,
    hand_overs: u8,
    writes: u8,
    crashes: u8,
    reconnects: u8,
    repeats: u8,
}

/// What happens next.
#[derive(Clone, Debug)]
pub enum Action {
    /// A node is told something.
    Step {
        /// Which, counted from 0.
        node: usize,
        /// What.
        input: Input,
        /// The message that it takes comes again.
        repeated: bool,
    },
    /// A unit of time passes, for everyone.
    Advance,
    /// The epoch is raised.
    Raise,
    /// A primary is named.
    Name(Member),
    /// The primary is asked to hand over.
    HandOver(Member),
    /// Joint.
    EnterJoint,
    /// One set again.
    LeaveJoint(Direction),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step {
                node,
                input,
                repeated,
            } => {
                write!(f, "n{}: ", node + 1)?;
                if *repeated {
                    write!(f, "(not for the last time) ")?;
                }
                match input {
                    Input::Take(message) => write!(f, "takes {message}"),
                    Input::Flush(records) => write!(f, "flushes {records} records"),
                    Input::Restart { dropped_tail } => {
                        let torn = if *dropped_tail {
                            ", with a torn tail"
                        } else {
                            ""
                        };
                        write!(f, "loses power and starts again{torn}")
                    }
                    Input::Write(number) => write!(f, "is given write {number}"),
                    Input::Reconnect(peer) => write!(f, "connects to {peer} anew"),
                    Input::Tick => write!(f, "ticks"),
                }
            }
            Self::Advance => write!(f, "time passes"),
            Self::Raise => write!(f, "coordinators: raise the epoch"),
            Self::Name(member) => write!(f, "coordinators: name {}", member.node),
            Self::HandOver(to) => write!(f, "coordinators: hand over to {}", to.node),
            Self::EnterJoint => write!(f, "coordinators: enter joint"),
            Self::LeaveJoint(direction) => write!(f, "coordinators: leave joint {direction:?}"),
        }
    }
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Within which bounds.
    pub scope: Scope,
    /// What is done wrong, if anything.
    pub mistake: Option<Mistake>,
}

impl State {
    /// The time.
    #[must_use]
    pub fn time(&self) -> Micros {
        START.plus(Micros(UNIT.0 * u64::from(self.now)))
    }

    /// Looks whether everything holds that must.
    pub fn judge(&mut self) {
        if self.broken.is_none() {
            self.broken = invariants::broken(self).map(Into::into);
        }
    }

    /// The fingerprint of all that is to come.
    #[must_use]
    pub fn print(&self) -> u64 {
        let mut hash = Xxh3::new();
        for node in self.nodes {
            hash.update(&node.print.to_le_bytes());
        }
        for message in &self.messages {
            hash.update(&message.print.to_le_bytes());
        }
        hash.update(&self.council.print.to_le_bytes());
        hash.update(&self.acked);
        hash.update(&[
            self.now,
            self.served,
            self.promotions,
            self.hand_overs,
            self.writes,
            self.crashes,
            self.reconnects,
            self.repeats,
        ]);
        hash.digest()
    }

    /// What is under way once a message was taken and others were sent.
    fn exchange(&mut self, taken: Option<&'static Message>, sent: &[&'static Message]) {
        let mut all: Vec<&'static Message> = Vec::with_capacity(self.messages.len() + sent.len());
        let stays = |m: &&&'static Message| {
            taken.is_none_or(|t| t.print != m.print) && !sent.iter().any(|s| s.replaces(m))
        };
        all.extend(self.messages.iter().filter(stays));
        for message in sent {
            if let Err(at) = all.binary_search_by_key(&message.print, |m| m.print) {
                all.insert(at, message);
            }
        }
        self.messages = all.into();
    }

    /// Leaves out what can do nothing any more.
    fn tidy(&mut self, mistake: Option<Mistake>) {
        let made = |bug| mistake == Some(Mistake::Seeded(bug));
        let record = &self.council.record;
        let inspects = record.primary.is_none() || made(Bug::NameTwoPrimaries);
        let is_open = |m: &&&'static Message| match (m.to, &m.body) {
            (Some(to), body) => {
                let late = matches!(body, Body::Order(Order::Fence { .. })) && !inspects;
                let promised = self.nodes[to.0 as usize - 1].view.promised;
                !late && (made(Bug::AckPastFence) || !m.is_void(promised))
            }
            (None, Body::Report { report, .. }) => inspects && report.promised == record.epoch,
            (None, _) => false,
        };
        if !self.messages.iter().all(|m| is_open(&m)) {
            self.messages = self.messages.iter().filter(is_open).copied().collect();
        }
    }
}

impl Model {
    /// Puts the mistake into the core, on this thread, where the build can carry it.
    pub fn prepare(&self) {
        #[cfg(seeded_bugs)]
        cairn_core::seeded::seed(match self.mistake {
            Some(Mistake::Seeded(bug)) => Some(bug),
            _ => None,
        });
    }

    /// Three replicas of an empty log, whose primary serves: its barrier has committed,
    /// everything is flushed, nothing is under way. Where a learner stands by, it has
    /// caught up.
    ///
    /// # Panics
    /// Where a cluster without faults does not come to that.
    #[must_use]
    pub fn initial(&self, memory: &mut Memory) -> State {
        let mut council = Council::new(NODES as u64);
        let nodes = [1, 2, 3, 4].map(|n| memory.node(Node::new(NodeId(n))));
        let mut told = council.tell(None);
        if self.scope.joint.is_some() {
            let next = council.commit(council.add_learner(NodeId(NODES as u64)));
            let next = next.expect("a learner is added");
            told.extend(next.tell(Some(&council)));
            council = next;
        }
        let mut state = State {
            nodes,
            messages: Box::default(),
            council: memory.council(council),
            now: 0,
            acked: [0; WRITES],
            served: 0,
            broken: None,
            promotions: 0,
            hand_overs: 0,
            writes: 0,
            crashes: 0,
            reconnects: 0,
            repeats: 0,
        };
        let mut queue: Vec<&'static Message> =
            told.into_iter().map(|m| memory.message(m)).collect();
        let mut taken = 0;
        loop {
            let mut moved = false;
            while let Some(message) = queue.get(taken).copied() {
                taken += 1;
                if let Some(to) = message.to {
                    let node = to.0 as usize - 1;
                    self.settle(memory, &mut state, node, Input::Take(message), &mut queue);
                }
                moved = true;
            }
            for node in 0..NODES {
                let waiting = state.nodes[node].waiting;
                if waiting > 0 {
                    self.settle(memory, &mut state, node, Input::Flush(waiting), &mut queue);
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        let view = &state.nodes[0].view;
        assert!(view.serving && view.commit == Index(1), "{view:?}");
        state
    }

    fn settle(
        &self,
        memory: &mut Memory,
        state: &mut State,
        node: usize,
        input: Input,
        queue: &mut Vec<&'static Message>,
    ) {
        match memory.step(state.nodes[node], state.time(), input) {
            Outcome::Nothing => {}
            Outcome::Done {
                node: next, sent, ..
            } => {
                state.nodes[node] = next;
                queue.extend(sent);
            }
            Outcome::Panicked(said) => panic!("{said}"),
        }
    }

    /// What may happen next. Some of it changes nothing.
    pub fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let scope = &self.scope;
        for message in &state.messages {
            let Some(to) = message.to else { continue };
            let again = !message.stays() && state.repeats < scope.repeats;
            for repeated in [false, true].into_iter().take(1 + usize::from(again)) {
                actions.push(Action::Step {
                    node: to.0 as usize - 1,
                    input: Input::Take(message),
                    repeated,
                });
            }
        }
        for (at, node) in state.nodes.iter().enumerate() {
            let mut step = |input| {
                actions.push(Action::Step {
                    node: at,
                    input,
                    repeated: false,
                });
            };
            if node.view.role.is_none() && node.waiting == 0 {
                continue;
            }
            if node.waiting > 0 {
                let first = if scope.partial_flushes {
                    1
                } else {
                    node.waiting
                };
                (first..=node.waiting).for_each(|records| step(Input::Flush(records)));
            }
            if state.crashes < scope.crashes {
                step(Input::Restart {
                    dropped_tail: false,
                });
                if node.waiting > 0 {
                    step(Input::Restart { dropped_tail: true });
                }
            }
            if state.writes < scope.writes && node.view.serving {
                step(Input::Write(state.writes));
            }
            if state.reconnects < scope.reconnects && node.view.serving {
                let peers = (1..=NODES as u64).map(NodeId).filter(|p| *p != node.id);
                peers.for_each(|peer| step(Input::Reconnect(peer)));
            }
            let resumes = node.view.restarted && !node.view.serving;
            let renews = scope.time > 0 && node.view.serving;
            if renews || (scope.crashes > 0 && resumes) {
                step(Input::Tick);
            }
        }
        if state.now < scope.time {
            actions.push(Action::Advance);
        }
        self.council_actions(state, actions);
    }

    fn council_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let (scope, record) = (&self.scope, &state.council.record);
        let reports = state.messages.iter().filter_map(|m| match &m.body {
            Body::Report { report, at } => Some((report, *at)),
            _ => None,
        });
        let now = (scope.time > 0).then(|| state.time());
        let nameable = state.council.nameable(reports, now, self.mistake);
        actions.extend(nameable.into_iter().map(Action::Name));
        if state.hand_overs < scope.hand_overs
            && let Some(primary) = record.primary
        {
            let others = record.config.voters().into_iter().filter(|m| *m != primary);
            actions.extend(others.map(Action::HandOver));
        }
        if record.epoch.0 >= scope.epochs {
            return;
        }
        if record.primary.is_some() && state.promotions < scope.promotions {
            actions.push(Action::Raise);
        }
        let Some(joint) = scope.joint else { return };
        if record.config.joint.is_none() {
            if !record.config.learners.is_empty() && record.primary.is_some() {
                actions.push(Action::EnterJoint);
            }
            return;
        }
        if joint == Joint::Backward {
            actions.push(Action::LeaveJoint(Direction::Backward));
            return;
        }
        let reported = u64::from(state.served) == record.epoch.0;
        if record.primary.is_some() && (reported || self.leaves_joint_early()) {
            actions.push(Action::LeaveJoint(Direction::Forward));
        }
    }

    fn leaves_joint_early(&self) -> bool {
        self.mistake == Some(Mistake::Seeded(Bug::LeaveJointEarly))
    }

    /// What becomes of a state by an action; `None` where nothing does.
    pub fn next(&self, memory: &mut Memory, state: &State, action: &Action) -> Option<State> {
        match action {
            Action::Step {
                node,
                input,
                repeated,
            } => self.step(memory, state, *node, *input, *repeated),
            Action::Advance => {
                let mut next = state.clone();
                next.now += 1;
                Some(self.settled(next))
            }
            Action::HandOver(to) => {
                let order = Order::HandOver {
                    partition: P,
                    epoch: state.council.record.epoch,
                    to: *to,
                };
                let primary = state.council.record.primary.map(|p| p.node);
                let order = memory.message(Message::new(primary, Body::Order(order)));
                let mut next = state.clone();
                next.exchange(None, &[order]);
                next.hand_overs += 1;
                Some(self.settled(next))
            }
            Action::Raise => {
                let mut next = self.commit(memory, state, state.council.raise())?;
                next.promotions += 1;
                Some(next)
            }
            Action::Name(member) => self.commit(memory, state, state.council.name(*member)),
            Action::EnterJoint => {
                let command = state.council.enter_joint()?;
                self.commit(memory, state, command)
            }
            Action::LeaveJoint(direction) => {
                self.commit(memory, state, state.council.leave_joint(*direction))
            }
        }
    }

    fn step(
        &self,
        memory: &mut Memory,
        state: &State,
        at: usize,
        input: Input,
        repeated: bool,
    ) -> Option<State> {
        let before = state.nodes[at];
        let (node, sent, committed) = match memory.step(before, state.time(), input) {
            Outcome::Nothing => return None,
            Outcome::Panicked(said) => {
                let mut next = state.clone();
                next.broken = Some(format!("an assertion of the core failed: {said}").into());
                return Some(next);
            }
            Outcome::Done {
                node,
                sent,
                committed,
            } => (*node, sent, *committed),
        };
        let taken = match input {
            Input::Take(message) if !message.stays() && !repeated => Some(message),
            _ => None,
        };
        let mut next = state.clone();
        next.nodes[at] = node;
        if sent.iter().all(|m| self.reaches(m)) {
            next.exchange(taken, sent);
        } else {
            let sent: Vec<_> = sent.iter().filter(|m| self.reaches(m)).copied().collect();
            next.exchange(taken, &sent);
        }
        match input {
            Input::Write(_) => next.writes += 1,
            Input::Restart { .. } => {
                next.crashes += 1;
                // What the process before was asked may be asked again.
                let fence = memory.fence(next.council, node.id);
                next.exchange(None, fence.as_slice());
            }
            Input::Reconnect(_) => next.reconnects += 1,
            Input::Take(_) => next.repeats += u8::from(repeated),
            _ => {}
        }
        if let Some(index) = committed {
            self.acknowledge(&mut next, at, index);
        }
        Some(self.settled(next))
    }

    /// The primary answers for everything up to `index`.
    fn acknowledge(&self, state: &mut State, at: usize, index: Index) {
        let node = state.nodes[at];
        for (mark, write) in &node.view.log {
            let Some(write) = write.filter(|_| mark.index() <= index) else {
                continue;
            };
            let acked = &mut state.acked[usize::from(write)];
            if *acked != 0 {
                continue;
            }
            *acked = node.view.epoch.0 as u8;
            if state.broken.is_none() {
                state.broken = invariants::acknowledged(state, node, *mark).map(Into::into);
            }
        }
    }

    fn commit(&self, memory: &mut Memory, state: &State, command: Command) -> Option<State> {
        let (council, told) = memory.commit(state.council, command)?;
        let mut next = state.clone();
        next.council = council;
        let told: Vec<_> = told.iter().filter(|m| self.reaches(m)).copied().collect();
        next.exchange(None, &told);
        Some(self.settled(next))
    }

    fn reaches(&self, message: &Message) -> bool {
        let record = match &message.body {
            Body::Record(record) => record,
            Body::Peer {
                from,
                message: PeerMessage::LeaseRenew(_),
            } => return message.to == Some(NodeId(from.0 % 3 + 1)),
            _ => return true,
        };
        let needs = |to| {
            let is_primary = record.primary.is_some_and(|p| p.node == to);
            is_primary || record.config.on_node(to).is_none()
        };
        self.scope.records_to_all || message.to.is_some_and(needs)
    }

    fn settled(&self, mut state: State) -> State {
        state.tidy(self.mistake);
        if self.scope.joint.is_some() {
            let serving = state.nodes.iter().filter(|n| n.view.serving);
            let newest = serving.map(|n| n.view.epoch).max().unwrap_or(Epoch::ZERO);
            state.served = state.served.max(newest.0 as u8);
        }
        state
    }
}
