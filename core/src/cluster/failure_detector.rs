//! Which data nodes are up, by what the leading coordinator hears of them and what
//! their peers see of them (rule 15).
//!
//! - A node whose stream broke is down at once where two other nodes get no answer
//!   from it (or all others, where there are fewer). So is one that a new leader has
//!   not heard of, where two others bear witness: theirs is as good as to its
//!   predecessor.
//! - A node that is silent past its time-out is down where as many peers get no
//!   answer, or all that can tell; who has only just come back cannot.
//! - A node that its peers still reach is suspect and no more: this coordinator may
//!   be the one that lost sight of it, and fencing a healthy pair serves nobody.
//! - A coordinator that hears of no node at all is itself cut off: nobody is down.
//!
//! The detector keeps no clock and decides nothing about partitions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Micros, NodeId};

/// How many peers must get no answer from a node before it counts as down.
const WITNESSES: usize = 2;

/// How a node is, as its leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not heard of yet by a leader that just started.
    Unknown,
    /// Heard of lately.
    Up,
    /// Silent, but not down.
    Suspect(SuspectReason),
    /// Counts as failed.
    Down(DownReason),
}

impl Health {
    /// Whether the node counts as failed.
    #[must_use]
    pub fn is_down(self) -> bool {
        matches!(self, Self::Down(_))
    }
}

/// Why a silent node is not down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SuspectReason {
    /// Not silent for long enough, or no peer can tell yet.
    Silent,
    /// Its peers still reach it: only this coordinator lost sight of it.
    PeersReachIt,
    /// This coordinator hears of nobody: it is the one that is cut off.
    Blind,
}

/// Why a node is down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownReason {
    /// Its stream broke and its peers get no answer from it.
    PeersConfirm,
    /// Silent for too long, and its peers get no answer from it.
    SilentAndPeersConfirm,
    /// Silent for too long, and all peers that can tell get no answer from it, which
    /// are too few to be certain.
    Silent,
}

impl DownReason {
    /// Whether other nodes bear witness: then a lease that replicas still report is
    /// no reason to wait (rule 1).
    #[must_use]
    pub fn is_confirmed(self) -> bool {
        match self {
            Self::PeersConfirm | Self::SilentAndPeersConfirm => true,
            Self::Silent => false,
        }
    }
}

/// A change of a node's health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthChange {
    /// Whose.
    pub node: NodeId,
    /// From what.
    pub from: Health,
    /// To what.
    pub to: Health,
}

#[derive(Clone, Debug)]
struct Observed {
    /// Whether the node's stream is open.
    open: bool,
    /// Whether it ever was since this coordinator leads.
    opened: bool,
    /// Whether a heartbeat came down the open stream.
    spoke: bool,
    /// Since when it has been open without a break.
    open_since: Micros,
    last_heard: Micros,
    session: u64,
    unreachable: BTreeSet<NodeId>,
    health: Health,
    since: Micros,
    /// Since when enough peers of a node that does speak get no answer from it.
    cut_off_since: Option<Micros>,
    /// Peers whose client ports give it no answer.
    silent_client_ports: BTreeSet<NodeId>,
    /// Since when enough peers of a node that does speak get no answer from its
    /// client port.
    deaf_since: Option<Micros>,
}

/// What is known of every node.
#[derive(Debug)]
pub struct FailureDetector {
    timeout: Micros,
    leading_since: Micros,
    nodes: BTreeMap<NodeId, Observed>,
}

impl FailureDetector {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(timeout: Micros) -> Self {
        Self {
            timeout,
            leading_since: Micros::default(),
            nodes: BTreeMap::new(),
        }
    }

    /// Changes how long a node may be silent.
    pub fn set_timeout(&mut self, timeout: Micros) {
        self.timeout = timeout;
    }

    /// This coordinator leads from here on: nodes that it has not heard of get one
    /// time-out's grace to find it.
    pub fn became_leader(&mut self, now: Micros) {
        self.leading_since = now;
        for observed in self.nodes.values_mut() {
            observed.opened = observed.open;
            if !observed.open {
                observed.health = Health::Unknown;
                observed.since = now;
            }
        }
    }

    /// Keeps to these nodes: forgets others, awaits those that are new.
    pub fn set_members(&mut self, now: Micros, members: &BTreeSet<NodeId>) {
        self.nodes.retain(|node, _| members.contains(node));
        for &node in members {
            self.observed(now, node);
        }
    }

