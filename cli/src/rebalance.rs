//! `rebalance`: what moves and what would, and how far it is; and waiting for it, which
//! other commands share.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use cairn_client::admin::{Change, PauseMoves};
use cairn_core::cluster::rebalance::MoveReason;
use cairn_core::cluster::status::{Plan, RebalanceStatus};
use serde_json::json;

use crate::endpoints::{Endpoints, block_on};
use crate::failure::{Failure, Kind};
use crate::inspect::{self, Document, bytes_text};
use crate::output::{self, Format};

/// How often it is looked how far things are.
const PAUSE: Duration = Duration::from_millis(500);
/// Where nobody watches a terminal, a line is printed this often at most.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How long nobody may have answered while something is waited for: coordinators elect a
/// new leader in far less.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// What is to be done where a manifest governs the cluster and decides what is asked for.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Manifest {
    /// Change it even though a manifest governs the cluster, whose operator may undo it
    #[arg(long, global = true)]
    pub(crate) override_manifest: bool,
}

/// Waiting until what was asked for is done.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wait {
    /// Wait until it is done, and tell how far it is
    #[arg(long)]
    wait: bool,
    /// Wait for this long at most
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = clap::value_parser!(u64).range(1..))]
    wait_timeout: Option<u64>,
}

impl Wait {
    pub(crate) fn is_asked(&self) -> bool {
        self.wait
    }
}

#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RebalanceArgs {
    #[command(subcommand)]
    command: Option<RebalanceCommand>,
    /// Print every copy that is to be made, how large it is, and why
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    manifest: Manifest,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum RebalanceCommand {
    /// Hold back every move that no lost copy asks for
    Pause,
    /// Let moves go on
    Resume,
}

pub(crate) fn run(
    args: &RebalanceArgs,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    match args.command {
        Some(RebalanceCommand::Pause) => pause(true, args.manifest, endpoints),
        Some(RebalanceCommand::Resume) => pause(false, args.manifest, endpoints),
        None if args.plan => show_plan(None, endpoints, format),
        None if args.wait.is_asked() => settle_where_asked(&args.wait, endpoints, format),
        None => {
            let document = block_on(inspect::document(endpoints))?;
            if format == Format::Json {
                return output::json(&document.status.rebalance);
            }
            output::text(&format!("{}\n", line(&document)))
        }
    }
}

fn pause(paused: bool, manifest: Manifest, endpoints: &Endpoints) -> Result<(), Failure> {
    let asked = Change::PauseMoves(PauseMoves { paused });
    change(endpoints, "moves", asked, manifest)
}

/// Has something changed, and says on standard error what came of it: standard output is
/// for what is asked for.
pub(crate) fn change(
    endpoints: &Endpoints,
    what: &str,
    change: Change,
    manifest: Manifest,
) -> Result<(), Failure> {
    let asked = async {
        let admin = endpoints.admin();
        Ok(admin.change(change, manifest.override_manifest).await?)
    };
    let reply = block_on(asked)?;
    for warning in reply.warnings {
        eprintln!("warning: {warning}");
    }
    eprintln!("{what}: {}", reply.message);
    Ok(())
}

/// Prints what would be copied.
pub(crate) fn show_plan(
    change: Option<Change>,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    let (text, document) = block_on(async {
        let text = endpoints.admin().plan(change).await?;
        Ok((text, inspect::document(endpoints).await?))
    })?;
    let plan: Plan = serde_json::from_str(&text).map_err(|error| {
        Failure::new(Kind::Other, format!("the plan is not understood: {error}"))
    })?;
    if format == Format::Json {
        return output::json(&named(&plan, &document));
    }
    if plan.copies.is_empty() {
        return output::text("nothing is to be copied\n");
    }
    output::table(
        &["PARTITION", "FROM", "TO", "SIZE", "WHY"],
        plan.copies.iter().map(|planned| {
            let copy = &planned.copy;
            vec![
                copy.partition.0.to_string(),
                copy.from
                    .map_or("-".to_owned(), |node| document.name_of(node)),
                document.name_of(copy.to),
                planned.bytes.map_or("?".to_owned(), bytes_text),
                reason(copy.reason).to_owned(),
            ]
        }),
    )?;
    output::text(&format!(
        "{} copies, about {}\n",
        plan.copies.len(),
        bytes_text(plan.bytes)
    ))?;
    for lack in &plan.no_room {
        eprintln!(
            "{} has no room for it: about {} would come, {} may",
            document.name_of(lack.node),
            bytes_text(lack.needed_bytes),
            bytes_text(lack.free_bytes)
        );
    }
    Ok(())
}

