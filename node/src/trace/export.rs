//! Telling a collector of spans that ended: OTLP over gRPC, in batches, one at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_client::transport::{Channel, Dialer};
use cairn_proto::pb::otlp;
use cairn_proto::pb::otlp::any_value::Value;
use cairn_proto::pb::otlp::trace_service_client::TraceServiceClient;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Span;

/// The most spans of one message.
const BATCH: usize = 512;
/// For how long spans are gathered before they are told.
const GATHER: Duration = Duration::from_millis(500);
/// How long the collector may take for one message.
const WITHIN: Duration = Duration::from_secs(5);
/// How long it is left alone after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Server and internal, of OTLP's kinds.
const KINDS: [i32; 2] = [2, 1];
const STATUS_ERROR: i32 = 2;

/// Tells `collector` of what comes until `shutdown`. A batch that cannot be told is dropped:
/// what comes meanwhile waits in the queue, as far as that has room.
pub(super) async fn run(
    collector: String,
    node: String,
    mut spans: Receiver<Span>,
    shutdown: CancellationToken,
) {
    let told = metrics::counter!("cairn_trace_spans_sent_total");
    let failed = metrics::counter!("cairn_trace_spans_dropped_total", "reason" => "collector");
    // A channel that is made when it is first used, and again whenever it broke.
    let channel = match Dialer::default().lazy(&collector) {
        Ok(channel) => channel,
        Err(error) => {
            tracing::error!(collector, %error, "no traces: the collector cannot be dialled");
            return;
        }
    };
    let mut client = TraceServiceClient::new(channel);
    let mut is_down = false;
    loop {
        let batch = tokio::select! {
            batch = gather(&mut spans) => batch,
            () = shutdown.cancelled() => return,
        };
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let outcome = tokio::select! {
            outcome = tell(&mut client, &node, batch) => outcome,
            () = shutdown.cancelled() => return,
        };
        match outcome {
            Ok(()) => {
                told.increment(count);
                if std::mem::take(&mut is_down) {
                    tracing::info!(collector, "the collector of traces takes spans again");
                }
            }
            Err(reason) => {
                failed.increment(count);
                if !std::mem::replace(&mut is_down, true) {
                    tracing::warn!(collector, reason, "the collector of traces takes no spans");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The next batch: what comes within a moment of the first. Empty once nobody is left to send.
async fn gather(spans: &mut Receiver<Span>) -> Vec<Span> {
    let mut batch = Vec::new();
    if spans.recv_many(&mut batch, BATCH).await == 0 {
        return batch;
    }
    let until = Instant::now() + GATHER;
    while batch.len() < BATCH {
        let left = BATCH - batch.len();
        tokio::select! {
            count = spans.recv_many(&mut batch, left) => if count == 0 { break },
            () = sleep_until(until) => break,
        }
    }
    batch
}

async fn tell(
    client: &mut TraceServiceClient<Channel>,
    node: &str,
    batch: Vec<Span>,
) -> Result<(), String> {
    match timeout(WITHIN, client.export(request(node, batch))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("no answer within {WITHIN:?}")),
    }
}

fn request(node: &str, batch: Vec<Span>) -> otlp::ExportTraceServiceRequest {
    let resource = [
        ("service.name", "cairn"),
        ("service.instance.id", node),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let attributes = resource.map(|(key, text)| pair(key, Value::StringValue(text.to_owned())));
    otlp::ExportTraceServiceRequest {
        resource_spans: vec![otlp::ResourceSpans {
            resource: Some(otlp::Resource {
                attributes: attributes.into(),
            }),
            scope_spans: vec![otlp::ScopeSpans {
                scope: Some(otlp::InstrumentationScope {
                    name: "cairn".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                spans: batch.into_iter().map(span).collect(),
            }],
        }],
    }
}

fn span(span: Span) -> otlp::Span {
    let Span {
        name,
        is_server,
        context,
        parent,
        begin,
        end,
        numbers,
        failed,
    } = span;
    let number = |number| Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX));
    otlp::Span {
        trace_id: context.trace.to_vec(),
        span_id: context.span.to_vec(),
        parent_span_id: if parent == [0; 8] {
            Vec::new()
        } else {
            parent.to_vec()
        },
        name: name.to_owned(),
        kind: KINDS[usize::from(!is_server)],
        start_time_unix_nano: nanos(begin),
        end_time_unix_nano: nanos(end),
        attributes: numbers
            .into_iter()
            .map(|(key, value)| pair(key, number(value)))
            .collect(),
        status: failed.then(|| otlp::Status {
            code: STATUS_ERROR,
            ..otlp::Status::default()
        }),
    }
}

fn pair(key: &str, value: Value) -> otlp::KeyValue {
    otlp::KeyValue {
        key: key.to_owned(),
        value: Some(otlp::AnyValue { value: Some(value) }),
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
