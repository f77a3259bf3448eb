//! Tests of the objects as a whole. `UPDATE_EXPECT=1 cargo test -p cairn-operator` writes the
//! files in `testdata` anew; whoever does it restarts every node of every cluster, if a
//! template is among what changed.

use std::collections::{BTreeMap, BTreeSet};

use cairn_crds::KvCluster;
use expect_test::expect_file;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::reach::{Pod, who_may_reach};
use super::*;
use crate::names::ANNOTATION_SETTINGS;
use crate::plan::{Outside, Places, Replicas};
use crate::users;
use crate::validate::{Defaults, validate};

const SMALL: &str = include_str!("testdata/small.manifest.yaml");
const FULL: &str = include_str!("testdata/full.manifest.yaml");

/// What an operator of that version starts with.
fn operator(version: &str) -> Defaults {
    Defaults {
        version: version.to_owned(),
        repository: "cairn/node".to_owned(),
    }
}

fn manifest(yaml: &str, change: impl FnOnce(&mut Value)) -> KvCluster {
    let mut value: Value = serde_saphyr::from_str(yaml).expect("YAML");
    change(&mut value);
    serde_json::from_value(value).expect("a manifest")
}

fn cluster(yaml: &str, change: impl FnOnce(&mut Value)) -> Cluster {
    validate(&manifest(yaml, change), &operator("0.1.0")).expect("it holds together")
}

fn planned(coordinators: u32, data: u32) -> Plan {
    Plan {
        replicas: Replicas { coordinators, data },
        ..Plan::default()
    }
}

/// A plan that changes nothing.
fn settled(cluster: &Cluster) -> Plan {
    Plan {
        places: Places {
            zones: BTreeMap::from([("worker-1".to_owned(), "eu-1a".to_owned())]),
            weights: BTreeMap::from([("orders-data-0".to_owned(), 100)]),
            outside: BTreeMap::new(),
        },
        outside: Outside {
            services: (0..2).collect(),
            ..Outside::default()
        },
        ..planned(
            u32::from(cluster.spec.coordinators.replicas),
            cluster.spec.data.replicas,
        )
    }
}

fn data(keys: &[&str]) -> SecretData {
    let pairs = keys.iter().map(|key| ((*key).to_owned(), b"?".to_vec()));
    pairs.collect()
}

fn material(cluster: &Cluster) -> Material {
    let has_users = cluster.spec.users.is_some();
    Material {
        authority: Some(data(&["tls.crt", "tls.key"])),
        certificate: Some(data(&["ca.crt", "tls.crt", "tls.key"])),
        users: has_users.then(|| data(&[users::FILE, users::TOKEN])),
    }
}

fn all(cluster: &Cluster) -> Vec<Object> {
    objects(cluster, &settled(cluster), &material(cluster))
}

fn template(cluster: &Cluster, role: Role) -> PodTemplateSpec {
    pod::template(cluster, role)
}

fn yaml(objects: &[Object]) -> String {
    let documents = objects.iter().map(|object| {
        let value = object.to_json().expect("JSON");
        serde_saphyr::to_string(&value).expect("YAML")
    });
    documents.map(|text| format!("---\n{text}")).collect()
}

#[test]
fn the_objects_of_a_small_manifest_are_these() {
    expect_file!["testdata/small.objects.yaml"].assert_eq(&yaml(&all(&cluster(SMALL, |_| ()))));
}

#[test]
fn the_objects_of_a_full_manifest_are_these() {
    expect_file!["testdata/full.objects.yaml"].assert_eq(&yaml(&all(&cluster(FULL, |_| ()))));
}

#[test]
fn a_newer_operator_restarts_nobody() {
    let made =
        |m: &mut Value| m["status"] = json!({ "version": "0.1.0", "image": "cairn/node:0.1.0" });
    for text in [SMALL, FULL] {
        let old = validate(&manifest(text, |_| ()), &operator("0.1.0")).expect("taken");
        let new = validate(&manifest(text, made), &operator("9.0.0")).expect("taken");
        for role in Role::ALL {
            let bytes = |cluster| serde_json::to_vec(&template(cluster, role)).expect("JSON");
            assert_eq!(bytes(&old), bytes(&new), "{role}");
        }
    }
    // It would, if the version were the operator's.
    let forgotten = validate(&manifest(SMALL, |_| ()), &operator("9.0.0")).expect("taken");
    let small = cluster(SMALL, |_| ());
    for role in Role::ALL {
        assert_ne!(template(&forgotten, role), template(&small, role));
    }
}

