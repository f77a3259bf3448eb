//! What is refused when a manifest is applied: rules in CEL, evaluated by the API server.
//!
//! Each says what to do. The operator looks at the same things again (a schema can be older
//! than the operator), see its `validate`. The write quorum in force is the given one, or what
//! the nodes would take; so is the read level.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, ValidationRule,
};
use kube::core::{Rule, validate};
use schemars::Schema;

use crate::CLUSTER_NAME_BYTES_MAX;

/// The write quorum of a spec, defaulted as the nodes do.
macro_rules! write_quorum {
    () => {
        "(has(self.writeQuorum) ? self.writeQuorum : \
         (has(self.consistency) && self.consistency == 'eventual' ? 1 : self.replicationFactor / 2 + 1))"
    };
}

/// The read level of a spec, defaulted as the nodes do.
macro_rules! read_level {
    ($spec:literal) => {
        concat!(
            "(has(",
            $spec,
            ".readLevel) ? ",
            $spec,
            ".readLevel : (has(",
            $spec,
            ".consistency) && ",
            $spec,
            ".consistency == 'eventual' ? 'any' : 'primary'))"
        )
    };
}

/// An optional field that may not change, come or go.
macro_rules! fixed {
    ($field:literal) => {
        concat!(
            "has(self.",
            $field,
            ") == has(oldSelf.",
            $field,
            ") && (!has(self.",
            $field,
            ") || self.",
            $field,
            " == oldSelf.",
            $field,
            ")"
        )
    };
}

fn rule(rule: &str, message: &str, field: &str) -> Rule {
    Rule::new(rule).message(message).field_path(field)
}

/// Puts rules into a schema.
fn put(schema: &mut Schema, rules: Vec<Rule>) {
    for rule in rules {
        // A rule is plain text.
        if let Err(error) = validate(schema, rule) {
            unreachable!("a rule is not text: {error}");
        }
    }
}

/// Puts the rule on the name into the schema of the whole resource, where alone it can be seen.
pub(crate) fn on_root(root: &mut JSONSchemaProps) {
    root.x_kubernetes_validations = Some(vec![ValidationRule {
        rule: format!(
            "self.metadata.name.size() <= {CLUSTER_NAME_BYTES_MAX} && \
             self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
        ),
        message: Some(format!(
            "metadata.name must be {CLUSTER_NAME_BYTES_MAX} characters at most, of a-z, 0-9 and '-', \
             begin with a letter, and not end with '-': Services and pods are named after it"
        )),
        ..ValidationRule::default()
    }]);
}

/// Puts the rules into the schema of a spec.
pub(crate) fn on_spec(schema: &mut Schema) {
    put(schema, of_spec());
}

/// Puts the rules into the schema of the coordinators.
pub(crate) fn on_coordinators(schema: &mut Schema) {
    put(
        schema,
        vec![rule(
            "self.replicas % 2 == 1",
            "coordinators.replicas must be 1, 3 or 5: with an even number no more of them may fail \
             than with one fewer",
            ".replicas",
        )],
    );
}

/// Puts the rules into the schema of a role's storage.
pub(crate) fn on_storage(schema: &mut Schema) {
    put(schema, of_storage());
}

/// Puts the rules into the schema of TLS.
pub(crate) fn on_tls(schema: &mut Schema) {
    put(
        schema,
        vec![rule(
            "!has(self.secretName) || !has(self.issuerRef)",
            "tls.secretName and tls.issuerRef exclude each other: certificates come from one \
             place. Leave one of them out",
            ".issuerRef",
        )],
    );
}

/// Puts the rules into the schema of renewals.
pub(crate) fn on_renewals(schema: &mut Schema) {
    put(
        schema,
        vec![rule(
            "self.authority >= oldSelf.authority && self.certificate >= oldSelf.certificate",
            "the numbers of tls.renew only grow: each stands for one renewal. Raise one to have \
             another",
            ".authority",
        )],
    );
}

/// Puts the rules into the schema of the way from outside.
pub(crate) fn on_outside(schema: &mut Schema) {
    put(
        schema,
        vec![
            rule(
                "!has(self.nodeAddress) || self.type == 'NodePort'",
                "outside.nodeAddress is for the type NodePort: a load balancer has an address of \
                 its own. Leave it out",
                ".nodeAddress",
            ),
            rule(
                "!has(self.sourceRanges) || self.type == 'LoadBalancer'",
                "outside.sourceRanges is for the type LoadBalancer: nothing stands before a port of \
                 a Kubernetes node. Leave it out, and restrict who reaches these in your network",
                ".sourceRanges",
            ),
        ],
    );
}

