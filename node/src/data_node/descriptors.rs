//! How many files and sockets the process may have open, against how many connections
//! it is to take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is kept for everything but clients: the log, the store's tables, peers.
const KEPT: u64 = 2048;
/// A node takes at least so many, whatever is left.
const LEAST: usize = 16;

/// Raises the limit of open files as far as it may be, and says how many connections
/// then fit on each of so many ports for clients, at most `wanted`.
pub(super) fn fit(wanted: usize, ports: u64) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let needed = ports * wanted as u64 + KEPT;
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let mut open = soft;
    if soft < needed {
        let raised = needed.min(hard);
        let asked = Rlimit {
            current: Some(raised),
            maximum: limit.maximum,
        };
        if setrlimit(Resource::Nofile, asked).is_ok() {
            open = raised;
        }
    }
    let fits = connections(open, wanted, ports);
    if fits < wanted {
        tracing::warn!(
            wanted,
            fits,
            open_files = open,
            "CAIRN_MAX_CONNECTIONS is lowered to what the limit of open files leaves; raise that \
             (`ulimit -n`, LimitNOFILE) or lower the setting"
        );
    }
    fits
}

/// How many connections fit on each port where so many files may be open.
fn connections(open: u64, wanted: usize, ports: u64) -> usize {
    // Where there is little, clients get half of it.
    let left = open.saturating_sub(KEPT).max(open / 2) / ports;
    usize::try_from(left)
        .unwrap_or(usize::MAX)
        .max(LEAST)
        .min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        assert_eq!(connections(1 << 20, 10_000, 2), 10_000);
        assert_eq!(connections(22_048, 10_000, 2), 10_000);
        assert_eq!(connections(10_048, 10_000, 2), 4_000);
        assert_eq!(connections(1024, 10_000, 2), 256);
        assert_eq!(connections(0, 10_000, 2), LEAST);
        assert_eq!(connections(0, 3, 2), 3);
        // Those for clients outside are ports of their own.
        assert_eq!(connections(10_048, 10_000, 4), 2_000);
    }
}