/// Changes of a manifest, and which roles are restarted for them.
const CHANGES: &[(&str, &str, &[Role])] = &[
    ("/replicationFactor", "4", &[]),
    ("/writeQuorum", "4", &[]),
    ("/minInSync", "3", &[]),
    ("/consistency", "\"eventual\"", &[]),
    ("/readLevel", "\"primary\"", &[]),
    ("/readQuorum", "4", &[]),
    ("/partitions", "128", &[]),
    ("/virtualNodes", "64", &[]),
    ("/counters", "[{\"prefix\":\"views:\",\"stripes\":8}]", &[]),
    ("/timings/leaseMs", "600", &[]),
    ("/timings/nodeTimeoutMs", "3000", &[]),
    ("/timings/replaceAfterMs", "1000", &[]),
    ("/timings/movesPerNode", "3", &[]),
    ("/limits/idempotenceWindow", "2048", &[]),
    ("/coordinators/replicas", "3", &[]),
    ("/coordinators/storage/size", "\"8Gi\"", &[]),
    ("/data/replicas", "7", &[]),
    ("/data/storage/size", "\"300Gi\"", &[]),
    ("/users/secretName", "\"folks\"", &[]),
    ("/users/key", "\"users.toml\"", &[]),
    ("/service/labels", "{}", &[]),
    ("/service/annotations", "{}", &[]),
    ("/outside", "{\"type\":\"NodePort\"}", &[]),
    ("/outside/sourceRanges", "[]", &[]),
    ("/outside/annotations", "{}", &[]),
    ("/outside", "null", &[Role::Data]),
    ("/tls/renew", "{\"authority\":1,\"certificate\":2}", &[]),
    ("/tls/overlapSeconds", "7", &[]),
    ("/tls/issuerRef", "{\"name\":\"company\"}", &[]),
    ("/volumes", "{}", &[]),
    (
        "/maintenance",
        "{\"paused\":true,\"drain\":[\"orders-data-1\"]}",
        &[],
    ),
    ("/version", "\"0.3.0\"", &[]),
    ("/image", "\"cairn/node:0.3.0\"", &Role::ALL),
    ("/imagePullPolicy", "\"Never\"", &Role::ALL),
    ("/imagePullSecrets", "[]", &Role::ALL),
    ("/logLevel", "\"info\"", &Role::ALL),
    ("/timings/drainTimeoutMs", "20000", &Role::ALL),
    ("/tls/clients", "false", &Role::ALL),
    ("/tls/secretName", "\"own\"", &Role::ALL),
    ("/users", "null", &Role::ALL),
    ("/coordinators/resources", "null", &[Role::Coordinator]),
    ("/coordinators/scheduling", "{}", &[Role::Coordinator]),
    ("/coordinators/pod", "{}", &[Role::Coordinator]),
    ("/data/resources", "null", &[Role::Data]),
    ("/data/scheduling", "{}", &[Role::Data]),
    ("/data/pod", "{}", &[Role::Data]),
    ("/limits/maxConnections", "10", &[Role::Data]),
    ("/limits/maxValueBytes", "\"2Mi\"", &[Role::Data]),
    (
        "/limits/snapshotSendBytesPerSecond",
        "\"60M\"",
        &[Role::Data],
    ),
    (
        "/limits/snapshotReceiveBytesPerSecond",
        "\"60M\"",
        &[Role::Data],
    ),
    ("/limits/valueCacheBytes", "null", &[Role::Data]),
    ("/limits/storeCacheBytes", "\"1Gi\"", &[Role::Data]),
    ("/limits/diskReserveBytes", "\"3Gi\"", &[Role::Data]),
    ("/traces", "null", &[Role::Data]),
    ("/traces/collector", "\"[::1]:4317\"", &[Role::Data]),
    ("/traces/writesPerMillion", "null", &[Role::Data]),
];

