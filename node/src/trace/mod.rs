//! Traces of requests, for an OpenTelemetry collector. Off unless one is named.
//!
//! A request is traced where its caller says so (the W3C's `traceparent` with its sampled
//! flag), or where it is drawn. Of the others nothing is kept: asking whether there is a trace
//! is all that they cost. Whoever ends a span hands it to a bounded queue and goes on; what does
//! not fit there, because the collector is behind or away, is dropped and counted.

mod export;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_proto::trace::SpanContext;
use metrics::Counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Spans that wait for the collector.
const WAITING_MAX: usize = 4096;
/// Traces that one node begins, or takes part in at a caller's word, in a second: callers that
/// ask for all of theirs must not make a node busy with telling.
const TRACES_PER_SECOND: u64 = 1000;
/// Requests are drawn out of so many.
const OUT_OF: u32 = 1_000_000;

/// Where traces go, and which requests are traced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceSettings {
    /// The collector's `HOST:PORT`, where it takes OTLP over gRPC.
    pub collector: String,
    /// How many of a million requests are drawn.
    pub per_million: u32,
}

/// What traces requests. Cheap to clone; nothing here blocks.
#[derive(Clone, Debug, Default)]
pub struct Tracer {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    spans: mpsc::Sender<Span>,
    /// A draw below it is taken.
    threshold: u32,
    /// The second, and how many traces there were in it.
    budget: AtomicU64,
    too_many: Counter,
    queue_full: Counter,
}

/// One span, as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    name: &'static str,
    is_server: bool,
    context: SpanContext,
    parent: [u8; 8],
    begin: SystemTime,
    end: SystemTime,
    numbers: Vec<(&'static str, u64)>,
    failed: bool,
}

impl Span {
    /// For the spans below it.
    #[must_use]
    pub fn context(&self) -> SpanContext {
        self.context
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, number: u64) {
        self.numbers.push((name, number));
    }
}

impl Tracer {
    /// One that tells a collector of the spans of the node of that name, until `shutdown`. To be
    /// called within a tokio runtime.
    #[must_use]
    pub fn start(settings: &TraceSettings, node: &str, shutdown: CancellationToken) -> Self {
        let (spans, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(export::run(
            settings.collector.clone(),
            node.to_owned(),
            waiting,
            shutdown,
        ));
        tracing::info!(collector = settings.collector, "requests are traced");
        Self::telling(spans, settings.per_million)
    }

    fn telling(spans: mpsc::Sender<Span>, per_million: u32) -> Self {
        let dropped = |reason: &'static str| metrics::counter!("cairn_trace_spans_dropped_total", "reason" => reason);
        Self {
            inner: Some(Arc::new(Inner {
                spans,
                threshold: per_million.min(OUT_OF),
                budget: AtomicU64::new(0),
                too_many: dropped("too_many_traces"),
                queue_full: dropped("queue_full"),
            })),
        }
    }

    /// Whether anything is traced at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.inner.is_some()
    }

    /// What a caller asks to be traced, by its header.
    #[must_use]
    pub fn asked(&self, header: Option<&str>) -> Option<SpanContext> {
        let inner = self.inner.as_deref()?;
        let context = SpanContext::sampled(header?)?;
        inner.has_room().then_some(context)
    }

    /// Draws whether a request that nobody asked for is traced.
    #[must_use]
    pub fn draw(&self) -> Option<SpanContext> {
        let inner = self.inner.as_deref().filter(|inner| inner.threshold > 0)?;
        let is_drawn = rand::random_range(0..OUT_OF) < inner.threshold;
        (is_drawn && inner.has_room()).then(|| SpanContext {
            trace: rand::random(),
            span: [0; 8],
        })
    }

    /// Begins a span below another one.
    #[must_use]
    pub fn begin(name: &'static str, above: SpanContext) -> Span {
        let now = SystemTime::now();
        Span {
            name,
            is_server: false,
            context: SpanContext {
                span: rand::random(),
                ..above
            },
            parent: above.span,
            begin: now,
            end: now,
            numbers: Vec::new(),
            failed: false,
        }
    }

    /// As [`Self::begin`], of a request that came over the network.
    #[must_use]
    pub fn begin_request(name: &'static str, above: SpanContext) -> Span {
        Span {
            is_server: true,
            ..Self::begin(name, above)
        }
    }

    /// Ends a span, and has it told.
    pub fn end(&self, mut span: Span, failed: bool) {
        let Some(inner) = &self.inner else { return };
        // A calendar that was set back meanwhile makes no negative duration.
        span.end = SystemTime::now().max(span.begin);
        span.failed = failed;
        if inner.spans.try_send(span).is_err() {
            inner.queue_full.increment(1);
        }
    }
}

impl Inner {
    /// Counts a trace; whether this second has room for it.
    fn has_room(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let has_room = self.has_room_in(now.map_or(0, |since| since.as_secs()));
        if !has_room {
            self.too_many.increment(1);
        }
        has_room
    }

    fn has_room_in(&self, second: u64) -> bool {
        // The second in the upper half, the count in the lower one.
        let second = second << 32;
        let update = |budget: u64| {
            if budget >> 32 != second >> 32 {
                return Some(second | 1);
            }
            (budget & u64::from(u32::MAX) < TRACES_PER_SECOND).then_some(budget + 1)
        };
        self.budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn tracer(per_million: u32, room: usize) -> (Tracer, mpsc::Receiver<Span>) {
        let (spans, told) = mpsc::channel(room);
        (Tracer::telling(spans, per_million), told)
    }

    #[test]
    fn nothing_is_traced_where_no_collector_is_named() {
        let off = Tracer::default();
        assert!(!off.is_on());
        assert_eq!(off.asked(Some(HEADER)), None);
        assert_eq!(off.draw(), None);
    }

    #[test]
    fn callers_are_heard_and_others_are_drawn() {
        let (none, _told) = tracer(0, 8);
        assert!(none.asked(Some(HEADER)).is_some());
        assert_eq!(none.asked(None), None);
        assert_eq!(none.draw(), None);
        let (all, _told) = tracer(OUT_OF, 8);
        assert_eq!(all.draw().map(|root| root.span), Some([0; 8]));
    }

    #[test]
    fn spans_are_told_below_one_another() {
        let (tracer, mut told) = tracer(0, 8);
        let caller = tracer.asked(Some(HEADER)).expect("it is sampled");
        let mut request = Tracer::begin_request("put", caller);
        let entry = Tracer::begin("replicate", request.context());
        request.set("index", 7);
        tracer.end(entry, false);
        tracer.end(request, true);
        let entry = told.try_recv().expect("the first to end");
        let request = told.try_recv().expect("the other");
        assert_eq!((request.parent, request.failed), (caller.span, true));
        assert_eq!(entry.parent, request.context.span);
        assert_eq!(entry.context.trace, caller.trace);
        assert!(request.is_server && !entry.is_server);
    }

    #[test]
    fn what_finds_no_room_is_dropped_at_once() {
        let (tracer, mut told) = tracer(OUT_OF, 1);
        for _ in 0..3 {
            let root = tracer.draw().expect("all are drawn");
            tracer.end(Tracer::begin("put", root), false);
        }
        assert!(told.try_recv().is_ok());
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_second_has_room_for_so_many_traces() {
        let (tracer, _told) = tracer(OUT_OF, 1);
        let inner = tracer.inner.expect("it is on");
        let taken = (0..2 * TRACES_PER_SECOND).filter(|_| inner.has_room_in(7));
        assert_eq!(taken.count() as u64, TRACES_PER_SECOND);
        assert!(inner.has_room_in(8));
    }
}
