//! An API server in memory, as far as the operator's edge needs one: creating, reading,
//! listing, writing with `resourceVersion`, applying, and deleting with preconditions. It knows
//! no schema, no defaults and no controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A request that was made.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

type Interposed = Box<dyn FnOnce(&mut State) + Send>;

/// What there is.
#[derive(Default)]
pub(crate) struct State {
    objects: BTreeMap<String, Value>,
    forbidden: BTreeSet<String>,
    /// What may be read below these, and not written.
    read_only: BTreeSet<String>,
    requests: Vec<Seen>,
    /// What happens just before the first request of that method and path.
    interposed: Vec<(Method, String, Interposed)>,
    version: u64,
}

/// The API server. Clones share what there is.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    pub(crate) fn client(&self) -> Client {
        let state = Arc::clone(&self.0);
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = Arc::clone(&state);
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap_or_default();
                let seen = Seen {
                    method: parts.method,
                    path: parts.uri.path().to_owned(),
                    query: parts.uri.query().unwrap_or("").to_owned(),
                    body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
                };
                let (status, answer) = state.lock().answer(seen);
                let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    /// Puts an object there, as if it had always been.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().put(path, object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().objects.get(path).cloned()
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().objects.remove(path);
    }

    /// Refuses everything below that path.
    pub(crate) fn forbid(&self, path: &str) {
        self.0.lock().forbidden.insert(path.to_owned());
    }

    /// Refuses to change anything below that path.
    pub(crate) fn forbid_writes(&self, path: &str) {
        self.0.lock().read_only.insert(path.to_owned());
    }

    /// Does something just before the next such request is served.
    pub(crate) fn before(
        &self,
        method: Method,
        path: &str,
        what: impl FnOnce(&mut State) + Send + 'static,
    ) {
        let what = (method, path.to_owned(), Box::new(what) as Interposed);
        self.0.lock().interposed.push(what);
    }

    /// The requests that would change something, since this was asked last.
    pub(crate) fn writes(&self) -> Vec<Seen> {
        let all = std::mem::take(&mut self.0.lock().requests);
        all.into_iter()
            .filter(|seen| seen.method != Method::GET)
            .collect()
    }
}

impl State {
    pub(crate) fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        let metadata = &mut object["metadata"];
        if metadata.get("uid").is_none() {
            metadata["uid"] = format!("uid-{}", self.version).into();
        }
        metadata["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&mut self, path: &str) {
        self.objects.remove(path);
    }

