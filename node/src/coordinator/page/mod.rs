//! The status page of a coordinator: one page, and the status document that it follows.
//!
//! The page is plain HTML, CSS and JavaScript in this folder, and part of the binary; a
//! browser that shows it asks nobody else for anything. It asks for the document again
//! every second, and is told in a few bytes where nothing has changed.
//!
//! Where the node has users, the page and the document are for any of them, as
//! `Admin.Status` is. Neither holds values, hot keys stand there as the nodes tell of them
//! (by their hashes, unless they were told to name them), and nothing can be changed here.

mod documents;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use xxhash_rust::xxh3::xxh3_64;

use documents::WeakDocuments;
pub(super) use documents::{Documents, Edition};

use crate::grpc::check_credential;
use crate::listener::Ends;
use crate::users::{Checking, Denied, Origin, Users};

/// Where the document is.
const DOCUMENT: &str = "/status.json";
/// How many documents may be on their way at a time.
const UNDER_WAY_MAX: usize = 32;
/// In which pieces a document goes out: until the last one is taken it counts as on its
/// way.
const PIECE_BYTES: usize = 64 << 10;
/// Nothing from elsewhere, nothing inline, and no other page around this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The files of the page: where, what and the text.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("index.html")),
    ("/page.css", CSS, include_str!("page.css")),
    ("/page.js", SCRIPT, include_str!("page.js")),
    ("/cluster.js", SCRIPT, include_str!("cluster.js")),
    ("/events.js", SCRIPT, include_str!("events.js")),
    ("/table.js", SCRIPT, include_str!("table.js")),
    ("/words.js", SCRIPT, include_str!("words.js")),
    ("/icon.svg", SVG, include_str!("icon.svg")),
];

#[derive(Clone)]
struct Page {
    documents: WeakDocuments,
    places: Arc<Semaphore>,
    users: Users,
}

/// The page's routes.
pub(super) fn routes(documents: &Documents, users: Users) -> Router {
    let page = Page {
        documents: documents.downgrade(),
        places: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
        users,
    };
    let mut router = Router::new().route(DOCUMENT, get(document));
    for (path, content_type, text) in FILES {
        let file = move |headers: HeaderMap| async move { give(content_type, text, &headers) };
        router = router.route(path, get(file));
    }
    router
        .layer(middleware::from_fn_with_state(page.clone(), guard))
        .with_state(page)
}

/// Lets users in, and says how browsers are to treat what they get.
async fn guard(State(page): State<Page>, request: Request, next: Next) -> Response {
    let checked = match check(&page.users, &request) {
        Checking::Done(checked) => checked,
        Checking::Waiting(checked) => checked.await,
    };
    let mut response = match checked {
        Ok(_) => next.run(request).await,
        Err(Denied::Missing | Denied::Wrong) => (
            StatusCode::UNAUTHORIZED,
            [(
                header::WWW_AUTHENTICATE,
                "Basic realm=\"cairn\", charset=\"UTF-8\"",
            )],
            "a user of the cluster is needed\n",
        )
            .into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a user asks. A browser asks without a credential first, which is no failure to
/// count.
fn check(users: &Users, request: &Request) -> Checking {
    let Some(credential) = request.headers().get(header::AUTHORIZATION) else {
        let stranger = users.stranger();
        return Checking::Done(if stranger.is_let_in() {
            Ok(stranger)
        } else {
            Err(Denied::Missing)
        });
    };
    let ends = request.extensions().get::<Ends>();
    let origin = Origin {
        listener: "http",
        address: ends.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ends| ends.remote.ip()),
    };
    check_credential(users, credential, origin)
}

/// The tag as HTTP writes it.
fn etag(tag: u64) -> String {
    format!("\"{tag:016x}\"")
}

fn has_it(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains(etag))
}

/// A file of the page; asked for anew whenever it is shown, so that a page never outlives
/// the binary that it belongs to.
fn give(content_type: &str, text: &'static str, headers: &HeaderMap) -> Response {
    let etag = etag(xxh3_64(text.as_bytes()));
    let about = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::ETAG, etag.clone()),
    ];
    if has_it(headers, &etag) {
        (StatusCode::NOT_MODIFIED, about).into_response()
    } else {
        (about, text).into_response()
    }
}

async fn document(State(page): State<Page>, headers: HeaderMap) -> Response {
    let Some(documents) = page.documents.upgrade() else {
        return unavailable("the coordinator stops");
    };
    let edition = match documents.newest().await {
        Ok(edition) => edition,
        Err(status) => {
            tracing::warn!(%status, "make the status document");
            return unavailable("there is no status");
        }
    };
    // The coordinator may stop while it goes out.
    drop(documents);
    let etag = etag(edition.tag);
    let about = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::ETAG, etag.clone()),
    ];
    if has_it(&headers, &etag) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    let Ok(place) = Arc::clone(&page.places).try_acquire_owned() else {
        return unavailable("too many documents are on their way");
    };
    let length = [(header::CONTENT_LENGTH, edition.json.len().to_string())];
    (about, length, pieces(edition.json, place)).into_response()
}

/// Nothing is wrong with the request: it may be made again in a moment.
fn unavailable(why: &'static str) -> Response {
    let later = [(header::RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, later, format!("{why}\n")).into_response()
}

/// The whole of it, which holds its place until the transport has taken the last piece.
fn pieces(json: Bytes, place: OwnedSemaphorePermit) -> Body {
    Body::from_stream(futures::stream::iter(Pieces {
        rest: json,
        _place: place,
    }))
}

struct Pieces {
    rest: Bytes,
    _place: OwnedSemaphorePermit,
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        let length = self.rest.len().min(PIECE_BYTES);
        (length > 0).then(|| Ok(self.rest.split_to(length)))
    }
}
