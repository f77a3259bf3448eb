//! A collector of traces, as OpenTelemetry's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use cairn_proto::pb::otlp::any_value::Value;
use cairn_proto::pb::otlp::trace_service_server::{TraceService, TraceServiceServer};
use cairn_proto::pb::otlp::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, Span,
};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A span, and the node that told it.
#[derive(Clone, PartialEq, Debug)]
pub struct Told {
    /// The node's name.
    pub node: String,
    /// What it told.
    pub span: Span,
}

impl Told {
    /// An attribute that is a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<i64> {
        match attributes(&self.span.attributes).remove(key)? {
            Value::IntValue(number) => Some(number),
            Value::StringValue(_) => None,
        }
    }
}

/// One that listens on a port of this machine until it is dropped.
#[derive(Debug)]
pub struct Collector {
    /// Its address.
    pub address: String,
    heard: Arc<Heard>,
    // Its tasks end with it.
    _runtime: Runtime,
}

#[derive(Debug, Default)]
struct Heard {
    told: Mutex<Vec<Told>>,
    is_deaf: AtomicBool,
}

impl Collector {
    /// Starts one.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let heard = Arc::new(Heard::default());
        let service = TraceServiceServer::new(Service(Arc::clone(&heard)));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?.to_string();
        runtime.spawn(async move {
            let connections = TcpListenerStream::new(listener);
            let served = Server::builder().add_service(service);
            if let Err(error) = served.serve_with_incoming(connections).await {
                println!("the collector ended: {error}");
            }
        });
        Ok(Self {
            address,
            heard,
            _runtime: runtime,
        })
    }

    /// All that it was told so far.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.heard.told.lock().clone()
    }

    /// Has it take calls and never answer them, or answer them again.
    pub fn set_deaf(&self, is_deaf: bool) {
        self.heard.is_deaf.store(is_deaf, Ordering::Relaxed);
    }
}

struct Service(Arc<Heard>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.0.is_deaf.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        for of_node in request.into_inner().resource_spans {
            let resource = of_node.resource.unwrap_or_default();
            let node = match attributes(&resource.attributes).remove("service.instance.id") {
                Some(Value::StringValue(node)) => node,
                _ => return Err(Status::invalid_argument("nobody told it")),
            };
            let spans = of_node.scope_spans.into_iter().flat_map(|of| of.spans);
            let mut told = self.0.told.lock();
            told.extend(spans.map(|span| Told {
                node: node.clone(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, Value> {
    let pairs = pairs.iter();
    pairs
        .filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?.value?)))
        .collect()
}

/// The only one of some spans.
///
/// # Errors
/// Where there is none, or another one.
pub fn only<'a>(mut spans: impl Iterator<Item = &'a Told>) -> Result<&'a Told> {
    let first = spans.next().context("no such span")?;
    anyhow::ensure!(spans.next().is_none(), "several of {first:?}");
    Ok(first)
}
