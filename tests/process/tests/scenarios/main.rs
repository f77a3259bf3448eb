//! What Cairn keeps when its processes are killed, stopped, wiped and lied to.
//!
//! Every test is bounded, prints its seed, and removes what it started and wrote.
//! `docs/testing.md` says how they check.

mod bundle;
mod checker;
mod clients;
mod coordinators;
mod counters;
mod dev;
mod dev_commands;
mod disks;
mod flushes;
mod freeze;
mod group;
mod histories;
mod hostile;
mod hot_keys;
mod keyspace;
mod kills;
mod levels;
mod membership;
mod networks;
mod offline_check;
mod other_configurations;
mod outside;
mod pods;
mod power_cuts;
mod power_loss_shim;
mod proxies;
mod recover;
mod refusals;
mod traces;
mod tracking;
mod trial;
mod tutorial;
mod upgrade;
