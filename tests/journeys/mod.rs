//! What people do with the shop, from end to end, over the real thing.

mod answers;
mod bad_input;
mod checkout;
mod counters;
mod crash;
mod freshness;
mod fulfilment;
mod quotes;
mod reports;
mod tools;
