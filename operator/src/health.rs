//! `/livez`, `/readyz` and `/metrics`.
//!
//! An operator that waits for the lease is ready: nothing is wrong with it. One whose rounds
//! hang is to be started anew.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::leader::boot_time;
use crate::metrics::Metrics;

/// How long a round may take before the process counts as stuck: several times what all calls
/// of a round may take together.
const ROUND_MAX: Duration = Duration::from_secs(300);

/// How the process is. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Rounds under way, and since when.
    rounds: Mutex<BTreeMap<String, Duration>>,
    /// Whether the API server has answered at all.
    connected: AtomicBool,
}

/// A round that is under way for as long as it lives.
#[derive(Debug)]
pub struct Round {
    of: Health,
    cluster: String,
}

impl Drop for Round {
    fn drop(&mut self) {
        self.of.0.rounds.lock().remove(&self.cluster);
    }
}

impl Health {
    /// A round over that cluster begins.
    #[must_use]
    pub fn round(&self, cluster: String) -> Round {
        self.0.rounds.lock().insert(cluster.clone(), boot_time());
        Round {
            of: self.clone(),
            cluster,
        }
    }

    /// The API server has answered.
    pub fn connected(&self) {
        self.0.connected.store(true, Ordering::Relaxed);
    }

    /// The cluster whose round hangs, if one does.
    fn stuck(&self, now: Duration) -> Option<String> {
        let rounds = self.0.rounds.lock();
        rounds
            .iter()
            .find(|(_, since)| now.saturating_sub(**since) > ROUND_MAX)
            .map(|(cluster, _)| cluster.clone())
    }

    fn is_connected(&self) -> bool {
        self.0.connected.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Shown {
    health: Health,
    metrics: Option<Metrics>,
}

fn routes(health: Health, metrics: Option<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Shown { health, metrics })
}

async fn livez(State(shown): State<Shown>) -> Response {
    match shown.health.stuck(boot_time()) {
        None => "ok\n".into_response(),
        Some(cluster) => unwell(&format!("the round over {cluster} hangs\n")),
    }
}

async fn readyz(State(shown): State<Shown>) -> Response {
    if shown.health.is_connected() {
        "ok\n".into_response()
    } else {
        unwell("the API server has not answered yet\n")
    }
}

fn unwell(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why.to_owned()).into_response()
}

async fn render(State(shown): State<Shown>) -> Response {
    let Some(metrics) = shown.metrics else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.render()).into_response()
}

/// Serves until `stop`.
///
/// # Errors
/// Where the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Option<Metrics>,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, routes(health, metrics))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn ask(health: &Health, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let routes = routes(health.clone(), None);
        routes.oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn it_is_ready_once_the_api_server_has_answered() {
        let health = Health::default();
        assert_eq!(
            ask(&health, "/readyz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(ask(&health, "/livez").await, StatusCode::OK);
        health.connected();
        assert_eq!(ask(&health, "/readyz").await, StatusCode::OK);
        assert_eq!(ask(&health, "/metrics").await, StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_round_that_hangs_is_noticed_and_one_that_ended_forgotten() {
        let health = Health::default();
        let round = health.round("shop/orders".to_owned());
        let now = boot_time();
        assert_eq!(health.stuck(now), None);
        let later = now + ROUND_MAX + Duration::from_secs(1);
        assert_eq!(health.stuck(later).as_deref(), Some("shop/orders"));
        drop(round);
        assert_eq!(health.stuck(later), None);
    }
}
