//! Health and metrics over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_node::http::{Check, Health, HttpConfig, HttpState, metrics, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

struct Http {
    address: std::net::SocketAddr,
    ready: Arc<AtomicBool>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn start(config: HttpConfig) -> Http {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let ready = Arc::new(AtomicBool::new(false));
    let probed = Arc::clone(&ready);
    let state = HttpState {
        livez: Arc::new(|| Health::new(vec![Check::ok("engine")])),
        readyz: Arc::new(move || {
            let map = Check::when("map", probed.load(Ordering::SeqCst), "no map yet");
            Health::new(vec![Check::ok("wal-recovered"), map])
        }),
        metrics: Some(metrics::install().expect("one recorder")),
        routes: None,
    };
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, state, config, shutdown.clone()));
    Http {
        address,
        ready,
        shutdown,
        serving,
    }
}

impl Http {
    /// Sends bytes and reads to the end.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("it connects");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it writes");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("it closes");
        reply
    }

    async fn get(&self, path: &str) -> String {
        self.exchange(&format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
        .await
    }
}

#[tokio::test]
async fn health_is_told_by_status_and_in_words() {
    let http = start(HttpConfig::default()).await;
    let live = http.get("/livez").await;
    assert!(live.starts_with("HTTP/1.1 200 OK\r\n"), "{live}");
    assert!(live.ends_with("\r\n\r\n[+]engine ok\nok\n"), "{live}");
    let waiting = http.get("/readyz").await;
    assert!(waiting.starts_with("HTTP/1.1 503 "), "{waiting}");
    assert!(
        waiting.ends_with("[+]wal-recovered ok\n[-]map failed: no map yet\nfailed\n"),
        "{waiting}"
    );
    http.ready.store(true, Ordering::SeqCst);
    assert!(http.get("/readyz").await.starts_with("HTTP/1.1 200 "));
    assert!(http.get("/nothing").await.starts_with("HTTP/1.1 404 "));
    http.shutdown.cancel();
    http.serving
        .await
        .expect("it ends")
        .expect("without an error");
}

#[tokio::test]
async fn metrics_include_those_of_the_process() {
    let http = start(HttpConfig::default()).await;
    ::metrics::counter!("counted_by_this_test_total").increment(3);
    let text = http.get("/metrics").await;
    assert!(
        text.contains("content-type: text/plain; version=0.0.4"),
        "{text}"
    );
    for line in [
        "counted_by_this_test_total 3",
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
        "process_open_fds ",
        "process_threads ",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(line)),
            "{line} in {text}"
        );
    }
}

#[tokio::test]
async fn a_request_has_a_longest_head_and_a_longest_time_to_come() {
    let config = HttpConfig {
        header_timeout: Duration::from_millis(100),
        ..HttpConfig::default()
    };
    let http = start(config).await;
    let reply = http.exchange("GET /livez HTTP/1.1\r\nhost: ").await;
    assert!(
        reply.is_empty() || reply.starts_with("HTTP/1.1 408 "),
        "{reply}"
    );
    let reply = http
        .exchange(&format!(
            "GET /livez HTTP/1.1\r\nx: {}\r\n\r\n",
            "y".repeat(17 << 10)
        ))
        .await;
    assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
}
