//! Histories by the thousand, and those of mutants, which have to be found out.

mod checkouts;
mod execute;