    fn observed(&mut self, now: Micros, node: NodeId) -> &mut Observed {
        self.nodes.entry(node).or_insert(Observed {
            open: false,
            opened: false,
            spoke: false,
            open_since: now,
            last_heard: now,
            session: 0,
            unreachable: BTreeSet::new(),
            health: Health::Unknown,
            since: now,
            cut_off_since: None,
            silent_client_ports: BTreeSet::new(),
            deaf_since: None,
        })
    }

    /// The node opened its stream. Only its heartbeat says that it is up.
    pub fn stream_opened(&mut self, now: Micros, node: NodeId) {
        if let Some(observed) = self.nodes.get_mut(&node) {
            observed.open = true;
            observed.opened = true;
            observed.spoke = false;
            observed.open_since = now;
            observed.unreachable.clear();
            observed.silent_client_ports.clear();
        }
    }

    /// The stream broke.
    pub fn stream_closed(&mut self, node: NodeId) {
        if let Some(observed) = self.nodes.get_mut(&node) {
            observed.open = false;
            // What it said of others is no longer news.
            observed.unreachable.clear();
            observed.silent_client_ports.clear();
        }
    }

    /// A heartbeat came. Tells whether the node's process is another than before.
    pub fn heartbeat(
        &mut self,
        now: Micros,
        node: NodeId,
        session: u64,
        unreachable: impl IntoIterator<Item = NodeId>,
    ) -> bool {
        let unreachable = unreachable
            .into_iter()
            .filter(|n| *n != node && self.nodes.contains_key(n))
            .collect();
        let Some(observed) = self.nodes.get_mut(&node) else {
            return false;
        };
        let restarted = observed.session != 0 && observed.session != session;
        if now.minus(observed.last_heard) > self.timeout {
            // As good as a stream that broke: it may have been cut off from its peers
            // as well, and still speak of them as it found them then.
            observed.open_since = now;
        }
        observed.open = true;
        observed.opened = true;
        observed.spoke = true;
        observed.last_heard = now;
        observed.session = session;
        observed.unreachable = unreachable;
        restarted
    }

    /// What the node's last heartbeat said of its peers' client ports.
    pub fn silent_client_ports(&mut self, node: NodeId, ports: impl IntoIterator<Item = NodeId>) {
        if let Some(observed) = self.nodes.get_mut(&node) {
            observed.silent_client_ports = ports.into_iter().filter(|n| *n != node).collect();
        }
    }

    /// Whether the one reaches the other, by the last word of both.
    #[must_use]
    pub fn reach(&self, one: NodeId, other: NodeId) -> bool {
        let misses = |from: NodeId, to: NodeId| {
            let observed = self.nodes.get(&from);
            observed.is_some_and(|observed| observed.unreachable.contains(&to))
        };
        !misses(one, other) && !misses(other, one)
    }

    /// Judges every node anew and tells what changed.
    pub fn evaluate(&mut self, now: Micros) -> Vec<HealthChange> {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        let testimony = self.testimony(now);
        let mut changes = Vec::new();
        for node in nodes {
            let witnesses = self.witnesses(now, node, &testimony);
            let to = self.judge(now, node, witnesses);
            let cut_off = self.is_cut_off(witnesses);
            // A node that has only just come back is still spoken of as it was.
            let deaf = to == Health::Up && is_deaf(witnesses);
            let Some(observed) = self.nodes.get_mut(&node) else {
                continue;
            };
            observed.cut_off_since = match observed.cut_off_since {
                Some(since) if cut_off => Some(since),
                _ => cut_off.then_some(now),
            };
            observed.deaf_since = match observed.deaf_since {
                Some(since) if deaf => Some(since),
                _ => deaf.then_some(now),
            };
            if observed.health != to {
                changes.push(HealthChange {
                    node,
                    from: observed.health,
                    to,
                });
                observed.health = to;
                observed.since = now;
            }
        }
        changes
    }

    fn is_fresh(&self, now: Micros, observed: &Observed) -> bool {
        observed.open && observed.spoke && now.minus(observed.last_heard) <= self.timeout
    }

    /// What all nodes that are heard of lately say, in one pass: it is asked for at
    /// every heartbeat.
    fn testimony(&self, now: Micros) -> Testimony {
        let mut testimony = Testimony::default();
        for observed in self.nodes.values() {
            if !self.is_fresh(now, observed) {
                continue;
            }
            let knows = self.knows(observed);
            testimony.heard += 1;
            testimony.know += usize::from(knows);
            for node in &observed.unreachable {
                let (against, knowing) = testimony.against.entry(*node).or_default();
                *against += 1;
                *knowing += usize::from(knows);
            }
            for node in &observed.silent_client_ports {
                *testimony.deaf.entry(*node).or_default() += 1;
            }
        }
        testimony
    }

