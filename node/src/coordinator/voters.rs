//! What the one that leads hears of the other voters: how many answer, for Raft tells whether a
//! majority does and not whether one more may be lost; and what their builds understand.

use std::time::Duration;

use cairn_core::features::{CoordinatorFeatures, Feature};
use tonic::Status;

use super::leader::Message;
use super::service::Office;

/// How often they are asked.
const EVERY: Duration = Duration::from_secs(5);

/// Keeps the figures, and the leader's task informed, for as long as it is not dropped. The
/// figures are zero on one that does not lead.
pub(super) async fn watch(office: Office) {
    let gauge = |state| metrics::gauge!("cairn_coordinator_voters", "state" => state);
    let (answering, silent) = (gauge("answering"), gauge("silent"));
    let mut reign = office.desk.watch();
    loop {
        let leads = reign.borrow_and_update().is_some();
        let (answer, all) = if leads {
            let voters = meet(&office).await;
            let answer = voters.iter().filter(|voter| voter.features.is_some());
            let figures = (answer.count(), voters.len());
            if !office.desk.tell(Message::Coordinators(voters)).await {
                return;
            }
            figures
        } else {
            (0, 0)
        };
        answering.set(answer as f64);
        silent.set(all.saturating_sub(answer) as f64);
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            changed = reign.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// All voters, this one among them. One that changes its disk just now counts as silent.
async fn meet(office: &Office) -> Vec<CoordinatorFeatures> {
    let met = office.group.ask_others().await;
    let raft = office.group.raft.metrics();
    let raft = raft.borrow();
    let membership = raft.membership_config.membership();
    let features = |id, name: &str| {
        if id == office.group.id() {
            return Some(cairn_proto::FEATURES);
        }
        let cards = met.iter().filter_map(|met| met.answer.as_ref().ok());
        let mut of_name = cards.filter(|(_, card)| card.name == name && card.raft_id == id);
        of_name.next().map(|(_, card)| card.features)
    };
    membership
        .voter_ids()
        .filter_map(|id| {
            let name = membership.get_node(&id)?.name.clone();
            let features = features(id, &name);
            Some(CoordinatorFeatures { name, features })
        })
        .collect()
}

impl Office {
    /// Refuses where a data node or a coordinator does not understand one of the features. The
    /// coordinators are asked now.
    pub(super) async fn check_features(&self, features: u64) -> Result<(), Status> {
        if features == 0 {
            return Ok(());
        }
        let voters = meet(self).await;
        let state = self.group.state();
        for feature in Feature::ALL {
            if feature.is_in(features) {
                let checked = state.check_feature(feature, Some(&voters));
                checked.map_err(|lacking| Status::failed_precondition(lacking.to_string()))?;
            }
        }
        Ok(())
    }
}
