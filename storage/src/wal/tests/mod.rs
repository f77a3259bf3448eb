//! The log against a model of it: power losses, torn tails, flipped bits.

mod damage;
mod fuzz;
mod history;
mod model;
mod random;
mod scenarios;
