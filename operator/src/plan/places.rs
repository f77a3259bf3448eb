//! What nodes are told of where they are, and how much each is to hold.
//!
//! The weight of a data node is the size of its volume in hundredths of the largest. The size
//! is what the claim has or asks for, whichever is more: while volumes are made larger one
//! after another, all of them ask for the new size already, so that weights do not go up and
//! down and move data for nothing. A volume that is not bound yet may turn out to be larger
//! than asked for, so nothing is said of it.

use std::collections::BTreeMap;

use crate::names::Role;

use super::Places;
use super::view::View;

/// The weight of the node with the largest volume.
const WEIGHT_LARGEST: u64 = 100;

/// What the places file is to say.
pub(super) fn of(view: View<'_>) -> Places {
    let zones = match &view.seen.hosts {
        Some(hosts) => hosts
            .iter()
            .map(|(name, host)| (name.clone(), host.zone.clone()))
            .collect(),
        // Nodes wait for the line of where they run. Where nobody may read the zone, there
        // is none.
        None => {
            let pods = view.seen.pods.values().filter_map(|pod| pod.host.clone());
            pods.map(|host| (host, String::new())).collect()
        }
    };
    Places {
        zones,
        weights: weights(view),
        outside: super::outside::addresses(view),
    }
}

fn weights(view: View<'_>) -> BTreeMap<String, u32> {
    let sizes: Vec<(String, u64)> = view
        .nodes(Role::Data)
        .into_iter()
        .filter(|node| node.ordinal < view.wanted(Role::Data) || node.pod.is_some())
        .filter(super::view::Node::has_fit_claim)
        .filter_map(|node| {
            let claim = node.claim.filter(|claim| claim.bound)?;
            Some((node.name, claim.capacity_bytes.max(claim.requested_bytes)))
        })
        .collect();
    let largest = sizes.iter().map(|(_, size)| *size).max().unwrap_or(0);
    sizes
        .into_iter()
        .map(|(name, size)| {
            let share = u128::from(size) * u128::from(WEIGHT_LARGEST);
            let weight = share.checked_div(u128::from(largest)).unwrap_or(0);
            (name, u32::try_from(weight).unwrap_or(u32::MAX).max(1))
        })
        .collect()
}
