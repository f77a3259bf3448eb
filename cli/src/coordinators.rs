//! `coordinators`: who they are, and changes of their group while it runs.

use std::time::{Duration, Instant};

use cairn_client::admin::{Change, ChangeCoordinators, CoordinatorAt};
use serde_json::json;

use crate::endpoints::{Endpoints, block_on};
use crate::failure::Failure;
use crate::inspect::{self, Document};
use crate::output::{self, Format};
use crate::rebalance::Manifest;

/// How often it is looked how far a change is.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CoordinatorsArgs {
    #[command(subcommand)]
    command: Option<CoordinatorsCommand>,
    #[command(flatten)]
    manifest: Manifest,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum CoordinatorsCommand {
    /// Take coordinators into the group
    ///
    /// Each has to run already, on an empty disk, with a CAIRN_COORDINATORS that names itself
    /// and present ones. It gets the log first and votes then. One whose name belongs to a
    /// disk that does not answer any more takes its place.
    Add {
        /// The name, and the address of the port between nodes
        #[arg(required = true, value_name = "NAME=HOST:PORT", value_parser = named_address)]
        coordinators: Vec<CoordinatorAt>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove coordinators from the group
    ///
    /// Their processes stay and take part in nothing; stop them afterwards.
    Remove {
        /// The names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a coordinator in and remove another, in one step
    Replace {
        /// Who leaves
        #[arg(value_name = "OLD")]
        old: String,
        /// Who comes instead: the name, and the address of the port between nodes
        #[arg(value_name = "NAME=HOST:PORT", value_parser = named_address)]
        new: CoordinatorAt,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Wait {
    /// Wait until it is done, for at most --timeout seconds
    #[arg(long)]
    wait: bool,
}

fn named_address(text: &str) -> Result<CoordinatorAt, String> {
    let address: cairn_node::coordinator::CoordinatorAddress = text
        .parse()
        .map_err(|e: cairn_node::coordinator::AddressError| e.to_string())?;
    Ok(CoordinatorAt {
        name: address.name,
        peer: address.peer,
    })
}

pub(crate) fn run(
    args: CoordinatorsArgs,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    let (add, remove, wait) = match args.command {
        None => return list(&block_on(inspect::document(endpoints))?, format),
        Some(CoordinatorsCommand::Add { coordinators, wait }) => (coordinators, Vec::new(), wait),
        Some(CoordinatorsCommand::Remove { names, wait }) => (Vec::new(), names, wait),
        Some(CoordinatorsCommand::Replace { old, new, wait }) => {
            // Under its own name a newcomer takes the place of a dead one by itself.
            let remove = if old == new.name { vec![] } else { vec![old] };
            (vec![new], remove, wait)
        }
    };
    let change = ChangeCoordinators { add, remove };
    let said = block_on(ask(endpoints, &change, args.manifest))?;
    if !wait.wait {
        return match format {
            Format::Json => output::json(&json!({ "message": said })),
            Format::Table => output::text(&format!("{said}\n")),
        };
    }
    eprintln!("{said}");
    let document = block_on(follow(endpoints, &change, args.manifest))?;
    list(&document, format)
}

async fn ask(
    endpoints: &Endpoints,
    change: &ChangeCoordinators,
    manifest: Manifest,
) -> Result<String, Failure> {
    let change = Change::Coordinators(change.clone());
    let admin = endpoints.admin();
    let reply = admin.change(change, manifest.override_manifest).await?;
    for warning in reply.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(reply.message)
}

/// Waits until the change is done. A leader that lost its place forgets what it was asked
/// for, so that the next one is asked again: that does no harm.
async fn follow(
    endpoints: &Endpoints,
    change: &ChangeCoordinators,
    manifest: Manifest,
) -> Result<Document, Failure> {
    let until = Instant::now() + endpoints.timeout();
    let mut asked: Option<String> = None;
    let mut told = String::new();
    loop {
        if let Ok(document) = inspect::document(endpoints).await {
            let progress = document.coordinators_change.clone();
            let step = progress.as_ref().map_or("", |p| p.step.as_str());
            if step.is_empty() && is_done(&document, change) {
                return Ok(document);
            }
            let asked_of = asked.get_or_insert_with(|| document.answered_by.clone());
            let same = *asked_of == document.answered_by;
            if let Some(failed) = progress.as_ref().and_then(|p| p.failed.clone())
                && same
            {
                return Err(Failure::refused(failed));
            }
            if step.is_empty() {
                asked = None;
                ask(endpoints, change, manifest).await?;
            } else if told != step {
                step.clone_into(&mut told);
                eprintln!("{told}");
            }
        }
        if Instant::now() + PAUSE >= until {
            return Err(
                Failure::unavailable("the change has begun and is not done in time")
                    .with_remedy("Look at `cairn coordinators`; asking again does no harm"),
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_done(document: &Document, change: &ChangeCoordinators) -> bool {
    let find = |name: &str| document.coordinators.iter().find(|c| c.name == name);
    document.leading
        && change
            .add
            .iter()
            .all(|added| find(&added.name).is_some_and(|c| c.voter))
        && change.remove.iter().all(|name| find(name).is_none())
}

fn list(document: &Document, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(&json!({
            "coordinators": document.coordinators,
            "change": document.coordinators_change,
        }));
    }
    document.warn_if_blind();
    let voters = document.coordinators.iter().filter(|c| c.voter).count();
    if voters > 0 && voters.is_multiple_of(2) {
        eprintln!(
            "there are {voters} coordinators: an even number survives no more losses than one \
             fewer; add or remove one"
        );
    }
    if let Some(change) = &document.coordinators_change {
        match &change.failed {
            Some(failed) => eprintln!("to {} came to nothing: {failed}", change.what),
            None if !change.step.is_empty() => {
                eprintln!("under way, to {}: {}", change.what, change.step);
            }
            None => {}
        }
    }
    output::table(
        &["NAME", "RAFT ID", "ROLE", "LAG", "PEER", "GRPC"],
        document.coordinators.iter().map(|coordinator| {
            let role = match (coordinator.leader, coordinator.voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) => "learner",
            };
            let lag = match coordinator.lag {
                Some(lag) => lag.to_string(),
                None if coordinator.leader => "0".to_owned(),
                None => "?".to_owned(),
            };
            vec![
                coordinator.name.clone(),
                coordinator.raft_id.clone(),
                role.to_owned(),
                lag,
                coordinator.peer.clone(),
                coordinator.client.clone(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use cairn_core::cluster::status::ClusterStatus;

    use super::*;

    fn document(names: &[(&str, bool)]) -> Document {
        let mut document = Document::of(ClusterStatus::default());
        document.coordinators = names
            .iter()
            .map(|(name, voter)| inspect::Coordinator {
                name: (*name).to_owned(),
                raft_id: "1".to_owned(),
                peer: String::new(),
                client: String::new(),
                voter: *voter,
                leader: false,
                lag: None,
            })
            .collect();
        document
    }

    #[test]
    fn a_change_is_done_once_newcomers_vote_and_leavers_are_gone() {
        let change = ChangeCoordinators {
            add: vec![named_address("b=h:1").expect("an address")],
            remove: vec!["a".to_owned()],
        };
        assert!(!is_done(&document(&[("a", true), ("b", true)]), &change));
        assert!(!is_done(&document(&[("b", false)]), &change));
        assert!(is_done(&document(&[("b", true)]), &change));
        let mut blind = document(&[("b", true)]);
        blind.leading = false;
        assert!(!is_done(&blind, &change));
    }
}
