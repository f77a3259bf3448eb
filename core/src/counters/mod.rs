//! Striped counters: one key whose additions are spread over several partitions.
//!
//! A counter that everybody adds to keeps one primary busy, however many nodes there are. A
//! striped counter is still one key with one value, but its additions go to *stripes*: keys
//! of their own, on other partitions, whose sum it is. Which keys may become striped counters
//! is agreed by the cluster, by prefix ([`Declared`]); nothing else is ever split.
//!
//! - [`name`]: how stripes are named, and so on which partitions they lie.
//! - [`control`]: what the counter's own key holds: in which edition the counter is, over
//!   how many stripes, and what it came to when it was last added up.
//! - [`machine`]: what is read and written, in which order, to add, to read, and to change.
//!
//! # What holds
//! - **An edition never changes**: its number of stripes, its base and its expiry are written
//!   once. To set, delete, expire or re-stripe a counter is to end one edition and to begin
//!   another.
//! - **An edition ends by seals.** Each of its stripes is sealed, by an entry of its own
//!   partition, before the key is changed. A sealed stripe takes no addition, and its sum
//!   stays readable. So an addition that was acknowledged is either in the sum that the change
//!   found, or was refused, whatever the one who added knew of editions: an edition may be
//!   cached for as long as seals are kept ([`machine::SEALS_KEPT_MS`]).
//! - **The key is the one decision.** The change takes effect by one conditional write of the
//!   key, at the version that the sealing began with. Whoever dies half-way leaves seals
//!   behind and nothing else: the next one who adds finishes for him, with an edition that
//!   begins at the sum.
//!
//! # What a read promises
//! Let a read begin after some additions were acknowledged: it counts all of them, and none
//! that began after it was answered. Of those that go on at the same time it counts some. For
//! additions of one sign that makes it a value between those at its begin and at its end, and
//! a later read never sees less; where all add one, reads are linearizable. Additions of both
//! signs may show a sum that the counter never had.

pub mod control;
pub mod declared;
pub mod machine;
pub mod name;

pub use control::Control;
pub use declared::{Declared, DeclaredError};
pub use machine::{Answer, Asked, Call, Done, Environment, Failure, Found, Machine, Step};
pub use name::StripeName;
