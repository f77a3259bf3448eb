//! Settings as a person would get them wrong, and the table held to the code.

use cairn_core::record::OutsideAddresses;

use super::process::{read_coordinator, read_data};
use super::reader::Reader;
use super::*;
use crate::agent::PlaceSettings;

fn values(pairs: &[(&str, &str)]) -> Values {
    Values::from_variables(
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

const COORDINATOR: &[(&str, &str)] = &[
    ("CAIRN_ROLE", "coordinator"),
    ("CAIRN_NAME", "coordinator-1"),
    (
        "CAIRN_COORDINATORS",
        "coordinator-1=a:7401,coordinator-2=b:7401,coordinator-3=c:7401",
    ),
];

const DATA: &[(&str, &str)] = &[
    ("CAIRN_ROLE", "data"),
    ("CAIRN_NAME", "data-1"),
    ("CAIRN_COORDINATORS", "coordinator-1=a:7401"),
];

fn with(base: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]) -> Values {
    let mut all = base.to_vec();
    all.extend_from_slice(more);
    values(&all)
}

fn problems(values: &Values) -> Vec<String> {
    match read(values) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.into_iter().map(|p| p.setting).collect(),
    }
}

#[test]
fn defaults_are_enough() {
    let Ok(NodeSettings::Coordinator(coordinator)) = read(&values(COORDINATOR)) else {
        panic!("a coordinator with three variables is valid");
    };
    assert_eq!(coordinator.cluster.replication_factor, 3);
    assert_eq!(coordinator.cluster.write_quorum, 2);
    assert_eq!(coordinator.cluster.min_in_sync, 2);
    assert_eq!(coordinator.cluster.partitions, 128);
    assert_eq!(coordinator.process.coordinators.len(), 3);

    let Ok(NodeSettings::Data(data)) = read(&values(DATA)) else {
        panic!("a data node with three variables is valid");
    };
    assert_eq!(data.resp_listen.port(), 6379);
    let nowhere = PlaceSettings {
        outside: Some(OutsideAddresses::default()),
        ..PlaceSettings::default()
    };
    assert_eq!((data.place, data.outside_listen), (nowhere, None));
    assert!(data.process.advertised.peer.ends_with(":7401"));
}

#[test]
fn addresses_are_derived_from_what_is_listened_on() {
    let Ok(NodeSettings::Data(data)) = read(&with(
        DATA,
        &[
            ("CAIRN_RESP_LISTEN", "127.0.0.1:6400"),
            ("CAIRN_PEER_LISTEN", "0.0.0.0:9000"),
            ("CAIRN_ADVERTISE_HOST", "data-1.cairn"),
            ("CAIRN_HTTP_ADVERTISE", "elsewhere:80"),
        ],
    )) else {
        panic!("valid");
    };
    assert_eq!(data.process.advertised.resp, "data-1.cairn:6400");
    assert_eq!(data.process.advertised.peer, "data-1.cairn:9000");
    assert_eq!(data.process.advertised.http, "elsewhere:80");

    let Ok(NodeSettings::Data(data)) =
        read(&with(DATA, &[("CAIRN_RESP_LISTEN", "127.0.0.1:6400")]))
    else {
        panic!("valid");
    };
    assert_eq!(data.process.advertised.resp, "127.0.0.1:6400");
}

#[test]
fn every_problem_is_listed_at_once_with_reason_and_remedy() {
    let values = with(
        DATA,
        &[
            ("CAIRN_NAME", "data 1"),
            ("CAIRN_WEIGHT", "0"),
            ("CAIRN_RESP_LISTEN", "localhost:6379"),
            ("CAIRN_DISK_RESERVE_BYTES", "much"),
            ("CAIRN_LOG_FORMAT", "xml"),
            ("CAIRN_TLS_CERT_FILE", "/tls/cert.pem"),
            ("CAIRN_TLS_PORTS", "clients"),
            ("CAIRN_ZONE", "zone a"),
            ("CAIRN_DATA_DIR", "here"),
        ],
    );
    let found = problems(&values);
    for name in [
        "CAIRN_NAME",
        "CAIRN_WEIGHT",
        "CAIRN_RESP_LISTEN",
        "CAIRN_DISK_RESERVE_BYTES",
        "CAIRN_LOG_FORMAT",
        "CAIRN_TLS_KEY_FILE",
        "CAIRN_TLS_CA_FILE",
        "CAIRN_TLS_PORTS",
        "CAIRN_ZONE",
        "CAIRN_DATA_DIR",
    ] {
        assert!(
            found.iter().any(|f| f == name),
            "{name} is not in {found:?}"
        );
    }
    let text = read(&values).expect_err("invalid").to_string();
    assert!(text.contains("nothing was opened"), "{text}");
    assert!(text.contains("CAIRN_WEIGHT=0: "), "{text}");
    assert!(text.contains("Give one from 1 to 10000."), "{text}");
}

