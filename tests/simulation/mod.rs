//! Histories by seed, in which everything that can go wrong does.

mod execute;
mod mutants;
