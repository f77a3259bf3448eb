//! How other terminals reach a running `cairn dev`: a socket in its directory, for its
//! user alone. Each connection carries one request and its answer, a line of JSON each.
//!
//! The supervisor carries requests out one after another; this module decides nothing.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::layout::{Node, Recorded, Traits, data_dir_flag};
use super::lock::DirectoryLock;
use crate::failure::{Failure, Kind};

const SOCKET: &str = "dev.sock";
/// The form of requests and answers.
const VERSION: u32 = 1;
/// No request is longer, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// No answer is longer: one line about each of a hundred nodes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How long a request may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How many may wait for their answers at a time.
const CONNECTIONS_MAX: usize = 64;

/// What is asked of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(super) enum Request {
    /// Every node.
    List,
    /// Further data nodes.
    Add { count: u16, traits: Traits },
    /// The end of a node's process, until it is started.
    Stop {
        node: String,
        /// By SIGKILL, instead of asking it.
        kill: bool,
    },
    /// A process for a node that has none.
    Start { node: String },
    /// A node's end, the loss of its disk, and a start with an empty one.
    Wipe { node: String },
    /// A data node's end, for ever.
    Remove { node: String },
}

/// What the supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Reply {
    /// It is done; the nodes that it was about, as they are now.
    Done(Vec<Standing>),
    /// Nothing was done.
    #[serde(rename_all = "camelCase")]
    Refused {
        message: String,
        remedy: Option<String>,
    },
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let (message, remedy) = failure.into_words();
        Self::Refused { message, remedy }
    }
}

/// A node and its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Standing {
    #[serde(flatten)]
    pub(super) node: Node,
    pub(super) state: State,
    /// None where there is no process.
    pub(super) pid: Option<i32>,
    pub(super) log: PathBuf,
}

/// What is said of a name that no node has.
pub(super) fn no_such_node<'a>(name: &str, nodes: impl Iterator<Item = &'a Node>) -> Failure {
    let names: Vec<_> = nodes.map(|node| node.name.as_str()).collect();
    Failure::refused(format!("there is no node {name}"))
        .with_remedy(format!("There are {}", names.join(", ")))
}

/// Whether a node has a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// It has one.
    Running,
    /// It was asked to end.
    Stopping,
    /// Nobody starts it before a person does.
    Stopped,
    /// It died, and is started again soon.
    Restarting,
}

impl State {
    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Restarting => "restarting",
        }
    }
}

/// A line of either direction.
#[derive(Debug, Serialize, Deserialize)]
struct Line<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

#[derive(Debug, Serialize, Deserialize)]
struct Asked<T> {
    request: T,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    reply: Reply,
}

/// A request, and where its answer goes.
pub(super) type Order = (Request, oneshot::Sender<Reply>);

/// The socket. Dropping it takes it out of the directory.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    task: JoinHandle<()>,
    pub(super) orders: mpsc::Receiver<Order>,
}