/// The plan with names in place of numbers.
fn named(plan: &Plan, document: &Document) -> serde_json::Value {
    json!({
        "bytes": plan.bytes,
        "copies": plan.copies.iter().map(|planned| json!({
            "partition": planned.copy.partition.0,
            "from": planned.copy.from.map(|node| document.name_of(node)),
            "to": document.name_of(planned.copy.to),
            "reason": planned.copy.reason,
            "bytes": planned.bytes,
        })).collect::<Vec<_>>(),
        "noRoom": plan.no_room.iter().map(|lack| json!({
            "node": document.name_of(lack.node),
            "neededBytes": lack.needed_bytes,
            "freeBytes": lack.free_bytes,
        })).collect::<Vec<_>>(),
    })
}

fn reason(reason: MoveReason) -> &'static str {
    match reason {
        MoveReason::Gone => "its node is gone for good",
        MoveReason::Away => "its node stayed away",
        MoveReason::Draining => "its node drains",
        MoveReason::Missing => "a copy is missing",
        MoveReason::Joined => "a node joined",
        MoveReason::Balance => "shares changed",
    }
}

/// How far everything is, in a line.
pub(crate) fn line(document: &Document) -> String {
    let rebalance = document.status.rebalance;
    let RebalanceStatus {
        paused,
        planned,
        too_few_nodes,
        held_back,
        under_way,
        waiting,
        to_adjust,
        bytes_left,
    } = rebalance;
    let mut parts = Vec::new();
    if too_few_nodes {
        parts.push("too few data nodes for the replication factor: start another one".to_owned());
    } else if !planned {
        parts.push("new places are about to be given".to_owned());
    }
    if under_way + waiting > 0 {
        parts.push(format!(
            "{} copies to make, {under_way} of them under way, about {} left",
            under_way + waiting,
            bytes_text(bytes_left)
        ));
    }
    if to_adjust > 0 {
        parts.push(format!("{to_adjust} partitions to adjust"));
    }
    if parts.is_empty() {
        parts.push("everything is where it belongs".to_owned());
    }
    if held_back {
        parts.push("too many nodes are down: nobody is replaced".to_owned());
    }
    if paused {
        parts.push("moves are held back".to_owned());
    }
    parts.join("; ")
}

/// Waits, where that is asked for, until every replica is where it belongs.
pub(crate) fn settle_where_asked(
    wait: &Wait,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    if !wait.is_asked() {
        return Ok(());
    }
    let since = Instant::now();
    let mut pace = Pace::default();
    wait_until(wait, endpoints, |document| {
        let rebalance = &document.status.rebalance;
        let served = document.status.summary.serving == document.status.summary.partitions;
        if rebalance.is_settled() && served {
            return Ok(None);
        }
        let left = pace.time_left(rebalance.bytes_left);
        Ok(Some(line(document) + &left))
    })?;
    if format == Format::Json {
        return output::json(&json!({ "seconds": since.elapsed().as_secs_f64() }));
    }
    eprintln!("everything is where it belongs");
    Ok(())
}

/// Bytes against time, for how long the rest will take.
#[derive(Debug, Default)]
struct Pace {
    begun: Option<(Instant, u64)>,
}

