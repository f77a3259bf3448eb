//! A seeded TCP proxy that makes a bad network of loopback.
//!
//! Bytes of one TCP stream cannot be reordered. But each direction of each connection has a
//! delay of its own, so that messages of different streams overtake each other: heartbeats
//! appends, answers of one connection those of the one before it. All that is drawn at random
//! is drawn from the seed, per connection; when a connection is made is not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The most bytes that are delayed as one.
const PIECE_BYTES: usize = 16 << 10;
/// The most pieces under way in a direction of a connection; beyond it nothing more is read.
const PIECES_MAX: usize = 64;

/// What a network is like. The default is a good one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// The longest delay of a direction of a connection, which draws its share of it once.
    pub delay: Duration,
    /// The longest that each piece is delayed beyond that.
    pub jitter: Duration,
    /// Bytes per second in each direction of each connection; 0 is no limit.
    pub rate: u32,
    /// In how many of a thousand pieces the connection breaks, with half of it delivered.
    pub cuts_per_mille: u32,
    /// Connections are accepted, and nothing is forwarded until this ends: then all that was
    /// held is delivered, late.
    pub silent: bool,
}

/// What the network did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Connections that were accepted.
    pub connections: u64,
    /// Pieces that were delivered later than at once.
    pub delayed: u64,
    /// Pieces that were delivered after one of another stream that came later than they.
    pub overtaken: u64,
    /// Connections that were cut in the middle of a piece.
    pub cut: u64,
    /// Pieces and connections that met with silence.
    pub held: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    arrived: AtomicU64,
    latest_delivered: AtomicU64,
    delayed: AtomicU64,
    overtaken: AtomicU64,
    cut: AtomicU64,
    held: AtomicU64,
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

/// One address that stands for another.
#[derive(Debug)]
pub struct Proxy {
    /// Where it accepts.
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    /// Changes the weather, for connections that are open too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

/// Proxies of one seed, on a thread of their own. Dropping this ends them all.
#[derive(Debug)]
pub struct Proxies {
    seed: u64,
    counters: Arc<Counters>,
    // The last: what it runs uses the rest.
    runtime: Runtime,
}

impl Proxies {
    /// None yet.
    ///
    /// # Errors
    /// Where there is no thread for them.
    pub fn new(seed: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self {
            seed,
            counters: Arc::default(),
            runtime,
        })
    }

    /// A proxy on loopback in front of `upstream`, which need not listen yet.
    ///
    /// # Errors
    /// Where no port is free.
    pub fn before(&self, upstream: SocketAddr) -> Result<Proxy> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = self.runtime.block_on(TcpListener::bind(any))?;
        let address = listener.local_addr()?;
        let (weather, watched) = watch::channel(Weather::default());
        let (seed, counters) = (self.seed, Arc::clone(&self.counters));
        self.runtime.spawn(async move {
            // An error of `accept` is that of one connection, which its client will see.
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let number = count(&counters.connections);
                    let counters = Arc::clone(&counters);
                    let random = StdRng::seed_from_u64(seed.wrapping_add(number));
                    tokio::spawn(carry(stream, upstream, watched.clone(), random, counters));
                }
            }
        });
        Ok(Proxy { address, weather })
    }

    /// What all of them did until now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: number(&self.counters.connections),
            delayed: number(&self.counters.delayed),
            overtaken: number(&self.counters.overtaken),
            cut: number(&self.counters.cut),
            held: number(&self.counters.held),
        }
    }
}

/// Waits for an end of silence, and counts where there was one.
async fn sound(weather: &mut watch::Receiver<Weather>, counters: &Counters) {
    if weather.borrow().silent {
        count(&counters.held);
    }
    // Its sender is dropped at the end of a test, with nobody left to hear.
    let _ = weather.wait_for(|weather| !weather.silent).await;
}

