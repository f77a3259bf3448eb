//! What builds of different ages understand, and what may be used among them (rule 18).
//!
//! A mixed cluster writes only what every member understands. Each build says what it
//! understands as bits: data nodes when they register, coordinators when their leader asks. An
//! older build says nothing of what it does not know, and that is enough: [`check`] decides
//! whether a [`Feature`] may be used now, and names who stands in the way.
//!
//! What is gated is whatever an older build could not read or would misread: a new command in
//! the coordinators' log, a new kind of value in the data nodes', a setting that everybody has
//! to follow. What older builds may leave out without harm, as a field of a report, is not.
//!
//! A bit is never used for anything else again, and never taken back.

use crate::cluster::ClusterState;
use crate::record::{ClusterSettings, NodeInfo};

/// Something that builds before it do not understand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Feature {
    /// Copies of a partition that serve reads and count nowhere: a command of the
    /// coordinators, and a list in a partition's record.
    ReadCopies,
    /// Counters in stripes: a setting, and a kind of value.
    Counters,
}

impl Feature {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::ReadCopies, Self::Counters];

    /// Its bit.
    #[must_use]
    pub const fn bit(self) -> u64 {
        match self {
            Self::ReadCopies => 1,
            Self::Counters => 1 << 1,
        }
    }

    /// As people are told of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadCopies => "read-only copies",
            Self::Counters => "striped counters",
        }
    }

    /// Whether it is among those that are understood.
    #[must_use]
    pub const fn is_in(self, understood: u64) -> bool {
        understood & self.bit() != 0
    }
}

/// What this build understands.
pub const UNDERSTOOD: u64 = Feature::ReadCopies.bit() | Feature::Counters.bit();

/// What a coordinator understands, as it said when it was asked last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoordinatorFeatures {
    /// Its label.
    pub name: String,
    /// Its bits; `None` where it does not answer, so that nobody knows what build it will be
    /// when it is back.
    pub features: Option<u64>,
}

/// Why a feature cannot be used now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Lacking {
    /// Which feature.
    pub feature: Feature,
    /// Data nodes that do not understand it, by name.
    pub data_nodes: Vec<String>,
    /// Coordinators that do not.
    pub coordinators: Vec<String>,
    /// Coordinators that do not answer.
    pub silent: Vec<String>,
    /// No coordinator was asked yet.
    pub not_asked: bool,
}

impl Lacking {
    fn sentence(&self) -> String {
        let mut reasons = Vec::new();
        let mut older = Vec::new();
        for (kind, names) in [
            ("data node", &self.data_nodes),
            ("coordinator", &self.coordinators),
        ] {
            older.extend(told(kind, names));
        }
        if !older.is_empty() {
            reasons.push(format!(
                "{} of an earlier build: upgrade first",
                run(&older.join(" and "), self.older())
            ));
        }
        if let Some(silent) = told("coordinator", &self.silent) {
            reasons.push(format!(
                "{silent} {} not answer, so that nobody knows whether an earlier build comes back \
                 there: bring back or remove",
                if self.silent.len() == 1 { "does" } else { "do" },
            ));
        }
        if self.not_asked {
            reasons.push("the coordinators were not asked yet: repeat in a moment".to_owned());
        }
        format!(
            "{} cannot be used now: {}",
            self.feature.name(),
            reasons.join("; ")
        )
    }

    /// How many are known to be of an earlier build.
    #[must_use]
    pub fn older(&self) -> usize {
        self.data_nodes.len() + self.coordinators.len()
    }
}

fn run(who: &str, count: usize) -> String {
    format!("{who} {}", if count == 1 { "is" } else { "are" })
}

/// The most names that one sentence has.
const NAMES_MAX: usize = 8;

fn told(kind: &str, names: &[String]) -> Option<String> {
    let more = names.len().saturating_sub(NAMES_MAX);
    let shown = names[..names.len() - more].join(", ");
    match names.len() {
        0 => None,
        1 => Some(format!("{kind} {shown}")),
        _ if more > 0 => Some(format!("{kind}s {shown} and {more} more")),
        _ => Some(format!("{kind}s {shown}")),
    }
}

/// The names of features, for people; of bits that nobody knows their number.
#[must_use]
pub fn names(features: u64) -> String {
    let mut names: Vec<String> = Feature::ALL
        .into_iter()
        .filter(|feature| feature.is_in(features))
        .map(|feature| feature.name().to_owned())
        .collect();
    let known = Feature::ALL.into_iter().fold(0, |all, f| all | f.bit());
    let unknown = features & !known;
    if unknown != 0 {
        names.push(format!("features {unknown:#x}"));
    }
    names.join(" and ")
}

/// The bits of what these settings ask for and earlier builds do not understand: they are taken
/// once everybody does, and from then on nobody is admitted who does not.
#[must_use]
pub fn of_settings(settings: &ClusterSettings) -> u64 {
    if settings.counters.is_empty() {
        0
    } else {
        Feature::Counters.bit()
    }
}

