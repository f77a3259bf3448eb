//! The settings of a node process: `CAIRN_*` variables and flags of the same names.
//!
//! [`SETTINGS`] lists every one of them; [`Values`] is what was given, [`read`]
//! judges all of it at once and returns one typed struct per role. What the
//! cluster as a whole agrees on is judged by `cairn_core::cluster::settings`, so
//! that the coordinators and this edge refuse the same things for the same reasons.
//!
//! Nothing here opens a file or a socket.

mod cluster;
mod docs;
mod kinds;
mod limits;
mod outside;
mod process;
mod read_copies;
mod reader;
mod table;
#[cfg(test)]
mod tests;
mod values;
mod wal;

pub use docs::markdown;
pub use kinds::{Group, Roles, Setting, flag_of};
pub use process::{
    CoordinatorSettings, DataSettings, LogFormat, NodeSettings, OutsideListen, ProcessSettings,
    TlsFiles, TlsPorts, UnknownPorts, allowed_cpus, read,
};
pub(crate) use reader::check_host_port;
pub use reader::{Problem, SettingsError};
pub use table::{SETTINGS, setting};
pub use values::{Values, with_flags};
pub use wal::WalSettings;