    /// Whether a peer knew, when it spoke last, of one that does not answer: where its
    /// stream was younger than the time-out it may not have tried yet, or still tell
    /// of what it saw while it was itself cut off.
    fn knows(&self, observed: &Observed) -> bool {
        observed.last_heard.minus(observed.open_since) >= self.timeout
    }

    /// The testimony about one node, its own word left out.
    fn witnesses(&self, now: Micros, node: NodeId, testimony: &Testimony) -> Witnesses {
        let own = self.nodes.get(&node).filter(|o| self.is_fresh(now, o));
        let own_knows = own.is_some_and(|o| self.knows(o));
        let (against, knowing) = testimony.against.get(&node).copied().unwrap_or_default();
        Witnesses {
            heard: testimony.heard - usize::from(own.is_some()),
            against,
            knowing,
            deaf: testimony.deaf.get(&node).copied().unwrap_or_default(),
            for_it: testimony.know - usize::from(own_knows) - knowing,
        }
    }

    fn judge(&self, now: Micros, node: NodeId, witnesses: Witnesses) -> Health {
        let Some(observed) = self.nodes.get(&node) else {
            return Health::Unknown;
        };
        let silent = now.minus(observed.last_heard);
        let heard_since_lead = observed.opened && observed.session != 0;
        if observed.open && observed.spoke && silent <= self.timeout {
            return Health::Up;
        }
        let others = self.nodes.len().saturating_sub(1);
        // Two are believed at once; where there is but one, only if it can tell.
        let confirmed = witnesses.against >= WITNESSES || (others == 1 && witnesses.knowing == 1);
        // A leader that just started has patience with those that have yet to find it,
        // unless it was told by two that they are dead.
        let told = observed.opened || witnesses.against >= WITNESSES;
        if told && !observed.open && confirmed {
            return Health::Down(DownReason::PeersConfirm);
        }
        let awaited = now.minus(self.leading_since.max(observed.since_known()));
        if !heard_since_lead && awaited <= self.timeout {
            return Health::Unknown;
        }
        if heard_since_lead && silent <= self.timeout {
            return match observed.health {
                // A node that is down stays so until it speaks again.
                Health::Down(reason) => Health::Down(reason),
                _ => Health::Suspect(SuspectReason::Silent),
            };
        }
        if witnesses.heard == 0 {
            // With one data node there is nobody to promote either.
            return match observed.health {
                Health::Down(reason) => Health::Down(reason),
                _ => Health::Suspect(SuspectReason::Blind),
            };
        }
        let know = witnesses.knowing + witnesses.for_it;
        if know == 0 {
            // Nobody has listened for long enough to tell. That passes: each peer
            // that stays knows after a time-out. It is so after this coordinator was
            // cut off, too, when nodes come back one by one.
            match observed.health {
                Health::Down(reason) => Health::Down(reason),
                _ => Health::Suspect(SuspectReason::Silent),
            }
        } else if confirmed {
            Health::Down(DownReason::SilentAndPeersConfirm)
        } else if witnesses.knowing >= WITNESSES.min(know) {
            Health::Down(DownReason::Silent)
        } else {
            Health::Suspect(SuspectReason::PeersReachIt)
        }
    }

    /// Whether a node that does speak to us gets no answer to most of its peers, two
    /// at least or all.
    ///
    /// Most, because two nodes that are themselves cut off see everyone else gone.
    fn is_cut_off(&self, witnesses: Witnesses) -> bool {
        let others = self.nodes.len().saturating_sub(1);
        others > 0
            && witnesses.against >= WITNESSES.min(others)
            && witnesses.against * 2 > witnesses.heard
    }

    /// The node's health at the last evaluation.
    #[must_use]
    pub fn health(&self, node: NodeId) -> Health {
        self.nodes.get(&node).map_or(Health::Unknown, |o| o.health)
    }

    /// Since when the node has had that health.
    #[must_use]
    pub fn since(&self, node: NodeId) -> Micros {
        self.nodes.get(&node).map_or(Micros::default(), |o| o.since)
    }

    /// When the node was heard of last.
    #[must_use]
    pub fn last_heard(&self, node: NodeId) -> Option<Micros> {
        self.nodes
            .get(&node)
            .filter(|o| o.session != 0)
            .map(|o| o.last_heard)
    }

