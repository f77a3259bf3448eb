//! Traces of requests, from the client over the primary to its replicas, and a collector that
//! does not keep up.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use cairn_client::{Client, Options, trace};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::collector::{Collector, Told, only};
use cairn_process_tests::resp::{ClusterClient, Patience, Reply, Routes};
use cairn_process_tests::waiting;
use tokio::runtime::Runtime;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
/// Writes that are all drawn, while nobody takes their spans.
const WRITES: usize = 3_000;

fn start(collector: &Collector, per_million: u32) -> Result<Cluster> {
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 8,
        ..Spec::default()
    };
    let spec = spec
        .with("CAIRN_TRACE_COLLECTOR", &collector.address)
        .with("CAIRN_TRACE_PER_MILLION", per_million);
    Cluster::start(spec)
}

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn one_trace_leads_from_the_client_over_the_primary_to_its_replicas() -> Result<()> {
    let collector = Collector::start()?;
    let mut cluster = start(&collector, 0)?;
    runtime()?.block_on(async {
        let endpoints = cluster.client_addresses();
        let client = Client::connect(endpoints, Options::default()).await?;
        // Nobody asks for these, or asks that they be left alone.
        client.put("untraced", "value").await?;
        let unsampled = format!("00-{TRACE}-{SPAN}-00");
        trace::within(&unsampled, client.put("untraced", "value")).await?;
        let traceparent = format!("00-{TRACE}-{SPAN}-01");
        trace::within(&traceparent, client.put("traced", "value")).await?;
        trace::within(&traceparent, client.get("traced")).await?;
        anyhow::Ok(())
    })?;
    let named = |told: &[Told], name: &str| -> Vec<Told> {
        let of = told.iter().filter(|one| one.span.name == name);
        of.cloned().collect()
    };
    // Both replicas append it; the commit waits for one of them. A replica that cannot prove
    // yet how fresh it is sends a read on, which is then a second one of the same trace.
    let told = waiting::until("the spans of one put and one get", BOUND, || {
        let told = collector.told();
        let count = |name| named(&told, name).len();
        let (once, gets) = (["put", "replicate"].map(count), count("get"));
        let whole = once == [1, 1] && count("append") == 2 && gets >= 1;
        Ok((whole && told.len() == 4 + gets).then_some(told))
    })
    .with_context(|| format!("told: {:#?}", collector.told()))?;
    ensure!(
        told.iter().all(|one| hex(&one.span.trace_id) == TRACE),
        "{told:#?}"
    );
    for one in &told {
        let times = (one.span.start_time_unix_nano, one.span.end_time_unix_nano);
        ensure!(times.0 > 0 && times.0 <= times.1, "{one:#?}");
        ensure!(one.span.status.is_none(), "{one:#?}");
    }
    let named = |name| told.iter().filter(move |one| one.span.name == name);
    let put = only(named("put"))?;
    for request in named("get").chain([put]) {
        ensure!(hex(&request.span.parent_span_id) == SPAN, "{request:#?}");
        ensure!(request.span.kind == 2, "{request:#?}");
    }
    let replicate = only(named("replicate"))?;
    ensure!(
        replicate.span.parent_span_id == put.span.span_id,
        "{told:#?}"
    );
    ensure!(replicate.node == put.node, "{told:#?}");
    let mut nodes = BTreeSet::from([&*put.node]);
    for append in named("append") {
        ensure!(
            append.span.parent_span_id == replicate.span.span_id,
            "{told:#?}"
        );
        for number in ["cairn.partition", "cairn.index"] {
            ensure!(
                append.number(number) == replicate.number(number),
                "{told:#?}"
            );
            ensure!(append.number(number).is_some(), "{told:#?}");
        }
        nodes.insert(&append.node);
    }
    ensure!(nodes.len() == 3, "{nodes:?}");
    cluster.check_running()
}

#[test]
fn a_collector_that_does_not_answer_costs_spans_and_no_request() -> Result<()> {
    let collector = Collector::start()?;
    let mut cluster = start(&collector, 1_000_000)?;
    let routes = Routes::new(cluster.resp());
    let mut client = ClusterClient::new(routes, Patience::default());
    let runtime = runtime()?;
    let mut write = |key: String| -> Result<()> {
        let words: [&[u8]; 3] = [b"SET", key.as_bytes(), b"1"];
        let reply = runtime.block_on(client.call(&key, &words));
        ensure!(
            matches!(&reply, Ok(Reply::Simple(ok)) if ok == "OK"),
            "{reply:?}"
        );
        Ok(())
    };
    write("seen".to_owned())?;
    // A trace that nobody asked for begins with its primary.
    waiting::until("a trace that was drawn", BOUND, || {
        let told = collector.told();
        let root = told.iter().find(|one| one.span.parent_span_id.is_empty());
        let is_complete = |root: &Told| {
            let below = told
                .iter()
                .filter(|one| one.span.parent_span_id == root.span.span_id);
            root.span.name == "replicate" && below.count() == 2
        };
        Ok(root.filter(|root| is_complete(root)).map(drop))
    })?;

    collector.set_deaf(true);
    for number in 0..WRITES {
        write(format!("key:{number}"))?;
    }
    let sum = |cluster: &Cluster, name: &str| -> Result<f64> {
        cluster.data.iter().map(|node| node.metric(name)).sum()
    };
    waiting::until("spans to be dropped", BOUND, || {
        let dropped = sum(&cluster, "cairn_trace_spans_dropped_total")?;
        Ok((dropped > 0.0).then_some(()))
    })?;
    collector.set_deaf(false);
    let before = sum(&cluster, "cairn_trace_spans_sent_total")?;
    waiting::until("spans to be taken again", BOUND, || {
        write("again".to_owned())?;
        Ok((sum(&cluster, "cairn_trace_spans_sent_total")? > before).then_some(()))
    })?;
    cluster.check_running()
}
