//! Where this data node stands among the others: the zone, the weight, and the addresses for
//! clients outside that it registers with.
//!
//! Each may be set outright, or stand in a file that somebody else writes. With Kubernetes a
//! pod knows which machine it runs on, and neither that machine's zone nor its own share: the
//! operator knows both, and may come to know them after the pod has started.
//!
//! ```toml
//! [zones]                  # of machines: "" is none
//! "worker-1" = "eu-1a"
//!
//! [weights]                # of data nodes; 100 where one is not listed
//! "data-3" = 200
//!
//! [outside."data-3"]       # of data nodes; none where one is not listed
//! resp = "192.0.2.7:30379"
//! client = "192.0.2.7:30400"
//! ```
//!
//! A node that was never placed waits until it is, for a replica that is made without its
//! zone would have to move. One that the cluster knows goes on with the place that it has
//! where the file is of no help: a lost file must not stop a node that holds data.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::cluster::settings::WEIGHT_MAX;
use cairn_core::record::OutsideAddresses;
use cairn_proto::limits;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;

use crate::reload;
use crate::settings::check_host_port;
use crate::tasks::Servers;

/// The weights that there are.
pub(crate) const WEIGHTS: RangeInclusive<u32> = 1..=WEIGHT_MAX;
/// What a node weighs where nobody says.
const WEIGHT_DEFAULT: u32 = 100;
/// The most that the file may have: what a `ConfigMap` may.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How often the file is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the settings say of a data node's place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaceSettings {
    /// The failure zone, set outright.
    pub zone: Option<String>,
    /// The share of the data, set outright.
    pub weight: Option<u32>,
    /// The addresses for clients outside, set outright; `None` where the file may say them.
    /// Not asked for where the node has no ports for such clients.
    pub outside: Option<OutsideAddresses>,
    /// Where what is not set outright stands, if anywhere.
    pub file: Option<PlacesFile>,
}

/// A file with places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacesFile {
    /// The file.
    pub path: PathBuf,
    /// What it calls the machine that this process runs on; empty where the zone is set
    /// outright.
    pub host: String,
}

/// Where a data node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its failure zone; empty where it has none.
    pub zone: String,
    /// Its share of the data relative to the others, 100 is usual.
    pub weight: u32,
    /// Where clients outside reach it.
    pub outside: OutsideAddresses,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            zone: String::new(),
            weight: WEIGHT_DEFAULT,
            outside: OutsideAddresses::default(),
        }
    }
}

/// Why the file gives no place.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// It cannot be read.
    #[error("waiting for the file of places {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not as it has to be.
    #[error("the file of places {} cannot be used: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It does not list the machine yet.
    #[error("waiting for the zone of `{host}` in the file of places {}", path.display())]
    NoLine {
        /// The file.
        path: PathBuf,
        /// The machine.
        host: String,
    },
}

/// Refuses a label that would be refused with the registration.
pub(crate) fn check_label(text: &str) -> Result<(), &'static str> {
    if text.len() > limits::LABEL_BYTES {
        Err("is too long")
    } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Err("holds a blank or a control character")
    } else {
        Ok(())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    zones: BTreeMap<String, String>,
    weights: BTreeMap<String, u32>,
    outside: BTreeMap<String, Outside>,
}

/// The addresses of a data node for clients outside; either may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Outside {
    resp: String,
    client: String,
}

impl Document {
    fn parse(text: &str) -> Result<Self, String> {
        let document: Self = toml::from_str(text).map_err(|error| {
            let line = reload::toml_line(text, &error).unwrap_or(1);
            format!("line {line}: {}", error.message())
        })?;
        for (host, zone) in &document.zones {
            check_label(host).map_err(|why| format!("the machine `{host}` {why}"))?;
            check_label(zone).map_err(|why| format!("the zone of `{host}` {why}"))?;
        }
        for (node, weight) in &document.weights {
            check_label(node).map_err(|why| format!("the data node `{node}` {why}"))?;
            if !WEIGHTS.contains(weight) {
                let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
                return Err(format!(
                    "the weight of `{node}`, {weight}, is not from {least} to {most}"
                ));
            }
        }
        for (node, Outside { resp, client }) in &document.outside {
            check_label(node).map_err(|why| format!("the data node `{node}` {why}"))?;
            for address in [resp, client].into_iter().filter(|text| !text.is_empty()) {
                check_host_port(address)
                    .map_err(|why| format!("the address `{address}` of `{node}` outside: {why}"))?;
            }
        }
        Ok(document)
    }
}

