//! Random faults, from seeds.