#[test]
fn an_even_number_of_coordinators_is_refused() {
    let values = with(
        COORDINATOR,
        &[("CAIRN_COORDINATORS", "coordinator-1=a:1,coordinator-2=b:1")],
    );
    assert_eq!(problems(&values), ["CAIRN_COORDINATORS"]);
}

#[test]
fn a_coordinator_that_is_not_listed_is_refused() {
    assert_eq!(
        problems(&with(COORDINATOR, &[("CAIRN_NAME", "other")])),
        ["CAIRN_COORDINATORS"]
    );
}

#[test]
fn what_cannot_keep_its_promise_is_refused() {
    for (more, expected) in [
        (
            &[("CAIRN_REPLICATION_FACTOR", "8")][..],
            "CAIRN_REPLICATION_FACTOR",
        ),
        (
            &[
                ("CAIRN_REPLICATION_FACTOR", "3"),
                ("CAIRN_WRITE_QUORUM", "4"),
            ],
            "CAIRN_WRITE_QUORUM",
        ),
        (
            &[("CAIRN_CONSISTENCY", "strong"), ("CAIRN_WRITE_QUORUM", "1")],
            "CAIRN_WRITE_QUORUM",
        ),
        (&[("CAIRN_CONSISTENCY", "lax")], "CAIRN_CONSISTENCY"),
        (&[("CAIRN_READ_LEVEL", "all")], "CAIRN_READ_LEVEL"),
        (&[("CAIRN_READ_QUORUM", "1")], "CAIRN_READ_QUORUM"),
        (&[("CAIRN_PARTITIONS", "0")], "CAIRN_PARTITIONS"),
        (
            &[("CAIRN_INITIAL_DATA_NODES", "2")],
            "CAIRN_INITIAL_DATA_NODES",
        ),
    ] {
        let found = problems(&with(COORDINATOR, more));
        assert!(found.iter().any(|f| f == expected), "{more:?}: {found:?}");
    }
}

#[test]
fn limits_that_do_not_fit_together_are_refused() {
    for (more, expected) in [
        (
            &[("CAIRN_MAX_COMMAND_BYTES", "16MiB")][..],
            "CAIRN_MAX_COMMAND_BYTES",
        ),
        (
            &[("CAIRN_INPUT_ROOM_BYTES", "63MiB")],
            "CAIRN_INPUT_ROOM_BYTES",
        ),
        (&[("CAIRN_MAX_KEY_BYTES", "65KiB")], "CAIRN_MAX_KEY_BYTES"),
        (&[("CAIRN_MAX_ARGUMENTS", "1")], "CAIRN_MAX_ARGUMENTS"),
        (&[("CAIRN_ADVERTISE_IP", "0.0.0.0")], "CAIRN_ADVERTISE_IP"),
        (&[("CAIRN_ADVERTISE_IP", "data-1")], "CAIRN_ADVERTISE_IP"),
        (&[("CAIRN_RESP_HOSTNAME", "a:1")], "CAIRN_RESP_HOSTNAME"),
        (
            &[("CAIRN_RESP_ENDPOINT_TYPE", "hostname")],
            "CAIRN_RESP_ENDPOINT_TYPE",
        ),
        (
            &[("CAIRN_RESP_ENDPOINT_TYPE", "name")],
            "CAIRN_RESP_ENDPOINT_TYPE",
        ),
    ] {
        let found = problems(&with(DATA, more));
        assert_eq!(found, [expected], "{more:?}");
    }
    let Ok(NodeSettings::Data(data)) = read(&with(
        DATA,
        &[
            ("CAIRN_MAX_VALUE_BYTES", "1MiB"),
            ("CAIRN_MAX_COMMAND_BYTES", "2MiB"),
            ("CAIRN_INPUT_ROOM_BYTES", "48MiB"),
            ("CAIRN_IDLE_TIMEOUT_MS", "5000"),
            ("CAIRN_ADVERTISE_IP", "2001:db8::7"),
            ("CAIRN_RESP_HOSTNAME", "data-1.example"),
            ("CAIRN_RESP_ENDPOINT_TYPE", "hostname"),
        ],
    )) else {
        panic!("valid");
    };
    assert_eq!(data.idle_timeout, Some(std::time::Duration::from_secs(5)));
    assert_eq!(data.process.advertised.resp_hostname, "data-1.example");
    assert_eq!(data.process.advertised.ip, "2001:db8::7".parse().ok());
}