/// This node's place, as it is known by now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The data node.
    name: String,
    settings: PlaceSettings,
    known: watch::Sender<Option<Place>>,
    /// What stands in the way, while nothing is known.
    lack: Mutex<Option<String>>,
}

impl Places {
    /// Of the data node of that name.
    #[must_use]
    pub fn new(name: &str, settings: PlaceSettings) -> Self {
        let places = Self(Arc::new(Shared {
            name: name.to_owned(),
            settings,
            known: watch::Sender::new(None),
            lack: Mutex::default(),
        }));
        if places.file().is_none() {
            places.settle(Place::default());
        }
        places
    }

    /// The file, where there is something to look for in it.
    fn file(&self) -> Option<&PlacesFile> {
        let PlaceSettings {
            zone,
            weight,
            outside,
            file,
        } = &self.0.settings;
        file.as_ref()
            .filter(|_| zone.is_none() || weight.is_none() || outside.is_none())
    }

    /// The place, once it is known.
    #[must_use]
    pub fn now(&self) -> Option<Place> {
        self.0.known.borrow().clone()
    }

    /// What the node waits for, for people; `None` once it waits no more.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        self.0.lack.lock().clone()
    }

    /// Waits until the place is another one than `former`.
    pub(super) async fn changed_from(&self, former: &Place) {
        let mut known = self.0.known.subscribe();
        let other = known.wait_for(|now| now.as_ref().is_some_and(|now| now != former));
        if other.await.is_err() {
            // The sender is as old as this.
            std::future::pending::<()>().await;
        }
    }

    /// Takes that for the node's place, as far as nothing is set outright.
    pub(super) fn settle(&self, place: Place) {
        let PlaceSettings {
            zone,
            weight,
            outside,
            ..
        } = &self.0.settings;
        let place = Place {
            zone: zone.clone().unwrap_or(place.zone),
            weight: weight.unwrap_or(place.weight),
            outside: outside.clone().unwrap_or(place.outside),
        };
        *self.0.lack.lock() = None;
        self.0.known.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&place);
            *known = Some(place);
            changed
        });
    }

    /// Looks into the file, if there is one; says whether the place is another one than
    /// before. Blocks.
    ///
    /// # Errors
    /// Where the file says nothing of this node; what was known before stays.
    pub(super) fn look(&self) -> Result<bool, PlaceError> {
        let Some(file) = self.file() else {
            return Ok(false);
        };
        let before = self.now();
        match self.read(file) {
            Ok(place) => {
                self.settle(place);
                Ok(self.now() != before)
            }
            Err(error) => {
                if before.is_none() {
                    *self.0.lack.lock() = Some(error.to_string());
                }
                Err(error)
            }
        }
    }

    fn read(&self, file: &PlacesFile) -> Result<Place, PlaceError> {
        let text = read_text(file).map_err(|source| PlaceError::Read {
            path: file.path.clone(),
            source,
        })?;
        let mut document = Document::parse(&text).map_err(|reason| PlaceError::Content {
            path: file.path.clone(),
            reason,
        })?;
        let zone = match (&self.0.settings.zone, document.zones.get(&file.host)) {
            (Some(zone), _) | (None, Some(zone)) => zone.clone(),
            (None, None) => {
                return Err(PlaceError::NoLine {
                    path: file.path.clone(),
                    host: file.host.clone(),
                });
            }
        };
        let weight = document.weights.get(&self.0.name);
        Ok(Place {
            zone,
            weight: weight.copied().unwrap_or(WEIGHT_DEFAULT),
            outside: document
                .outside
                .remove(&self.0.name)
                .map(|Outside { resp, client }| OutsideAddresses { resp, client })
                .unwrap_or_default(),
        })
    }

    /// Looks at the file now and then among `servers`, once the node has its place.
    pub(crate) fn keep_fresh(&self, servers: &mut Servers) {
        if self.file().is_none() {
            return;
        }
        let places = self.clone();
        reload::keep_fresh(
            servers,
            "the file of places",
            LOOK_EVERY,
            metrics::counter!("cairn_places_reloads_failed_total"),
            move || places.look(),
        );
    }
}