impl Control {
    /// Listens in the directory, whose lock the caller holds.
    pub(super) fn listen(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(SOCKET);
        // Of a process that was killed: whoever has the lock is the only one.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = at_socket(directory, |path| UnixListener::bind(path))
            .and_then(|listener| {
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
                Ok(listener)
            })
            .with_context(|| format!("listen on {}", path.display()))?;
        let (sender, orders) = mpsc::channel(CONNECTIONS_MAX);
        let task = tokio::spawn(accept(listener, sender));
        Ok(Self { path, task, orders })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// Calls `act` with a path of the socket that is short enough: the kernel takes 107 bytes,
/// which a data directory may exceed.
fn at_socket<T>(directory: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = File::open(directory)?;
    let short = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    act(Path::new(&short))
}

async fn accept(listener: UnixListener, orders: mpsc::Sender<Order>) {
    let own = rustix::process::getuid().as_raw();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("the socket for other terminals: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        // Between its making and its mode anyone could have connected.
        let is_own = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
        if !is_own {
            continue;
        }
        let orders = orders.clone();
        tokio::spawn(async move {
            // One that went away needs no answer.
            let _ = serve(stream, &orders).await;
            drop(place);
        });
    }
}

async fn serve(mut stream: tokio::net::UnixStream, orders: &mpsc::Sender<Order>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut read = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(REQUEST_TIMEOUT, read.read_until(b'\n', &mut line))
        .await
        .map_err(io::Error::from)??;
    let reply = match parse(&line) {
        Ok(request) => carry_out(request, orders).await,
        Err(message) => Reply::Refused {
            message,
            remedy: Some("Use the `cairn` of the `cairn dev` that runs".to_owned()),
        },
    };
    let mut answer = serde_json::to_vec(&Line {
        version: VERSION,
        body: Answered { reply },
    })?;
    answer.push(b'\n');
    write.write_all(&answer).await
}

async fn carry_out(request: Request, orders: &mpsc::Sender<Order>) -> Reply {
    let (answer, answered) = oneshot::channel();
    let sent = orders.send((request, answer)).await;
    match (sent, answered.await) {
        (Ok(()), Ok(reply)) => reply,
        _ => Reply::Refused {
            message: "`cairn dev` is ending".to_owned(),
            remedy: None,
        },
    }
}

/// Reads a request, or says why not.
fn parse(line: &[u8]) -> Result<Request, String> {
    let not_one = |error: serde_json::Error| format!("this is no request of `cairn dev`: {error}");
    // The version first, for a newer one may know other requests.
    let Line { version, body } =
        serde_json::from_slice::<Line<Asked<serde_json::Value>>>(line).map_err(not_one)?;
    if version != VERSION {
        return Err(format!(
            "the request has form {version}, and `cairn dev` knows {VERSION}"
        ));
    }
    serde_json::from_value(body.request).map_err(not_one)
}

/// Asks the `cairn dev` that runs in a directory, and waits for its answer at most so long.
///
/// # Errors
/// Where none runs there, where it refuses, and where it has not answered in time: then
/// what was asked goes on.
pub(super) fn ask(
    directory: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<Vec<Standing>, Failure> {
    let stream = at_socket(directory, |path| UnixStream::connect(path))
        .map_err(|error| nobody_there(directory, &error))?;
    let overdue = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::unavailable(format!(
            "`cairn dev` is not done after {timeout:?}, and goes on"
        ))
        .with_remedy("Look with `cairn dev list`, or give a longer --timeout"),
        _ => Failure::from(anyhow::Error::new(error).context("ask `cairn dev`")),
    };
    let answer = converse(stream, request, timeout).map_err(overdue)?;
    if answer.is_empty() {
        return Err(Failure::unavailable("`cairn dev` ended before it answered"));
    }
    let answer: Line<Answered> = serde_json::from_slice(&answer).map_err(|error| {
        Failure::new(
            Kind::Other,
            format!("the answer of `cairn dev` is none that this build knows: {error}"),
        )
        .with_remedy("Use the `cairn` of the `cairn dev` that runs")
    })?;
    match answer.body.reply {
        Reply::Done(standings) => Ok(standings),
        Reply::Refused { message, remedy } => Err(remedy
            .into_iter()
            .fold(Failure::refused(message), Failure::with_remedy)),
    }
}

fn converse(mut stream: UnixStream, request: &Request, timeout: Duration) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut line = serde_json::to_vec(&Line {
        version: VERSION,
        body: Asked { request },
    })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut answer)?;
    Ok(answer)
}