#[test]
fn a_role_is_required_and_must_exist() {
    assert_eq!(problems(&values(&[])), ["CAIRN_ROLE"]);
    assert_eq!(problems(&values(&[("CAIRN_ROLE", "boss")])), ["CAIRN_ROLE"]);
}

#[test]
fn empty_variables_count_as_not_given_and_slips_are_seen() {
    let values = with(DATA, &[("CAIRN_ZONE", ""), ("CAIRN_REPLICATION", "3")]);
    assert_eq!(values.get("CAIRN_ZONE"), None);
    assert_eq!(values.unknown(), ["CAIRN_REPLICATION"]);
}

#[test]
fn a_flag_wins_over_its_variable() {
    let command = with_flags(clap::Command::new("cairn"));
    let matches = command
        .try_get_matches_from(["cairn", "--weight", "50"])
        .expect("the flag exists");
    let values = with(DATA, &[("CAIRN_WEIGHT", "70"), ("CAIRN_ZONE", "a")]).with_matches(&matches);
    assert_eq!(values.get("CAIRN_WEIGHT"), Some("50"));
    assert_eq!(values.get("CAIRN_ZONE"), Some("a"));
}

#[test]
fn tls_between_nodes_alone_needs_its_files() {
    let peer = ("CAIRN_TLS_PORTS", "peer");
    assert_eq!(problems(&with(DATA, &[peer])), ["CAIRN_TLS_PORTS"]);
    let files = [
        ("CAIRN_TLS_CERT_FILE", "/c"),
        ("CAIRN_TLS_KEY_FILE", "/k"),
        ("CAIRN_TLS_CA_FILE", "/a"),
    ];
    for (more, ports) in [(&[][..], TlsPorts::All), (&[peer], TlsPorts::Peer)] {
        let given = [&files[..], more].concat();
        let settings = read(&with(DATA, &given)).expect("valid");
        assert_eq!(settings.process().tls_ports, ports);
    }
}

#[test]
fn a_file_of_places_needs_to_know_whose_zone_it_is() {
    let file = ("CAIRN_PLACES_FILE", "/etc/places.toml");
    assert_eq!(problems(&with(DATA, &[file])), ["CAIRN_PLACES_FILE"]);
    for (more, host, zone) in [
        (("CAIRN_HOST", "worker-1"), "worker-1", None),
        (("CAIRN_ZONE", "a"), "", Some("a")),
    ] {
        let Ok(NodeSettings::Data(data)) = read(&with(DATA, &[file, more])) else {
            panic!("valid");
        };
        assert_eq!(data.place.zone.as_deref(), zone);
        assert_eq!(data.place.file.expect("a file").host, host);
    }
    // The machine's name may be told where nobody asks for it.
    assert!(problems(&with(DATA, &[("CAIRN_HOST", "worker-1")])).is_empty());
}

#[test]
fn a_manifest_is_named_in_a_line_of_bounded_length() {
    let named = |text: &'static str| read(&with(COORDINATOR, &[("CAIRN_MANAGED_BY", text)]));
    let Ok(NodeSettings::Coordinator(coordinator)) = named("KvCluster shop/orders") else {
        panic!("valid");
    };
    assert_eq!(
        coordinator.managed_by.as_deref(),
        Some("KvCluster shop/orders")
    );
    let long: &'static str = "x".repeat(513).leak();
    for wrong in ["two\nlines", long] {
        let error = named(wrong).expect_err("invalid");
        assert_eq!(error.problems.len(), 1);
        assert_eq!(error.problems[0].setting, "CAIRN_MANAGED_BY");
    }
}