#[test]
fn only_what_a_running_node_cannot_take_up_restarts_it() {
    let before = cluster(FULL, |_| ());
    for (field, value, restarted) in CHANGES {
        let after = cluster(FULL, |m| set(m, field, value));
        assert_ne!(before.spec, after.spec, "{field} is no change");
        for role in Role::ALL {
            let changed = template(&before, role) != template(&after, role);
            assert_eq!(changed, restarted.contains(&role), "{field} and {role}");
        }
    }
}

#[test]
fn every_field_of_a_manifest_is_known_to_restart_or_not() {
    let known: BTreeSet<&str> = CHANGES.iter().map(|(field, ..)| *field).collect();
    let definition = serde_json::to_value(cairn_crds::definition()).expect("JSON");
    let spec =
        &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut unknown = Vec::new();
    for (name, schema) in spec["properties"].as_object().expect("fields") {
        let field = format!("/{name}");
        let inner = schema["properties"].as_object();
        for (inner, schema) in inner.into_iter().flatten() {
            let one = format!("{field}/{inner}");
            let deeper = known
                .iter()
                .any(|known| known.starts_with(&format!("{one}/")));
            if !known.contains(one.as_str()) && !deeper && !known.contains(field.as_str()) {
                unknown.push((one, schema["type"].clone()));
            }
        }
        if inner.is_none() && !known.contains(field.as_str()) {
            unknown.push((field, schema["type"].clone()));
        }
    }
    assert!(
        unknown.is_empty(),
        "say in CHANGES who is restarted: {unknown:?}"
    );
}

/// Sets a field of the spec by its JSON pointer.
fn set(manifest: &mut Value, field: &str, value: &str) {
    let value: Value = serde_json::from_str(value).expect("JSON");
    let (parent, name) = field.rsplit_once('/').expect("a pointer");
    let parent = manifest["spec"].pointer_mut(parent).expect("a field");
    parent[name] = value;
}

#[test]
fn a_template_does_not_follow_the_plan() {
    let cluster = cluster(FULL, |_| ());
    let of = |plan: &Plan| -> Vec<Value> {
        let sets = Role::ALL.map(|role| stateful_set::stateful_set(&cluster, plan, role));
        let specs = sets.map(|set| set.spec.expect("a spec").template);
        specs.map(|template| json!(template)).to_vec()
    };
    assert_eq!(of(&settled(&cluster)), of(&planned(1, 200)));
}

#[test]
fn a_hash_stands_for_settings_of_a_start() {
    let hash = |cluster: &Cluster, role| {
        let metadata = template(cluster, role).metadata.expect("metadata");
        metadata.annotations.expect("annotations")[ANNOTATION_SETTINGS].clone()
    };
    let before = cluster(FULL, |_| ());
    let louder = cluster(FULL, |m| m["spec"]["logLevel"] = json!("trace"));
    let roomier = cluster(FULL, |m| {
        m["spec"]["limits"]["maxValueBytes"] = json!("4Mi")
    });
    // The same amount, written otherwise.
    let same = cluster(FULL, |m| {
        m["spec"]["limits"]["maxValueBytes"] = json!("1024Ki")
    });
    for role in Role::ALL {
        assert_ne!(hash(&before, role), hash(&louder, role));
        assert_eq!(hash(&before, role), hash(&same, role));
        let differs = hash(&before, role) != hash(&roomier, role);
        assert_eq!(differs, role == Role::Data);
    }
}

fn settings(cluster: &Cluster, plan: &Plan, role: Role) -> BTreeMap<String, String> {
    let map = settings::config_map(cluster, plan, role);
    map.data.expect("data")
}

#[test]
fn coordinators_that_are_asked_for_or_still_there_are_listed() {
    for (wanted, there, listed) in [
        (1, 1, 1),
        // Growing: the newcomers find the group by the list.
        (3, 1, 3),
        (3, 3, 3),
        (5, 3, 5),
        // Shrinking: as long as one is there, nobody may make a group without it.
        (3, 5, 5),
        (3, 4, 5),
        (1, 3, 3),
        (1, 2, 3),
        (1, 0, 1),
    ] {
        let cluster = cluster(FULL, |m| {
            m["spec"]["coordinators"]["replicas"] = json!(wanted)
        });
        for role in Role::ALL {
            let settings = settings(&cluster, &planned(there, 6), role);
            let names: Vec<&str> = settings["CAIRN_COORDINATORS"].split(',').collect();
            assert_eq!(names.len(), listed, "{wanted} of {there}: {names:?}");
        }
    }
    let cluster = cluster(FULL, |_| ());
    let settings = settings(&cluster, &settled(&cluster), Role::Data);
    let first = settings["CAIRN_COORDINATORS"].split(',').next();
    assert_eq!(
        first,
        Some("orders-coordinator-0=orders-coordinator-0.orders-coordinator.shop.svc:7401")
    );
}

