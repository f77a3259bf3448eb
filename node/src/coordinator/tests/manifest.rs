//! A cluster that a manifest governs.

use cairn_proto::pb::coordinator::v1::admin_client::AdminClient;
use cairn_proto::pb::coordinator::v1::change_request::Change;
use tonic::{Code, Status};

use super::*;

const MANIFEST: &str = "KvCluster shop/orders";

/// Every kind of change that a manifest decides.
fn governed() -> Vec<Change> {
    let drain = |undo| Change::Drain(pb::Drain { node: 1, undo });
    vec![
        Change::NodeGone(pb::NodeGone {
            node: 1,
            force: false,
        }),
        Change::Settings(pb::Settings {
            lease_ms: Some(600),
            ..pb::Settings::default()
        }),
        drain(false),
        drain(true),
        Change::Retire(pb::Retire { node: 1 }),
        Change::PauseMoves(pb::PauseMoves { paused: true }),
        Change::ExpectBack(pb::ExpectBack {
            node: 1,
            until_unix_ms: 0,
        }),
        Change::ResetToken(pb::ResetToken {}),
        Change::Coordinators(pb::ChangeCoordinators {
            add: Vec::new(),
            remove: vec!["c9".to_owned()],
        }),
    ]
}

struct Managed {
    fleet: Fleet,
    admin: AdminClient<cairn_client::transport::Channel>,
}

impl Managed {
    /// One coordinator, and one data node that registered.
    async fn by(manifest: Option<&str>) -> Self {
        let mut fleet = Fleet::new(1, settings(3)).await;
        fleet.managed_by = manifest.map(str::to_owned);
        fleet.start(0).await;
        fleet.leader().await;
        fleet.register(0, "u1", "n1").await.unwrap();
        let channel = Dialer::default().lazy(&fleet.clients[0]).unwrap();
        let admin = AdminClient::new(channel);
        Self { fleet, admin }
    }

    async fn ask(
        &self,
        change: &Change,
        token: u64,
        override_manifest: bool,
    ) -> Result<(), Status> {
        let request = pb::ChangeRequest {
            override_manifest,
            token,
            change: Some(change.clone()),
        };
        self.admin.clone().change(request).await.map(drop)
    }
}

/// Whether it was refused for the manifest's sake.
fn names_manifest(answer: &Result<(), Status>) -> bool {
    let Err(status) = answer else { return false };
    let message = status.message();
    let named = message.contains(MANIFEST) && message.contains("--override-manifest");
    assert!(!named || status.code() == Code::FailedPrecondition);
    named
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_manifest_decides_is_refused_unless_its_operator_asks_or_a_person_insists() {
    let mut managed = Managed::by(Some(MANIFEST)).await;
    for change in governed() {
        let person = managed.ask(&change, 0, false).await;
        assert!(names_manifest(&person), "{change:?}: {person:?}");
        for (token, insists) in [(0, true), (7, false)] {
            let answer = managed.ask(&change, token, insists).await;
            assert!(!names_manifest(&answer), "{change:?}: {answer:?}");
        }
    }
    let leased = Change::Settings(pb::Settings {
        lease_ms: Some(700),
        ..pb::Settings::default()
    });
    managed.ask(&leased, 9, false).await.unwrap();
    // Of two operators the later one is heard, manifest or not.
    let stale = managed.ask(&leased, 8, false).await;
    assert!(!names_manifest(&stale), "{stale:?}");
    assert_eq!(stale.unwrap_err().code(), Code::FailedPrecondition);

    // Of where primaries are, and of what survives, no manifest knows.
    let primary = Change::MovePrimary(pb::MovePrimary {
        partition: 0,
        to_node: 1,
    });
    managed.ask(&primary, 0, false).await.unwrap();
    let recover = Change::Recover(pb::Recover {
        accept_loss: true,
        ..pb::Recover::default()
    });
    let recovered = managed.ask(&recover, 0, false).await;
    assert!(!names_manifest(&recovered), "{recovered:?}");
    let plan = pb::PlanRequest {
        change: Some(pb::ChangeRequest {
            change: Some(leased),
            ..pb::ChangeRequest::default()
        }),
    };
    let planned = managed.admin.clone().plan(plan).await.map(drop);
    assert!(!names_manifest(&planned), "{planned:?}");

    let status = managed.fleet.status(0).await;
    assert_eq!(status["managedBy"], MANIFEST);
    managed.fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_manifest_governs_nobody_is_refused_for_one() {
    let mut free = Managed::by(None).await;
    for change in governed() {
        let answer = free.ask(&change, 0, false).await;
        assert!(!names_manifest(&answer), "{change:?}: {answer:?}");
    }
    let settings = free.fleet.status(0).await["settings"].clone();
    assert_eq!(settings["lease_ms"], 600);
    assert!(free.fleet.status(0).await.get("managedBy").is_none());
    free.fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_cordoned_by_whoever_asks_and_the_status_says_so() {
    let mut managed = Managed::by(Some(MANIFEST)).await;
    let cordon = |node, until_unix_ms| {
        Change::Cordon(pb::Cordon {
            node,
            until_unix_ms,
        })
    };
    managed.ask(&cordon(1, u64::MAX), 0, false).await.unwrap();
    let told = managed.fleet.status(0).await["nodes"][0]["cordonedUntilUnixMs"].clone();
    assert_eq!(told, u64::MAX);
    managed.ask(&cordon(1, 0), 9, false).await.unwrap();
    let told = managed.fleet.status(0).await["nodes"][0]["cordonedUntilUnixMs"].clone();
    assert_eq!(told, 0);
    let stranger = managed.ask(&cordon(99, 1), 0, false).await;
    assert_eq!(stranger.unwrap_err().code(), Code::NotFound);
    managed.fleet.stop_all().await;
}
