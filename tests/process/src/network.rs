//! A network that fails: hosts in network namespaces of the test's own, and rules of
//! `iptables` in them that lose packets.
//!
//! Each host has a namespace with one interface, and a bridge in one more namespace joins
//! them. The machine's own network is not touched, its loopback included. No namespace has a
//! name: the kernel removes it, with all that is in it, once the last process in it and the
//! last descriptor of it are gone, however the test ended.

use std::fs::File;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// The hosts' addresses begin so.
const PREFIX: [u8; 3] = [10, 77, 0];
/// The most hosts: one address each.
const HOSTS_MAX: usize = 250;

/// A network namespace, which lives as long as this or a process in it.
#[derive(Debug)]
struct Namespace(File);

impl Namespace {
    fn current() -> Result<Self> {
        Ok(Self(File::open("/proc/thread-self/ns/net")?))
    }

    /// A new one, whose loopback is up.
    fn new() -> Result<Self> {
        // Who makes a namespace moves into it: a thread that ends.
        let made = thread::spawn(|| -> Result<Self> {
            // SAFETY: a network namespace is all that is unshared; the table of file
            // descriptors, which is what can be misused, stays that of the process.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .context("make a network namespace")?;
            Self::current()
        });
        let namespace = made.join().expect("the thread does not panic")?;
        namespace.run("ip", &["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Moves this thread into it, until what is returned is dropped. Sockets, threads and
    /// processes stay where they were made.
    fn enter(&self) -> Result<Visit> {
        let home = Self::current()?;
        self.move_into()?;
        Ok(Visit {
            home,
            thread: PhantomData,
        })
    }

    fn move_into(&self) -> Result<()> {
        let kind = Some(LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(self.0.as_fd(), kind)
            .context("move into a network namespace")
    }

    /// Runs a command in it and returns what it printed.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let _visit = self.enter()?;
        let done = Command::new(program)
            .args(arguments)
            .output()
            .with_context(|| format!("run {program}"))?;
        ensure!(
            done.status.success(),
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// What `ip` moves an interface to.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// A thread's stay in a namespace.
#[derive(Debug)]
struct Visit {
    home: Namespace,
    // Only the thread that went can come back.
    thread: PhantomData<*const ()>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let back = self.home.move_into();
        assert!(back.is_ok() || thread::panicking(), "{back:?}");
    }
}

/// Where a process runs: an address, and the namespace that has it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its address.
    pub address: Ipv4Addr,
    namespace: Option<Arc<Namespace>>,
}

impl Host {
    /// The machine itself, reached over loopback.
    #[must_use]
    pub fn local() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST,
            namespace: None,
        }
    }

    /// One of the machine's own loopback addresses, for a process that others are to tell
    /// from those at other ones.
    #[must_use]
    pub fn on_loopback(number: u8) -> Self {
        Self {
            address: Ipv4Addr::new(127, 0, 1, number),
            namespace: None,
        }
    }

    /// Does something on this host: sockets, threads and processes that are made by it belong
    /// there for good.
    ///
    /// # Errors
    /// Those of `act`, and where the thread cannot go there.
    pub fn on<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let _visit = match &self.namespace {
            Some(namespace) => Some(namespace.enter()?),
            None => None,
        };
        act()
    }

    fn iptables(&self, arguments: &[&str]) -> Result<String> {
        let namespace = self.namespace.as_ref().context("a host of a network")?;
        // Other tests' calls share a lock with it.
        let arguments = [&["-w"], arguments].concat();
        namespace.run("iptables", &arguments)
    }
}

/// A network of hosts, with the thread that made it on one of them.
#[derive(Debug)]
pub struct Network {
    /// Where the thread that made it is, with all that it starts: the test's clients.
    pub clients: Host,
    /// The others.
    pub hosts: Vec<Host>,
    // The bridge lives in it.
    _switch: Namespace,
    _visit: Visit,
}

impl Network {
    /// Makes one of so many hosts beside the clients', which this thread moves to.
    ///
    /// # Errors
    /// Where this process may not, or lacks `ip` or `iptables`.
    pub fn new(hosts: usize) -> Result<Self> {
        ensure!(hosts < HOSTS_MAX, "{hosts} hosts are too many");
        let switch = Namespace::new()?;
        switch.run("ip", &["link", "add", "bridge", "type", "bridge"])?;
        switch.run("ip", &["link", "set", "bridge", "up"])?;
        let hosts = (0..=hosts)
            .map(|number| plug_in(&switch, u8::try_from(number + 1)?))
            .collect::<Result<Vec<_>>>()?;
        let mut hosts = hosts.into_iter();
        let clients = hosts.next().context("a host for the clients")?;
        clients.iptables(&["-L"])?;
        let namespace = clients.namespace.as_ref().context("its namespace")?;
        let visit = namespace.enter()?;
        Ok(Self {
            clients,
            hosts: hosts.collect(),
            _switch: switch,
            _visit: visit,
        })
    }

