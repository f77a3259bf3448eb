//! Calls that are a part of a trace.
//!
//! Data nodes record a call whose trace asks for it, where they are told of a collector, and so
//! do the replicas of what it writes. This client records nothing: it passes on where the call
//! belongs to.

use std::future::Future;

use cairn_proto::trace::SpanContext;

tokio::task_local! {
    static CURRENT: String;
}

/// Has the calls that the future makes, on its own task, belong to a span of the caller's: its
/// W3C `traceparent`, as every library for OpenTelemetry writes it. One that does not ask for the
/// trace to be recorded, or is none, changes nothing.
///
/// ```no_run
/// # async fn example(client: cairn_client::Client) -> Result<(), cairn_client::Error> {
/// let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// cairn_client::trace::within(traceparent, client.put("greeting", "hello")).await?;
/// # Ok(())
/// # }
/// ```
pub async fn within<F: Future>(traceparent: &str, calls: F) -> F::Output {
    match SpanContext::sampled(traceparent) {
        Some(context) => CURRENT.scope(context.header(), calls).await,
        None => calls.await,
    }
}

/// That of the call that is being made; empty where there is none.
pub(crate) fn current() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_knows_its_trace_where_that_is_recorded() {
        let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(within(sampled, async { current() }).await, sampled);
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert_eq!(within(unsampled, async { current() }).await, "");
        assert_eq!(current(), "");
    }
}