fn read_text(file: &PlacesFile) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(&file.path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it has more than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A data node `data-1` on `worker-1`, and the folder of its file.
    fn places(zone: Option<&str>, weight: Option<u32>) -> (Places, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let settings = PlaceSettings {
            zone: zone.map(str::to_owned),
            weight,
            outside: Some(OutsideAddresses::default()),
            file: Some(PlacesFile {
                path: folder.path().join("places.toml"),
                host: "worker-1".to_owned(),
            }),
        };
        (Places::new("data-1", settings), folder)
    }

    fn write(folder: &TempDir, text: &str) {
        std::fs::write(folder.path().join("places.toml"), text).unwrap();
    }

    fn place(zone: &str, weight: u32) -> Option<Place> {
        Some(Place {
            zone: zone.to_owned(),
            weight,
            outside: OutsideAddresses::default(),
        })
    }

    #[test]
    fn without_a_file_the_place_is_as_set_at_once() {
        assert_eq!(
            Places::new("n", PlaceSettings::default()).now(),
            place("", 100)
        );
        let settings = PlaceSettings {
            zone: Some("a".to_owned()),
            weight: Some(50),
            outside: None,
            file: None,
        };
        assert_eq!(Places::new("n", settings).now(), place("a", 50));
        // Nothing is left to be looked for.
        let (places, _folder) = places(Some("a"), Some(50));
        assert_eq!(places.now(), place("a", 50));
        assert!(!places.look().unwrap());
    }

    #[test]
    fn a_node_waits_for_the_file_and_its_line_and_says_so() {
        let (places, folder) = places(None, None);
        assert_eq!((places.now(), places.lack()), (None, None));
        places.look().unwrap_err();
        let lack = places.lack().unwrap();
        assert!(lack.contains("places.toml: No such file"), "{lack}");
        write(&folder, "[zones]\nworker-2 = \"b\"\n");
        places.look().unwrap_err();
        let lack = places.lack().unwrap();
        assert!(lack.contains("the zone of `worker-1`"), "{lack}");
        write(&folder, "[zones]\nworker-1 = \"a\"\n");
        assert!(places.look().unwrap());
        assert_eq!((places.now(), places.lack()), (place("a", 100), None));
        assert!(!places.look().unwrap(), "nothing has changed");
        write(&folder, "zones.worker-1 = \"\"\nweights.data-1 = 10000\n");
        assert!(places.look().unwrap());
        assert_eq!(places.now(), place("", 10_000));
    }

    #[test]
    fn what_was_known_outlives_a_file_that_is_of_no_help() {
        let (places, folder) = places(None, None);
        places.settle(place("old", 70).unwrap());
        for text in ["", "zones = 3", "[zones]\nworker-2 = \"b\"\n"] {
            write(&folder, text);
            places.look().unwrap_err();
            assert_eq!((places.now(), places.lack()), (place("old", 70), None));
        }
        std::fs::remove_file(folder.path().join("places.toml")).unwrap();
        places.look().unwrap_err();
        assert_eq!(places.now(), place("old", 70));
    }

    #[test]
    fn what_is_set_outright_wins() {
        let text = "zones.worker-1 = \"a\"\nweights.data-1 = 7\n";
        let (zoned, folder) = places(Some("b"), None);
        // Its weight may stand in the file, so that this is waited for.
        zoned.look().unwrap_err();
        assert_eq!(zoned.now(), None);
        write(&folder, text);
        zoned.look().unwrap();
        assert_eq!(zoned.now(), place("b", 7));
        let (weighed, folder) = places(None, Some(3));
        write(&folder, text);
        weighed.look().unwrap();
        assert_eq!(weighed.now(), place("a", 3));
        weighed.settle(place("z", 9).unwrap());
        assert_eq!(weighed.now(), place("z", 3));
    }

    #[test]
    fn a_file_of_another_form_or_out_of_bounds_is_refused_with_the_reason() {
        let long = "x".repeat(254);
        for (text, reason) in [
            ("zone = 1", "unknown field"),
            ("[zones]\nworker-1 = 1", "invalid type"),
            ("weights.data-1 = 0", "not from 1 to 10000"),
            ("weights.data-9 = 10001", "not from 1 to 10000"),
            ("weights.data-1 = -1", "invalid value"),
            ("zones.worker-1 = \"a b\"", "holds a blank"),
            (&format!("zones.worker-1 = \"{long}\""), "is too long"),
            (&format!("zones.{long} = \"a\""), "is too long"),
            ("[outside.data-1]\nresp = \"nowhere\"", "it has no port"),
            ("[outside.data-1]\nclient = \"a:0\"", "not a number from 1"),
            ("[outside.data-1]\nhttp = \"a:1\"", "unknown field"),
            ("[outside.\"a b\"]", "holds a blank"),
            (&"#".repeat(1 << 20 | 1), "more than 1048576 bytes"),
        ] {
            let (places, folder) = places(None, None);
            write(&folder, text);
            let error = places.look().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:.40}: {error}");
            assert_eq!(places.now(), None);
        }
    }

    #[test]
    fn addresses_outside_come_and_go_with_the_file_and_are_of_the_node_alone() {
        let folder = tempfile::tempdir().unwrap();
        let settings = |outside| PlaceSettings {
            zone: Some("a".to_owned()),
            weight: Some(1),
            outside,
            file: Some(PlacesFile {
                path: folder.path().join("places.toml"),
                host: String::new(),
            }),
        };
        let addresses = |resp: &str, client: &str| OutsideAddresses {
            resp: resp.to_owned(),
            client: client.to_owned(),
        };
        let of = |places: &Places| places.now().unwrap().outside;
        write(
            &folder,
            "[outside.data-1]\nresp = \"192.0.2.7:30379\"\nclient = \"lb.example:7400\"\n\
             [outside.data-2]\nresp = \"192.0.2.8:30379\"\n",
        );
        let places = Places::new("data-1", settings(None));
        assert_eq!(places.now(), None, "the file is waited for");
        assert!(places.look().unwrap());
        assert_eq!(of(&places), addresses("192.0.2.7:30379", "lb.example:7400"));
        let second = Places::new("data-2", settings(None));
        second.look().unwrap();
        assert_eq!(of(&second), addresses("192.0.2.8:30379", ""));
        // What is set outright wins, and nothing is left to be looked for.
        let set = Places::new("data-1", settings(Some(addresses("b:1", ""))));
        assert!(!set.look().unwrap());
        assert_eq!(of(&set), addresses("b:1", ""));
        write(&folder, "");
        assert!(places.look().unwrap());
        assert_eq!(of(&places), OutsideAddresses::default());
    }

    #[tokio::test]
    async fn a_changed_place_is_told_however_soon_it_came() {
        let (places, _folder) = places(None, None);
        let before = place("a", 100).unwrap();
        places.settle(before.clone());
        let mut changed = std::pin::pin!(places.changed_from(&before));
        assert!(futures::poll!(changed.as_mut()).is_pending());
        places.settle(place("b", 100).unwrap());
        changed.await;
        places.changed_from(&before).await;
    }
}
