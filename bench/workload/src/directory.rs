//! Which node owns which slot, shared by the threads or tasks of a generator.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::resp::{self, Auth, fetch_slots};

/// How long one server may take to tell its slots.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the slots are fetched at most.
const REFRESH_INTERVAL: Duration = Duration::from_millis(50);

/// The owner of each slot, by number, and the addresses of these numbers. Numbers
/// keep their meaning over refreshes.
#[derive(Clone, Debug)]
pub struct Table {
    /// By slot.
    pub owner: Vec<u16>,
    /// By number.
    pub addresses: Vec<String>,
    /// The numbers of the nodes with its replicas, by slot.
    pub replicas: Vec<Arc<[u16]>>,
}

/// The table, and the wish for a newer one.
#[derive(Debug)]
pub struct Directory {
    seeds: Vec<String>,
    auth: Option<Auth>,
    current: Mutex<Arc<Table>>,
    version: AtomicU64,
    wanted: AtomicBool,
}

impl Directory {
    /// Fetches the first table from whichever seed answers first.
    ///
    /// # Errors
    /// Where none does.
    pub fn open(seeds: Vec<String>, auth: Option<Auth>) -> io::Result<Self> {
        let empty = Table {
            owner: vec![0; 16_384],
            addresses: Vec::new(),
            replicas: vec![Arc::default(); 16_384],
        };
        let table = fetch(&seeds, auth.as_ref(), &empty)?;
        Ok(Self {
            seeds,
            auth,
            current: Mutex::new(Arc::new(table)),
            version: AtomicU64::new(1),
            wanted: AtomicBool::new(false),
        })
    }

    /// Opens a connection, logged in.
    ///
    /// # Errors
    /// As [`resp::connect`].
    pub fn connect(&self, address: &str, timeout: Duration) -> io::Result<TcpStream> {
        resp::connect(address, timeout, self.auth.as_ref())
    }

    /// Grows with each new table.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The newest table.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for a newer one, without waiting for it.
    pub fn want_refresh(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// Fetches when asked to, until `stop`.
    pub fn keep_fresh(&self, stop: &AtomicBool) {
        let mut last = Instant::now();
        while !stop.load(Ordering::Acquire) {
            std::thread::sleep(REFRESH_INTERVAL.saturating_sub(last.elapsed()).max(
                // A short nap between two looks at the wish keeps this thread cheap.
                Duration::from_millis(5),
            ));
            last = Instant::now();
            if !self.wanted.swap(false, Ordering::AcqRel) {
                continue;
            }
            let old = self.table();
            let mut asked = old.addresses.clone();
            asked.extend(self.seeds.iter().cloned());
            if let Ok(table) = fetch(&asked, self.auth.as_ref(), &old) {
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
                self.version.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

/// Asks one after the other; slots that nobody owns stay with whom they were.
fn fetch(asked: &[String], auth: Option<&Auth>, old: &Table) -> io::Result<Table> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no server was named");
    for address in asked {
        let owners = match fetch_slots(address, FETCH_TIMEOUT, auth) {
            Ok(owners) if !owners.is_empty() => owners,
            Ok(_) => {
                last = io::Error::other(format!("{address} knows no owner of any slot yet"));
                continue;
            }
            Err(error) => {
                last = io::Error::new(error.kind(), format!("{address}: {error}"));
                continue;
            }
        };
        let mut table = old.clone();
        let mut numbers: HashMap<String, u16> = table
            .addresses
            .iter()
            .zip(0u16..)
            .map(|(address, number)| (address.clone(), number))
            .collect();
        let mut number_of =
            |address: String, addresses: &mut Vec<String>| match numbers.get(&address) {
                Some(number) => Ok(*number),
                None => {
                    let number = u16::try_from(addresses.len())
                        .map_err(|_| io::Error::other("more than 65536 servers"))?;
                    addresses.push(address.clone());
                    numbers.insert(address, number);
                    Ok::<u16, io::Error>(number)
                }
            };
        for range in owners {
            let number = number_of(range.primary, &mut table.addresses)?;
            let replicas = range
                .replicas
                .into_iter()
                .map(|address| number_of(address, &mut table.addresses))
                .collect::<io::Result<Arc<[u16]>>>()?;
            let slots = usize::from(range.first)..=usize::from(range.last);
            table.owner[slots.clone()].fill(number);
            table.replicas[slots].fill(replicas);
        }
        return Ok(table);
    }
    Err(last)
}
