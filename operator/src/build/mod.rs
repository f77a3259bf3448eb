//! The objects of Kubernetes, made purely from a cluster and a plan: a file for each kind.
