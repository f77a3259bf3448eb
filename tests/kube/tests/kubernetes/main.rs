//! Tests on a real Kubernetes. They share one cluster, each in a namespace of its own, and
//! run one at a time.

mod edits;
mod examples;
mod images;
mod killed_operator;
mod lab;
mod leftovers;
mod namespaced;
mod secured;
mod story;
