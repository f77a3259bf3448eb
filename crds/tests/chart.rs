//! What Helm makes of the chart: it lints, every object is one that Kubernetes knows in each
//! field, and it asks for no more rights than it says.
//!
//! Needs Helm: `ci/check-chart` finds one, and names it in `HELM`.

mod strict;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

/// Where the release is put.
const NAMESPACE: &str = "cairn-system";

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/cairn-operator")
}

/// Runs Helm; `None` where there is none.
fn helm(words: &[&str]) -> Option<Output> {
    let Some(helm) = std::env::var_os("HELM").filter(|helm| !helm.is_empty()) else {
        println!("skipped: the chart needs Helm, which ci/check-chart finds");
        return None;
    };
    let output = Command::new(&helm)
        .args(words)
        .current_dir(chart())
        .output();
    Some(output.unwrap_or_else(|error| panic!("run {}: {error}", helm.display())))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The sets of values that the chart is tried with.
fn sets() -> Vec<String> {
    let mut sets: Vec<String> = std::fs::read_dir(chart().join("ci"))
        .unwrap()
        .map(|entry| format!("ci/{}", entry.unwrap().file_name().display()))
        .collect();
    sets.sort();
    assert!(sets.len() > 3, "{sets:?}");
    sets
}

/// Renders the chart in that folder.
fn template(folder: &str, words: &[&str]) -> Option<Output> {
    // Without a version Helm believes in one of its own, which may be old.
    let mut all = vec!["template", "cairn", folder, "--kube-version", "1.34.0"];
    all.extend(["--namespace", NAMESPACE]);
    all.extend(words);
    helm(&all)
}

/// The objects that a set of values gives; `None` where there is no Helm.
fn rendered(set: &str) -> Option<Vec<Value>> {
    let output = template(".", &["--values", set])?;
    assert!(output.status.success(), "{set}: {}", text(&output.stderr));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text(&output.stdout)).unwrap();
    let objects: Vec<Value> = documents.into_iter().filter(|it| !it.is_null()).collect();
    assert!(!objects.is_empty(), "{set}: nothing");
    Some(objects)
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

fn of_kind<'a>(objects: &'a [Value], wanted: &str) -> Vec<&'a Value> {
    objects
        .iter()
        .filter(|object| kind(object) == wanted)
        .collect()
}

/// What is wrong with an object, field by field.
fn faults(object: &Value) -> Vec<String> {
    fn of<T: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) -> Vec<String> {
        strict::read::<T>(object).err().unwrap_or_default()
    }
    match kind(object) {
        "ClusterRole" => of::<ClusterRole>(object),
        "ClusterRoleBinding" => of::<ClusterRoleBinding>(object),
        "CustomResourceDefinition" => of::<CustomResourceDefinition>(object),
        "Deployment" => of::<Deployment>(object),
        "NetworkPolicy" => of::<NetworkPolicy>(object),
        "Pod" => of::<Pod>(object),
        "PodDisruptionBudget" => of::<PodDisruptionBudget>(object),
        "Role" => of::<Role>(object),
        "RoleBinding" => of::<RoleBinding>(object),
        "Service" => of::<Service>(object),
        "ServiceAccount" => of::<ServiceAccount>(object),
        // Definitions of others, of which no types are at hand.
        "ServiceMonitor" if object["spec"]["endpoints"].is_array() => Vec::new(),
        "PodMonitor" if object["spec"]["podMetricsEndpoints"].is_array() => Vec::new(),
        "PrometheusRule" if object["spec"]["groups"].is_array() => Vec::new(),
        other => vec![format!("an object of kind {other:?}")],
    }
}

#[test]
fn helm_finds_nothing_to_complain_of() {
    for set in sets() {
        let Some(output) = helm(&["lint", ".", "--strict", "--values", &set]) else {
            return;
        };
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{set}: {said}");
    }
}

