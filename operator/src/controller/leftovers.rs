//! Volumes of a KvCluster that was deleted: whoever makes one of its name would be given its
//! data, so that a person has to say that this is meant.

use kube::ResourceExt;

use cairn_crds::KvCluster;

use crate::names::ANNOTATION_ADOPT_VOLUMES;
use crate::observed::Observed;

/// How many claims a sentence names.
const NAMED_MAX: usize = 3;

/// Why a manifest cannot be followed that would be made on what another one left: nothing of it
/// has ever been made, and claims of its name hold data.
pub(super) fn refusal(manifest: &KvCluster, observed: &Observed) -> Option<String> {
    let status = manifest.status.as_ref();
    let is_made = status.is_some_and(|status| !status.cluster_id.is_empty());
    if is_made || !observed.sets.is_empty() || is_meant(manifest) {
        return None;
    }
    let left: Vec<&str> = observed
        .claims
        .iter()
        .filter(|(_, claim)| {
            (claim.bound || claim.names_volume) && !claim.retired && !claim.deleting
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if left.is_empty() {
        return None;
    }
    let more = left.len().saturating_sub(NAMED_MAX);
    let mut named = left[..left.len() - more].join(", ");
    if more > 0 {
        named.push_str(&format!(" and {more} more"));
    }
    Some(format!(
        "volumes of a KvCluster of this name that was deleted are left ({named}), and nothing \
         is made on them unasked. To have its data again: kubectl cairn adopt, or the annotation \
         {ANNOTATION_ADOPT_VOLUMES}=true; for a new cluster: delete these claims, or choose \
         another name"
    ))
}

fn is_meant(manifest: &KvCluster) -> bool {
    let said = manifest.annotations().get(ANNOTATION_ADOPT_VOLUMES);
    said.is_some_and(|said| said == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Role;
    use crate::observed::{ClaimSeen, SetSeen};
    use crate::testing::manifest;

    fn left(change: impl Fn(&mut ClaimSeen)) -> Observed {
        let mut observed = Observed::default();
        for number in 0..4 {
            let mut claim = ClaimSeen {
                bound: true,
                ..ClaimSeen::default()
            };
            change(&mut claim);
            let name = format!("data-orders-data-{number}");
            observed.claims.insert(name, claim);
        }
        observed
    }

    #[test]
    fn what_a_deleted_manifest_left_is_taken_up_by_who_says_so_alone() {
        let mut manifest = manifest();
        manifest.status = None;
        assert_eq!(refusal(&manifest, &Observed::default()), None);
        let observed = left(|_| {});
        let told = refusal(&manifest, &observed).expect("refused");
        assert!(
            told.contains("data-orders-data-0, data-orders-data-1, data-orders-data-2 and 1 more"),
            "{told}"
        );
        let lost = left(|claim| (claim.bound, claim.names_volume) = (false, true));
        assert!(refusal(&manifest, &lost).is_some(), "it may come back");

        manifest
            .annotations_mut()
            .insert(ANNOTATION_ADOPT_VOLUMES.to_owned(), "yes".to_owned());
        assert!(refusal(&manifest, &observed).is_some(), "no word for it");
        manifest
            .annotations_mut()
            .insert(ANNOTATION_ADOPT_VOLUMES.to_owned(), "true".to_owned());
        assert_eq!(refusal(&manifest, &observed), None);
    }

    #[test]
    fn claims_without_data_and_those_of_the_cluster_itself_refuse_nothing() {
        let mut manifest = manifest();
        manifest.status = None;
        for empty in [
            left(|claim| claim.retired = true),
            left(|claim| claim.deleting = true),
            left(|claim| claim.bound = false),
        ] {
            assert_eq!(refusal(&manifest, &empty), None);
        }
        let mut begun = left(|_| {});
        begun.sets.insert(Role::Coordinator, SetSeen::default());
        assert_eq!(refusal(&manifest, &begun), None, "its own");
        // Its StatefulSets were deleted by hand.
        manifest.status = Some(cairn_crds::KvClusterStatus {
            cluster_id: "5f2c".to_owned(),
            ..Default::default()
        });
        assert_eq!(refusal(&manifest, &left(|_| {})), None, "it was made");
    }
}
