//! `nodes add|drain|undrain|remove|handover|expect`: which data nodes hold the data.

use std::time::{Duration, SystemTime};

use cairn_client::admin::{Change, Drain, ExpectBack, NodeGone, Retire};
use cairn_core::cluster::status::NodeStatus;
use cairn_core::record::NodeStanding;

use crate::confirm;
use crate::endpoints::{Endpoints, block_on};
use crate::failure::{Failure, Kind};
use crate::handover::{self, HandoverArgs};
use crate::inspect::{self, Document};
use crate::output::Format;
use crate::rebalance::{self, Manifest, Wait};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodesArgs {
    #[command(subcommand)]
    command: Option<NodesCommand>,
    #[command(flatten)]
    manifest: Manifest,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum NodesCommand {
    /// Let data nodes take part: they get their share of the data
    ///
    /// A data node that starts and finds the coordinators takes part by itself. This is for
    /// scripts: it takes a drain back, and with --wait it waits until the nodes are there
    /// and hold what they are to hold.
    Add {
        /// Their names
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let data nodes give up all that they hold
    ///
    /// They serve until each of their replicas has its successor. Then they are empty, and
    /// `cairn nodes remove` lets them go. Until then `cairn nodes undrain` takes it back.
    Drain {
        /// Their names
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        /// Print what would be copied, and change nothing
        #[arg(long, conflicts_with = "wait")]
        plan: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a drain back: the node keeps what it still holds, and gets its share again
    Undrain {
        /// Their names
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// End the membership of data nodes that drained and are empty
    Remove {
        /// Their names
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        /// They never come back, and their disks are lost: what they hold is made anew from
        /// the other replicas at once
        #[arg(long)]
        gone_for_good: bool,
        /// Even where too few replicas of a partition are left to go on by itself
        #[arg(long, requires = "gone_for_good")]
        force: bool,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let others lead what a data node leads; it stays a replica, and nothing is copied
    Handover(HandoverArgs),
    /// Say that a data node is stopped on purpose: nothing is moved until it is late
    Expect {
        /// Its name
        #[arg(value_name = "NODE")]
        node: String,
        /// In how many seconds it is back
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800), required_unless_present = "clear")]
        within: Option<u64>,
        /// Take it back
        #[arg(long, conflicts_with = "within")]
        clear: bool,
    },
}

pub(crate) fn run(args: NodesArgs, endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let changes = Changes {
        endpoints,
        manifest: args.manifest,
    };
    match args.command {
        None => inspect::nodes(endpoints, format),
        Some(NodesCommand::Add { nodes, wait }) => add(&nodes, &wait, changes, format),
        Some(NodesCommand::Drain { nodes, plan, wait }) => {
            drain(&nodes, plan, &wait, changes, format)
        }
        Some(NodesCommand::Undrain { nodes, wait }) => {
            changes.set_drain(&nodes, true)?;
            rebalance::settle_where_asked(&wait, endpoints, format)
        }
        Some(NodesCommand::Remove {
            nodes,
            gone_for_good,
            force,
            yes,
            wait,
        }) => {
            if gone_for_good {
                give_up(&nodes, force, yes, changes)?;
            } else {
                retire(&nodes, changes)?;
            }
            rebalance::settle_where_asked(&wait, endpoints, format)
        }
        Some(NodesCommand::Handover(args)) => handover::run(&args, endpoints, changes.manifest),
        Some(NodesCommand::Expect {
            node,
            within,
            clear: _,
        }) => expect(&node, within, changes),
    }
}

/// The member of that name.
pub(crate) fn find<'a>(document: &'a Document, name: &str) -> Result<&'a NodeStatus, Failure> {
    let members =
        || (document.status.nodes.iter()).filter(|node| node.standing == NodeStanding::Member);
    members().find(|node| node.name == name).ok_or_else(|| {
        let known: Vec<&str> = members().map(|node| node.name.as_str()).collect();
        Failure::new(Kind::NotFound, format!("there is no data node {name}"))
            .with_remedy(format!("The data nodes are {}", known.join(", ")))
    })
}

/// What there is, with a leader that knows.
pub(crate) fn document(endpoints: &Endpoints) -> Result<Document, Failure> {
    let document = block_on(inspect::document(endpoints))?;
    if document.leading {
        return Ok(document);
    }
    Err(Failure::unavailable("the coordinators have no leader")
        .with_remedy("Bring a majority of the coordinators back first"))
}

/// Where changes are asked for, and how.
#[derive(Clone, Copy)]
struct Changes<'a> {
    endpoints: &'a Endpoints,
    manifest: Manifest,
}

