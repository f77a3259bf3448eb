//! Random stories: hosts come and go, manifests change, the operator dies; the model holds
//! every act to what must never happen, and in the end everything is as asked.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;

use super::world::{World, cluster};
use crate::names::Role;
use crate::quantity;

#[derive(Clone, Debug)]
enum Act {
    Data(u32),
    Coordinators(u8),
    Copies(u8),
    LoseHost(usize),
    Power(usize, u32),
    Cordon(usize),
    Uncordon(usize),
    Image(Role),
    BadImage(Role),
    DrainNode(u32),
    DrainNobody,
    Paused(bool),
    MovesPaused(bool),
    Kill(Role, u32),
    Grow(Role, u64),
}

fn act() -> impl Strategy<Value = Act> {
    let role = prop_oneof![Just(Role::Coordinator), Just(Role::Data)];
    prop_oneof![
        4 => (1u32..6).prop_map(Act::Data),
        2 => prop_oneof![Just(1u8), Just(3), Just(5)].prop_map(Act::Coordinators),
        1 => (1u8..4).prop_map(Act::Copies),
        2 => (0usize..7).prop_map(Act::LoseHost),
        3 => (0usize..7, 1u32..30).prop_map(|(host, for_s)| Act::Power(host, for_s)),
        1 => (0usize..7).prop_map(Act::Cordon),
        1 => (0usize..7).prop_map(Act::Uncordon),
        2 => role.clone().prop_map(Act::Image),
        1 => role.clone().prop_map(Act::BadImage),
        1 => (0u32..5).prop_map(Act::DrainNode),
        1 => Just(Act::DrainNobody),
        1 => any::<bool>().prop_map(Act::Paused),
        1 => any::<bool>().prop_map(Act::MovesPaused),
        2 => (role.clone(), 0u32..5).prop_map(|(role, ordinal)| Act::Kill(role, ordinal)),
        2 => (role, 1u64..9).prop_map(|(role, more)| Act::Grow(role, more)),
    ]
}

struct Story {
    world: World,
    writes_max: usize,
    revisions: u32,
}

impl Story {
    fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.world.round(self.writes_max);
            self.world.tick();
        }
    }

    fn next_revision(&mut self, role: Role) -> String {
        self.revisions += 1;
        let revision = format!("r{}", self.revisions + 1);
        self.world.revision.insert(role, revision.clone());
        revision
    }

    fn act(&mut self, act: Act) {
        let spec = &mut self.world.cluster.spec;
        match act {
            Act::Data(n) => spec.data.replicas = n.max(spec.replication_factor.into()),
            Act::Coordinators(n) => spec.coordinators.replicas = n,
            Act::Copies(n) => {
                spec.replication_factor = n;
                spec.data.replicas = spec.data.replicas.max(n.into());
            }
            Act::LoseHost(n) => {
                // What nobody could survive is not asked of the planner.
                if self.world.can_lose_a_host() {
                    let host = format!("host-{n}");
                    self.world.power(&host, false);
                    self.run(3);
                    self.world.hosts.remove(&host);
                }
            }
            Act::Power(n, for_s) => {
                let host = format!("host-{n}");
                self.world.power(&host, false);
                self.run(for_s);
                self.world.power(&host, true);
            }
            Act::Cordon(n) => self.cordon(n, true),
            Act::Uncordon(n) => self.cordon(n, false),
            Act::Image(role) => drop(self.next_revision(role)),
            Act::BadImage(role) => {
                let revision = self.next_revision(role);
                self.world.bad_revisions.insert(revision);
            }
            Act::DrainNode(n) => {
                if n < spec.data.replicas {
                    spec.maintenance.drain = vec![format!("orders-data-{n}")];
                }
            }
            Act::DrainNobody => spec.maintenance.drain.clear(),
            Act::Paused(paused) => spec.maintenance.paused = paused,
            Act::MovesPaused(paused) => spec.maintenance.rebalance_paused = paused,
            Act::Kill(role, ordinal) => {
                let pod = self.world.cluster.names.pod(role, ordinal);
                self.world.kill(&pod);
            }
            Act::Grow(role, more) => {
                let size = quantity::bytes(self.world.cluster.storage_size(role)).unwrap();
                let size = Quantity(format!("{}Gi", (size >> 30) + more));
                let spec = &mut self.world.cluster.spec;
                match role {
                    Role::Coordinator => spec.coordinators.storage.size = size,
                    Role::Data => spec.data.storage.size = size,
                }
            }
        }
    }

    fn cordon(&mut self, n: usize, cordoned: bool) {
        if let Some(host) = self.world.hosts.get_mut(&format!("host-{n}")) {
            host.cordoned = cordoned;
        }
    }

    fn heal(&mut self) {
        for n in 0..7 {
            self.cordon(n, false);
        }
        for role in Role::ALL {
            if self
                .world
                .bad_revisions
                .contains(&self.world.revision[&role])
            {
                self.next_revision(role);
            }
        }
        let maintenance = &mut self.world.cluster.spec.maintenance;
        *maintenance = Default::default();
        self.world.settle_with(self.writes_max);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_nothing_is_lost_and_it_settles(
        data in 1u32..6,
        coordinators in prop_oneof![Just(1u8), Just(3), Just(5)],
        copies in 1u8..4,
        writes_max in prop_oneof![Just(usize::MAX), 1usize..5],
        acts in proptest::collection::vec((act(), 0u32..25), 0..12),
    ) {
        let data = data.max(copies.into());
        let mut story = Story {
            world: World::new(cluster(data, coordinators, copies)),
            writes_max,
            revisions: 0,
        };
        for (act, rounds) in acts {
            story.act(act);
            story.run(rounds);
        }
        story.heal();
    }
}
