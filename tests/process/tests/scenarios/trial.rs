//! A cluster that is broken under load while its clients' history is recorded, to be judged
//! by the ledger and for linearizability.

use anyhow::{Context, Result};
use cairn_client::Consistency;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec, Target};
use cairn_process_tests::history::{self, Recording};
use cairn_process_tests::load::{self, Load};
use cairn_process_tests::{status, waiting};
use rand::Rng;
use rand::rngs::StdRng;

/// So little that the machine has time for the faults.
fn little() -> load::Plan {
    load::Plan {
        writers: 16,
        keys: 16,
        counters: 64,
        native: 4,
        native_counters: 32,
        ..load::Plan::default()
    }
}

const HISTORY: history::Plan = history::Plan {
    // Every strong level: what one of them saw binds the others.
    reads: &[
        Consistency::Primary,
        Consistency::Quorum,
        Consistency::Replica,
    ],
    tasks: 16,
    keys: 500,
    operations: 300_000,
};

pub(crate) struct Trial {
    pub(crate) cluster: Cluster,
    target: Target,
    load: Load,
    recording: Recording,
}

impl Trial {
    /// A cluster's shape that leaves the machine time for the faults.
    pub(crate) fn spec() -> Spec {
        Spec {
            partitions: 32,
            ..Spec::default()
        }
    }

    /// Loads a cluster that serves, which clients reach at `target`.
    pub(crate) fn start(cluster: Cluster, target: Target, seed: u64) -> Result<Self> {
        let load = Load::start(&target, little(), seed)?;
        let recording = Recording::start(&target, HISTORY, seed)?;
        let trial = Self {
            cluster,
            target,
            load,
            recording,
        };
        trial.goes_on()?;
        Ok(trial)
    }

    /// Waits until every partition has served.
    pub(crate) fn goes_on(&self) -> Result<()> {
        self.load.await_every_partition()?;
        self.some_go_on(500)
    }

    /// Waits until so many operations have returned, in whichever partitions.
    pub(crate) fn some_go_on(&self, operations: u64) -> Result<()> {
        self.recording.await_more(operations)
    }

    /// Does something to the primary of a partition, and waits until another one leads it.
    /// Returns which node it was.
    pub(crate) fn deposed<T>(
        &mut self,
        rng: &mut StdRng,
        act: impl FnOnce(&mut Cluster, u32, usize) -> Result<T>,
    ) -> Result<(usize, T)> {
        let partition = rng.random_range(0..self.cluster.partitions());
        let (epoch, victim) = waiting::until("a primary", BOUND, || {
            status::primary(&self.cluster, partition).map(Some)
        })?;
        let name = self.cluster.data[victim].name.clone();
        println!("{name}, primary of partition {partition} in epoch {epoch}, is the victim");
        let done = act(&mut self.cluster, partition, victim)?;
        waiting::until("another primary", BOUND, || {
            let (new, primary) = status::primary(&self.cluster, partition)?;
            Ok((new > epoch && primary != victim).then_some(()))
        })
        .with_context(|| format!("{name} should have been deposed"))?;
        Ok((victim, done))
    }

    /// Checks everything that clients were told, with all faults healed.
    pub(crate) fn judge(mut self) -> Result<()> {
        self.goes_on()?;
        self.cluster.await_ready()?;
        self.recording.wind_down();
        let stats = self.recording.stats();
        let summary = self.recording.finish()?.judge()?;
        println!("{summary:?}; {stats:?}");
        self.load.stop()?.verify(&self.target)
    }
}