/// Puts the rules into the schema of traces.
pub(crate) fn on_traces(schema: &mut Schema) {
    put(
        schema,
        vec![rule(
            r"self.collector.matches('^(\\[[0-9A-Fa-f:.]+\\]|[0-9A-Za-z._-]+):[1-9][0-9]{0,4}$')",
            "traces.collector must be a host and a port like collector.observability:4317: nodes \
             speak OTLP over gRPC to it, without TLS. Leave out http:// and paths",
            ".collector",
        )],
    );
}

/// Rules over the whole spec.
fn of_spec() -> Vec<Rule> {
    vec![
        rule(
            "self.replicationFactor <= self.data.replicas",
            "replicationFactor must not be larger than data.replicas: every copy of a partition \
             needs a data node of its own. Raise data.replicas first, or lower replicationFactor",
            ".replicationFactor",
        ),
        rule(
            "!has(self.writeQuorum) || self.writeQuorum <= self.replicationFactor",
            "writeQuorum must not be larger than replicationFactor: a write cannot be flushed on \
             more copies than there are",
            ".writeQuorum",
        ),
        rule(
            concat!(
                "!has(self.minInSync) || self.minInSync <= ",
                write_quorum!()
            ),
            "minInSync must not be larger than the write quorum: writeQuorum, or a majority of \
             replicationFactor where it is left out, or 1 where consistency is eventual",
            ".minInSync",
        ),
        rule(
            "!has(self.readQuorum) || self.readQuorum <= self.replicationFactor",
            "readQuorum must not be larger than replicationFactor: no more copies can be asked than \
             there are",
            ".readQuorum",
        ),
        rule(
            concat!(
                "!has(self.consistency) || self.consistency != 'strong' || ",
                write_quorum!(),
                " > self.replicationFactor / 2"
            ),
            "consistency strong needs a writeQuorum of a majority of replicationFactor. Leave \
             writeQuorum out, or set consistency to eventual",
            ".writeQuorum",
        ),
        rule(
            concat!(
                "!has(self.readQuorum) || (has(self.consistency) && self.consistency == 'eventual') || \
                 self.readQuorum + ",
                write_quorum!(),
                " > self.replicationFactor"
            ),
            "readQuorum and writeQuorum must overlap: together more than replicationFactor. Leave \
             readQuorum out when the cluster is made, raise writeQuorum, or set consistency to \
             eventual",
            ".readQuorum",
        ),
        rule(
            "self.partitions == oldSelf.partitions",
            "partitions is fixed when the cluster is made: keys would belong to other partitions. \
             Make another cluster and copy the data",
            ".partitions",
        ),
        rule(
            "self.virtualNodes == oldSelf.virtualNodes",
            "virtualNodes is fixed when the cluster is made. Make another cluster and copy the data",
            ".virtualNodes",
        ),
        rule(
            concat!(read_level!("self"), " == ", read_level!("oldSelf")),
            "readLevel is fixed when the cluster is made, also where consistency supplies it. To \
             change consistency, write down the readLevel that there was: any under eventual, else \
             primary. A client may name another level with each read",
            ".readLevel",
        ),
        rule(
            fixed!("readQuorum"),
            "readQuorum is fixed when the cluster is made. Leave it as it was",
            ".readQuorum",
        ),
    ]
}

/// Rules over the storage of a role.
fn of_storage() -> Vec<Rule> {
    vec![
        rule(
            "!quantity(string(self.size)).isLessThan(quantity(string(oldSelf.size)))",
            "storage.size can only grow: a volume cannot shrink. Leave it, or move to smaller \
             volumes by making another cluster and copying the data",
            ".size",
        ),
        rule(
            fixed!("storageClassName"),
            "storage.storageClassName is fixed: a volume cannot change its class. Make another \
             cluster and copy the data",
            ".storageClassName",
        ),
        rule(
            "!quantity(string(self.size)).isLessThan(quantity('1Gi'))",
            "storage.size must be 1Gi at least: the write-ahead log and the store need room",
            ".size",
        ),
    ]
}
