//! Makes a [`crate::cluster::Cluster`] of a manifest, or says why not.
