//! The operator, installed as people do: by Helm, from the chart in this checkout.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::images;
use crate::kubectl::{Kubectl, said};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/cairn-operator");
/// The namespace of the operator.
pub const NAMESPACE: &str = "cairn-system";
/// The name of the release, and of what it makes.
pub const RELEASE: &str = "cairn";
/// What the chart calls its Deployment.
pub const DEPLOYMENT: &str = "deployment/cairn-operator";

/// One that is installed.
#[derive(Debug)]
pub struct Operator {
    helm: PathBuf,
    cluster: Kubectl,
    /// `kubectl` in its namespace.
    pub kubectl: Kubectl,
}

impl Operator {
    /// Installs it, or brings one that is there to these settings, and waits until it is ready.
    ///
    /// # Errors
    /// Where Helm fails, with what it said.
    pub fn install(cluster: &Cluster, settings: &[&str]) -> Result<Self> {
        let operator = Self {
            helm: cluster.helm.clone(),
            cluster: cluster.kubectl.clone(),
            kubectl: cluster.kubectl.within(NAMESPACE),
        };
        let tag = format!("image.tag={}", images::TAG);
        let mut arguments = vec![
            "upgrade",
            "--install",
            RELEASE,
            CHART,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout=180s",
            "--set",
            &tag,
        ];
        for setting in settings {
            arguments.extend(["--set", *setting]);
        }
        operator.helm(&arguments).with_context(|| {
            let kubectl = &operator.kubectl;
            let shown = |words: &[&str]| {
                kubectl
                    .run(words)
                    .unwrap_or_else(|error| format!("{error:#}"))
            };
            format!(
                "{}\n{}",
                shown(&["get", "pods", "-o", "wide"]),
                shown(&["logs", DEPLOYMENT, "--tail=50"])
            )
        })?;
        Ok(operator)
    }

    /// Uninstalls it. The definition and the clusters stay.
    ///
    /// # Errors
    /// Where Helm fails.
    pub fn uninstall(&self) -> Result<()> {
        self.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"])?;
        Ok(())
    }

    /// The chart's own tests.
    ///
    /// # Errors
    /// Where one fails.
    pub fn test(&self) -> Result<String> {
        self.helm(&["test", RELEASE, "--namespace", NAMESPACE, "--timeout=120s"])
    }

    /// What it logged last.
    #[must_use]
    pub fn log(&self) -> String {
        let words = ["logs", DEPLOYMENT, "--tail=60", "--all-pods=true"];
        self.kubectl
            .run(&words)
            .unwrap_or_else(|error| format!("{error:#}"))
    }

    fn helm(&self, arguments: &[&str]) -> Result<String> {
        let done = Command::new(&self.helm)
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig())
            .args(arguments)
            .output()
            .with_context(|| format!("run {}", self.helm.display()))?;
        ensure!(
            done.status.success(),
            "helm {}: {}",
            arguments.join(" "),
            said(&done)
        );
        Ok(said(&done))
    }
}
