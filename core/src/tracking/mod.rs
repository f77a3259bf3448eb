//! Caches at clients, and how they are kept true: who is told when a key changes.
//!
//! A *reader* is a client that keeps what it reads: a Redis connection with
//! `CLIENT TRACKING`, or the stream of a near cache. A node remembers which reader read
//! which key *here*, and tells it once the key has changed *here*.
//!
//! # No reader is left with an old value for good
//! - A key is remembered before it is read ([`Tracked::remember`]).
//! - A change is told after everybody who reads here sees it ([`BatchStage`]), to whoever is
//!   remembered then.
//!
//! Remembering and telling exclude each other. If the key was remembered first, its reader is
//! told. If not, the read came after the telling, and so after the change could be seen: it
//! saw the change, or a later one. What is told before the reader has the answer of its read
//! is for the reader to hold against that answer: on one connection the answer goes first,
//! and [`NearCache`] drops the answer.
//!
//! A node that may no longer see every change (it was deposed, its replica goes, its lease
//! lapsed, it is cut off) tells all readers of all keys of the partition that these changed
//! ([`Tracked::flush`]). So does one that forgets a key for want of room.
//!
//! - `table`: what is remembered. `letters`: what waits to be told. `prefixes`: readers that
//!   want to be told of all keys that begin so. `seen`: whether changes still show here. `near`: the cache at the client.

mod letters;
mod near;
mod prefixes;
mod seen;
mod table;

pub use letters::{BatchStage, Change, Letters, LettersBounds, Taken};
pub use near::{NearBounds, NearCache, Served, Source, Ticket, Vouch, VouchLook};
pub use prefixes::{Collision, Prefixes};
pub use seen::Seen;
pub use table::{ReaderId, Told, Tracked};
