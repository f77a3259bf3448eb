//! The ConfigMap with zones, weights and addresses for clients outside, in the form that nodes read: a node looks at its
//! file again while it runs, so that none is part of a template.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::cluster::Cluster;
use crate::names::Role;
use crate::plan::{OutsideAddress, Places};

/// The file's name.
pub(super) const FILE: &str = "places.toml";

pub(super) fn config_map(cluster: &Cluster, places: &Places) -> ConfigMap {
    ConfigMap {
        metadata: metadata::of(cluster, cluster.names.places(), Some(Role::Data)),
        data: Some(BTreeMap::from([(FILE.to_owned(), file(places))])),
        ..ConfigMap::default()
    }
}

fn file(places: &Places) -> String {
    let Places {
        zones,
        weights,
        outside,
    } = places;
    let zones = zones.iter().map(|(host, zone)| (host, quoted(zone)));
    let mut file = format!(
        "[zones]\n{}\n[weights]\n{}",
        lines(zones),
        lines(weights.iter())
    );
    for (node, OutsideAddress { redis, grpc }) in outside {
        let (node, redis, grpc) = (quoted(node), quoted(redis), quoted(grpc));
        let _ = write!(
            file,
            "\n[outside.{node}]\nresp = {redis}\nclient = {grpc}\n"
        );
    }
    file
}

fn lines<'a, V: Display>(entries: impl Iterator<Item = (&'a String, V)>) -> String {
    entries.fold(String::new(), |mut text, (key, value)| {
        let _ = writeln!(text, "{} = {value}", quoted(key));
        text
    })
}

/// As a basic string of TOML, of which JSON's strings are a part but for one character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_read_the_file_back() {
        let zones = [
            ("worker-1", "eu-1a"),
            ("worker-2", ""),
            ("a \"b\"\\\u{7f}\n", "é\t"),
        ];
        let places = Places {
            zones: zones.map(|(h, z)| (h.to_owned(), z.to_owned())).into(),
            weights: BTreeMap::from([("orders-data-0".to_owned(), 100)]),
            outside: BTreeMap::from([(
                "orders-data-0".to_owned(),
                OutsideAddress {
                    redis: "192.0.2.1:30001".to_owned(),
                    grpc: "[2001:db8::1]:30002".to_owned(),
                },
            )]),
        };
        let text = file(&places);
        let table: toml::Table = toml::from_str(&text).expect(&text);
        for (host, zone) in zones {
            assert_eq!(table["zones"][host].as_str(), Some(zone), "{text}");
        }
        assert_eq!(table["weights"]["orders-data-0"].as_integer(), Some(100));
        let outside = &table["outside"]["orders-data-0"];
        assert_eq!(outside["resp"].as_str(), Some("192.0.2.1:30001"));
        assert_eq!(outside["client"].as_str(), Some("[2001:db8::1]:30002"));
        let empty: toml::Table = toml::from_str(&file(&Places::default())).expect("TOML");
        assert_eq!(empty.len(), 2);
    }
}