#[test]
fn what_a_manifest_does_not_say_is_left_to_the_nodes() {
    let cluster = cluster(SMALL, |_| ());
    let names = |role| {
        let settings = settings(&cluster, &settled(&cluster), role);
        settings.into_keys().collect::<Vec<String>>()
    };
    assert_eq!(names(Role::Data), ["CAIRN_COORDINATORS", "CAIRN_LOG"]);
    assert_eq!(
        names(Role::Coordinator),
        [
            "CAIRN_COORDINATORS",
            "CAIRN_LOG",
            "CAIRN_MANAGED_BY",
            "CAIRN_PARTITIONS",
            "CAIRN_REPLICATION_FACTOR",
            "CAIRN_VIRTUAL_NODES",
        ]
    );
}

#[test]
fn data_nodes_alone_are_told_of_the_collector() {
    let told = |traces: Value, role| {
        let cluster = cluster(SMALL, |m| m["spec"]["traces"] = traces);
        let mut settings = settings(&cluster, &settled(&cluster), role);
        settings.retain(|name, _| name.starts_with("CAIRN_TRACE_"));
        settings.into_iter().collect::<Vec<(String, String)>>()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let collector = pair("CAIRN_TRACE_COLLECTOR", "collector:4317");
    let asked_for = json!({"collector": "collector:4317"});
    assert_eq!(
        told(asked_for, Role::Data),
        std::slice::from_ref(&collector)
    );
    for writes in [0, 100] {
        let drawn = json!({"collector": "collector:4317", "writesPerMillion": writes});
        let share = pair("CAIRN_TRACE_PER_MILLION", &writes.to_string());
        assert_eq!(told(drawn.clone(), Role::Data), [collector.clone(), share]);
        assert!(told(drawn, Role::Coordinator).is_empty());
    }
    assert!(told(Value::Null, Role::Data).is_empty());
}

#[test]
fn nodes_know_every_setting() {
    // A node takes one that it does not know for a slip of the pen, and goes on without.
    let table = include_str!("../../../docs/settings.md");
    let cluster = cluster(FULL, |_| ());
    for role in Role::ALL {
        let spec = template(&cluster, role).spec.expect("a spec");
        let variables = spec.containers[0].env.clone().expect("variables");
        let variables = variables.into_iter().map(|variable| variable.name);
        let mapped = settings(&cluster, &settled(&cluster), role).into_keys();
        let all: Vec<String> = variables.chain(mapped).collect();
        let distinct: BTreeSet<&String> = all.iter().collect();
        assert_eq!(
            distinct.len(),
            all.len(),
            "one would hide the other: {all:?}"
        );
        for name in all.iter().filter(|name| *name != "POD_IP") {
            let is_known = table.contains(&format!("| `{name}` | both |"))
                || table.contains(&format!("| `{name}` | {role} |"));
            assert!(is_known, "{name} of a {role}");
        }
    }
}

#[test]
fn whatever_a_pod_needs_comes_before_it() {
    for text in [SMALL, FULL] {
        let cluster = cluster(text, |_| ());
        let mut before = BTreeSet::new();
        let mut pods = 0;
        for object in all(&cluster) {
            if let Object::StatefulSet(set) = &object {
                let spec = set.spec.clone().expect("a spec");
                for needed in needs(&spec.template, &spec.service_name.expect("a Service")) {
                    assert!(before.contains(&needed), "{needed:?}");
                }
                pods += 1;
            }
            before.insert((object.resource().kind, object.name().to_owned()));
        }
        assert_eq!(pods, 2);
    }
}

#[test]
fn pods_start_together_and_nobody_but_the_planner_restarts_them() {
    let cluster = cluster(FULL, |_| ());
    for role in Role::ALL {
        let set = stateful_set::stateful_set(&cluster, &settled(&cluster), role);
        let spec = set.spec.expect("a spec");
        assert_eq!(spec.pod_management_policy.as_deref(), Some("Parallel"));
        let strategy = spec.update_strategy.expect("a strategy");
        assert_eq!(strategy.type_.as_deref(), Some("OnDelete"));
        // Which volume is empty knows the planner alone, too.
        let claims = spec.persistent_volume_claim_retention_policy;
        let when_scaled = claims.expect("a policy").when_scaled;
        assert_eq!(when_scaled.as_deref(), Some("Retain"));
    }
}

/// Kinds and names of what pods of a template refer to.
fn needs(template: &PodTemplateSpec, service: &str) -> Vec<(String, String)> {
    let spec = template.spec.as_ref().expect("a spec");
    let mut needs = vec![("Service", service.to_owned())];
    needs.extend(
        spec.service_account_name
            .clone()
            .map(|name| ("ServiceAccount", name)),
    );
    for source in spec.containers[0].env_from.iter().flatten() {
        let map = source.config_map_ref.as_ref().map(|map| map.name.clone());
        needs.extend(map.map(|name| ("ConfigMap", name)));
    }
    for volume in spec.volumes.iter().flatten() {
        let secret = volume
            .secret
            .as_ref()
            .and_then(|secret| secret.secret_name.clone());
        needs.extend(secret.map(|name| ("Secret", name)));
        let map = volume.config_map.as_ref().map(|map| map.name.clone());
        needs.extend(map.map(|name| ("ConfigMap", name)));
    }
    needs
        .into_iter()
        .map(|(kind, name)| (kind.to_owned(), name))
        .collect()
}

#[test]
fn every_object_is_the_manifests() {
    let cluster = cluster(FULL, |_| ());
    for object in all(&cluster) {
        let metadata = object.metadata();
        assert_eq!(metadata.namespace.as_deref(), Some("shop"), "{object:?}");
        let owners = metadata.owner_references.as_deref();
        assert_eq!(
            owners,
            Some(std::slice::from_ref(&cluster.owner)),
            "{object:?}"
        );
        let labels = metadata.labels.as_ref().expect("labels");
        for (key, value) in cluster.names.selector() {
            assert_eq!(labels.get(&key), Some(&value), "{object:?}");
        }
        // One would hold up the deletion of its namespace where no operator is left.
        assert_eq!(metadata.finalizers, None, "{object:?}");
    }
}

#[test]
fn pods_keep_the_restricted_standard() {
    for role in Role::ALL {
        let spec = template(&cluster(FULL, |_| ()), role).spec.expect("a spec");
        let pod = spec.security_context.expect("a context");
        assert_eq!(pod.run_as_non_root, Some(true));
        assert_eq!(
            pod.seccomp_profile.expect("a profile").type_,
            "RuntimeDefault"
        );
        assert_eq!(spec.automount_service_account_token, Some(false));
        for container in spec.containers {
            let context = container.security_context.expect("a context");
            assert_eq!(context.allow_privilege_escalation, Some(false));
            assert_eq!(context.read_only_root_filesystem, Some(true));
            let dropped = context.capabilities.expect("capabilities").drop;
            assert_eq!(dropped, Some(vec!["ALL".to_owned()]));
        }
        for volume in spec.volumes.expect("volumes") {
            assert!(volume.host_path.is_none() && volume.empty_dir.is_none());
        }
    }
}

#[test]
fn a_nodes_time_to_stop_ends_before_kubernetes_patience() {
    for (ms, seconds) in [(1_000, 11), (20_000, 30), (45_500, 56), (600_000, 610)] {
        let cluster = cluster(FULL, |m| m["spec"]["timings"]["drainTimeoutMs"] = json!(ms));
        let spec = template(&cluster, Role::Data).spec.expect("a spec");
        // The node ends itself five seconds after its own.
        assert!(ms + 5_000 < seconds * 1_000);
        assert_eq!(spec.termination_grace_period_seconds, Some(seconds));
    }
}

#[test]
fn probes_speak_what_the_port_speaks() {
    for (clients, scheme, ports) in [(true, "HTTPS", "all"), (false, "HTTP", "peer")] {
        let cluster = cluster(FULL, |m| m["spec"]["tls"]["clients"] = json!(clients));
        for role in Role::ALL {
            let spec = template(&cluster, role).spec.expect("a spec");
            let container = &spec.containers[0];
            let probes = [
                &container.startup_probe,
                &container.liveness_probe,
                &container.readiness_probe,
            ];
            for probe in probes {
                let get = probe.as_ref().and_then(|probe| probe.http_get.as_ref());
                assert_eq!(get.expect("HTTP").scheme.as_deref(), Some(scheme));
            }
            let variables = container.env.as_ref().expect("variables");
            let value = |name: &str| {
                let found = variables.iter().find(|variable| variable.name == name);
                found.and_then(|variable| variable.value.clone())
            };
            assert_eq!(value("CAIRN_TLS_PORTS").as_deref(), Some(ports));
            let by_name = value("CAIRN_RESP_ENDPOINT_TYPE").is_some();
            assert_eq!(by_name, clients && role == Role::Data);
        }
    }
}

#[test]
fn a_liveness_probe_is_patient_and_asks_for_life_alone() {
    let spec = template(&cluster(SMALL, |_| ()), Role::Data)
        .spec
        .expect("a spec");
    let probe = spec.containers[0].liveness_probe.clone().expect("a probe");
    let get = probe.http_get.expect("HTTP");
    assert_eq!(get.path.as_deref(), Some("/livez"));
    let patience = probe.period_seconds.unwrap_or(10) * probe.failure_threshold.unwrap_or(3);
    assert!(patience >= 120, "{patience} s");
}

#[test]
fn the_operators_token_is_in_no_pod_and_in_no_log() {
    let cluster = cluster(FULL, |_| ());
    for role in Role::ALL {
        let spec = template(&cluster, role).spec.expect("a spec");
        for volume in spec.volumes.expect("volumes") {
            let Some(secret) = volume.secret else {
                continue;
            };
            assert_ne!(secret.secret_name, Some(cluster.names.authority()));
            let items = secret
                .items
                .expect("items, for a whole Secret would be mounted else");
            assert!(items.iter().all(|item| item.key != users::TOKEN));
        }
    }
    let secret = Material {
        users: Some(BTreeMap::from([("token".to_owned(), b"s3cret".to_vec())])),
        ..Material::default()
    };
    let objects = objects(&cluster, &settled(&cluster), &secret);
    let said = format!("{secret:?} {objects:?}");
    assert!(!said.contains("s3cret") && !said.contains("115"), "{said}");
    assert!(said.contains("Secret orders-users"), "{said}");
}

#[test]
fn a_budget_is_for_more_than_one_pod() {
    let cluster = cluster(SMALL, |_| ());
    let budgets = |plan: &Plan| -> Vec<String> {
        let all = objects(&cluster, plan, &Material::default());
        let budgets = all
            .iter()
            .filter(|object| matches!(object, Object::PodDisruptionBudget(_)));
        budgets.map(|budget| budget.name().to_owned()).collect()
    };
    assert_eq!(
        budgets(&planned(3, 3)),
        ["orders-coordinator", "orders-data"]
    );
    assert_eq!(budgets(&planned(1, 2)), ["orders-data"]);
    assert!(budgets(&planned(1, 1)).is_empty());
    let gone = Unwanted::DisruptionBudget("orders-coordinator".to_owned());
    assert!(unwanted(&cluster, &planned(1, 2)).contains(&gone));
    assert!(!unwanted(&cluster, &planned(3, 3)).contains(&gone));
}

fn policies(cluster: &Cluster) -> Vec<NetworkPolicy> {
    let roles = Role::ALL.into_iter();
    roles
        .map(|role| network_policy::network_policy(cluster, role))
        .collect()
}

fn pod(namespace: &str, labels: BTreeMap<String, String>) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        labels,
        ..Pod::default()
    }
}

