//! A Kubernetes namespace for one test.

use anyhow::{Context, Result};

use crate::kubectl::Kubectl;

/// One that is deleted with this. Its pods are held to the `restricted` standard.
#[derive(Debug)]
pub struct Namespace {
    /// `kubectl` within it.
    pub kubectl: Kubectl,
    cluster: Kubectl,
    name: String,
}

impl Namespace {
    /// A new one; `name` is the test's.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn new(cluster: &Kubectl, name: &str) -> Result<Self> {
        // On a cluster that is used again there may be one that is still being deleted.
        cluster.run(&[
            "delete",
            "namespace",
            name,
            "--ignore-not-found",
            "--timeout=180s",
        ])?;
        cluster.run(&["create", "namespace", name])?;
        let standard = "pod-security.kubernetes.io/enforce=restricted";
        cluster.run(&["label", "namespace", name, standard])?;
        Ok(Self {
            kubectl: cluster.within(name),
            cluster: cluster.clone(),
            name: name.to_owned(),
        })
    }

    /// Deletes it, and waits until nothing of it is left.
    ///
    /// # Errors
    /// Where that does not come.
    pub fn delete(&self) -> Result<()> {
        self.cluster
            .run(&["delete", "namespace", &self.name, "--timeout=180s"])?;
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What an error should show: the pods, and what happened last.
    ///
    /// # Errors
    /// Those of `done`, with that.
    pub fn explain<T>(&self, done: Result<T>) -> Result<T> {
        done.with_context(|| {
            let pods = self.kubectl.run(&["get", "pods", "-o", "wide"]);
            let sorted = "--sort-by=.metadata.creationTimestamp";
            let events = self.kubectl.run(&["get", "events", sorted]);
            let shown = |text: Result<String>| text.unwrap_or_else(|error| format!("{error:#}"));
            format!("in {}:\n{}\n{}", self.name, shown(pods), shown(events))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A test that panicked says more with its objects there.
        if !std::thread::panicking() {
            let _ = self.cluster.run(&[
                "delete",
                "namespace",
                &self.name,
                "--wait=false",
                "--ignore-not-found",
            ]);
        }
    }
}