async fn carry(
    client: TcpStream,
    upstream: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    mut random: StdRng,
    counters: Arc<Counters>,
) {
    sound(&mut weather, &counters).await;
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    for stream in [&client, &server] {
        // Where it cannot be set, small messages are later still.
        let _ = stream.set_nodelay(true);
    }
    let broken = CancellationToken::new();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut direction = |from, to| {
        let (pieces, due) = mpsc::channel(PIECES_MAX);
        let reader = Reader {
            share: random.random(),
            random: StdRng::seed_from_u64(random.random()),
            weather: weather.clone(),
            counters: Arc::clone(&counters),
        };
        let writer = deliver(to, due, weather.clone(), Arc::clone(&counters));
        let broken = broken.clone();
        async move {
            let both = async { tokio::join!(reader.read(from, pieces), writer) };
            tokio::select! {
                (_, whole) = both => if !whole {
                    broken.cancel();
                },
                () = broken.cancelled() => {}
            }
        }
    };
    let (up, down) = (
        direction(from_client, to_server),
        direction(from_server, to_client),
    );
    tokio::join!(up, down);
}

/// Bytes that came together.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    /// Its place among all that arrived at any proxy of the seed.
    number: u64,
    due: Instant,
    cut: bool,
}

struct Reader {
    /// This direction's share of the weather's delay.
    share: f64,
    random: StdRng,
    weather: watch::Receiver<Weather>,
    counters: Arc<Counters>,
}

impl Reader {
    /// Reads until the end of the stream, and says when each piece is due.
    async fn read(mut self, mut from: OwnedReadHalf, pieces: mpsc::Sender<Piece>) {
        let mut bytes = vec![0; PIECE_BYTES];
        let mut last_due = Instant::now();
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            let weather = *self.weather.borrow();
            let now = Instant::now();
            let delay = weather.delay.mul_f64(self.share)
                + weather.jitter.mul_f64(self.random.random::<f64>());
            let at_rate = match weather.rate {
                0 => Duration::ZERO,
                rate => Duration::from_secs_f64(length as f64 / f64::from(rate)),
            };
            let due = (now + delay).max(last_due) + at_rate;
            last_due = due;
            if due > now {
                count(&self.counters.delayed);
            }
            let piece = Piece {
                bytes: bytes[..length].to_vec(),
                number: count(&self.counters.arrived),
                due,
                cut: self.random.random_range(0..1000) < weather.cuts_per_mille,
            };
            if pieces.send(piece).await.is_err() {
                return;
            }
        }
    }
}

