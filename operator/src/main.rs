//! The operator's process: command line, logs, signals, the lease, the way out.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, 1 where it could not go on, 2 where the command line
//! is wrong, 99 where a test asked for an end, 130 after a second signal.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cairn_operator::admin::Network;
use cairn_operator::args::{Cli, Command, LogFormat, Run};
use cairn_operator::controller::round::{Memory, World};
use cairn_operator::controller::{self, Scope, writes::Writes};
use cairn_operator::events::Events;
use cairn_operator::health::{self, Health};
use cairn_operator::leader::{Candidate, Leadership};
use cairn_operator::metrics::{self, Metrics};
use cairn_operator::validate::Defaults;
use clap::Parser;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The exit code after a second signal.
const EXIT_FORCED: i32 = 130;
/// How often metrics are folded.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long it takes to find out again whether the API server answers, at the start.
const RETRY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let run = match cli.command {
        Some(Command::Crd) => return print_definition(),
        Some(Command::Run(run)) => *run,
        None => cli.run,
    };
    if let Err(error) = start_logs(&run) {
        eprintln!("cairn-operator: {error:#}");
        return ExitCode::from(2);
    }
    match serve(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "the operator ends");
            ExitCode::FAILURE
        }
    }
}

fn print_definition() -> ExitCode {
    match serde_saphyr::to_string(&cairn_crds::definition()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cairn-operator: write the definition as YAML: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start_logs(run: &Run) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&run.log).with_context(|| format!("CAIRN_OPERATOR_LOG={}", run.log))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match run.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

fn serve(run: Run) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(operate(run));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn operate(run: Run) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ];
    tokio::spawn(watch_signals(signals, stop.clone()));
    let recorder = if run.metrics {
        Some(metrics::install().context("install the metrics")?)
    } else {
        None
    };
    let health = Health::default();
    let mut helpers = JoinSet::new();
    let listener = TcpListener::bind(run.http_listen)
        .await
        .with_context(|| format!("listen on {}", run.http_listen))?;
    // They go on until rounds have ended: a stop takes a while, and is no failure.
    let ended = CancellationToken::new();
    let serving = health::serve(listener, health.clone(), recorder.clone(), ended.clone());
    helpers.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "serve health and metrics");
        }
    });
    if let Some(recorder) = recorder {
        helpers.spawn(fold(recorder, ended.clone()));
    }
    let config = Config::infer().await.context("find the API server")?;
    let client = Client::try_from(config).context("speak to the API server")?;
    tokio::select! {
        () = wait_for_api(&client, &health) => look_after(&run, &client, &health, &stop).await,
        () = stop.cancelled() => {}
    }
    ended.cancel();
    while helpers.join_next().await.is_some() {}
    tracing::info!("stopped");
    Ok(())
}

/// Waits until the API server answers, so that `/readyz` tells of one that cannot be reached.
async fn wait_for_api(client: &Client, health: &Health) {
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                tracing::info!(version = version.git_version, "connected to the API server");
                return health.connected();
            }
            // It answers, and only does not tell its version.
            Err(kube::Error::Api(_)) => return health.connected(),
            Err(error) => tracing::warn!(%error, "the API server does not answer"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Looks after clusters whenever this operator holds the lease, until `stop`.
async fn look_after(run: &Run, client: &Client, health: &Health, stop: &CancellationToken) {
    let name = run
        .name
        .clone()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "cairn-operator".to_owned());
    // Of this very process: one that starts anew under the same name is another.
    let identity = format!("{name}_{:016x}", rand::random::<u64>());
    // The lease is given back once rounds have ended.
    let ended = CancellationToken::new();
    let (mut leadership, election) = if run.leader_election {
        let (reign, leadership) = Leadership::new();
        let namespace = run.lease_namespace.clone();
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        let lease = &run.lease_name;
        let candidate = Candidate::new(client.clone(), &namespace, lease, identity.clone());
        (
            leadership,
            Some(tokio::spawn(candidate.run(reign, ended.clone()))),
        )
    } else {
        (Leadership::alone(), None)
    };
    let world = Arc::new(World {
        client: client.clone(),
        writes: Writes::new(leadership.clone(), run.exit_after_writes),
        events: Events::new(client.clone(), identity),
        health: health.clone(),
        reach: Arc::new(Network),
        defaults: Defaults {
            version: run.default_version.clone(),
            repository: run.image_repository.clone(),
        },
        memory: Memory::default(),
    });
    let scope = run.scope();
    while !stop.is_cancelled() {
        tokio::select! {
            term = leadership.gained() => reign(&world, &scope, &mut leadership, term, stop).await,
            () = stop.cancelled() => {}
        }
    }
    ended.cancel();
    if let Some(election) = election
        && let Err(error) = election.await
    {
        tracing::error!(%error, "the election ended badly");
    }
}

/// Acts for as long as the lease is held under that term. Once it is lost, rounds end where
/// they are.
async fn reign(
    world: &Arc<World>,
    scope: &Scope,
    leadership: &mut Leadership,
    term: u64,
    stop: &CancellationToken,
) {
    metrics::leader(true);
    tokio::select! {
        () = controller::run(Arc::clone(world), scope, stop.clone()) => {}
        () = leadership.lost(term) => tracing::error!(term, "the lease is lost: all work ends"),
    }
    metrics::leader(false);
}

async fn fold(recorder: Metrics, ended: CancellationToken) {
    while !ended.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(UPKEEP) => recorder.upkeep(),
            () = ended.cancelled() => {}
        }
    }
}

/// The first signal lets what runs end, the second one does not.
async fn watch_signals([mut terminate, mut interrupt]: [Signal; 2], stop: CancellationToken) {
    let name = next(&mut terminate, &mut interrupt).await;
    tracing::info!(
        signal = name,
        "stopping; a second signal ends the operator at once"
    );
    stop.cancel();
    let name = next(&mut terminate, &mut interrupt).await;
    tracing::warn!(signal = name, "ended before rounds had");
    std::process::exit(EXIT_FORCED);
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
