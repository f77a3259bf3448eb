//! Plans carried out in a model of Kubernetes and of the coordinators, and single rules held
//! to a sight of it that was changed by hand. That each rule is held is seen by taking it out:
//! `ci/operator-mutations`.

mod by_hand;
mod evacuations;
mod lessons;
mod losses;
mod members;
mod outside;
mod random;
mod restarts;
mod rules;
mod scenarios;
mod volumes;
mod world;
