//! Plans carried out in a model of Kubernetes and of the coordinators, and single rules held
//! to a sight of it that was changed by hand.

mod lessons;
mod random;
mod rules;
mod scenarios;
mod volumes;
mod world;
