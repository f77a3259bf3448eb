//! Files that are made from the types. `UPDATE_EXPECT=1` writes them anew.

use expect_test::expect_file;

use super::documentation::reference;

#[test]
fn the_definition_and_the_charts_copy_are_those_of_the_types() {
    let manifest = crate::manifest();
    expect_file!["../../kvcluster.yaml"].assert_eq(&manifest);
    expect_file!["../../../charts/cairn-operator/files/kvcluster.yaml"].assert_eq(&manifest);
}

#[test]
fn the_definition_reads_back_as_it_is() {
    let manifest = crate::manifest();
    let back: serde_json::Value = serde_saphyr::from_str(&manifest).unwrap();
    assert_eq!(back, serde_json::to_value(crate::definition()).unwrap());
    // The chart puts it through a template engine, to which this would be a command.
    assert!(!manifest.contains("{{"));
}

#[test]
fn the_reference_is_that_of_the_schema() {
    expect_file!["../../../docs/kvcluster.md"].assert_eq(&reference());
}