impl Changes<'_> {
    /// Has a change made for each node, in this order; says what came of it.
    fn each(
        self,
        nodes: &[String],
        change: impl Fn(&NodeStatus) -> Option<Change>,
    ) -> Result<(), Failure> {
        let document = document(self.endpoints)?;
        // Nothing is done before every name is known.
        let found = nodes
            .iter()
            .map(|name| find(&document, name))
            .collect::<Result<Vec<_>, _>>()?;
        for node in found {
            if let Some(change) = change(node) {
                rebalance::change(self.endpoints, &node.name, change, self.manifest)
                    .map_err(|failure| failure.about(&node.name))?;
            }
        }
        Ok(())
    }

    fn set_drain(self, nodes: &[String], undo: bool) -> Result<(), Failure> {
        self.each(nodes, |node| {
            Some(Change::Drain(Drain {
                node: node.id.0,
                undo,
            }))
        })
    }
}

fn add(nodes: &[String], wait: &Wait, changes: Changes<'_>, format: Format) -> Result<(), Failure> {
    let endpoints = changes.endpoints;
    if wait.is_asked() {
        let missing = |document: &Document| {
            let names: Vec<&str> = nodes
                .iter()
                .filter(|name| find(document, name).is_err())
                .map(String::as_str)
                .collect();
            Ok((!names.is_empty()).then(|| format!("waiting for {} to come", names.join(", "))))
        };
        rebalance::wait_until(wait, endpoints, missing)?;
    }
    changes.each(nodes, |node| {
        node.leaving.map(|_| {
            Change::Drain(Drain {
                node: node.id.0,
                undo: true,
            })
        })
    })?;
    rebalance::settle_where_asked(wait, endpoints, format)
}

fn drain(
    nodes: &[String],
    plan: bool,
    wait: &Wait,
    changes: Changes<'_>,
    format: Format,
) -> Result<(), Failure> {
    let endpoints = changes.endpoints;
    if plan {
        let [node] = nodes else {
            return Err(Failure::usage("a plan is for one node at a time"));
        };
        let node = find(&document(endpoints)?, node)?.id.0;
        let change = Change::Drain(Drain { node, undo: false });
        return rebalance::show_plan(Some(change), endpoints, format);
    }
    changes.set_drain(nodes, false)?;
    if !wait.is_asked() {
        return Ok(());
    }
    let left = |document: &Document| {
        let mut full = Vec::new();
        for name in nodes {
            let node = find(document, name)?;
            if node.leaving.is_none() {
                return Err(Failure::refused(format!(
                    "{name} does not drain any more: somebody took it back"
                )));
            }
            if !node.empty {
                full.push(format!("{name} holds {} replicas", node.replicas));
            }
        }
        let line = || format!("{}; {}", full.join(", "), rebalance::line(document));
        Ok((!full.is_empty()).then(line))
    };
    rebalance::wait_until(wait, endpoints, left)?;
    eprintln!("{}: empty, and may be removed", nodes.join(", "));
    Ok(())
}

fn retire(nodes: &[String], changes: Changes<'_>) -> Result<(), Failure> {
    let members = still_members(nodes, changes.endpoints)?;
    let retire = |node: &NodeStatus| Some(Change::Retire(Retire { node: node.id.0 }));
    changes
        .each(&members, retire)
        .map_err(|failure| {
            match failure.kind() {
        Kind::Refused => failure.with_remedy(
            "`cairn nodes drain NODE --wait` has a node give up what it holds; one whose disk is \
             lost goes with --gone-for-good",
        ),
        _ => failure,
    }
        })
}

/// Those that are members still. One that was, and is no more, is as was asked for: the
/// same may be said twice.
fn still_members(nodes: &[String], endpoints: &Endpoints) -> Result<Vec<String>, Failure> {
    let document = document(endpoints)?;
    let is_member = |name: &&String| find(&document, name).is_ok();
    let (members, others): (Vec<&String>, Vec<&String>) = nodes.iter().partition(is_member);
    if !others.is_empty() {
        let map = block_on(async { Ok(endpoints.client().await?.map()) })?;
        for name in others {
            if !map.nodes.values().any(|known| known.name == *name) {
                find(&document, name)?;
            }
            eprintln!("{name}: it already is as asked");
        }
    }
    Ok(members.into_iter().cloned().collect())
}

fn give_up(nodes: &[String], force: bool, yes: bool, changes: Changes<'_>) -> Result<(), Failure> {
    let question = format!(
        "Is it certain that {} never come back with their disks?",
        nodes.join(", ")
    );
    let nodes = &still_members(nodes, changes.endpoints)?;
    if nodes.is_empty() {
        return Ok(());
    }
    confirm::require(
        yes,
        "giving up a node's disk",
        &question,
        "nothing was changed",
    )?;
    changes.each(nodes, |node| {
        Some(Change::NodeGone(NodeGone {
            node: node.id.0,
            force,
        }))
    })
}

fn expect(name: &str, within: Option<u64>, changes: Changes<'_>) -> Result<(), Failure> {
    let until_unix_ms = within.map_or(0, |seconds| {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let until = now + Duration::from_secs(seconds);
        u64::try_from(until.as_millis()).unwrap_or(u64::MAX)
    });
    changes.each(&[name.to_owned()], |node| {
        Some(Change::ExpectBack(ExpectBack {
            node: node.id.0,
            until_unix_ms,
        }))
    })
}
