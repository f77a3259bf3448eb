//! The cluster that all tests of a process share: the one of `KUBECONFIG` where that is
//! given, else a lab of three nodes that ends with the process.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use cairn_kube_lab::lab::{self, Lab, Lifetime};
use cairn_kube_lab::{Layout, NotHere};
use cairn_process_tests::skip;

use crate::images;
use crate::kubectl::Kubectl;
use crate::program;

const NODES: u8 = 3;

/// One that tests can use.
#[derive(Debug)]
pub struct Cluster {
    /// Its `kubectl`.
    pub kubectl: Kubectl,
    /// The `helm` command.
    pub helm: PathBuf,
    /// The lab, where it is one.
    pub lab: Option<Lab>,
}

/// What came of the first test's try.
#[derive(Debug)]
enum Found {
    Cluster(Cluster),
    /// There can be none, and why.
    NotHere(String),
    Failed(String),
}

/// The cluster, or nothing where this test is skipped because there can be none.
///
/// # Errors
/// Where the lab does not start; and where there can be none, under CI.
pub fn cluster() -> Result<Option<&'static Cluster>> {
    static FOUND: OnceLock<Found> = OnceLock::new();
    let found = FOUND.get_or_init(|| match find() {
        Ok(cluster) => Found::Cluster(cluster),
        Err(error) => match error.downcast::<NotHere>() {
            Ok(reason) => Found::NotHere(reason.to_string()),
            Err(error) => Found::Failed(format!("{error:#}")),
        },
    });
    match found {
        Found::Cluster(cluster) => Ok(Some(cluster)),
        Found::NotHere(reason) => skip::without(reason).map(|()| None),
        Found::Failed(reason) => Err(anyhow!("{reason}")),
    }
}

/// The cluster and its lab, for a test that cuts power; nothing where it is skipped.
///
/// # Errors
/// As [`cluster`].
pub fn lab() -> Result<Option<(&'static Cluster, &'static Lab)>> {
    let Some(cluster) = cluster()? else {
        return Ok(None);
    };
    match &cluster.lab {
        Some(lab) => Ok(Some((cluster, lab))),
        None => {
            println!("skipped: the cluster of KUBECONFIG is no lab, whose nodes can lose power");
            Ok(None)
        }
    }
}

fn find() -> Result<Cluster> {
    if let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
        return Ok(Cluster {
            kubectl: Kubectl::new("kubectl".into(), kubeconfig.into()),
            helm: "helm".into(),
            lab: None,
        });
    }
    let programs = lab::build()?;
    let layout = Layout::new(&state()?, &programs, NODES)?;
    let tell = |line: &str| println!("lab: {line}");
    let lab = Lab::up(&program::kube_lab()?, &layout, Lifetime::Leased, tell)?;
    for archive in images::build()? {
        lab.load(&archive)?;
    }
    Ok(Cluster {
        kubectl: Kubectl::new(programs.join("kubectl"), lab.kubeconfig()),
        helm: programs.join("helm"),
        lab: Some(lab),
    })
}

/// Beside the lab that somebody may have brought up by hand.
fn state() -> Result<PathBuf> {
    Ok(Layout::usual_state()?.with_file_name("kube-lab-of-tests"))
}