    /// The process of the node that was heard of last, by the number that it gave itself.
    #[must_use]
    pub fn session(&self, node: NodeId) -> Option<u64> {
        let heard = self.nodes.get(&node).filter(|o| o.session != 0);
        heard.map(|o| o.session)
    }

    /// For how long nothing was heard of the node.
    #[must_use]
    pub fn silent_for(&self, now: Micros, node: NodeId) -> Micros {
        self.nodes
            .get(&node)
            .map_or(Micros::default(), |o| now.minus(o.last_heard))
    }

    /// Whether the node's stream is open, so that orders reach it.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|o| o.open)
    }

    /// Whether the node's client port gives enough of its peers no answer just now.
    #[must_use]
    pub fn is_deaf(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|o| o.deaf_since.is_some())
    }

    /// Whether that has been so for a whole time-out.
    #[must_use]
    pub fn is_client_port_dead(&self, now: Micros, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|o| {
            o.deaf_since
                .is_some_and(|since| now.minus(since) >= self.timeout)
        })
    }

    /// Whether the node has spoken to us, but not answered its peers, for a whole
    /// time-out.
    #[must_use]
    pub fn is_unreachable_to_peers(&self, now: Micros, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|o| {
            o.health == Health::Up
                && o.cut_off_since
                    .is_some_and(|since| now.minus(since) >= self.timeout)
        })
    }
}

/// Whether two other nodes get no answer from a node's client port (rule 1), and most
/// of those that speak: two that are themselves cut off say so of everyone.
fn is_deaf(witnesses: Witnesses) -> bool {
    witnesses.deaf >= WITNESSES && witnesses.deaf * 2 > witnesses.heard
}

impl Observed {
    /// Since when the node has been awaited.
    fn since_known(&self) -> Micros {
        if self.session == 0 {
            self.open_since
        } else {
            Micros::default()
        }
    }
}

/// What is said of all nodes.
#[derive(Default, Debug)]
struct Testimony {
    /// How many speak.
    heard: usize,
    /// How many of them would know.
    know: usize,
    /// Of each node, how many get no answer from it, and how many of those would know.
    against: BTreeMap<NodeId, (usize, usize)>,
    /// Of each node, how many get no answer from its client port.
    deaf: BTreeMap<NodeId, usize>,
}

/// What its peers say of one node.
#[derive(Clone, Copy, Default, Debug)]
struct Witnesses {
    /// How many others speak.
    heard: usize,
    /// How many of them get no answer from it.
    against: usize,
    /// How many of those can tell.
    knowing: usize,
    /// How many get no answer from its client port.
    deaf: usize,
    /// How many can tell and say nothing against it.
    for_it: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: u64 = 1_000;

    /// A detector that is told of nodes by number, at times in milliseconds.
    struct Watch {
        detector: FailureDetector,
    }

    impl Watch {
        /// Nodes that have all been up for long.
        fn of(nodes: u64) -> Self {
            let mut detector = FailureDetector::new(Micros::from_millis(TIMEOUT));
            let members = (1..=nodes).map(NodeId).collect();
            detector.set_members(Micros::default(), &members);
            detector.became_leader(Micros::default());
            let mut watch = Self { detector };
            for n in 1..=nodes {
                watch
                    .detector
                    .stream_opened(Micros::from_millis(1), NodeId(n));
            }
            for at in (0..=5_000).step_by(100) {
                for n in 1..=nodes {
                    watch.beat(at, n, &[]);
                }
            }
            watch
        }

        fn beat(&mut self, at: u64, node: u64, unreachable: &[u64]) {
            self.detector.heartbeat(
                Micros::from_millis(at),
                NodeId(node),
                7,
                unreachable.iter().map(|n| NodeId(*n)),
            );
        }

        fn close(&mut self, node: u64) {
            self.detector.stream_closed(NodeId(node));
        }

        fn health(&mut self, at: u64, node: u64) -> Health {
            self.detector.evaluate(Micros::from_millis(at));
            self.detector.health(NodeId(node))
        }
    }