#[test]
fn the_port_between_nodes_is_for_nodes_of_the_cluster() {
    let cluster = cluster(SMALL, |_| ());
    let other = cluster_called("invoices");
    let policies: Vec<NetworkPolicy> = policies(&cluster)
        .into_iter()
        .chain(policies(&other))
        .collect();
    let node = |cluster: &Cluster, namespace: &str, role| {
        // With the labels that its template gives it.
        let metadata = template(cluster, role).metadata.expect("metadata");
        pod(namespace, metadata.labels.expect("labels"))
    };
    let stranger = pod("shop", BTreeMap::new());
    let operator = pod("cairn-system", BTreeMap::new());
    for to in Role::ALL {
        let target = node(&cluster, "shop", to);
        let reach = |from: &Pod, port| who_may_reach(&policies, from, &target, port);
        for from in Role::ALL {
            assert!(reach(&node(&cluster, "shop", from), 7401));
            assert!(
                !reach(&node(&other, "shop", from), 7401),
                "another cluster's"
            );
            assert!(
                !reach(&node(&cluster, "elsewhere", from), 7401),
                "a namesake's"
            );
        }
        for from in [&stranger, &operator] {
            assert!(!reach(from, 7401));
            assert!(reach(from, 7400) && reach(from, 7402));
            assert_eq!(reach(from, 6379), to == Role::Data);
            assert!(!reach(from, 22));
        }
    }
}

