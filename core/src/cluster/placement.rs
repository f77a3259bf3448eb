//! Which nodes hold a partition.