    #[test]
    fn a_broken_stream_and_two_witnesses_are_down_at_once() {
        let mut watch = Watch::of(5);
        assert_eq!(watch.health(5_000, 1), Health::Up);
        watch.close(1);
        assert_eq!(
            watch.health(5_001, 1),
            Health::Suspect(SuspectReason::Silent)
        );
        watch.beat(5_010, 2, &[1]);
        assert_eq!(
            watch.health(5_010, 1),
            Health::Suspect(SuspectReason::Silent),
            "one witness is not enough"
        );
        watch.beat(5_020, 3, &[1]);
        assert_eq!(
            watch.health(5_020, 1),
            Health::Down(DownReason::PeersConfirm)
        );
        watch
            .detector
            .stream_opened(Micros::from_millis(5_100), NodeId(1));
        assert!(
            watch.health(5_100, 1).is_down(),
            "only its word brings it back"
        );
        watch.beat(5_110, 1, &[]);
        assert_eq!(watch.health(5_110, 1), Health::Up);
    }

    #[test]
    fn with_two_nodes_the_one_other_is_witness_enough() {
        let mut watch = Watch::of(2);
        watch.close(1);
        watch.beat(5_010, 2, &[1]);
        assert_eq!(
            watch.health(5_010, 1),
            Health::Down(DownReason::PeersConfirm)
        );
    }

    #[test]
    fn a_node_that_its_peers_reach_is_suspect_however_long_it_is_silent() {
        let mut watch = Watch::of(3);
        watch.close(1);
        for at in (5_100..20_000).step_by(100) {
            watch.beat(at, 2, &[]);
            watch.beat(at, 3, &[]);
            assert!(!watch.health(at, 1).is_down());
        }
        assert_eq!(
            watch.health(20_000, 1),
            Health::Suspect(SuspectReason::PeersReachIt)
        );
    }

    #[test]
    fn a_stopped_process_with_open_connections_is_down_after_the_timeout() {
        let mut watch = Watch::of(3);
        for at in (5_100..=6_100).step_by(100) {
            watch.beat(at, 2, &[1]);
            watch.beat(at, 3, &[1]);
            let up = at <= 6_000;
            assert_eq!(watch.health(at, 1).is_down(), !up, "at {at}");
        }
        assert_eq!(
            watch.health(6_100, 1),
            Health::Down(DownReason::SilentAndPeersConfirm)
        );
    }

    #[test]
    fn a_coordinator_that_hears_of_nobody_blames_itself() {
        let mut watch = Watch::of(5);
        for n in 1..=5 {
            watch.close(n);
        }
        for n in 1..=5 {
            assert_eq!(
                watch.health(30_000, n),
                Health::Suspect(SuspectReason::Blind)
            );
        }
        // They come back one by one: those still to come are not down for that.
        watch
            .detector
            .stream_opened(Micros::from_millis(30_100), NodeId(1));
        watch.beat(30_100, 1, &[]);
        for n in 2..=5 {
            assert_eq!(
                watch.health(30_100, n),
                Health::Suspect(SuspectReason::Silent)
            );
        }
    }

    #[test]
    fn who_was_itself_cut_off_condemns_nobody_when_it_is_the_last_one_heard() {
        for stream_broke in [false, true] {
            let mut watch = Watch::of(5);
            for at in (5_100..8_000).step_by(100) {
                for n in 2..=5 {
                    watch.beat(at, n, &[1]);
                }
            }
            // Node 1 comes back, and still speaks as it did while it was cut off; then
            // this coordinator loses sight of them all.
            if stream_broke {
                watch.close(1);
                watch
                    .detector
                    .stream_opened(Micros::from_millis(8_000), NodeId(1));
            }
            for n in 2..=5 {
                watch.beat(8_000, n, &[1]);
            }
            for at in (8_000..=8_300).step_by(100) {
                watch.beat(at, 1, &[2, 3, 4, 5]);
            }
            for at in (8_400..12_000).step_by(50) {
                for n in 1..=5 {
                    assert!(!watch.health(at, n).is_down(), "node {n} at {at}");
                }
            }
        }
    }

    #[test]
    fn the_last_one_left_condemns_the_others_once_it_can_tell() {
        let mut watch = Watch::of(3);
        watch.close(2);
        watch.close(3);
        let mut down_at = |from: u64| {
            (from..from + 4_000).step_by(100).find(|&at| {
                watch.beat(at, 1, &[2, 3]);
                watch.health(at, 2).is_down()
            })
        };
        assert_eq!(down_at(5_100), Some(6_100), "the time-out of the two");
        // All are killed, and one alone returns.
        let mut watch = Watch::of(3);
        for n in 1..=3 {
            watch.close(n);
        }
        watch
            .detector
            .stream_opened(Micros::from_millis(9_000), NodeId(1));
        let down = (9_000..14_000).step_by(100).find(|&at| {
            watch.beat(at, 1, &[2, 3]);
            watch.health(at, 2).is_down()
        });
        assert_eq!(down, Some(10_000), "once it has listened for a time-out");
    }