fn cluster_called(name: &str) -> Cluster {
    cluster(SMALL, |m| m["metadata"]["name"] = json!(name))
}

#[test]
fn a_data_node_has_a_service_of_its_own_for_clients_outside() {
    let cluster = cluster(SMALL, |m| {
        m["spec"]["outside"] = json!({"type": "NodePort"})
    });
    let mut plan = planned(1, 2);
    plan.outside.services = [0, 2].into();
    plan.outside.unwanted = vec!["orders-data-7-outside".to_owned()];
    let services = |cluster: &Cluster| -> BTreeMap<String, Value> {
        let all = objects(cluster, &plan, &Material::default()).into_iter();
        all.filter_map(|object| match object {
            Object::Service(service) => {
                let name = service.metadata.name.clone().expect("a name");
                Some((name, json!(service)))
            }
            _ => None,
        })
        .filter(|(name, _)| name.ends_with("-outside"))
        .collect()
    };
    let made = services(&cluster);
    let names: Vec<&String> = made.keys().collect();
    assert_eq!(names, ["orders-data-0-outside", "orders-data-2-outside"]);
    let second = &made["orders-data-2-outside"];
    assert_eq!(second["spec"]["type"], "NodePort");
    let selected = &second["spec"]["selector"]["statefulset.kubernetes.io/pod-name"];
    assert_eq!(selected, "orders-data-2");
    assert_eq!(second["metadata"]["labels"]["cairn.dev/outside"], "true");
    // One that is about to stop hands over first, and goes on to be found meanwhile.
    assert_eq!(second["spec"]["publishNotReadyAddresses"], true);
    let ports = second["spec"]["ports"].as_array().expect("ports");
    let pairs: Vec<(&Value, &Value)> = ports
        .iter()
        .map(|port| (&port["port"], &port["targetPort"]))
        .collect();
    assert_eq!(
        pairs,
        [
            (&json!(6379), &json!("redis-outside")),
            (&json!(7400), &json!("grpc-outside")),
        ]
    );
    let gone = Unwanted::Service("orders-data-7-outside".to_owned());
    assert!(unwanted(&cluster, &plan).contains(&gone));
    // The pods' ports have the names to which these lead, and nothing is in their way.
    let spec = template(&cluster, Role::Data).spec.expect("a spec");
    let ports = spec.containers[0].ports.clone().expect("ports");
    let named: Vec<String> = ports.into_iter().filter_map(|port| port.name).collect();
    assert!(named.contains(&"redis-outside".to_owned()), "{named:?}");
    assert!(named.contains(&"grpc-outside".to_owned()), "{named:?}");
    let stranger = pod("elsewhere", BTreeMap::new());
    let reaches = |cluster: &Cluster, role, port| {
        let metadata = template(cluster, role).metadata.expect("metadata");
        let target = pod("shop", metadata.labels.expect("labels"));
        who_may_reach(&policies(cluster), &stranger, &target, port)
    };
    for port in [6380, 7403] {
        assert!(reaches(&cluster, Role::Data, port));
        assert!(!reaches(&cluster, Role::Coordinator, port));
    }
    let inside = super::tests::cluster(SMALL, |_| ());
    assert!(services(&inside).is_empty());
    assert!(!reaches(&inside, Role::Data, 6380));
}