/// Whether a feature may be used now: every data node that is a member understands it, and every
/// coordinator does.
///
/// `coordinators` are all voters of the coordinators' group; `None` where they were not asked
/// yet.
///
/// # Errors
/// Who lacks it.
pub fn check<'a>(
    feature: Feature,
    data_nodes: impl Iterator<Item = &'a NodeInfo>,
    coordinators: Option<&[CoordinatorFeatures]>,
) -> Result<(), Lacking> {
    let mut lacking = Lacking {
        feature,
        data_nodes: data_nodes
            .filter(|node| !feature.is_in(node.features))
            .map(|node| node.name.clone())
            .collect(),
        coordinators: Vec::new(),
        silent: Vec::new(),
        not_asked: coordinators.is_none_or(<[_]>::is_empty),
    };
    for coordinator in coordinators.unwrap_or_default() {
        match coordinator.features {
            Some(features) if feature.is_in(features) => {}
            Some(_) => lacking.coordinators.push(coordinator.name.clone()),
            None => lacking.silent.push(coordinator.name.clone()),
        }
    }
    let nobody = lacking.older() == 0 && lacking.silent.is_empty() && !lacking.not_asked;
    if nobody { Ok(()) } else { Err(lacking) }
}

impl ClusterState {
    /// [`check`] for the data nodes of this state.
    ///
    /// # Errors
    /// Who lacks it.
    pub fn check_feature(
        &self,
        feature: Feature,
        coordinators: Option<&[CoordinatorFeatures]>,
    ) -> Result<(), Lacking> {
        check(feature, self.members().map(AsRef::as_ref), coordinators)
    }

    /// The bits of what the state holds that earlier builds do not understand: a coordinator
    /// without them cannot take part.
    #[must_use]
    pub fn features_in_use(&self) -> u64 {
        let mut records = self.partitions().iter();
        let readers = records.any(|record| !record.config.readers.is_empty());
        let readers = if readers {
            Feature::ReadCopies.bit()
        } else {
            0
        };
        self.node_features_in_use() | readers
    }

    /// Of those, what a data node has to understand to be admitted: what it would find in its
    /// log, or be asked to do.
    #[must_use]
    pub fn node_features_in_use(&self) -> u64 {
        self.settings().map_or(0, |settings| of_settings(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MapVersion, NodeId};
    use crate::record::{Addresses, NodeStanding};

    fn node(name: &str, features: u64) -> NodeInfo {
        NodeInfo {
            id: NodeId(1),
            uuid: name.to_owned(),
            incarnation: name.to_owned(),
            name: name.to_owned(),
            addresses: Addresses::default(),
            zone: String::new(),
            weight: 100,
            standing: NodeStanding::Member,
            features,
            changed_at: MapVersion(1),
        }
    }

    fn coordinator(name: &str, features: Option<u64>) -> CoordinatorFeatures {
        CoordinatorFeatures {
            name: name.to_owned(),
            features,
        }
    }

    #[test]
    fn no_two_features_share_a_bit() {
        let mut seen = 0;
        for feature in Feature::ALL {
            assert_eq!(feature.bit().count_ones(), 1);
            assert_eq!(seen & feature.bit(), 0, "{feature:?}");
            seen |= feature.bit();
        }
        assert_eq!(UNDERSTOOD & !seen, 0);
    }

    #[test]
    fn whoever_lacks_a_feature_is_named() {
        let feature = Feature::ReadCopies;
        let bit = feature.bit();
        let told = |nodes: &[NodeInfo], coordinators: Option<&[CoordinatorFeatures]>| {
            let answer = check(feature, nodes.iter(), coordinators);
            answer.map_err(|lacking| lacking.to_string())
        };
        let new = [
            coordinator("c1", Some(bit)),
            coordinator("c2", Some(bit | 64)),
        ];
        assert_eq!(told(&[node("d1", bit)], Some(&new)), Ok(()));
        assert_eq!(
            told(&[node("d1", bit), node("d2", 0)], Some(&new)).unwrap_err(),
            "read-only copies cannot be used now: data node d2 is of an earlier build: upgrade \
             first"
        );
        let mixed = [coordinator("c1", Some(0)), coordinator("c2", None)];
        assert_eq!(
            told(&[node("d1", 0), node("d2", 2)], Some(&mixed)).unwrap_err(),
            "read-only copies cannot be used now: data nodes d1, d2 and coordinator c1 are of an \
             earlier build: upgrade first; coordinator c2 does not answer, so that nobody knows \
             whether an earlier build comes back there: bring back or remove"
        );
        for nobody in [None, Some(&[][..])] {
            assert!(
                told(&[node("d1", bit)], nobody)
                    .unwrap_err()
                    .contains("not asked yet")
            );
        }
    }

    #[test]
    fn a_sentence_names_no_more_than_a_few() {
        let nodes: Vec<_> = (0..30).map(|n| node(&format!("d{n}"), 0)).collect();
        let lacking = check(
            Feature::Counters,
            nodes.iter(),
            Some(&[coordinator("c1", Some(u64::MAX))]),
        );
        let sentence = lacking.unwrap_err().to_string();
        assert!(sentence.contains("d7 and 22 more are"), "{sentence}");
        assert!(!sentence.contains("d8"), "{sentence}");
    }
}
