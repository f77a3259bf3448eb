//! Free ports on loopback, below the range from which the system draws ports for
//! outgoing connections: a killed node's port must still be free when it comes back.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

const FIRST: u32 = 12_000;
const COUNT: u32 = 18_000;

static NEXT: AtomicU32 = AtomicU32::new(u32::MAX);

/// A port that nobody listens on and that this process has not given out.
///
/// # Errors
/// Where there is none left.
pub fn free() -> Result<u16> {
    // Two test processes at a time begin far apart.
    let _ = NEXT.compare_exchange(
        u32::MAX,
        std::process::id().wrapping_mul(97) % COUNT,
        Ordering::Relaxed,
        Ordering::Relaxed,
    );
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = u16::try_from(FIRST + step)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// So many free ports in a row.
///
/// # Errors
/// Where there are none.
pub fn free_run(length: u16) -> Result<u16> {
    'search: for _ in 0..COUNT {
        let first = free()?;
        if u32::from(first) + u32::from(length) > FIRST + COUNT {
            continue;
        }
        for port in first + 1..first + length {
            if free()? != port {
                continue 'search;
            }
        }
        return Ok(first);
    }
    bail!("no {length} free ports in a row")
}
