//! The Rust client of Cairn.
//!
//! A [`Client`] fetches the map of the cluster from any of its nodes, keeps it
//! current, and talks straight to the node that serves a key. Calls of many tasks
//! share one connection per node and travel in batches. Every write carries a name
//! of its own, so that a retry, of an increment or of a conditional put too, is
//! applied once, however often the connection, the primary or the cluster's
//! configuration changes under it.
//!
//! ```no_run
//! # async fn example() -> Result<(), cairn_client::Error> {
//! use cairn_client::{Batch, Client, Condition, Options, PutOptions};
//!
//! let client = Client::connect(["127.0.0.1:7400"], Options::default()).await?;
//! let version = client.put("greeting", "hello").await?;
//! let value = client.get("greeting").await?.expect("it was just put");
//! assert_eq!(value.data, "hello");
//!
//! // Only if nobody changed it meanwhile:
//! let options = PutOptions {
//!     condition: Condition::Version(version),
//!     ..PutOptions::default()
//! };
//! let outcome = client.put_with("greeting", "hello again", options).await?;
//! assert!(outcome.applied());
//!
//! // Both or neither: the hash tag puts the keys into one partition.
//! let batch = Batch::new()
//!     .put("{order:7}state", "paid")
//!     .increment("{order:7}changes", 1);
//! assert!(client.batch(batch).await?.applied());
//!
//! assert_eq!(client.increment("visits", 1).await?, 1);
//! assert!(client.delete("greeting").await?);
//! # Ok(())
//! # }
//! ```
//!
//! # Users
//! Where the cluster has users, [`Options`]' dialer carries a credential, which goes with
//! each call:
//!
//! ```no_run
//! # fn example() -> Option<cairn_client::Options> {
//! use cairn_client::Options;
//! use cairn_client::transport::{Credential, Dialer};
//!
//! let options = Options {
//!     dialer: Dialer {
//!         credential: Some(Credential::password("app", "correct horse")?),
//!         ..Dialer::default()
//!     },
//!     ..Options::default()
//! };
//! # Some(options)
//! # }
//! ```
//!
//! # How current a read is
//! [`Client::get`] reads at the level of [`Options::consistency`], the cluster's own where
//! that names none; [`Client::get_with`] at the one that is given. All but
//! [`Consistency::Any`] see every write that was acknowledged before; all but
//! [`Consistency::Primary`] are spread over the replicas, by how quickly they answer.
//!
//! # What an error means
//! [`Error::OutcomeUnknown`] is the only one after which a write may have been
//! applied; after any other one it was not, and will not be.

#![forbid(unsafe_code)]

pub mod admin;
mod answer;
mod batch;
mod client;
mod connection;
mod counter;
mod error;
mod hex;
mod in_force;
mod known;
mod load;
mod near;
mod options;
mod scan;
pub mod sharded;
mod stats;
mod topology;
pub mod trace;
pub mod transport;
mod watch;

pub use batch::{Batch, BatchOutcome, BatchRefusal, BatchResult};
pub use cairn_core::ids::{Epoch, Index, MapVersion, NodeId, PartitionId, Position};
pub use cairn_core::kv::request::{Condition, Expiry, ReadLevel, Value, WriteLevel};
pub use cairn_core::kv::scan::Row;
pub use cairn_core::kv::watch::{KeyEvent, KeyFilter};
pub use cairn_core::record::ClusterMap;
pub use cairn_proto::kv::Consistency;
pub use cairn_proto::levels::ReplicaState;
pub use client::{Client, DeleteOutcome, PutOptions, PutOutcome, Reading};
pub use error::Error;
pub use in_force::{InForce, in_force};
pub use near::{Aged, NearCacheOptions};
pub use options::Options;
pub use scan::{Scan, ScanOptions, ScanToken, TokenError};
pub use stats::Stats;
pub use topology::fetch_map;
pub use watch::{Watch, WatchOptions, WatchToken};
