//! How many coordinators answer the one that leads: Raft tells whether a majority does, and
//! not whether one more may be lost.

use std::time::Duration;

use super::service::Office;

/// How often they are asked.
const EVERY: Duration = Duration::from_secs(5);

/// Keeps the figures for as long as it is not dropped; zero on one that does not lead.
pub(super) async fn watch(office: Office) {
    let gauge = |state| metrics::gauge!("cairn_coordinator_voters", "state" => state);
    let (answering, silent) = (gauge("answering"), gauge("silent"));
    loop {
        let (answer, all) = if office.desk.reign().is_some() {
            count(&office).await
        } else {
            (0, 0)
        };
        answering.set(answer as f64);
        silent.set(all.saturating_sub(answer) as f64);
        tokio::time::sleep(EVERY).await;
    }
}

/// The voters that answer, this one among them, and all of them.
async fn count(office: &Office) -> (usize, usize) {
    let met = office.group.ask_others().await;
    let raft = office.group.raft.metrics();
    let raft = raft.borrow();
    let membership = raft.membership_config.membership();
    let voters = membership.voter_ids();
    let names: Vec<&str> = voters
        .filter(|id| *id != office.group.id())
        .filter_map(|id| Some(membership.get_node(&id)?.name.as_str()))
        .collect();
    let answers =
        |met: &&super::join::Met| met.answer.is_ok() && names.iter().any(|name| *name == met.name);
    (met.iter().filter(answers).count() + 1, names.len() + 1)
}
