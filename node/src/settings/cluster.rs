//! The settings that the whole cluster agrees on, as a coordinator is given them.
//! What is refused and why is decided by `cairn_core::cluster::settings`; here the
//! reasons get the names of variables and a remedy.

use cairn_core::cluster::settings::{Preset, SettingsError, SettingsRequest};
use cairn_core::kv::request::ReadLevel;
use cairn_core::record::ClusterSettings;

use super::reader::Reader;

/// Reads them; the second part is what to warn about.
pub(super) fn read(reader: &Reader<'_>) -> Option<(ClusterSettings, Vec<String>)> {
    let given = reader.text("CAIRN_CONSISTENCY");
    let preset = given.and_then(Preset::from_name);
    if given.is_some() && preset.is_none() {
        reader.problem(
            "CAIRN_CONSISTENCY",
            "there is no such preset",
            "Give strong or eventual, or leave it out",
        );
    }
    // The number of coordinators is judged with their list.
    let request = SettingsRequest {
        preset,
        replication_factor: reader.number("CAIRN_REPLICATION_FACTOR", 0..=u8::MAX),
        write_quorum: reader.number("CAIRN_WRITE_QUORUM", 0..=u8::MAX),
        read_level: read_level(reader, "CAIRN_READ_LEVEL"),
        read_quorum: reader.number("CAIRN_READ_QUORUM", 0..=u8::MAX),
        min_in_sync: reader.number("CAIRN_MIN_IN_SYNC", 0..=u8::MAX),
        partitions: reader.number("CAIRN_PARTITIONS", 0..=u32::MAX),
        virtual_nodes: reader.number("CAIRN_VIRTUAL_NODES", 0..=u32::MAX),
        coordinators: None,
        data_nodes: reader.number("CAIRN_INITIAL_DATA_NODES", 0..=u32::MAX),
        lease_ms: reader.number("CAIRN_LEASE_MS", 0..=u64::MAX),
        node_timeout_ms: reader.number("CAIRN_NODE_TIMEOUT_MS", 0..=u64::MAX),
        idempotence_window: reader.number("CAIRN_IDEMPOTENCE_WINDOW", 0..=u32::MAX),
        replace_after_ms: reader.number("CAIRN_REPLACE_AFTER_MS", 0..=u64::MAX),
        moves_per_node: reader.number("CAIRN_MOVES_PER_NODE", 0..=u8::MAX),
        counters: reader.text("CAIRN_COUNTERS").map(str::to_owned),
    };
    match request.resolve() {
        Ok(resolved) => Some((
            resolved.settings,
            resolved.warnings.iter().map(ToString::to_string).collect(),
        )),
        Err(errors) => {
            for error in errors {
                let (name, remedy) = remedy(&error);
                reader.problem(name, error.to_string(), remedy);
            }
            None
        }
    }
}

/// A level of reads, where one is given.
pub(super) fn read_level(reader: &Reader<'_>, name: &'static str) -> Option<ReadLevel> {
    let given = reader.text(name)?;
    let level = ReadLevel::from_name(given);
    if level.is_none() {
        reader.problem(
            name,
            "there is no such level of reads",
            "Give primary, quorum, replica or any",
        );
    }
    level
}

/// The variable to look at, and what to do with it.
fn remedy(error: &SettingsError) -> (&'static str, &'static str) {
    match error {
        SettingsError::ReplicationFactor(_) => ("CAIRN_REPLICATION_FACTOR", "Give one from 1 to 7"),
        SettingsError::WriteQuorumZero => ("CAIRN_WRITE_QUORUM", "Give 1 or more"),
        SettingsError::WriteQuorumAboveReplicationFactor { .. } => (
            "CAIRN_WRITE_QUORUM",
            "Lower it, or raise CAIRN_REPLICATION_FACTOR",
        ),
        SettingsError::TooFewDataNodes { .. } => (
            "CAIRN_INITIAL_DATA_NODES",
            "Raise it, or lower CAIRN_REPLICATION_FACTOR",
        ),
        SettingsError::StrongBelowMajority { .. } => (
            "CAIRN_WRITE_QUORUM",
            "Raise it to a majority, or leave out CAIRN_CONSISTENCY to take the risk knowingly",
        ),
        SettingsError::ReadQuorumTooSmall { .. } | SettingsError::ReadQuorum { .. } => (
            "CAIRN_READ_QUORUM",
            "Leave it out, or raise it until it overlaps with the write quorum",
        ),
        SettingsError::MinInSync { .. } => (
            "CAIRN_MIN_IN_SYNC",
            "Give one from 1 to the write quorum, or leave it out",
        ),
        SettingsError::Partitions(_) => ("CAIRN_PARTITIONS", "Give one within these bounds"),
        SettingsError::VirtualNodes(_) => ("CAIRN_VIRTUAL_NODES", "Give one within these bounds"),
        SettingsError::Coordinators(_) => ("CAIRN_COORDINATORS", "List 1, 3 or 5"),
        SettingsError::Lease(_) | SettingsError::LeaseLongest { .. } => {
            ("CAIRN_LEASE_MS", "Give one within these bounds")
        }
        SettingsError::ReplaceAfter(_) => {
            ("CAIRN_REPLACE_AFTER_MS", "Give one within these bounds")
        }
        SettingsError::MovesPerNode(_) => ("CAIRN_MOVES_PER_NODE", "Give one within these bounds"),
        SettingsError::Counters(_) => (
            "CAIRN_COUNTERS",
            "Give PREFIX=STRIPES with commas between, such as views:=16,likes:=8",
        ),
        SettingsError::NodeTimeout(_) => ("CAIRN_NODE_TIMEOUT_MS", "Give one within these bounds"),
        SettingsError::IdempotenceWindow(_) => {
            ("CAIRN_IDEMPOTENCE_WINDOW", "Give one within these bounds")
        }
    }
}