/// Writes pieces when they are due. Returns whether the stream came to its own end.
async fn deliver(
    mut to: OwnedWriteHalf,
    mut pieces: mpsc::Receiver<Piece>,
    mut weather: watch::Receiver<Weather>,
    counters: Arc<Counters>,
) -> bool {
    while let Some(piece) = pieces.recv().await {
        sleep_until(piece.due).await;
        sound(&mut weather, &counters).await;
        let latest = &counters.latest_delivered;
        if latest.fetch_max(piece.number, Ordering::Relaxed) > piece.number {
            count(&counters.overtaken);
        }
        let whole = piece.bytes.len();
        let length = if piece.cut { whole / 2 } else { whole };
        let written = to.write_all(&piece.bytes[..length]).await;
        if piece.cut {
            count(&counters.cut);
        }
        if piece.cut || written.is_err() {
            return false;
        }
    }
    to.shutdown().await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net;

    use super::*;
    use crate::cluster::BOUND;
    use crate::waiting;

    const BYTES: usize = 1 << 20;

    /// Sends back what it is sent, on as many connections as come.
    fn echo() -> Result<SocketAddr> {
        let listener = net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut to = stream.try_clone()?;
                    std::io::copy(&mut &stream, &mut to)?;
                    to.shutdown(net::Shutdown::Write)
                });
            }
        });
        Ok(address)
    }

    fn connect(proxy: &Proxy) -> Result<net::TcpStream> {
        let stream = net::TcpStream::connect(proxy.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(BOUND))?;
        Ok(stream)
    }

    /// Sends `sent` and returns what comes back until the end.
    fn round_trip(proxy: &Proxy, sent: &[u8]) -> Result<std::io::Result<Vec<u8>>> {
        let mut stream = connect(proxy)?;
        let mut writer = stream.try_clone()?;
        let sent = sent.to_vec();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent)?;
            writer.shutdown(net::Shutdown::Write)
        });
        let mut received = Vec::new();
        let read = stream.read_to_end(&mut received);
        drop(stream);
        let _ = writing.join().expect("it does not panic");
        Ok(read.map(|_| received))
    }

    fn bytes(seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; BYTES];
        StdRng::seed_from_u64(seed).fill(bytes.as_mut_slice());
        bytes
    }

    #[test]
    fn what_is_delayed_and_throttled_arrives_whole_and_in_order() -> Result<()> {
        let proxies = Proxies::new(1)?;
        let proxy = proxies.before(echo()?)?;
        proxy.set(Weather {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(2),
            rate: 8 << 20,
            ..Weather::default()
        });
        let sent = bytes(1);
        assert!(round_trip(&proxy, &sent)?? == sent);
        assert!(proxies.counts().delayed > 0, "{:?}", proxies.counts());
        assert_eq!(proxies.counts().cut, 0);
        Ok(())
    }

    #[test]
    fn messages_of_different_streams_overtake_each_other() -> Result<()> {
        let proxies = Proxies::new(2)?;
        let proxy = proxies.before(echo()?)?;
        proxy.set(Weather {
            delay: Duration::from_millis(50),
            ..Weather::default()
        });
        let mut streams = (0..4)
            .map(|_| connect(&proxy))
            .collect::<Result<Vec<_>>>()?;
        waiting::until("a message that was overtaken", BOUND, || {
            for stream in &mut streams {
                stream.write_all(b"message")?;
            }
            for stream in &mut streams {
                stream.read_exact(&mut [0; 7])?;
            }
            Ok((proxies.counts().overtaken > 0).then_some(()))
        })
    }

    #[test]
    fn a_connection_that_is_cut_ends_in_the_middle() -> Result<()> {
        let proxies = Proxies::new(3)?;
        let proxy = proxies.before(echo()?)?;
        proxy.set(Weather {
            cuts_per_mille: 1000,
            ..Weather::default()
        });
        let sent = bytes(3);
        match round_trip(&proxy, &sent)? {
            Ok(received) => assert!(received.len() < sent.len()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        assert!(proxies.counts().cut > 0);
        // The next connection finds better weather.
        proxy.set(Weather::default());
        assert!(round_trip(&proxy, &sent)?? == sent);
        Ok(())
    }

    #[test]
    fn in_silence_connections_are_accepted_and_what_was_sent_arrives_when_it_ends() -> Result<()> {
        let proxies = Proxies::new(4)?;
        let proxy = proxies.before(echo()?)?;
        let mut open = connect(&proxy)?;
        open.write_all(b"a")?;
        open.read_exact(&mut [0; 1])?;
        proxy.set(Weather {
            silent: true,
            ..Weather::default()
        });
        open.write_all(b"b")?;
        let mut new = connect(&proxy)?;
        new.write_all(b"c")?;
        waiting::until("both to be held up", BOUND, || {
            Ok((proxies.counts().held >= 2).then_some(()))
        })?;
        for stream in [&mut open, &mut new] {
            stream.set_nonblocking(true)?;
            let nothing = stream.read(&mut [0; 1]).expect_err("silence");
            assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
            stream.set_nonblocking(false)?;
        }
        proxy.set(Weather::default());
        for (stream, sent) in [(&mut open, b"b"), (&mut new, b"c")] {
            let mut received = [0; 1];
            stream.read_exact(&mut received)?;
            assert_eq!(&received, sent);
        }
        Ok(())
    }
}
