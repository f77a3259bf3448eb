//! A real Kubernetes cluster on one Linux machine: etcd, the API server, the controller
//! manager and the scheduler, and nodes that each run their own containerd, kubelet and
//! kube-proxy.
//!
//! The kernel owns all of it. The lab is a process in a PID, mount and network namespace of
//! its own, each node one inside it: when the lab's first process ends, however it ends, the
//! kernel kills the rest and takes the mounts, interfaces and firewall rules away; when a
//! node's first process is killed, all that the node runs is gone at once, as by a power cut.
//! The machine's own network is not touched. What a kill leaves are the state folder and
//! empty cgroups, which the next `up` or `down` removes.
//!
//! | process | lives in | does |
//! | --- | --- | --- |
//! | [`keeper`] | the machine's namespaces | holds the lock, starts the control plane, passes connections to the API server on, cleans up |
//! | [`control_plane`] | the lab's | etcd and the rest, the bridge, powers nodes on and off |
//! | [`node`] | a node's, inside the lab's | containerd, kubelet, kube-proxy |
//!
//! It does not enforce NetworkPolicy, and what was written but not flushed before a power cut
//! is still in the machine's page cache.

pub mod cgroups;
pub mod component;
pub mod control;
pub mod control_plane;
pub mod forward;
pub mod keeper;
pub mod lab;
pub mod layout;
pub mod namespaces;
pub mod node;
pub mod process;
pub mod template;
pub mod volumes;

pub use lab::{Lab, NotHere};
pub use layout::Layout;
