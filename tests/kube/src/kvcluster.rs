//! A `KvCluster` in a namespace of a test, seen as a person sees it.

use std::io::BufReader;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::namespace::Namespace;
use crate::operator::Operator;

/// How long a pod that is no node may take to start.
pub const START: Duration = Duration::from_secs(120);
/// How long a change may take on a machine under load.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// One that was applied.
#[derive(Debug)]
pub struct KvCluster<'a> {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub space: &'a Namespace,
    operator: &'a Operator,
}

impl<'a> KvCluster<'a> {
    /// The one of that name there, made already or not.
    #[must_use]
    pub fn new(space: &'a Namespace, operator: &'a Operator, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            space,
            operator,
        }
    }

    /// `kubectl` where it is.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.space.kubectl
    }

    /// The whole object.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn get(&self) -> Result<Value> {
        let words = ["get", "kvc", &self.name, "-o", "json"];
        Ok(serde_json::from_str(&self.kubectl().run(&words)?)?)
    }

    /// Changes its spec by a merge patch.
    ///
    /// # Errors
    /// Where the API server refuses.
    pub fn patch(&self, spec: &str) -> Result<()> {
        let patch = format!("{{\"spec\":{spec}}}");
        self.kubectl().run(&[
            "patch",
            "kvc",
            &self.name,
            "--type=merge",
            "--patch",
            &patch,
        ])?;
        Ok(())
    }

    /// Asks for another number of data nodes, as an autoscaler does.
    ///
    /// # Errors
    /// Where the API server refuses.
    pub fn scale(&self, data_nodes: usize) -> Result<()> {
        let resource = format!("kvc/{}", self.name);
        let replicas = format!("--replicas={data_nodes}");
        self.kubectl().run(&["scale", &resource, &replicas])?;
        Ok(())
    }

    /// The name of a pod.
    #[must_use]
    pub fn pod(&self, role: &str, number: usize) -> String {
        format!("{}-{role}-{number}", self.name)
    }

    /// Waits until its status answers the manifest as it is, and `look` finds something there.
    ///
    /// # Errors
    /// Where that does not come, with pods, events, status and the operator's log.
    pub fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&Status) -> Result<Option<T>>,
    ) -> Result<T> {
        let found = self.first(what, &mut look);
        self.explain(found)
    }

    /// The first state in which `look` finds something, of all that it goes through from now.
    fn first<T>(
        &self,
        what: &str,
        look: &mut impl FnMut(&Status) -> Result<Option<T>>,
    ) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        let mut last = "nothing was seen of it".to_owned();
        while Instant::now() < until {
            // The API server ends a watch after a while.
            let mut watch = Watch::begin(self.kubectl(), &self.name)?;
            while let Some(status) = watch.next(until) {
                if !status.is_current() {
                    "the status is of an earlier manifest".clone_into(&mut last);
                    continue;
                }
                match look(&status) {
                    Ok(Some(found)) => return Ok(found),
                    Ok(None) => last = status.shown(),
                    Err(error) => last = format!("{error:#}"),
                }
            }
        }
        bail!("waited {PATIENCE:?} for {what}; last: {last}")
    }

    /// Waits until it is as the manifest says: every data node there and serving, nothing to
    /// move, every copy where it belongs.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn settled(&self) -> Result<Status> {
        self.until("the cluster to be as its manifest says", |status| {
            let settled = status.is_settled();
            ensure!(settled, "{}", status.shown());
            Ok(Some(status.clone()))
        })
    }

    /// Adds to an error what a person would look at.
    ///
    /// # Errors
    /// Those of `done`, with that.
    pub fn explain<T>(&self, done: Result<T>) -> Result<T> {
        let done = done.with_context(|| {
            let status = self.get().map(|object| object["status"].to_string());
            format!(
                "{}: {}\nthe operator: {}",
                self.name,
                status.unwrap_or_else(|error| format!("{error:#}")),
                self.operator.log()
            )
        });
        self.space.explain(done)
    }
}

/// How long a watch may tell nothing before another one is begun.
const QUIET: Duration = Duration::from_secs(20);

/// A `kubectl` that tells of every state of an object.
struct Watch {
    kubectl: Child,
    states: Receiver<Value>,
}

impl Watch {
    fn begin(kubectl: &Kubectl, name: &str) -> Result<Self> {
        let words = ["get", "kvc", name, "--watch", "-o", "json"];
        let mut kubectl = kubectl.spawn(&words)?;
        let output = BufReader::new(kubectl.stdout.take().context("its output")?);
        let (sender, states) = channel();
        thread::spawn(move || {
            for state in serde_json::Deserializer::from_reader(output).into_iter() {
                // What is cut off is the end of it.
                let Ok(state) = state else { break };
                if sender.send(state).is_err() {
                    break;
                }
            }
        });
        Ok(Self { kubectl, states })
    }

    /// The next state; nothing where the watch ended, or the time, or where it has told nothing
    /// for a while: what a watch missed, a new one begins with.
    fn next(&mut self, until: Instant) -> Option<Status> {
        let left = until.saturating_duration_since(Instant::now());
        self.states.recv_timeout(left.min(QUIET)).ok().map(Status)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// A `KvCluster` object as it was read.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    fn is_current(&self) -> bool {
        let generation = &self.0["metadata"]["generation"];
        let observed = &self.0["status"]["observedGeneration"];
        generation.is_i64() && generation == observed
    }

    /// The phase.
    #[must_use]
    pub fn phase(&self) -> &str {
        self.0["status"]["phase"].as_str().unwrap_or_default()
    }

    /// The status of a condition: `True`, `False`, `Unknown`.
    #[must_use]
    pub fn condition(&self, kind: &str) -> &str {
        let conditions = self.0["status"]["conditions"].as_array();
        let found = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == kind);
        found
            .and_then(|condition| condition["status"].as_str())
            .unwrap_or_default()
    }

    /// The entry of a node.
    #[must_use]
    pub fn node(&self, pod: &str) -> Option<&Value> {
        let nodes = self.0["status"]["nodes"].as_array()?;
        nodes.iter().find(|node| node["name"] == pod)
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let status = &self.0["status"];
        let asked = &self.0["spec"]["data"]["replicas"];
        self.phase() == "Running"
            && self.condition("Ready") == "True"
            && self.condition("Progressing") == "False"
            && self.condition("Degraded") == "False"
            && self.condition("Rebalancing") == "False"
            && &status["data"]["replicas"] == asked
            && status["readyNodes"] == format!("{asked}/{asked}")
    }

    /// The condition types that matter, in a line.
    #[must_use]
    pub fn shown(&self) -> String {
        let status = &self.0["status"];
        let conditions: Vec<String> = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| format!("{}={} ({})", one["type"], one["status"], one["reason"]))
            .collect();
        format!(
            "{} {} {}: {}",
            status["phase"],
            status["readyNodes"],
            conditions.join(" "),
            status["message"]
        )
    }
}