#[test]
fn what_is_too_long_to_be_registered_is_refused_at_the_start() {
    let host: &'static str = "h".repeat(254).leak();
    assert_eq!(
        problems(&with(DATA, &[("CAIRN_ADVERTISE_HOST", host)])),
        ["CAIRN_ADVERTISE_HOST"]
    );
    let address: &'static str = format!("{host}:1").leak();
    assert_eq!(
        problems(&with(DATA, &[("CAIRN_RESP_ADVERTISE", address)])),
        ["CAIRN_RESP_ADVERTISE"]
    );
}

#[test]
fn listeners_do_not_share_a_port() {
    assert_eq!(
        problems(&with(DATA, &[("CAIRN_HTTP_LISTEN", "127.0.0.1:7400")])),
        ["CAIRN_HTTP_LISTEN"]
    );
}

#[test]
fn the_table_lists_exactly_what_each_role_reads() {
    let listed = |roles: Roles| {
        SETTINGS
            .iter()
            .filter(|s| s.roles == roles || s.roles == Roles::Both)
            .map(|s| s.name)
            .filter(|name| *name != "CAIRN_ROLE")
            .collect::<std::collections::BTreeSet<_>>()
    };
    let values = values(COORDINATOR);
    let reader = Reader::new(&values);
    let _ = read_coordinator(&reader);
    assert_eq!(reader.names_read(), listed(Roles::Coordinator));
    let reader = Reader::new(&values);
    let _ = read_data(&reader);
    assert_eq!(reader.names_read(), listed(Roles::Data));
}

#[test]
fn stated_defaults_are_the_ones_in_force() {
    // A default that is a plain value must be accepted when it is given outright,
    // and change nothing.
    for base in [COORDINATOR, DATA] {
        let implied = read(&values(base)).expect("valid");
        for setting in SETTINGS {
            let plain = setting.default.split([';', ' ', ':']).next() == Some(setting.default)
                || setting.name.ends_with("_LISTEN");
            if !plain || matches!(setting.default, "required" | "none") {
                continue;
            }
            let mut given = base.to_vec();
            given.push((setting.name, setting.default));
            let explicit =
                read(&values(&given)).unwrap_or_else(|error| panic!("{}: {error}", setting.name));
            assert_eq!(explicit, implied, "{}", setting.name);
        }
    }
}

#[test]
fn the_docs_page_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == markdown(),
        "docs/settings.md is not what the table says: run `cargo run -p cairn -- settings --markdown > docs/settings.md`"
    );
}

#[test]
fn clients_outside_have_both_ports_or_none_and_addresses_of_their_own() {
    const PORTS: [(&str, &str); 2] = [
        ("CAIRN_OUTSIDE_RESP_LISTEN", "0.0.0.0:6380"),
        ("CAIRN_OUTSIDE_CLIENT_LISTEN", "0.0.0.0:7403"),
    ];
    const TOLD: [(&str, &str); 2] = [
        ("CAIRN_OUTSIDE_RESP_ADVERTISE", "192.0.2.1:30001"),
        ("CAIRN_OUTSIDE_CLIENT_ADVERTISE", "192.0.2.1:30002"),
    ];
    let read_with = |more: &[(&'static str, &'static str)]| match read(&with(DATA, more)) {
        Ok(NodeSettings::Data(data)) => *data,
        other => panic!("{other:?}"),
    };
    let data = read_with(&PORTS);
    assert_eq!(
        data.outside_listen
            .map(|at| (at.resp.port(), at.client.port())),
        Some((6380, 7403))
    );
    assert_eq!(data.place.outside, None, "a file may say it");
    let data = read_with(&[PORTS[0], PORTS[1], TOLD[0], TOLD[1]]);
    let told = OutsideAddresses {
        resp: "192.0.2.1:30001".to_owned(),
        client: "192.0.2.1:30002".to_owned(),
    };
    assert_eq!(data.place.outside, Some(told));
    for (given, problem) in [
        (vec![PORTS[0]], PORTS[1].0),
        (vec![PORTS[1]], PORTS[0].0),
        (vec![TOLD[0]], TOLD[0].0),
        (vec![TOLD[1]], TOLD[1].0),
        (vec![PORTS[0], (PORTS[1].0, "0.0.0.0:7400")], PORTS[1].0),
        (vec![PORTS[0], (PORTS[1].0, "0.0.0.0:6380")], PORTS[1].0),
        (vec![PORTS[0], PORTS[1], (TOLD[0].0, "nowhere")], TOLD[0].0),
    ] {
        assert_eq!(problems(&with(DATA, &given)), [problem], "{given:?}");
    }
}