/// Why nobody answers in a directory, and what to do about it.
fn nobody_there(directory: &Path, error: &io::Error) -> Failure {
    let shown = directory.display();
    let start = format!("Start it with `cairn dev{}`", data_dir_flag(directory));
    match Recorded::load(directory) {
        Ok(None) => {
            return Failure::unavailable(format!("there is no cluster of `cairn dev` in {shown}"))
                .with_remedy(format!("{start}, or give the --data-dir of another one"));
        }
        Err(error) => return error.into(),
        Ok(Some(_)) => {}
    }
    match DirectoryLock::attempt(directory) {
        Ok(Ok(_free)) => {
            Failure::unavailable(format!("the cluster in {shown} does not run")).with_remedy(start)
        }
        Ok(Err(holder)) => Failure::unavailable(format!(
            "the directory {shown} is in use by {holder}, which cannot be asked: {error}"
        ))
        .with_remedy("It may be starting or ending, or of another build: try again, or stop it"),
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a cluster in it, below a path of so many bytes.
    fn directory(bytes: usize) -> tempfile::TempDir {
        let name = "d".repeat(bytes);
        let directory = tempfile::TempDir::with_prefix(name).expect("a directory");
        Recorded::usual().save(directory.path()).expect("saved");
        directory
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    }

    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn a_request_is_answered_however_long_the_path_is() {
        let directory = directory(150);
        let runtime = runtime();
        let mut control = runtime
            .block_on(async { Control::listen(directory.path()) })
            .expect("it listens");
        let mode = fs::metadata(directory.path().join(SOCKET)).expect("a socket");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let request = Request::Add {
            count: 2,
            traits: Traits {
                zone: Some("b".to_owned()),
                weight: None,
            },
        };
        let expected = request.clone();
        let served = runtime.spawn(async move {
            let (asked, answer) = control.orders.recv().await.expect("a request");
            assert_eq!(asked, expected);
            let nodes = Recorded::usual().nodes().into_iter();
            let standings = nodes.map(|node| Standing {
                log: node.log_file(Path::new("/x")),
                node,
                state: State::Running,
                pid: Some(7),
            });
            let reply = Reply::Done(standings.collect());
            answer.send(reply).expect("somebody waits");
            let (_, answer) = control.orders.recv().await.expect("another");
            let reply = Reply::Refused {
                message: "no".to_owned(),
                remedy: Some("else".to_owned()),
            };
            answer.send(reply).expect("somebody waits");
            control
        });
        let standings = ask(directory.path(), &request, SOON).expect("it is done");
        assert_eq!(standings.len(), 8);
        assert_eq!(standings[7].node, Recorded::usual().nodes()[7]);
        let refused = ask(directory.path(), &Request::List, SOON).expect_err("refused");
        assert_eq!(refused.kind(), Kind::Refused);
        assert_eq!(refused.to_string(), "no\n  else");
        drop(runtime.block_on(served).expect("it served"));
        assert!(!directory.path().join(SOCKET).exists());
    }

    #[test]
    fn who_asks_nobody_is_told_why() {
        let empty = tempfile::TempDir::new().expect("a directory");
        let told = |path: &Path| {
            let failure = ask(path, &Request::List, SOON).expect_err("nobody is there");
            assert_eq!(failure.kind(), Kind::Unavailable);
            failure.to_string()
        };
        let text = told(empty.path());
        assert!(text.contains("there is no cluster"), "{text}");

        let directory = directory(0);
        // What a process that was killed leaves behind.
        drop(std::os::unix::net::UnixListener::bind(
            directory.path().join(SOCKET),
        ));
        let text = told(directory.path());
        assert!(text.contains("does not run"), "{text}");
        let again = format!("cairn dev --data-dir {}", directory.path().display());
        assert!(text.contains(&again), "{text}");

        let _lock = DirectoryLock::take(directory.path()).expect("free");
        let text = told(directory.path());
        let holder = format!("in use by process {}", std::process::id());
        assert!(text.contains(&holder), "{text}");
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        let request = Request::Stop {
            node: "data-1".to_owned(),
            kill: true,
        };
        let line = serde_json::to_vec(&Line {
            version: VERSION,
            body: Asked { request: &request },
        })
        .expect("JSON");
        assert_eq!(parse(&line), Ok(request));
        for (line, words) in [
            (&b"GET / HTTP/1.1\n"[..], "no request"),
            (b"", "no request"),
            (br#"{"version": 2, "request": {"fly": {}}}"#, "form 2"),
            (br#"{"version": 1, "request": {"fly": {}}}"#, "fly"),
            (
                br#"{"version": 1, "request": {"start": {"node": "data-1", "now": true}}}"#,
                "now",
            ),
        ] {
            let refused = parse(line).expect_err("refused");
            assert!(refused.contains(words), "{refused}");
        }
    }
}
