//! What the tests on Kubernetes share: the cluster that they run on, the images, and
//! `kubectl`.

pub mod cluster;
pub mod images;
pub mod kubectl;
pub mod namespace;
pub mod program;

pub use cluster::{Cluster, cluster, lab};
pub use kubectl::Kubectl;
pub use namespace::Namespace;