    fn everyone(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.clients).chain(&self.hosts)
    }

    /// From now on loses every packet from one of `from` to one of `to`.
    ///
    /// # Errors
    /// Where the rules cannot be set.
    pub fn block(&self, from: &[Host], to: &[Host]) -> Result<()> {
        let from: Vec<_> = from.iter().map(|host| host.address.to_string()).collect();
        for host in to {
            host.iptables(&["-A", "INPUT", "-s", &from.join(","), "-j", "DROP"])?;
        }
        Ok(())
    }

    /// From now on loses every packet between one of `some` and one of `others`.
    ///
    /// # Errors
    /// Where the rules cannot be set.
    pub fn separate(&self, some: &[Host], others: &[Host]) -> Result<()> {
        self.block(some, others)?;
        self.block(others, some)
    }

    /// From now on loses so many of a thousand packets, at random, wherever they go. The
    /// kernel draws, which has no seed.
    ///
    /// # Errors
    /// Where the rules cannot be set.
    pub fn lose(&self, per_mille: u32) -> Result<()> {
        let probability = format!("{:.3}", f64::from(per_mille) / 1000.0);
        let random = ["--mode", "random", "--probability", &probability];
        for host in self.everyone() {
            let rule = ["-A", "INPUT", "!", "-i", "lo", "-m", "statistic"];
            host.iptables(&[&rule[..], &random, &["-j", "DROP"]].concat())?;
        }
        Ok(())
    }

    /// How many packets were lost to the rules that are in force.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn lost(&self) -> Result<u64> {
        let mut lost = 0;
        for host in self.everyone() {
            for rule in host.iptables(&["-L", "INPUT", "-v", "-x", "-n"])?.lines() {
                // Packets, bytes, target.
                if let [packets, _, "DROP", ..] =
                    rule.split_whitespace().collect::<Vec<_>>().as_slice()
                {
                    lost += packets.parse::<u64>().context("a rule's counter")?;
                }
            }
        }
        Ok(lost)
    }

    /// Takes every rule away and returns how many packets were lost to them.
    ///
    /// # Errors
    /// Where they cannot be read or taken away.
    pub fn heal(&self) -> Result<u64> {
        let lost = self.lost()?;
        for host in self.everyone() {
            host.iptables(&["-F", "INPUT"])?;
        }
        Ok(lost)
    }
}

/// A new host, joined to the bridge.
fn plug_in(switch: &Namespace, number: u8) -> Result<Host> {
    let namespace = Namespace::new()?;
    let [a, b, c] = PREFIX;
    let address = Ipv4Addr::new(a, b, c, number);
    let port = format!("port{number}");
    let theirs = ["peer", "name", "eth0", "netns", &namespace.path()];
    let pair = ["link", "add", &port, "type", "veth"];
    switch.run("ip", &[&pair[..], &theirs].concat())?;
    switch.run("ip", &["link", "set", &port, "master", "bridge", "up"])?;
    let local = format!("{address}/24");
    namespace.run("ip", &["address", "add", &local, "dev", "eth0"])?;
    namespace.run("ip", &["link", "set", "eth0", "up"])?;
    Ok(Host {
        address,
        namespace: Some(Arc::new(namespace)),
    })
}

/// Why no [`Network`] can be made here, if so.
///
/// # Errors
/// Where one that can be made does not work.
pub fn missing() -> Result<Option<&'static str>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Some(
            "networks that fail need root, to make network namespaces",
        ));
    }
    for (tool, why) in [
        ("ip", "networks that fail need `ip`, of Debian's iproute2"),
        ("iptables", "networks that fail need `iptables`"),
    ] {
        if Command::new(tool).arg("-V").output().is_err() {
            return Ok(Some(why));
        }
    }
    match Namespace::new() {
        Ok(_) => Ok(None),
        Err(error) if is_forbidden(&error) => {
            Ok(Some("this process may not make network namespaces"))
        }
        Err(error) => bail!(error),
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    let errno = error.downcast_ref::<rustix::io::Errno>();
    errno.is_some_and(|errno| matches!(*errno, rustix::io::Errno::PERM | rustix::io::Errno::ACCESS))
}
