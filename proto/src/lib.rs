//! The messages and services of Cairn, and the strict types behind them.
//!
//! [`pb`] is what `proto/` generates; it stops at the gRPC boundary. Every message
//! that means something inside has a `From` out of, and a `TryFrom` into, a type of
//! `cairn-core`. The way in is strict: a number out of range, a missing part, a
//! list longer than its bound in [`limits`] is a [`Malformed`] error that names
//! the field. Nothing here panics on any input.

#![forbid(unsafe_code)]

pub mod batch;
mod coordinator;
pub mod counters;
mod detach;
mod heat;
pub mod keyspace;
pub mod kv;
pub mod levels;
pub mod limits;
mod malformed;
pub mod map;
pub mod peer;
mod peer_copies;
mod peer_reads;
pub mod refusal;
pub mod trace;

pub use malformed::Malformed;

/// The number of the wire format. Raised when an older build could misread what a
/// newer one sends; a peer with a newer number is refused (rule 18).
pub const FORMAT: u32 = 1;

/// What this build understands beyond [`FORMAT`], a bit each: `cairn_core::features`.
pub const FEATURES: u64 = cairn_core::features::UNDERSTOOD;

/// Every file of `proto/` as a `google.protobuf.FileDescriptorSet`, encoded: what server
/// reflection gives away.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The generated messages, clients and servers.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic
)]
pub mod pb {
    /// Package `cairn.map`.
    pub mod map {
        /// Package `cairn.map.v1`.
        pub mod v1 {
            tonic::include_proto!("cairn.map.v1");
        }
    }
    /// Package `cairn.kv`.
    pub mod kv {
        /// Package `cairn.kv.v1`.
        pub mod v1 {
            tonic::include_proto!("cairn.kv.v1");
        }
    }
    /// Package `cairn.peer`.
    pub mod peer {
        /// Package `cairn.peer.v1`.
        pub mod v1 {
            tonic::include_proto!("cairn.peer.v1");
        }
    }
    /// Package `cairn.coordinator`.
    pub mod coordinator {
        /// Package `cairn.coordinator.v1`.
        pub mod v1 {
            tonic::include_proto!("cairn.coordinator.v1");
        }
    }
    /// Package `cairn.hot`.
    pub mod hot {
        /// Package `cairn.hot.v1`.
        pub mod v1 {
            tonic::include_proto!("cairn.hot.v1");
        }
    }
    /// Package `cairn.near`.
    pub mod near {
        /// Package `cairn.near.v1`.
        pub mod v1 {
            tonic::include_proto!("cairn.near.v1");
        }
    }
    /// Package `opentelemetry.proto.collector.trace.v1`: what an OpenTelemetry collector takes.
    pub mod otlp {
        tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
    }
    /// Package `cairn.diagnosis`.
    pub mod diagnosis {
        /// Package `cairn.diagnosis.v1`.
        pub mod v1 {
            tonic::include_proto!("cairn.diagnosis.v1");
        }
    }
}
