//! Histories by seed, in which everything that can go wrong does.
//!
//! A package of its own: it runs by the thousand, and is optimised for that as nothing else of the tests is.

pub mod answers;
pub mod checkouts;
pub mod faulty_log;
pub mod mutants;
pub mod seeds;
pub mod shop;
pub mod stock;