impl Pace {
    fn time_left(&mut self, bytes_left: u64) -> String {
        let now = Instant::now();
        let (since, bytes) = *self.begun.get_or_insert((now, bytes_left));
        if bytes_left > bytes {
            // More came to be done.
            self.begun = Some((now, bytes_left));
            return String::new();
        }
        let done = bytes - bytes_left;
        let took = now.duration_since(since).as_secs_f64();
        if done == 0 || took < 1.0 || bytes_left == 0 {
            return String::new();
        }
        let left = took * bytes_left as f64 / done as f64;
        format!(", about {} s", left.ceil() as u64)
    }
}

/// Looks again and again until nothing is left, and tells what is.
///
/// # Errors
/// The time is over, nobody answered for a minute, or it can never be.
pub(crate) fn wait_until(
    wait: &Wait,
    endpoints: &Endpoints,
    mut left: impl FnMut(&Document) -> Result<Option<String>, Failure>,
) -> Result<(), Failure> {
    let until = wait
        .wait_timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut told = Told::default();
    let mut answered = Instant::now();
    loop {
        let what = match block_on(inspect::document(endpoints)) {
            Ok(document) if document.leading => {
                answered = Instant::now();
                match left(&document) {
                    Ok(None) => {
                        told.end();
                        return Ok(());
                    }
                    Ok(Some(what)) => what,
                    Err(failure) => {
                        told.end();
                        return Err(failure);
                    }
                }
            }
            Ok(_) => "the coordinators elect a leader".to_owned(),
            Err(failure) if answered.elapsed() > SILENT_FOR => {
                told.end();
                return Err(failure);
            }
            Err(_) => "the coordinators do not answer".to_owned(),
        };
        if until.is_some_and(|until| Instant::now() >= until) {
            told.end();
            return Err(
                Failure::new(Kind::Unknown, format!("not done in time: {what}"))
                    .with_remedy("It goes on by itself: `cairn rebalance --wait` waits again"),
            );
        }
        told.tell(&what);
        std::thread::sleep(PAUSE);
    }
}

/// What was told of the progress: on a terminal one line that changes, else a line now and
/// then.
#[derive(Debug, Default)]
struct Told {
    last: String,
    at: Option<Instant>,
}

impl Told {
    fn tell(&mut self, what: &str) {
        if *what == self.last {
            return;
        }
        let mut err = io::stderr().lock();
        // Whoever closed standard error does not want to know.
        if err.is_terminal() {
            let _ = write!(err, "\r\x1b[2K{what}");
            let _ = err.flush();
        } else if self.at.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            let _ = writeln!(err, "{what}");
            self.at = Some(Instant::now());
        } else {
            return;
        }
        what.clone_into(&mut self.last);
    }

    fn end(&self) {
        if !self.last.is_empty() && io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::cluster::status::ClusterStatus;

    use super::*;

    fn told(rebalance: RebalanceStatus) -> String {
        line(&Document::of(ClusterStatus {
            rebalance,
            ..ClusterStatus::default()
        }))
    }

    #[test]
    fn how_far_it_is_fits_in_a_line() {
        let settled = RebalanceStatus {
            planned: true,
            ..RebalanceStatus::default()
        };
        assert_eq!(told(settled), "everything is where it belongs");
        assert_eq!(
            told(RebalanceStatus {
                under_way: 2,
                waiting: 10,
                to_adjust: 1,
                bytes_left: 3 << 20,
                paused: true,
                ..settled
            }),
            "12 copies to make, 2 of them under way, about 3.0 MiB left; 1 partitions to adjust; \
             moves are held back"
        );
        assert!(told(RebalanceStatus::default()).starts_with("new places"));
    }

    #[test]
    fn the_time_that_is_left_follows_the_pace() {
        let mut pace = Pace::default();
        assert_eq!(pace.time_left(100), "");
        pace.begun = Some((Instant::now() - Duration::from_secs(10), 200));
        assert!(
            pace.time_left(100).starts_with(", about 1"),
            "as long again"
        );
        assert_eq!(pace.time_left(500), "", "more came to be done");
        assert_eq!(pace.begun.map(|(_, bytes)| bytes), Some(500));
    }
}
