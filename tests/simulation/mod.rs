//! Histories by seed, in which everything that can go wrong does.

mod checkouts;
mod execute;
mod mutants;
