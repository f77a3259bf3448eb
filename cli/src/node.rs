//! The process as a node: settings, logs, the runtime, signals, the way out.

use std::ffi::OsString;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use cairn_node::diagnosis;
use cairn_node::settings::{self, LogFormat, NodeSettings, ProcessSettings, Values};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use crate::failure::{Failure, Kind};
use crate::schedule;

/// The exit code of a node that a second signal ended before it had drained.
const EXIT_FORCED: i32 = 130;
/// Variables of the commands, which are no settings of a node and no slip either.
const COMMAND_VARIABLES: &[&str] = &["CAIRN_CONFIG", "CAIRN_ENDPOINTS"];

/// The command line of a node: a flag for every setting.
pub(crate) fn command() -> clap::Command {
    settings::with_flags(
        clap::Command::new("node")
            .version(env!("CARGO_PKG_VERSION"))
            .about("Run a node; every flag is also a CAIRN_* variable")
            .next_line_help(true),
    )
}

/// Runs the node that the variables and flags describe, to its end.
pub(crate) fn run_with_arguments<I>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = OsString>,
{
    run(&command().name("cairn").get_matches_from(arguments))
}

/// Runs the node that the variables and already parsed flags describe.
pub(crate) fn run(matches: &clap::ArgMatches) -> ExitCode {
    let values = Values::from_environment().with_matches(matches);
    let settings = match settings::read(&values) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("cairn: {error}");
            return ExitCode::from(Kind::Usage as u8);
        }
    };
    if let Err(failure) = start_logs(settings.process()) {
        eprintln!("cairn: {failure}");
        return failure.exit_code();
    }
    diagnosis::set_up_with(&values);
    for name in values.unknown() {
        if !COMMAND_VARIABLES.contains(&name.as_str()) {
            tracing::warn!(variable = %name, "there is no such setting; is it misspelled?");
        }
    }
    for warning in &settings.process().warnings {
        tracing::warn!("{warning}");
    }
    match serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "the node ends");
            ExitCode::from(Kind::Other as u8)
        }
    }
}

/// Libraries that say so much of every message and file that at `debug` they would take the
/// processor from the node itself: a level alone leaves them at warnings.
const TALKATIVE: &str = "openraft=warn,fjall=warn,lsm_tree=warn,h2=warn,hyper=warn,\
                         hyper_util=warn,tower=warn,tonic=warn,rustls=warn";

/// What is logged where that is asked for: what names a library wins over [`TALKATIVE`].
fn filter(log: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{TALKATIVE},{log}"))
}

fn start_logs(process: &ProcessSettings) -> Result<(), Failure> {
    let filter = filter(&process.log)
        .map_err(|error| Failure::usage(format!("CAIRN_LOG={}: {error}", process.log)))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr.and(diagnosis::recent_log()));
    match process.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

fn serve(settings: NodeSettings) -> anyhow::Result<()> {
    let process = settings.process().clone();
    if matches!(settings, NodeSettings::Data(_)) {
        schedule::in_batches();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(process.network_threads)
        .thread_name("network")
        // How many polls what arrives waits for, and a data node's engine: ADR 264.
        .event_interval(16)
        .enable_all()
        .build()?;
    let shutdown = CancellationToken::new();
    runtime.block_on(async {
        tokio::spawn(watch_signals(
            [
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            ],
            shutdown.clone(),
        ));
        if process.exit_with_stdin {
            end_with_stdin();
        }
        match settings {
            NodeSettings::Coordinator(settings) => {
                cairn_node::coordinator_node::run(*settings, shutdown).await?;
            }
            NodeSettings::Data(settings) => {
                cairn_node::data_node::run(*settings, shutdown).await?;
            }
        }
        anyhow::Ok(())
    })?;
    // What still runs on a blocking thread is nothing that anybody waits for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracing::info!("stopped");
    Ok(())
}

/// The first signal asks the node to drain, the second ends it.
async fn watch_signals([mut terminate, mut interrupt]: [Signal; 2], shutdown: CancellationToken) {
    let name = next(&mut terminate, &mut interrupt).await;
    tracing::info!(
        signal = name,
        "draining; a second signal ends the node at once"
    );
    shutdown.cancel();
    let name = next(&mut terminate, &mut interrupt).await;
    tracing::warn!(signal = name, "ended before the node had drained");
    std::process::exit(EXIT_FORCED);
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Ends the process when whoever started it is gone, which closes the pipe.
fn end_with_stdin() {
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(|| {
            let mut byte = [0u8; 64];
            let mut stdin = std::io::stdin().lock();
            loop {
                match stdin.read(&mut byte) {
                    Ok(0) => break,
                    Err(error) if error.kind() != std::io::ErrorKind::Interrupted => break,
                    Ok(_) | Err(_) => {}
                }
            }
            tracing::warn!("standard input was closed: the parent is gone, so this node ends");
            std::process::exit(EXIT_FORCED);
        })
        .map_or_else(
            |error| tracing::error!(%error, "watch standard input"),
            |_watcher| (),
        );
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn a_node_tells_its_version_as_the_command_does() {
        let asked = command()
            .name("cairn")
            .try_get_matches_from(["cairn", "--version"]);
        let told = asked.expect_err("it is told and nothing is run");
        assert_eq!(told.kind(), ErrorKind::DisplayVersion);
        assert_eq!(
            told.to_string().trim_end(),
            concat!("cairn ", env!("CARGO_PKG_VERSION"))
        );
    }

    #[test]
    fn a_level_alone_leaves_libraries_at_warnings_and_a_named_one_does_not() {
        let shown = |log: &str| filter(log).unwrap().to_string();
        let alone = shown("debug");
        assert!(alone.contains("openraft=warn"), "{alone}");
        assert!(alone.split(',').any(|one| one == "debug"), "{alone}");
        let named = shown("info,openraft=debug");
        assert!(named.contains("openraft=debug"), "{named}");
        assert!(!named.contains("openraft=warn"), "{named}");
        assert!(named.contains("fjall=warn"), "{named}");
        assert!(filter("info,=,").is_err());
    }
}
