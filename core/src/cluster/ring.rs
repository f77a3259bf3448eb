//! The ring of virtual nodes.
