//! A real history, imported once and kept for all who want it.
