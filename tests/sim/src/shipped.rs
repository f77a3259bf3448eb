//! The shipped coordinators over a modelled Raft log: the state machine and the
//! supervisor as they are, commands that commit late, fail, or commit although the
//! proposer was told nothing, and leaders that change.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_core::cluster::command::{Command, NodeRegistration, Refusal, Response};
use cairn_core::cluster::settings::{SettingsChange, SettingsRequest};
use cairn_core::cluster::state::ClusterState;
use cairn_core::cluster::supervisor::{
    Input, Output, ProposalId, ProposalOutcome, ReadCopies, Supervisor, SupervisorOptions,
};
use cairn_core::features::{CoordinatorFeatures, UNDERSTOOD};
use cairn_core::ids::{Micros, NodeId, PartitionId};
use cairn_core::record::{Addresses, PartitionRecord};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A leader and the state behind it.
#[derive(Debug)]
pub struct Shipped {
    /// The replicated state.
    pub state: Arc<ClusterState>,
    /// The present leader's judgement.
    pub supervisor: Supervisor,
    /// Whether there is a leader.
    pub leading: bool,
    options: SupervisorOptions,
    raft_index: u64,
    /// The zone and the weight of each name that has others than the usual ones.
    homes: BTreeMap<u64, (String, u32)>,
    /// Counts leaders.
    pub term: u64,
}

/// Timings of a supervisor that is in more or less of a hurry than those of production:
/// nothing that must hold rests on them.
pub fn restless(rng: &mut StdRng) -> SupervisorOptions {
    let usual = SupervisorOptions::default();
    let hurry = [1, 4, 12][rng.random_range(0..3)];
    let sooner = |time: Micros| Micros(time.0 / hurry);
    SupervisorOptions {
        gather: sooner(usual.gather),
        ask_after: sooner(usual.ask_after),
        serve_timeout: sooner(usual.serve_timeout),
        shrink_after: sooner(usual.shrink_after),
        repair_after: sooner(usual.repair_after),
        cut_off_after: sooner(usual.cut_off_after),
        // Those are made for minutes, of which a run has none.
        joiner_timeout: Micros::from_millis(rng.random_range(500..4_000)),
        slow_learner_rest: Micros::from_millis(rng.random_range(100..1_000)),
        plan_after: Micros::from_millis(rng.random_range(0..500)),
        back_after: Micros::from_millis(rng.random_range(0..1_000)),
        balance_after: Micros::from_millis(rng.random_range(1_000..30_000)),
        read_copies: ReadCopies {
            hot_at: 100,
            hot_for: Micros::from_millis(rng.random_range(0..1_500)),
            cool_for: Micros::from_millis(rng.random_range(0..3_000)),
            silent_for: Micros::from_millis(rng.random_range(300..3_000)),
            rest: Micros::from_millis(rng.random_range(100..1_000)),
            ..usual.read_copies
        },
        ..usual
    }
}

fn registration(seat: u64, identity: u64, (zone, weight): (String, u32)) -> NodeRegistration {
    let port = |base: u64| format!("127.0.0.1:{}", base + identity);
    NodeRegistration {
        uuid: format!("uuid-{identity}"),
        incarnation: format!("incarnation-{identity}"),
        name: format!("data-{seat}"),
        addresses: Addresses {
            resp: port(10_000),
            client: port(20_000),
            peer: port(30_000),
            http: port(40_000),
            ..Addresses::default()
        },
        zone,
        weight,
        features: UNDERSTOOD,
        replace_dead: true,
    }
}

impl Shipped {
    /// A cluster with the data nodes that the settings tell of.
    ///
    /// # Errors
    /// Where the state machine refuses what it must take.
    pub fn new(request: SettingsRequest, options: SupervisorOptions) -> Result<Self, String> {
        let nodes = u64::from(request.data_nodes.unwrap_or_default());
        let resolved = request.resolve().map_err(|e| format!("settings: {e:?}"))?;
        let settings = resolved.settings;
        let mut shipped = Self {
            state: Arc::default(),
            supervisor: Supervisor::new(options),
            leading: false,
            options,
            raft_index: 0,
            homes: BTreeMap::new(),
            term: 0,
        };
        shipped.apply(Command::CreateCluster {
            cluster_id: "simulated".into(),
            settings,
        });
        for seat in 1..=nodes {
            let registration = shipped.registration(seat, seat);
            shipped.apply(registration);
        }
        Ok(shipped)
    }

    fn presents(&self, seat: u64, identity: u64) -> NodeRegistration {
        let usual = (String::new(), 100);
        let home = self.homes.get(&seat).cloned().unwrap_or(usual);
        registration(seat, identity, home)
    }

    /// With what an identity presents itself on a seat; its number follows the one before.
    pub fn registration(&self, seat: u64, identity: u64) -> Command {
        Command::RegisterNode(self.presents(seat, identity))
    }

    /// The zone and the weight of whoever has a name, from its next registration on.
    pub fn rehome(&mut self, seat: u64, home: (String, u32)) {
        self.homes.insert(seat, home);
    }

