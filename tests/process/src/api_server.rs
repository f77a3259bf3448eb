//! An API server of Kubernetes in memory, as far as an operator wants one that runs by itself:
//! over HTTP, objects are created, read, listed, watched, written and merged. It knows no
//! schema, no defaults, no preconditions and no controllers, so that no pod ever starts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::waiting;

const PATIENCE: Duration = Duration::from_secs(5);
const BODY_MAX: u64 = 4 << 20;
/// By which elections go on while nothing else is answered.
const LEASES: &str = "/leases/";

/// The API server. Dropping it ends it, and every watch with it.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: Option<JoinHandle<()>>,
}

/// What there is, by paths.
#[derive(Default, Debug)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    fails: bool,
    is_over: bool,
}

struct Request {
    method: String,
    path: String,
    query: String,
    body: Value,
}

impl ApiServer {
    /// Starts one that holds nothing.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.lock().is_over {
                    break;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // Who hangs up has had enough.
                    let _ = serve(stream, &shared);
                });
            }
        });
        Ok(Self {
            address,
            state,
            accepting: Some(accepting),
        })
    }

    /// What a client reads to find it.
    #[must_use]
    pub fn kubeconfig(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        })
    }

    /// Puts an object there, or another one in its place.
    pub fn put(&self, path: &str, object: Value) {
        self.state.lock().put(path, object);
    }

    /// Answers everything but elections with an error, or as it should again.
    pub fn fail(&self, on: bool) {
        self.state.lock().fails = on;
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.state.lock().is_over = true;
        // Wakes whoever waits for the next connection.
        let woken = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take().filter(|_| woken.is_ok()) {
            let _ = accepting.join();
        }
    }
}

/// One request of one connection.
fn serve(mut stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = read(stream.try_clone()?)?;
    if request.value("watch").is_some() && !state.lock().fails {
        return watch(stream, &request, state);
    }
    let (code, answer) = state.lock().answer(&request);
    let body = answer.to_string();
    write!(
        stream,
        "HTTP/1.1 {code} \r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

fn read(stream: TcpStream) -> Result<Request> {
    let mut reader = BufReader::new(stream.take(BODY_MAX));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace();
    let method = words.next().context("no method")?.to_owned();
    let target = words.next().context("no path")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        ensure!(header.ends_with('\n'), "the headers do not end");
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(bytes) = header.strip_prefix("content-length:") {
            length = bytes.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request {
        method,
        path,
        query,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

/// Tells what changes, until this ends or nobody listens any more.
fn watch(mut stream: TcpStream, request: &Request, state: &Mutex<State>) -> Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 \r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    )?;
    let mut told: u64 = request.value("resourceVersion").unwrap_or("0").parse()?;
    loop {
        let mut lines = String::new();
        {
            let state = state.lock();
            if state.is_over {
                return Ok(());
            }
            for object in state.selected(&request.path, request) {
                if version_of(object) > told {
                    let event = json!({"type": "MODIFIED", "object": object});
                    lines.push_str(&format!("{event}\n"));
                }
            }
            told = told.max(state.version);
        }
        stream.write_all(lines.as_bytes())?;
        waiting::pause();
    }
}

impl Request {
    fn value(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

impl State {
    fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        let metadata = &mut object["metadata"];
        if metadata.get("uid").is_none() {
            metadata["uid"] = format!("uid-{}", self.version).into();
        }
        metadata["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object);
    }

    /// The objects of a collection that have the labels which the request names.
    fn selected(&self, path: &str, request: &Request) -> Vec<&Value> {
        let selector = request.value("labelSelector").unwrap_or("");
        let selector = selector.replace("%2F", "/").replace("%3D", "=");
        let labels: Vec<(&str, &str)> = selector
            .split("%2C")
            .filter_map(|one| one.split_once('='))
            .collect();
        let prefix = format!("{path}/");
        let found = self.objects.iter().filter(|(at, object)| {
            let name = at.strip_prefix(&prefix);
            let has = &object["metadata"]["labels"];
            name.is_some_and(|name| !name.contains('/'))
                && labels.iter().all(|(label, value)| has[*label] == *value)
        });
        found.map(|(_, object)| object).collect()
    }

    fn answer(&mut self, request: &Request) -> (u16, Value) {
        if self.fails && !request.path.contains(LEASES) {
            return failure(500, "InternalError", "the store does not answer");
        }
        let path = request.path.trim_end_matches("/status");
        match request.method.as_str() {
            "GET" => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None if is_collection(path) => (200, self.list(path, request)),
                None => failure(404, "NotFound", "there is none"),
            },
            "POST" => {
                let name = &request.body["metadata"]["name"];
                self.written(
                    &format!("{path}/{}", name.as_str().unwrap_or_default()),
                    request,
                )
            }
            "PUT" | "PATCH" => self.written(path, request),
            _ => failure(405, "MethodNotAllowed", "no such verb"),
        }
    }

    fn list(&self, path: &str, request: &Request) -> Value {
        json!({
            "apiVersion": "v1", "kind": "List",
            "metadata": {"resourceVersion": self.version.to_string()},
            "items": self.selected(path, request),
        })
    }

    fn written(&mut self, path: &str, request: &Request) -> (u16, Value) {
        let live = self.objects.get(path).cloned();
        let mut object = live.clone().unwrap_or_default();
        if request.method == "PATCH" {
            merge(&mut object, &request.body);
        } else {
            object = request.body.clone();
        }
        if live.as_ref() != Some(&object) {
            self.put(path, object);
        }
        (200, self.objects[path].clone())
    }
}

/// Whether a path ends with the plural of a kind, and not with a name.
fn is_collection(path: &str) -> bool {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => {
            matches!(rest, [_] | ["namespaces", _, _])
        }
        _ => false,
    }
}

fn version_of(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().and_then(|object| object.remove(key));
        } else {
            merge(&mut into[key.as_str()], value);
        }
    }
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (code, status)
}
