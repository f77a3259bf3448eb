//! Whether NetworkPolicies let one pod reach another: what Kubernetes says that they mean,
//! as a function. Networks that tests run on often enforce none.
//!
//! It knows pods alone, not addresses: an `ipBlock` lets no pod in. It knows TCP ports by
//! number: a policy that names a port by its name lets nobody in by that.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A pod, as policies see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// The labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// Its own labels.
    pub labels: BTreeMap<String, String>,
}

/// Whether `from` may open a TCP connection to that port of `to`: what applies to either of
/// them has to allow it, and where nothing applies everything is allowed.
#[must_use]
pub fn who_may_reach(policies: &[NetworkPolicy], from: &Pod, to: &Pod, port: u16) -> bool {
    let applying = |pod: &Pod, direction: Direction| -> Vec<&NetworkPolicy> {
        let mut applying = policies.iter().collect::<Vec<_>>();
        applying.retain(|policy| applies(policy, pod, direction));
        applying
    };
    let into = applying(to, Direction::Ingress);
    let out = applying(from, Direction::Egress);
    let lets_in = into.iter().any(|policy| {
        let rules = spec(policy).and_then(|spec| spec.ingress.as_ref());
        rules.into_iter().flatten().any(|rule| {
            peers_match(policy, rule.from.as_deref(), from)
                && ports_match(rule.ports.as_deref(), port)
        })
    });
    let lets_out = out.iter().any(|policy| {
        let rules = spec(policy).and_then(|spec| spec.egress.as_ref());
        rules.into_iter().flatten().any(|rule| {
            peers_match(policy, rule.to.as_deref(), to) && ports_match(rule.ports.as_deref(), port)
        })
    });
    (into.is_empty() || lets_in) && (out.is_empty() || lets_out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

fn spec(policy: &NetworkPolicy) -> Option<&NetworkPolicySpec> {
    policy.spec.as_ref()
}

fn applies(policy: &NetworkPolicy, pod: &Pod, direction: Direction) -> bool {
    let Some(spec) = spec(policy) else {
        return false;
    };
    let governs = match (&spec.policy_types, direction) {
        (Some(types), Direction::Ingress) => types.iter().any(|one| one == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|one| one == "Egress"),
        (None, Direction::Ingress) => true,
        (None, Direction::Egress) => spec.egress.is_some(),
    };
    let here = policy.metadata.namespace.as_deref() == Some(pod.namespace.as_str());
    // No selector is the empty one, which selects every pod of the namespace.
    let selects = spec
        .pod_selector
        .as_ref()
        .is_none_or(|selector| selected(selector, &pod.labels));
    governs && here && selects
}

/// No peers are all of them.
fn peers_match(policy: &NetworkPolicy, peers: Option<&[NetworkPolicyPeer]>, pod: &Pod) -> bool {
    let peers = peers.unwrap_or_default();
    peers.is_empty()
        || peers.iter().any(|peer| {
            let NetworkPolicyPeer {
                ip_block,
                namespace_selector,
                pod_selector,
            } = peer;
            let in_namespace = match namespace_selector {
                Some(selector) => selected(selector, &pod.namespace_labels),
                None => policy.metadata.namespace.as_deref() == Some(pod.namespace.as_str()),
            };
            let is_one = pod_selector
                .as_ref()
                .is_none_or(|selector| selected(selector, &pod.labels));
            let names_pods = namespace_selector.is_some() || pod_selector.is_some();
            ip_block.is_none() && names_pods && in_namespace && is_one
        })
}

/// No ports are all of them.
fn ports_match(ports: Option<&[NetworkPolicyPort]>, port: u16) -> bool {
    let ports = ports.unwrap_or_default();
    ports.is_empty()
        || ports.iter().any(|one| {
            let is_tcp = one.protocol.as_deref().is_none_or(|name| name == "TCP");
            let matches = match (&one.port, one.end_port) {
                (None, _) => true,
                (Some(IntOrString::Int(first)), None) => *first == i32::from(port),
                (Some(IntOrString::Int(first)), Some(last)) => {
                    (*first..=last).contains(&i32::from(port))
                }
                (Some(IntOrString::String(_)), _) => false,
            };
            is_tcp && matches
        })
}

fn selected(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut exact = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    exact.all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|expression| {
            let value = labels.get(&expression.key);
            let values = expression.values.as_deref().unwrap_or_default();
            let among = value.is_some_and(|value| values.contains(value));
            match expression.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    fn pod(namespace: &str, pairs: &[(&str, &str)]) -> Pod {
        Pod {
            namespace: namespace.to_owned(),
            namespace_labels: labels(&[("kubernetes.io/metadata.name", namespace)]),
            labels: labels(pairs),
        }
    }

    fn policy(spec: &serde_json::Value) -> NetworkPolicy {
        let object = json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": spec });
        serde_json::from_value(object).expect("a policy")
    }

    #[test]
    fn what_no_policy_selects_is_open() {
        let (a, b) = (pod("a", &[("app", "x")]), pod("b", &[]));
        assert!(who_may_reach(&[], &a, &b, 1));
        let other = policy(&json!({ "podSelector": { "matchLabels": { "app": "y" } } }));
        assert!(who_may_reach(std::slice::from_ref(&other), &b, &a, 1));
        let elsewhere = policy(&json!({ "podSelector": {} }));
        assert!(who_may_reach(std::slice::from_ref(&elsewhere), &a, &b, 1));
        assert!(!who_may_reach(&[elsewhere], &b, &a, 1));
    }

    #[test]
    fn a_rule_names_peers_and_ports_and_rules_add_up() {
        let rules = policy(&json!({ "podSelector": {}, "ingress": [
            { "from": [{ "podSelector": { "matchLabels": { "role": "peer" } } }],
              "ports": [{ "port": 10 }, { "port": 20, "endPort": 22 }] },
            { "from": [{ "namespaceSelector": { "matchExpressions": [
                { "key": "kubernetes.io/metadata.name", "operator": "In", "values": ["b"] }] } }],
              "ports": [{ "port": 30, "protocol": "TCP" }, { "port": 31, "protocol": "UDP" }] },
        ]}));
        let to = pod("a", &[]);
        let reach = |from: &Pod, port| who_may_reach(std::slice::from_ref(&rules), from, &to, port);
        let peer = pod("a", &[("role", "peer")]);
        assert!(reach(&peer, 10) && reach(&peer, 21) && !reach(&peer, 23) && !reach(&peer, 30));
        let guest = pod("b", &[("role", "peer")]);
        assert!(!reach(&guest, 10) && reach(&guest, 30) && !reach(&guest, 31));
    }

    #[test]
    fn both_ends_have_a_say() {
        let out = policy(
            &json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [
                { "to": [{ "podSelector": { "matchExpressions": [
                    { "key": "app", "operator": "Exists" },
                    { "key": "app", "operator": "NotIn", "values": ["bad"] },
                    { "key": "old", "operator": "DoesNotExist" }] } }] },
            ]}),
        );
        let from = pod("a", &[]);
        let reach = |pairs: &[(&str, &str)]| {
            who_may_reach(std::slice::from_ref(&out), &from, &pod("a", pairs), 1)
        };
        assert!(reach(&[("app", "good")]));
        assert!(!reach(&[("app", "bad")]) && !reach(&[]));
        assert!(!reach(&[("app", "good"), ("old", "")]));
        assert!(!who_may_reach(
            &[out],
            &from,
            &pod("b", &[("app", "good")]),
            1
        ));
    }
}
