//! The examples are what their reader takes them for: each field is one that there is, and no
//! rule refuses them.

use std::path::Path;

use serde_json::Value;

use super::rules::refusals;
use super::strict;
use crate::KvCluster;

#[test]
fn every_example_is_read_whole_and_taken() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let given: Value = serde_saphyr::from_str(&text).unwrap();
        if let Err(found) = strict::read::<KvCluster>(&given) {
            panic!("{name}: {found:?}");
        }
        assert_eq!(refusals(&given, None), Vec::<String>::new(), "{name}");
        seen.push(name);
    }
    seen.sort();
    let expected = [
        "eventual-rf2",
        "five-nodes-over-zones",
        "smallest",
        "strong-rf3",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_misspelt_field_would_be_noticed() {
    let given = serde_json::json!({
        "apiVersion": "cairn.dev/v1alpha1", "kind": "KvCluster", "metadata": {"name": "a"},
        "spec": {"data": {"replicas": 1, "storage": {"size": "1Gi"}, "replica": 2}},
    });
    let found = strict::read::<KvCluster>(&given).unwrap_err();
    assert_eq!(found, [".spec.data.replica is no field"]);
}