    #[test]
    fn a_leader_that_just_started_has_patience() {
        let mut watch = Watch::of(3);
        watch.close(1);
        watch.detector.became_leader(Micros::from_millis(5_050));
        watch.beat(5_060, 2, &[1]);
        watch.beat(5_060, 3, &[]);
        assert_eq!(
            watch.health(5_900, 1),
            Health::Unknown,
            "one witness is not enough"
        );
        watch.beat(7_000, 2, &[1]);
        watch.beat(7_000, 3, &[1]);
        assert!(watch.health(7_000, 1).is_down());
    }

    #[test]
    fn a_leader_that_just_started_believes_two_witnesses_at_once() {
        let mut watch = Watch::of(3);
        watch.close(1);
        watch.detector.became_leader(Micros::from_millis(5_050));
        watch.beat(5_060, 2, &[1]);
        assert_eq!(watch.health(5_060, 1), Health::Unknown);
        watch.beat(5_070, 3, &[1]);
        assert_eq!(
            watch.health(5_070, 1),
            Health::Down(DownReason::PeersConfirm)
        );
    }

    #[test]
    fn a_new_leader_of_two_nodes_has_patience_with_the_word_of_one() {
        let mut watch = Watch::of(2);
        watch.close(1);
        watch.detector.became_leader(Micros::from_millis(5_050));
        watch.beat(5_060, 2, &[1]);
        assert_eq!(watch.health(5_900, 1), Health::Unknown);
    }

    #[test]
    fn a_node_never_heard_of_is_unknown_before_it_is_anything_else() {
        let mut detector = FailureDetector::new(Micros::from_millis(TIMEOUT));
        let now = Micros::from_millis(60_000);
        detector.set_members(now, &BTreeSet::from([NodeId(1), NodeId(2)]));
        detector.became_leader(now);
        detector.evaluate(now.plus(Micros::from_millis(TIMEOUT)));
        assert_eq!(detector.health(NodeId(1)), Health::Unknown);
        detector.evaluate(now.plus(Micros::from_millis(TIMEOUT + 1)));
        assert_eq!(
            detector.health(NodeId(1)),
            Health::Suspect(SuspectReason::Blind)
        );
    }

    #[test]
    fn a_pair_that_is_cut_off_does_not_condemn_the_rest() {
        let mut watch = Watch::of(5);
        for at in (5_100..8_000).step_by(100) {
            for n in 1..=2 {
                watch.beat(at, n, &[3, 4, 5]);
            }
            for n in 3..=5 {
                watch.beat(at, n, &[1, 2]);
            }
            watch.detector.evaluate(Micros::from_millis(at));
        }
        let now = Micros::from_millis(8_000);
        let cut_off: Vec<u64> = (1..=5)
            .filter(|n| watch.detector.is_unreachable_to_peers(now, NodeId(*n)))
            .collect();
        assert_eq!(cut_off, [1, 2], "most of the others reach 3, 4 and 5");
    }

    #[test]
    fn a_client_port_is_dead_once_two_of_most_have_said_so_for_a_timeout() {
        let mut watch = Watch::of(5);
        let mut dead = |at: u64, witnesses: &[u64]| {
            for n in 1..=5 {
                watch.beat(at, n, &[]);
                let said = witnesses.contains(&n).then_some(NodeId(1));
                watch.detector.silent_client_ports(NodeId(n), said);
            }
            let now = Micros::from_millis(at);
            watch.detector.evaluate(now);
            watch.detector.is_client_port_dead(now, NodeId(1))
        };
        for at in (5_100..8_000).step_by(100) {
            assert!(!dead(at, &[1, 2]), "its own word and another's");
        }
        for at in (8_000..11_000).step_by(100) {
            assert!(!dead(at, &[2, 3]), "as many say nothing of the kind");
        }
        for at in (11_000..12_000).step_by(100) {
            assert!(!dead(at, &[2, 3, 4]), "not for long enough, at {at}");
        }
        assert!(dead(12_000, &[2, 3, 4]));
        assert!(!dead(12_100, &[2]));
    }

    #[test]
    fn a_restart_is_seen_by_its_session() {
        let mut watch = Watch::of(2);
        let now = Micros::from_millis(5_100);
        assert!(!watch.detector.heartbeat(now, NodeId(1), 7, []));
        assert!(watch.detector.heartbeat(now, NodeId(1), 8, []));
        assert!(!watch.detector.heartbeat(now, NodeId(1), 8, []));
    }
}
