//! Settings of the simulated payment service provider.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::psp_sim::idempotency::Profile;

#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = CONTROLS)]
pub struct PspSim {
    #[command(subcommand)]
    pub what: Option<PspSimWhat>,
    /// Folder of its ledger, which no other simulator may use meanwhile.
    #[arg(long, env = "CARTULARY_PSP_SIM_DATA_DIR", default_value = "data/psp-sim")]
    pub data_dir: PathBuf,
    /// Port on 127.0.0.1 that it listens on; 0 takes any free one.
    #[arg(long, env = "CARTULARY_PSP_SIM_PORT", default_value_t = 12_111)]
    pub port: u16,
    /// What idempotency keys mean.
    #[arg(long, env = "CARTULARY_PSP_SIM_IDEMPOTENCY", value_enum, default_value = "stripe")]
    pub idempotency: Profile,
    /// Seed of all that is left to chance: random faults, webhooks that come twice or out of order.
    #[arg(long, env = "CARTULARY_PSP_SIM_SEED", default_value_t = 0)]
    pub seed: u64,
    /// Share of requests that meet a random fault, 0 to 1. The same seed has the same fault for the
    /// request of the same number.
    #[arg(long, env = "CARTULARY_PSP_SIM_FAULT_RATE", default_value_t = 0.0)]
    pub fault_rate: f64,
    /// Milliseconds that a connection is held before it's cut, or an answer delayed, where a fault does
    /// not say.
    #[arg(long, env = "CARTULARY_PSP_SIM_HOLD_MS", default_value_t = 30_000)]
    pub hold_ms: u64,
    /// How many in a hundred events are sent once more although they arrived.
    #[arg(long, env = "CARTULARY_PSP_SIM_WEBHOOK_DUPLICATES_PERCENT", default_value_t = 0)]
    pub webhook_duplicates_percent: u8,
    /// How many in a hundred events wait until a later one has overtaken them.
    #[arg(long, env = "CARTULARY_PSP_SIM_WEBHOOK_REORDER_PERCENT", default_value_t = 0)]
    pub webhook_reorder_percent: u8,
    /// Milliseconds for which they wait at most.
    #[arg(long, env = "CARTULARY_PSP_SIM_WEBHOOK_REORDER_MS", default_value_t = 1_000)]
    pub webhook_reorder_ms: u64,
    /// Milliseconds until an event that did not arrive is sent again, then twice as many, up to an hour.
    #[arg(long, env = "CARTULARY_PSP_SIM_WEBHOOK_BACKOFF_MS", default_value_t = 1_000)]
    pub webhook_backoff_ms: u64,
    /// Milliseconds that an endpoint has to answer.
    #[arg(long, env = "CARTULARY_PSP_SIM_WEBHOOK_TIMEOUT_MS", default_value_t = 10_000)]
    pub webhook_timeout_ms: u64,
    /// Log lines as JSON, one object a line.
    #[arg(long, env = "CARTULARY_LOG_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    pub log_json: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum PspSimWhat {
    /// Print every time that money moved or was to move, oldest first, and whether the caller was told.
    Ledger(PspSimLedger),
}

#[derive(Debug, Clone, Args)]
pub struct PspSimLedger {
    /// Folder of the ledger; its simulator may be running.
    #[arg(long, env = "CARTULARY_PSP_SIM_DATA_DIR", default_value = "data/psp-sim")]
    pub data_dir: PathBuf,
    /// As JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

const CONTROLS: &str = "\
While it runs, JSON at these paths controls it, and shows what it did:

  POST /_sim/faults    {\"kind\": \"timeout_after\", \"operation\": \"payment_intents.create\", \"nth\": 2}
                       limits: operation, path, attempt_ref (of metadata), nth, times
                       kinds: timeout_before, timeout_after, slow, slow_answer (ms),
                         error_before, error_after (status), reset, conflict,
                         rate_limit (retry_after_s), late, late_decline, lag (ms of its clock),
                         webhook_first, amount (amount)
  GET, DELETE /_sim/faults, DELETE /_sim/faults/{id}
  POST /_sim/clock     {\"advance_ms\": 86400000}
  POST /_sim/settings  {\"idempotency\": \"only-2xx\", \"webhooks\": {\"duplicates_percent\": 50}}
  GET  /_sim/ledger    ?payment_intent=… or ?attempt_ref=…
  GET  /_sim/webhooks  every delivery, with its attempts
  POST /_sim/disputes  {\"payment_intent\": \"pi_…\"}: the buyer's bank takes the money back (or an amount)
  POST /_sim/disputes/{dispute}/won, or /lost: what the bank decides
  POST /_sim/challenges/{payment intent}/pass, or /fail: what the buyer does about 3-D Secure

Faults and settings last until it ends; ledger, clock and deliveries for ever.";
