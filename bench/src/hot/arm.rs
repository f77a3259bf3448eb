//! Arms: ways to deal with hot keys, as the command line gives them.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Serialize;

use super::HotLoad;
use crate::driver::{Increments, Level};
use crate::systems::Protocol;

/// A way to deal with hot keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Arm {
    pub(crate) name: String,
    pub(crate) level: Level,
    pub(crate) increments: Increments,
    /// Under which loads it is tried; none: under all.
    #[serde(skip)]
    loads: Vec<HotLoad>,
    pub(crate) protocol: Protocol,
    /// Further variables of every node.
    pub(crate) environment: BTreeMap<String, String>,
    /// What is told to `cairn cluster set`.
    pub(crate) settings: Vec<String>,
}

impl Arm {
    /// Whether both want the same of a cluster: they differ by what the client does alone.
    pub(crate) fn shares_cluster(&self, other: &Self) -> bool {
        self.environment == other.environment && self.settings == other.settings
    }

    pub(crate) fn is_tried_under(&self, load: HotLoad) -> bool {
        self.loads.is_empty() || self.loads.contains(&load)
    }
}

/// Reads `NAME=KEY=VALUE,...`.
pub(crate) fn parse_arm(text: &str) -> Result<Arm, String> {
    let (name, rest) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not NAME=KEY=VALUE,..."))?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 40 || !name.chars().all(is_plain) {
        return Err(format!(
            "`{name}` is no name: letters, digits, - and _, 40 at most"
        ));
    }
    let mut arm = Arm {
        name: name.to_owned(),
        level: Level::Primary,
        increments: Increments::Owner,
        loads: Vec::new(),
        protocol: Protocol::Resp,
        environment: BTreeMap::new(),
        settings: Vec::new(),
    };
    for part in rest.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not KEY=VALUE"))?;
        match (key, value) {
            ("read", "primary") => arm.level = Level::Primary,
            ("read", "replica") => arm.level = Level::Replica,
            ("read", "near") => arm.level = Level::Near,
            ("read", _) => return Err(format!("`{value}` is not primary, replica or near")),
            ("increments", "owner") => arm.increments = Increments::Owner,
            ("increments", "any") => arm.increments = Increments::Any,
            ("increments", _) => return Err(format!("`{value}` is not owner or any")),
            ("loads", _) => {
                arm.loads = value
                    .split('+')
                    .map(|load| HotLoad::from_str(load, false))
                    .collect::<Result<_, _>>()?;
            }
            ("protocol", "resp") => arm.protocol = Protocol::Resp,
            ("protocol", "grpc") => arm.protocol = Protocol::Grpc,
            ("protocol", "client") => arm.protocol = Protocol::Client,
            ("protocol", _) => return Err(format!("`{value}` is not resp, grpc or client")),
            (key, value) => {
                if let Some(setting) = key.strip_prefix("set:") {
                    arm.settings.push(format!("{setting}={value}"));
                } else if key.starts_with("CAIRN_") {
                    arm.environment.insert(key.to_owned(), value.to_owned());
                } else {
                    return Err(format!(
                        "`{key}` is not read, increments, loads, protocol, set:SETTING or a CAIRN_* \
                         variable"
                    ));
                }
            }
        }
    }
    if arm.level == Level::Near && arm.protocol != Protocol::Client {
        return Err("read=near is the Rust client's: give protocol=client too".to_owned());
    }
    Ok(arm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_is_read() {
        let text = "copies=read=replica,protocol=grpc,CAIRN_HOT_KEYS=names,set:replicationFactor=5";
        let arm = parse_arm(text).expect("an arm");
        assert_eq!((arm.name.as_str(), arm.level), ("copies", Level::Replica));
        assert_eq!(arm.protocol, Protocol::Grpc);
        assert_eq!(arm.environment["CAIRN_HOT_KEYS"], "names");
        assert_eq!(arm.settings, ["replicationFactor=5"]);
        assert!(HotLoad::ALL.iter().all(|load| arm.is_tried_under(*load)));
        let striped = parse_arm("s=increments=any,loads=counter+one-key,CAIRN_COUNTERS=ctr:=16");
        let striped = striped.expect("an arm");
        assert_eq!(striped.increments, Increments::Any);
        assert_eq!(striped.environment["CAIRN_COUNTERS"], "ctr:=16");
        assert!(striped.is_tried_under(HotLoad::Counter));
        assert!(!striped.is_tried_under(HotLoad::Zipf12));
        for wrong in [
            "",
            "name",
            "=read=primary",
            "a b=read=primary",
            "a=read=quorum",
            "a=read=near",
            "a=increments=all",
            "a=loads=cold",
            "a=protocol=http",
            "a=PATH=/x",
            "a=read",
        ] {
            assert!(parse_arm(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn arms_that_differ_by_the_client_alone_share_a_cluster() {
        let arm = |text| parse_arm(text).expect("an arm");
        let primary = arm("a=read=primary");
        assert!(primary.shares_cluster(&arm("b=read=replica,protocol=client")));
        assert!(!primary.shares_cluster(&arm("c=CAIRN_HOT_KEYS=off")));
        assert!(!primary.shares_cluster(&arm("d=set:replicationFactor=5")));
    }
}
