//! Increments through the Rust client, whose retries are applied once.

use std::sync::Arc;

use anyhow::Result;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;

use crate::cluster::Target;
use crate::load::Shared;

/// The client that every task shares.
#[derive(Clone, Debug)]
pub(crate) struct Native {}

impl Native {
    pub(crate) fn connect(_runtime: &Runtime, _target: &Target) -> Result<Self> {
        Ok(Self {})
    }

    pub(crate) async fn work(self, _shared: Arc<Shared>, _rng: StdRng) {}
}