    /// An empty disk claims the identity that the one before it had (rule 12). Whether it
    /// is given it.
    pub fn takes_for_the_same(&mut self, seat: u64, identity: u64) -> bool {
        let response = self.apply(Command::RegisterNode(NodeRegistration {
            incarnation: format!("another-incarnation-{identity}"),
            ..self.presents(seat, identity)
        }));
        match response {
            Response::Registered { .. } => true,
            Response::Refused(Refusal::OtherIncarnation { .. } | Refusal::IdentityGone { .. }) => {
                false
            }
            other => panic!("an empty disk is answered {other:?}"),
        }
    }

    /// What an admin changes of the settings, as a command. `None` where there are none.
    pub fn change(&self, change: SettingsChange) -> Option<Command> {
        let settings = change.of(self.state.settings()?);
        Some(Command::ChangeSettings { settings })
    }

    /// Somebody wants a copy on another node, and perhaps another primary, or all copies where
    /// those of another partition are.
    pub fn reseat(&mut self, now: Micros, partition: PartitionId, rng: &mut StdRng) -> Vec<Output> {
        let before = self.state.seats(partition).to_vec();
        let basis = self.state.basis();
        let mut free: Vec<NodeId> = basis.nodes.into_keys().collect();
        free.retain(|id| !before.contains(id));
        free.shuffle(rng);
        let mut seats = before.clone();
        for node in free.into_iter().take(rng.random_range(1..=2)) {
            let seat = rng.random_range(0..seats.len().max(1));
            if let Some(seat) = seats.get_mut(seat) {
                *seat = node;
            }
        }
        seats.shuffle(rng);
        let records = self.state.partitions().iter().map(|record| record.id);
        let others: Vec<PartitionId> = records.filter(|id| *id != partition).collect();
        if !others.is_empty() && rng.random_bool(0.5) {
            // Where another one's are, so that one node leads several.
            let other = others[rng.random_range(0..others.len())];
            seats = self.state.seats(other).to_vec();
        }
        self.command(
            now,
            Command::Reseat {
                partition,
                before,
                seats,
            },
        )
        .0
    }

    fn apply(&mut self, command: Command) -> Response {
        self.raft_index += 1;
        let mut state = (*self.state).clone();
        let response = state.apply(self.raft_index, command);
        if let Some(broken) = state.broken_invariant() {
            panic!("the coordinators' state is broken: {broken}");
        }
        self.state = Arc::new(state);
        response
    }

    /// A leader takes office.
    pub fn lead(&mut self, now: Micros) -> Vec<Output> {
        self.leading = true;
        self.supervisor = Supervisor::new(self.options);
        let state = self.state.clone();
        self.term += 1;
        let term = self.term;
        let mut outputs = self.step(now, Input::BecameLeader { term, state });
        let voters = ["c1", "c2", "c3"].map(|name| CoordinatorFeatures {
            name: name.to_owned(),
            features: Some(UNDERSTOOD),
        });
        outputs.extend(self.step(now, Input::Coordinators(voters.to_vec())));
        outputs.extend(self.tick(now));
        outputs
    }

    /// The leader is gone.
    pub fn resign(&mut self) {
        self.leading = false;
    }

    /// One input, if there is a leader.
    pub fn step(&mut self, now: Micros, input: Input) -> Vec<Output> {
        if self.leading {
            self.supervisor.step(now, input)
        } else {
            Vec::new()
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Micros) -> Vec<Output> {
        self.step(
            now,
            Input::Tick {
                unix_ms: now.0 / 1000,
            },
        )
    }

    /// A proposal commits; whether the proposer hears of it is another question.
    pub fn commit(
        &mut self,
        now: Micros,
        id: ProposalId,
        command: Command,
        heard: bool,
    ) -> Vec<Output> {
        let (mut outputs, response) = self.command(now, command);
        let outcome = if heard {
            ProposalOutcome::Applied(response)
        } else {
            ProposalOutcome::Unknown
        };
        outputs.extend(self.step(now, Input::Proposal { id, outcome }));
        outputs
    }

    /// A proposal commits whose proposer has given up waiting for it.
    pub fn commit_unheard(&mut self, now: Micros, command: Command) -> Vec<Output> {
        self.command(now, command).0
    }

    /// A command commits that is an admin's, or somebody's who does not wait for it.
    pub fn command(&mut self, now: Micros, command: Command) -> (Vec<Output>, Response) {
        let response = self.apply(command);
        let state = self.state.clone();
        (self.step(now, Input::Applied { state }), response)
    }

    /// A proposal is lost for good.
    pub fn fail(&mut self, now: Micros, id: ProposalId) -> Vec<Output> {
        self.step(
            now,
            Input::Proposal {
                id,
                outcome: ProposalOutcome::Failed,
            },
        )
    }

    /// A partition's record, once the table was made.
    pub fn record(&self, partition: PartitionId) -> Option<Arc<PartitionRecord>> {
        self.state.partition(partition).cloned()
    }

    /// Whether the identity is still admitted.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.state.is_member(node)
    }
}
