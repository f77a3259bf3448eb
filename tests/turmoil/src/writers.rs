//! Who changes the cluster's metadata, through the simulated network as anybody does.
//!
//! One changes a setting, as a person would; the others register a data node each, again
//! and again under other addresses. Each write is an entry of Raft's log, and makes the
//! state no larger.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use cairn_client::transport::Channel;
use cairn_core::record::Addresses;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::admin_client::AdminClient;
use cairn_proto::pb::coordinator::v1::change_request::Change;
use cairn_proto::pb::coordinator::v1::coordinator_client::CoordinatorClient;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::fleet::{COUNT, client, peer};
use crate::network::dialer;

/// How long a call may take.
const WITHIN: Duration = Duration::from_secs(2);

/// One write.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Written {
    /// A node's UUID, or [`SETTING`].
    pub what: String,
    /// Its address for clients; the setting.
    pub value: String,
}

/// The setting that is changed.
pub const SETTING: &str = "nodeTimeoutMs";
/// What it is at first: it must not be less than the lease.
const SETTING_FIRST: u64 = 1500;

/// What writers are to do, and what came of it.
#[derive(Debug, Default)]
pub struct Calls {
    at_work: Cell<bool>,
    acknowledged: RefCell<Vec<Written>>,
    /// By coordinator, how many of its answers were acknowledgements.
    pub accepted: [Cell<u64>; COUNT],
    /// By coordinator, how many calls it did not carry out.
    pub refused: [Cell<u64>; COUNT],
}

impl Calls {
    /// Lets the writers write.
    pub fn work(&self) {
        self.at_work.set(true);
    }

    /// Lets them rest once they have their answers.
    pub fn rest(&self) {
        self.at_work.set(false);
    }

    /// What was acknowledged since this was asked last.
    #[must_use]
    pub fn taken(&self) -> Vec<Written> {
        self.acknowledged.take()
    }
}

/// Writes for as long as the simulation goes on.
///
/// # Panics
/// Never: a coordinator's address is one.
pub async fn write(number: usize, seed: u64, calls: Rc<Calls>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let channels: Vec<Channel> = (0..COUNT)
        .map(|place| {
            let address = if number == 0 {
                client(place)
            } else {
                peer(place)
            };
            dialer().lazy(&address).expect("an address")
        })
        .collect();
    let (mut place, mut value) = (rng.random_range(0..COUNT), 0);
    loop {
        sleep(Duration::from_millis(rng.random_range(5..40))).await;
        if !calls.at_work.get() {
            continue;
        }
        let channel = channels[place].clone();
        let (written, answered) = if number == 0 {
            let setting = SETTING_FIRST + value;
            let written = Written {
                what: SETTING.to_owned(),
                value: setting.to_string(),
            };
            (written, answer(change(channel, setting)).await)
        } else {
            let written = Written {
                what: format!("u{number}"),
                value: format!("v{value}:1"),
            };
            let registered = answer(register(channel, &written)).await;
            (written, registered)
        };
        if answered.is_ok() {
            bump(&calls.accepted[place]);
            calls.acknowledged.borrow_mut().push(written);
            value += 1;
        } else {
            bump(&calls.refused[place]);
            place = rng.random_range(0..COUNT);
            // Some are given up without ever knowing.
            value += u64::from(rng.random_bool(0.3));
        }
    }
}

fn bump(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// Waits for an answer for no longer than a caller does.
async fn answer(call: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    timeout(WITHIN, call).await.unwrap_or_else(late)
}

async fn register(channel: Channel, written: &Written) -> Result<(), Status> {
    let addresses = Addresses {
        client: written.value.clone(),
        ..Addresses::default()
    };
    let request = pb::RegisterRequest {
        format: cairn_proto::FORMAT,
        incarnation: format!("{}-1", written.what),
        name: written.what.clone(),
        uuid: written.what.clone(),
        addresses: Some((&addresses).into()),
        weight: 100,
        ..pb::RegisterRequest::default()
    };
    CoordinatorClient::new(channel).register(request).await?;
    Ok(())
}

async fn change(channel: Channel, setting: u64) -> Result<(), Status> {
    let settings = pb::Settings {
        node_timeout_ms: Some(setting),
        ..pb::Settings::default()
    };
    let request = pb::ChangeRequest {
        change: Some(Change::Settings(settings)),
        ..pb::ChangeRequest::default()
    };
    AdminClient::new(channel).change(request).await?;
    Ok(())
}
