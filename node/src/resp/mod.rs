//! The Redis protocol, RESP2 and RESP3, as a Redis Cluster node speaks it.
//!
//! - `parser`, `encode`: the wire. `connection`: the task of one client. `queue`: its
//!   commands that wait, and their order. `output`: its replies that wait.
//! - `commands`: the table and the handlers. `words`: the errors. `render`: replies.
//! - `tracking`: what a client is told of keys that it keeps.
//! - `topology`: the cluster map as Redis clients read it.
//! - `shared`: what all connections share: clients, counts, limits.
//!
//! Keys are served by a [`Backend`]; nothing here knows of logs, epochs or replicas.

pub mod backend;
mod call;
mod commands;
pub mod config;
mod connection;
pub mod encode;
pub(crate) mod glob;
mod many;
mod output;
mod parser;
mod queue;
mod render;
mod server;
mod shared;
mod topology;
mod tracking;
mod words;

pub use backend::{
    AskResult, Backend, Facts, Figures, Found, Question, ReadLevel, ReadTerms, ScanQuestion,
    Session, Started,
};
pub use config::{EndpointType, Limits, RespConfig};
pub use server::{Server, serve};

/// Finds the commands that stand whole at the start of what a client sent: how many there are,
/// and how many bytes they take. What the parser costs is measured by it.
#[must_use]
pub fn find_commands(mut sent: &[u8]) -> (usize, usize) {
    let mut parser = parser::Parser::new(Limits::default());
    let (mut commands, mut taken) = (0, 0);
    while let Ok(parser::Found::Command { bytes }) = parser.find(sent) {
        let arguments = parser.take_arguments();
        parser.recycle(arguments);
        commands += 1;
        taken += bytes;
        sent = &sent[bytes..];
    }
    (commands, taken)
}
