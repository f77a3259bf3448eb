//! `recover-coordinators`: a person goes on with the disk of one stopped coordinator,
//! where the majority of the disks is lost.

use std::path::PathBuf;
use std::time::Duration;

use cairn_client::transport::Dialer;
use cairn_core::record::ClusterMap;
use cairn_node::coordinator::{Heard, KnownMember, SurvivingDisk};
use serde_json::json;

use crate::confirm;
use crate::endpoints::{Endpoints, block_on};
use crate::failure::Failure;
use crate::output::{self, Format};

/// How long a data node may take to send its map.
const WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RecoverCoordinatorsArgs {
    /// The directory of the coordinator that is left; its process is stopped
    #[arg(long, env = "CAIRN_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Do not ask, and accept what may be lost
    #[arg(long)]
    accept_loss: bool,
}

/// Shows what the disk and the data nodes know, asks, and rewrites the disk.
pub(crate) fn run(
    args: &RecoverCoordinatorsArgs,
    endpoints: &Endpoints,
    peer_dialer: &Dialer,
    format: Format,
) -> Result<(), Failure> {
    let disk = SurvivingDisk::open(&args.data_dir)
        .map_err(|e| Failure::refused(format!("{}: {e}", args.data_dir.display())))?;
    let map = disk.map();
    let (heard, members) = block_on(async {
        // Data nodes are asked as a client does, coordinators as one of them.
        let heard = Heard::of(&map, endpoints.given(), endpoints.dialer(), WITHIN).await;
        Ok((heard, disk.members(peer_dialer).await))
    })?;
    // Not on standard output: that is for what came of it.
    eprint!("{}", text(&disk, &map, &heard, &members));
    let voters = members.iter().filter(|m| m.voter).count();
    let alive = members.iter().filter(|m| m.voter && m.alive && !m.own);
    if alive.count() * 2 > voters {
        return Err(
            Failure::refused("the other coordinators have a majority: nothing is lost")
                .with_remedy("Empty this directory and start the coordinator: it joins them"),
        );
    }
    let question = format!("Go on with the disk of {} alone?", disk.name());
    confirm::require_loss(args.accept_loss, "going on with one disk", &question)?;
    let name = disk.name().to_owned();
    let everybody = heard.silent.is_empty();
    let version = disk
        .rewrite(heard.newest.as_ref(), everybody)
        .map_err(|e| Failure::refused(format!("nothing was changed: {e}")))?;
    match format {
        Format::Json => output::json(&json!({
            "coordinator": name,
            "mapVersion": version.0,
            "unheard": heard.silent_names(),
        })),
        Format::Table => output::text(&format!(
            "{name} is the only coordinator now, and its map goes on at version {version}. Start \
             it; then add the others, on empty disks, with `cairn coordinators add`\n"
        )),
    }
}

fn text(disk: &SurvivingDisk, map: &ClusterMap, heard: &Heard, members: &[KnownMember]) -> String {
    let mut text = format!(
        "{} was in term {} of cluster {}, up to entry {} of the log; the newest map that it \
         knows to be committed is version {}.\n",
        disk.name(),
        disk.term(),
        map.cluster_id,
        disk.last_index(),
        map.version
    );
    text.push_str(&output::render_table(
        &["COORDINATOR", "RAFT ID", "ROLE", "PEER", "STATE"],
        members.iter().map(|member| {
            let state = match (member.own, member.alive) {
                (true, _) => "this disk",
                (false, true) => "answers: it will be kept out",
                (false, false) => "no answer",
            };
            vec![
                member.name.clone(),
                member.raft_id.to_string(),
                if member.voter { "voter" } else { "learner" }.to_owned(),
                member.peer.clone(),
                state.to_owned(),
            ]
        }),
    ));
    match &heard.newest {
        Some(newest) if disk.is_behind(newest) => text.push_str(&format!(
            "The data nodes know more: their newest map, version {}, takes the place of the \
             disk's.\n",
            newest.version
        )),
        Some(_) => text.push_str("The data nodes know of nothing later.\n"),
        None => text.push_str("No data node answered.\n"),
    }
    if !heard.silent.is_empty() {
        text.push_str(&format!(
            "No answer from {}: if only they know of the latest changes of a partition's \
             replicas, what was acknowledged since is lost. Start them before, if you can.\n",
            heard.silent_names().join(", ")
        ));
    }
    text.push_str(
        "Every partition gets a new epoch, and is not served until its primary is named in \
         it. The other coordinators' disks are kept out for good: empty them before they are \
         added again.\n",
    );
    text
}