#[test]
fn every_object_is_one_that_kubernetes_knows_in_each_field() {
    for set in sets() {
        let Some(objects) = rendered(&set) else {
            return;
        };
        for object in &objects {
            let name = format!("{set}: {} {}", kind(object), object["metadata"]["name"]);
            assert_eq!(faults(object), Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn the_definition_is_kept_when_the_release_goes() {
    let Some(objects) = rendered("ci/defaults-values.yaml") else {
        return;
    };
    let found = of_kind(&objects, "CustomResourceDefinition");
    let [definition] = found.as_slice() else {
        panic!("{found:?}")
    };
    let mut wanted = serde_json::to_value(cairn_crds::definition()).unwrap();
    wanted["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
    assert_eq!(**definition, wanted);

    let objects = rendered("ci/namespaced-values.yaml").unwrap();
    assert!(of_kind(&objects, "CustomResourceDefinition").is_empty());
    let objects = rendered("ci/full-values.yaml").unwrap();
    let found = of_kind(&objects, "CustomResourceDefinition");
    assert!(
        found[0]["metadata"]["annotations"].is_null(),
        "crds.keep is off"
    );
}

/// Whether a pod keeps the pod security standard `restricted`, and a read-only root besides.
fn assert_restricted(spec: &PodSpec) {
    let pod = spec.security_context.as_ref().unwrap();
    assert_eq!(pod.run_as_non_root, Some(true));
    assert_eq!(
        pod.seccomp_profile.as_ref().unwrap().type_,
        "RuntimeDefault"
    );
    assert_eq!(
        (spec.host_network, spec.host_pid, spec.host_ipc),
        (None, None, None)
    );
    assert!(spec.volumes.is_none());
    for container in &spec.containers {
        let context = container.security_context.as_ref().unwrap();
        assert_eq!(context.allow_privilege_escalation, Some(false));
        assert_eq!(context.read_only_root_filesystem, Some(true));
        let capabilities = context.capabilities.as_ref().unwrap();
        assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
        assert!(capabilities.add.is_none() && context.privileged.is_none());
    }
}

#[test]
fn every_pod_is_restricted() {
    for set in sets() {
        let Some(objects) = rendered(&set) else {
            return;
        };
        let mut seen = 0;
        for object in &objects {
            if kind(object) == "Pod" {
                let pod: Pod = strict::read(object).unwrap();
                assert_restricted(&pod.spec.unwrap());
                seen += 1;
            } else if kind(object) == "Deployment" {
                let deployment: Deployment = strict::read(object).unwrap();
                assert_restricted(&deployment.spec.unwrap().template.spec.unwrap());
                seen += 1;
            }
        }
        assert_eq!(seen, 2, "{set}");
    }
}

/// Every (resource, verb) of the rules of a role.
fn grants(role: &Value) -> BTreeSet<(String, String)> {
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().into_iter().flatten();
        words
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let mut grants = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                for verb in words(&rule["verbs"]) {
                    grants.insert((format!("{group}/{resource}"), verb));
                }
            }
        }
    }
    grants
}

#[test]
fn no_right_is_asked_for_that_is_not_named() {
    for set in sets() {
        let Some(objects) = rendered(&set) else {
            return;
        };
        for role in objects.iter().filter(|it| kind(it).ends_with("Role")) {
            for (resource, verb) in grants(role) {
                assert!(
                    !resource.contains('*') && verb != "*",
                    "{set}: {resource} {verb}"
                );
            }
        }
    }
}

#[test]
fn with_namespaces_named_there_is_no_right_in_any_other() {
    let Some(objects) = rendered("ci/namespaced-values.yaml") else {
        return;
    };
    assert!(of_kind(&objects, "ClusterRole").is_empty());
    assert!(of_kind(&objects, "ClusterRoleBinding").is_empty());
    let namespaces: Vec<&str> = of_kind(&objects, "RoleBinding")
        .iter()
        .map(|binding| binding["metadata"]["namespace"].as_str().unwrap())
        .collect();
    assert_eq!(namespaces, ["shop", "shop-staging"]);

    // Wherever the operator may act, it may do the same.
    let everywhere = rendered("ci/defaults-values.yaml").unwrap();
    let all = of_kind(&everywhere, "ClusterRole")
        .into_iter()
        .find(|role| role["metadata"]["name"] == json!("cairn-system:cairn-operator"))
        .unwrap();
    for role in of_kind(&objects, "Role") {
        assert_eq!(grants(role), grants(all));
    }
}

#[test]
fn nothing_is_bound_where_nobody_asks_for_it() {
    let Some(objects) = rendered("ci/bare-values.yaml") else {
        return;
    };
    let kinds: BTreeSet<&str> = objects.iter().map(kind).collect();
    assert_eq!(
        kinds,
        BTreeSet::from(["CustomResourceDefinition", "Deployment", "Pod"])
    );
}

/// The groups of rules in the file that the chart's are a copy of.
fn groups() -> Value {
    let file = chart().join("../../monitoring/alerts.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    serde_saphyr::from_str::<Value>(&text).unwrap()["groups"].take()
}

#[test]
fn the_alert_rules_are_those_of_the_file() {
    let Some(objects) = rendered("ci/namespaced-values.yaml") else {
        return;
    };
    let found = of_kind(&objects, "PrometheusRule");
    assert_eq!(found[0]["spec"]["groups"], groups());

    // One that nobody wants is left out, and the links lead where the runbooks are.
    let objects = rendered("ci/full-values.yaml").unwrap();
    let mut wanted = groups();
    for group in wanted.as_array_mut().unwrap() {
        let rules = group["rules"].as_array_mut().unwrap();
        rules.retain(|rule| rule["alert"] != "CairnClockSkew");
        for rule in rules {
            let name = rule["alert"].as_str().unwrap();
            let link = format!("https://example.com/runbooks/{name}.md");
            rule["annotations"]["runbook_url"] = link.into();
        }
    }
    let found = of_kind(&objects, "PrometheusRule");
    assert_eq!(found[0]["spec"]["groups"], wanted);
    assert_eq!(found[0]["metadata"]["labels"]["release"], "prometheus");

    let objects = rendered("ci/defaults-values.yaml").unwrap();
    for kind in ["PrometheusRule", "PodMonitor", "ServiceMonitor"] {
        assert!(of_kind(&objects, kind).is_empty(), "{kind}");
    }
}

#[test]
fn the_nodes_of_the_namespaces_that_are_looked_after_are_asked_for_metrics() {
    let Some(objects) = rendered("ci/namespaced-values.yaml") else {
        return;
    };
    let monitor = &of_kind(&objects, "PodMonitor")[0]["spec"];
    assert_eq!(
        monitor["namespaceSelector"],
        json!({"matchNames": ["shop", "shop-staging"]})
    );
    let objects = rendered("ci/full-values.yaml").unwrap();
    let monitor = &of_kind(&objects, "PodMonitor")[0]["spec"];
    assert_eq!(monitor["namespaceSelector"], json!({"any": true}));
    let endpoint = &monitor["podMetricsEndpoints"][0];
    assert_eq!(endpoint["scheme"], "https");
    let labels = endpoint["relabelings"].as_array().unwrap();
    assert!(labels.iter().any(|it| it["targetLabel"] == "cairn_cluster"));
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (set, why) in [
        ("replica=3", "replica"),
        ("replicas=0", "replicas"),
        ("replicas=true", "replicas"),
        ("watchNamespaces={Shop}", "watchNamespaces"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=latest", "digest"),
        ("leaderElection.enabled=false", "leaderElection"),
        (
            "metrics.serviceMonitor.enabled=true,metrics.service.enabled=false",
            "serviceMonitor",
        ),
        ("metrics.podMonitor.scheme=ftp", "scheme"),
        ("prometheusRules.runbooks=https://example.com", "runbooks"),
        ("prometheusRules.disabled={watchdog}", "disabled"),
    ] {
        let Some(output) = template(".", &["--set", set]) else {
            return;
        };
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains(why),
            "{set}: {said}"
        );
    }
}

/// Helm shows notes once it has installed something, for which it wants a cluster: here they
/// are rendered as an object's data, in a copy of the chart.
fn notes(words: &[&str]) -> Option<String> {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(chart())
        .arg(copy.path())
        .status();
    assert!(copied.unwrap().success());
    let folder = copy.path().join("cairn-operator");
    let notes = std::fs::read_to_string(folder.join("templates/NOTES.txt")).unwrap();
    let wrapped = format!(
        "{{{{ define \"notes\" }}}}{notes}{{{{ end }}}}\n\
         kind: Notes\ntext: {{{{ include \"notes\" . | toJson }}}}\n"
    );
    std::fs::write(folder.join("templates/notes.yaml"), wrapped).unwrap();
    let mut all = vec!["--show-only", "templates/notes.yaml"];
    all.extend(words);
    let output = template(folder.to_str().unwrap(), &all)?;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let object: Value = serde_saphyr::from_str(&text(&output.stdout)).unwrap();
    Some(object["text"].as_str().unwrap().to_owned())
}

#[test]
fn the_notes_tell_what_to_do_next() {
    let Some(said) = notes(&[]) else { return };
    for next in [
        "kubectl apply -f -",
        "kubectl wait kvc/demo",
        "kubectl exec demo-data-0",
    ] {
        assert!(said.contains(next), "{next} is missing: {said}");
    }
    let said = notes(&["--values", "ci/namespaced-values.yaml"]).unwrap();
    assert!(said.contains("kubectl apply -n shop -f -"), "{said}");

    // What is to be applied is a cluster.
    let (_, rest) = said.split_once("echo '").unwrap();
    let (manifest, _) = rest.split_once("' |").unwrap();
    let manifest: Value = serde_saphyr::from_str(manifest).unwrap();
    strict::read::<cairn_crds::KvCluster>(&manifest).unwrap();
}
