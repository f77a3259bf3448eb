//! The bounds that hold for every message, whoever sends it.

/// The longest key, in bytes.
pub const KEY_BYTES: usize = 64 * 1024;
/// The longest value, in bytes, whatever the settings say.
pub const VALUE_BYTES: usize = 16 * 1024 * 1024;
/// The most operations of one batch.
pub const BATCH_OPERATIONS: usize = 16_384;
/// The most bytes that the keys and values of one batch have together: with what travels
/// beside them it fits into [`CLIENT_MESSAGE_BYTES`].
pub const BATCH_BYTES: usize = 20 * 1024 * 1024;
/// What a message between nodes may measure: the largest entry, its key and room
/// for what travels with it.
pub const PEER_MESSAGE_BYTES: usize = 40 * 1024 * 1024;
/// What a client's message may measure.
pub const CLIENT_MESSAGE_BYTES: usize = 24 * 1024 * 1024;
/// What a message of the control plane may measure.
pub const COORDINATOR_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// The longest label: a name, a zone, a UUID.
pub const LABEL_BYTES: usize = 253;
/// The longest address: a host name, a colon and a port.
pub const ADDRESS_BYTES: usize = 260;
/// The most members of one set.
pub const MEMBERS: usize = 16;
/// The most learners of one partition.
pub const LEARNERS: usize = 16;
/// The most partitions: one per slot.
pub const PARTITIONS: usize = 16_384;
/// The most identities that a map may list.
pub const NODES: usize = 65_536;
/// The most coordinators that a map may list.
pub const COORDINATORS: usize = 16;
/// The most followers that a primary reports.
pub const FOLLOWERS: usize = 2 * MEMBERS + LEARNERS;
/// The most marks of a lineage.
pub const LINEAGE: usize = 65_536;
/// The most messages of one frame.
pub const FRAME_MESSAGES: usize = 65_536;
/// The most entries of one frame that are traced.
pub const TRACED_ENTRIES: usize = 1024;
/// The most entries of one append.
pub const APPEND_ENTRIES: usize = 65_536;
/// The most calls of one message of a pipeline.
pub const PIPELINE_CALLS: usize = 16_384;
/// The most keys of one page of a scan.
pub const SCAN_ROWS: usize = 10_000;
/// About how many bytes of keys and values one page of a scan may have, where more than
/// one value is in it.
pub const SCAN_BYTES: usize = 4 * 1024 * 1024;
/// The most events of one message of a watch.
pub const WATCH_EVENTS: usize = 1 << 20;
/// The most orders or reports of one message.
pub const ORDERS: usize = PARTITIONS;
