//! `cairn`: a node when `CAIRN_ROLE` is set, otherwise the command that people type.
//!
//! One executable serves both, so that one image and one file are all there is to
//! install. With `CAIRN_ROLE` set and a command given (`kubectl exec ... cairn
//! status`), the command wins: a node takes flags alone.

#[cfg(seeded_bugs)]
compile_error!("seeded bugs are for the simulator: what is shipped cannot carry them");

mod args;
mod bench;
mod check;
mod cluster;
mod config;
mod confirm;
mod coordinators;
mod credential;
mod data;
mod debug;
mod dev;
mod endpoints;
mod failure;
mod handover;
mod hotkeys;
mod inspect;
mod keyspace;
mod membership;
mod node;
mod output;
mod plan;
mod rebalance;
mod recover;
mod recover_coordinators;
mod schedule;
mod user;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::FromArgMatches;

/// jemalloc: many threads that allocate what others free, for months.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Frees pages in background threads and soon, so that what the kernel counts as
/// resident is what the process uses; a few arenas are enough for a few threads.
///
/// jemalloc looks for this symbol, a pointer to a C string, when it starts.
// SAFETY: the name is one that only jemalloc looks for, and the value has the type
// that it expects there: a reference to a byte of a string that ends in NUL has the
// layout of a C pointer to char.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &u8 =
    &b"background_thread:true,dirty_decay_ms:2000,muzzy_decay_ms:0,narenas:8,tcache_max:4096\0"[0];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let has_role = std::env::var_os("CAIRN_ROLE").is_some_and(|role| !role.is_empty());
    if has_role && is_node(arguments.get(1).map(OsString::as_os_str)) {
        return node::run_with_arguments(arguments);
    }
    let matches = args::command().get_matches_from(arguments);
    if let Some(("node", matches)) = matches.subcommand() {
        return node::run(matches);
    }
    let outcome = match args::Cli::from_arg_matches(&matches) {
        Ok(cli) => args::run(cli),
        Err(error) => error.exit(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cairn: {failure}");
            failure.exit_code()
        }
    }
}

/// Whether the first argument leaves the process a node: none, or a flag.
fn is_node(first: Option<&OsStr>) -> bool {
    first.is_none_or(|first| first.as_encoded_bytes().starts_with(b"-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_wins_over_the_role() {
        assert!(is_node(None));
        assert!(is_node(Some(OsStr::new("--weight"))));
        assert!(!is_node(Some(OsStr::new("status"))));
    }
}