    fn answer(&mut self, seen: Seen) -> (StatusCode, Value) {
        let matching = self
            .interposed
            .iter()
            .position(|(method, path, _)| *method == seen.method && *path == seen.path);
        if let Some(at) = matching {
            let (_, _, what) = self.interposed.remove(at);
            what(self);
        }
        self.requests.push(seen.clone());
        let below = |paths: &BTreeSet<String>| {
            paths
                .iter()
                .any(|path| seen.path.starts_with(path.as_str()))
        };
        let reads = seen.method == Method::GET;
        if below(&self.forbidden) || (!reads && below(&self.read_only)) {
            return failure(StatusCode::FORBIDDEN, "Forbidden", "not allowed");
        }
        let path = seen.path.strip_suffix("/status").unwrap_or(&seen.path);
        match seen.method {
            Method::GET => self.read(path, &seen.query),
            Method::POST => self.create(path, seen.body),
            Method::PUT => self.replace(path, seen.body),
            Method::PATCH => self.patch(path, &seen.query, seen.body),
            Method::DELETE => self.delete(path, &seen.body),
            _ => failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "no such verb",
            ),
        }
    }

    fn read(&self, path: &str, query: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        if !is_collection(path) {
            return failure(StatusCode::NOT_FOUND, "NotFound", "there is none");
        }
        let wanted: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("labelSelector="))
            .flat_map(|selector| {
                let plain = selector
                    .replace("%2C", ",")
                    .replace("%3D", "=")
                    .replace("%2F", "/");
                plain
                    .split(',')
                    .filter_map(|one| one.split_once('='))
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect::<Vec<_>>()
            })
            .collect();
        let prefix = format!("{path}/");
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(at, _)| {
                at.strip_prefix(&prefix)
                    .is_some_and(|name| !name.contains('/'))
            })
            .map(|(_, object)| object)
            .filter(|object| {
                let labels = &object["metadata"]["labels"];
                wanted
                    .iter()
                    .all(|(key, value)| labels[key] == value.as_str())
            })
            .collect();
        let list = json!({
            "apiVersion": "v1", "kind": "List",
            "metadata": {"resourceVersion": self.version.to_string()},
            "items": items,
        });
        (StatusCode::OK, list)
    }

    fn create(&mut self, path: &str, object: Value) -> (StatusCode, Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let at = format!("{path}/{name}");
        if self.objects.contains_key(&at) {
            return failure(StatusCode::CONFLICT, "AlreadyExists", "it exists");
        }
        self.put(&at, object);
        (StatusCode::CREATED, self.objects[&at].clone())
    }

    fn replace(&mut self, path: &str, mut object: Value) -> (StatusCode, Value) {
        let Some(live) = self.objects.get(path) else {
            return failure(StatusCode::NOT_FOUND, "NotFound", "there is none");
        };
        if let Some(refusal) = stale(live, &object["metadata"]) {
            return refusal;
        }
        object["metadata"]["uid"] = live["metadata"]["uid"].clone();
        self.put(path, object);
        (StatusCode::OK, self.objects[path].clone())
    }

    fn patch(&mut self, path: &str, query: &str, patch: Value) -> (StatusCode, Value) {
        let applying = query.contains("fieldManager=");
        let live = match self.objects.get(path) {
            Some(live) => live.clone(),
            None if applying => json!({}),
            None => return failure(StatusCode::NOT_FOUND, "NotFound", "there is none"),
        };
        if let Some(refusal) = stale(&live, &patch["metadata"]) {
            return refusal;
        }
        let mut merged = live.clone();
        merge(&mut merged, patch);
        if merged != live {
            self.put(path, merged);
        }
        (StatusCode::OK, self.objects[path].clone())
    }

    fn delete(&mut self, path: &str, options: &Value) -> (StatusCode, Value) {
        let Some(live) = self.objects.get(path) else {
            return failure(StatusCode::NOT_FOUND, "NotFound", "there is none");
        };
        if let Some(refusal) = stale(live, &options["preconditions"]) {
            return refusal;
        }
        self.objects.remove(path);
        (
            StatusCode::OK,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
        )
    }
}

/// Whether a path ends with the plural of a kind, and not with a name.
fn is_collection(path: &str) -> bool {
    let mut segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    segments.drain(..if segments[0] == "api" { 2 } else { 3 });
    if segments[0] == "namespaces" && segments.len() > 2 {
        segments.drain(..2);
    }
    segments.len() == 1
}

/// A conflict where `asked` names another UID or resourceVersion.
fn stale(live: &Value, asked: &Value) -> Option<(StatusCode, Value)> {
    ["uid", "resourceVersion"]
        .iter()
        .any(|field| {
            asked
                .get(*field)
                .is_some_and(|asked| *asked != live["metadata"][*field])
        })
        .then(|| failure(StatusCode::CONFLICT, "Conflict", "it changed"))
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}

fn failure(code: StatusCode, reason: &str, message: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message,
    });
    (code, status)
}

/// The smallest manifest, as the API server would hand it out: with its defaults.
pub(crate) fn manifest() -> cairn_crds::KvCluster {
    serde_json::from_value(json!({
        "apiVersion": "cairn.dev/v1alpha1", "kind": "KvCluster",
        "metadata": {
            "name": "orders", "namespace": "shop", "uid": "uid-orders",
            "generation": 3, "resourceVersion": "1",
        },
        "spec": {"data": {"replicas": 3, "storage": {"size": "10Gi"}}},
    }))
    .unwrap_or_else(|error| panic!("the manifest: {error}"))
}

/// What that manifest comes to.
pub(crate) fn cluster() -> crate::cluster::Cluster {
    crate::validate::validate(&manifest(), &defaults())
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

pub(crate) fn defaults() -> crate::validate::Defaults {
    crate::validate::Defaults {
        version: "1.2.3".to_owned(),
        repository: "cairn/node".to_owned(),
    }
}

/// An operator that leads.
pub(crate) fn writes() -> crate::controller::writes::Writes {
    crate::controller::writes::Writes::new(crate::leader::Leadership::alone(), None)
}
