//! Who changes the cluster's metadata, through the simulated network as anybody does.
//!
//! A writer registers one data node again and again under addresses of its own, which
//! is an entry of Raft's log each time and makes the state no larger.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use cairn_client::transport::Channel;
use cairn_core::record::Addresses;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::coordinator_client::CoordinatorClient;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::fleet::{COUNT, peer};
use crate::network::dialer;

/// How long a call may take.
const WITHIN: Duration = Duration::from_secs(2);

/// One write.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Written {
    /// The node's UUID.
    pub uuid: String,
    /// Its address for clients.
    pub value: String,
}

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
    let clients: Vec<_> = (0..COUNT)
        .map(|place| CoordinatorClient::new(dialer().lazy(&peer(place)).expect("an address")))
        .collect();
    let (mut place, mut value) = (rng.random_range(0..COUNT), 0);
    loop {
        sleep(Duration::from_millis(rng.random_range(5..40))).await;
        if !calls.at_work.get() {
            continue;
        }
        let written = Written {
            uuid: format!("u{number}"),
            value: format!("v{value}:1"),
        };
        let answered = register(clients[place].clone(), &written).await;
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

async fn register(
    mut client: CoordinatorClient<Channel>,
    written: &Written,
) -> Result<(), Status> {
    let addresses = Addresses {
        client: written.value.clone(),
        ..Addresses::default()
    };
    let request = pb::RegisterRequest {
        format: cairn_proto::FORMAT,
        incarnation: format!("{}-1", written.uuid),
        name: written.uuid.clone(),
        uuid: written.uuid.clone(),
        addresses: Some((&addresses).into()),
        weight: 100,
        ..pb::RegisterRequest::default()
    };
    match timeout(WITHIN, client.register(request)).await {
        Ok(answered) => answered.map(|_| ()),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}
