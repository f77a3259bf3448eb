//! Load from a pod, which checks every write that was acknowledged.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kvcluster::{KvCluster, PATIENCE};
use crate::told::{Told, Verdict};
use crate::waiting::until;

const POD: &str = "load";
const MANIFEST: &str = include_str!("load.yaml");

/// Load that runs until it is stopped, or for half an hour.
#[derive(Debug)]
pub struct PodLoad<'a> {
    cluster: &'a KvCluster<'a>,
}

impl<'a> PodLoad<'a> {
    /// Starts it, on a Kubernetes node of that name where one is given, and waits until every
    /// partition acknowledged a write.
    ///
    /// # Errors
    /// Where that does not come.
    pub fn start(cluster: &'a KvCluster<'a>, partitions: u32, host: Option<&str>) -> Result<Self> {
        let manifest = MANIFEST
            .replace("@CLUSTER@", &cluster.name)
            .replace("@PARTITIONS@", &partitions.to_string())
            .replace(
                "@HOST@",
                &host.map_or_else(String::new, |host| {
                    format!("kubernetes.io/hostname: {host}")
                }),
            );
        cluster.kubectl().apply(&manifest)?;
        let load = Self { cluster };
        load.cluster
            .explain(until("the load to run", PATIENCE, || {
                Ok(load.printed()?.contains("the load runs").then_some(()))
            }))?;
        Ok(load)
    }

    /// What happened since the mark before.
    ///
    /// # Errors
    /// Where the load does not answer, or a promise was broken.
    pub fn mark(&self, name: &str) -> Result<Told> {
        let file = format!("/tmp/mark-{name}");
        self.cluster.kubectl().exec(POD, &["touch", &file])?;
        let told = until("the load to tell", Duration::from_secs(60), || {
            Ok(Told::find(&self.printed()?, name))
        })?;
        println!("{told}");
        ensure!(told.broken.is_empty(), "{name}: {:#?}", told.broken);
        Ok(told)
    }

    /// Ends it and has everything read back.
    ///
    /// # Errors
    /// Where a promise was broken.
    pub fn verify(self) -> Result<Verdict> {
        self.cluster.kubectl().exec(POD, &["touch", "/tmp/stop"])?;
        let verdict = until("the load's verdict", PATIENCE, || {
            Ok(Verdict::find(&self.printed()?))
        });
        let verdict = self.cluster.explain(verdict)?;
        println!(
            "{} writes acknowledged, {} promises broken",
            verdict.acknowledged,
            verdict.broken.len()
        );
        ensure!(verdict.acknowledged > 0, "nothing was acknowledged");
        ensure!(verdict.broken.is_empty(), "{:#?}", verdict.broken);
        Ok(verdict)
    }

    fn printed(&self) -> Result<String> {
        self.cluster.kubectl().run(&["logs", POD])
    }
}
