//! Who has a port or a lock: what `/proc` tells of it, as far as it may be read.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

/// A process by number and command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pid: u32,
    command: String,
}

impl Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

impl Holder {
    /// Describes a process that exists.
    pub(super) fn of_pid(pid: u32) -> Option<Self> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut command = String::from_utf8_lossy(&line)
            .trim_end_matches('\0')
            .replace('\0', " ");
        if command.is_empty() {
            command = fs::read_to_string(format!("/proc/{pid}/comm"))
                .ok()?
                .trim()
                .to_owned();
        }
        Some(Self { pid, command })
    }

    /// The process that listens on a TCP port, where it may be known.
    pub(super) fn of_port(port: u16) -> Option<Self> {
        let inodes: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .flat_map(|table| listening_inodes(&table, port))
            .collect();
        processes()
            .find(|pid| {
                descriptors(*pid).any(|target| {
                    target
                        .strip_prefix("socket:[")
                        .and_then(|rest| rest.strip_suffix(']'))
                        .and_then(|inode| inode.parse().ok())
                        .is_some_and(|inode: u64| inodes.contains(&inode))
                })
            })
            .and_then(Self::of_pid)
    }

    /// The process that has a file open, other than this one.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        let path = path.to_str()?;
        let own = std::process::id();
        processes()
            .filter(|pid| *pid != own)
            .find(|pid| descriptors(*pid).any(|target| target == path))
            .and_then(Self::of_pid)
    }
}

/// The inodes of the sockets that listen on a port, from a table of the kernel's.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, local) = fields.get(1)?.rsplit_once(':')?;
            (u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == LISTEN)
                .then(|| fields.get(9)?.parse().ok())?
        })
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// What the descriptors of a process point to; nothing where that may not be read.
fn descriptors(pid: u32) -> impl Iterator<Item = String> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            Some(target.to_str()?.to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0\n   \
             1: 0100007F:18EB 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4343 1 0 20 4 30 10 -1\n";
        assert_eq!(listening_inodes(table, 6379), [4242]);
        assert!(listening_inodes(table, 6380).is_empty());
    }

    #[test]
    fn this_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let holder = Holder::of_port(port).expect("this process listens");
        assert_eq!(holder.pid, std::process::id());
    }
}
