//! What is refused when a manifest is applied: rules in CEL, evaluated by the API server.
//!
//! Each says what to do. The operator looks at the same things again (a schema can be older
//! than the operator), see its `validate`. `W` stands for the write quorum in force: the given
//! one, or what the nodes would take.

use kube::core::{Rule, validate};
use schemars::Schema;

/// The write quorum of a spec, defaulted as the nodes do.
macro_rules! write_quorum {
    () => {
        "(has(self.writeQuorum) ? self.writeQuorum : \
         (has(self.consistency) && self.consistency == 'eventual' ? 1 : self.replicationFactor / 2 + 1))"
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
            "coordinators.replicas must be 1, 3 or 5: with an even number one more may not fail, \
         and there is one more that can",
            ".replicas",
        )],
    );
}

/// Puts the rules into the schema of a role's storage.
pub(crate) fn on_storage(schema: &mut Schema) {
    put(schema, of_storage());
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
            "minInSync must not be larger than the write quorum",
            ".minInSync",
        ),
        rule(
            "!has(self.readQuorum) || self.readQuorum <= self.replicationFactor",
            "readQuorum must not be larger than replicationFactor",
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
             readQuorum out, or set consistency to eventual",
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
    ]
}

/// Rules over the storage of a role.
fn of_storage() -> Vec<Rule> {
    vec![
        Rule::new("!quantity(string(self.size)).isLessThan(quantity(string(oldSelf.size)))").message(
            "storage.size can only grow: a volume cannot shrink. Leave it, or move to smaller \
             volumes by adding nodes and removing the others",
        ),
        Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && \
                   (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
            .message(
                "storage.storageClassName is fixed: a volume cannot change its class. Make another \
                 cluster and copy the data",
            ),
        Rule::new("quantity(string(self.size)).compareTo(quantity('1Gi')) >= 0")
            .message("storage.size must be 1Gi at least: the write-ahead log and the store need room"),
    ]
}
