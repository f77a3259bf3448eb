//! Increments through the Rust client, whose retries are applied once.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use cairn_client::transport::Dialer;
use cairn_client::{Client, Error, Options, Stats};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;

use crate::cluster::{BOUND, Target};
use crate::load::Shared;
use crate::resp::Unanswered;

/// The client that every task shares.
#[derive(Clone, Debug)]
pub(crate) struct Native(Client);

impl Native {
    pub(crate) fn connect(runtime: &Runtime, target: &Target) -> Result<Self> {
        // So patient that it finds every outcome out, whatever is killed meanwhile.
        let options = Options {
            deadline: BOUND * 2,
            dialer: match &target.access {
                Some(access) => access.dialer()?,
                None => Dialer::default(),
            },
            ..Options::default()
        };
        let client = runtime.block_on(Client::connect(target.clients.clone(), options))?;
        Ok(Self(client))
    }

    pub(crate) fn stats(&self) -> Stats {
        self.0.stats()
    }

    pub(crate) async fn work(self, shared: Arc<Shared>, task: usize, mut rng: StdRng) {
        let mut pacer = shared.pacer(task);
        while !shared.stopping() {
            pacer.due().await;
            let counter =
                &shared.native_counters[rng.random_range(0..shared.native_counters.len())];
            counter.state().begin();
            let began = Instant::now();
            let sum = self.0.increment(counter.key.clone(), 1).await;
            shared.took(counter.partition, began);
            match sum {
                Ok(sum) => {
                    let value = u64::try_from(sum).unwrap_or(u64::MAX);
                    let judged = counter.state().acknowledged(value);
                    shared.check(&counter.key, "increment", judged);
                    shared.acknowledged(counter.partition);
                }
                Err(error @ Error::OutcomeUnknown { .. }) => {
                    shared.unanswered(&Unanswered::Unknown(error.to_string()));
                }
                Err(error) => {
                    // After any other error nothing was changed.
                    counter.state().refused();
                    shared.unanswered(&Unanswered::Refused(error.to_string()));
                }
            }
        }
    }
}
