//! What the tests on Kubernetes share: the cluster that they run on, the images, `kubectl`,
//! the operator, and load from a pod.

pub mod cluster;
pub mod images;
pub mod kubectl;
pub mod kvcluster;
pub mod names;
pub mod namespace;
pub mod operator;
pub mod outside_load;
pub mod pod_load;
pub mod program;
pub mod told;
pub mod waiting;

pub use cluster::{Cluster, cluster, lab};
pub use kubectl::Kubectl;
pub use kvcluster::KvCluster;
pub use names::NamesKept;
pub use namespace::Namespace;
pub use operator::Operator;
pub use outside_load::{LetIn, OutsideLoad};
pub use pod_load::PodLoad;
