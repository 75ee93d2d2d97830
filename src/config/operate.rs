//! What operators ask of a running instance: the verbs that speak its admin API.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::history::filter::Moment;

#[derive(Debug, Clone, Args)]
pub struct Projections {
    #[command(subcommand)]
    pub what: ProjectionsWhat,
    /// URL of the admin API of a running instance [default: of the one whose data folder this is]
    #[arg(long, env = "CARTULARY_ADMIN_URL", global = true)]
    pub admin_url: Option<String>,
    /// Data folder of the instance that is meant.
    #[arg(long, env = "CARTULARY_DATA_DIR", default_value = "data", global = true)]
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ProjectionsWhat {
    /// Show every read model: how far it is, how fast, and who works on it.
    Status {
        /// Only of this projection.
        name: Option<String>,
        /// Show it again every second, until Ctrl-C.
        #[arg(long)]
        watch: bool,
        /// As JSON, one object a line for each look.
        #[arg(long)]
        json: bool,
    },
    /// Build a read model anew beside the live one, and switch to it when it has caught up. Goes on in
    /// the platform, whatever becomes of this command.
    Rebuild {
        /// The projection, such as orders.
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// All of them, side by side.
        #[arg(long, conflicts_with = "name")]
        all: bool,
        /// Compare it with the live one first, and switch only if they are the same.
        #[arg(long)]
        verify: bool,
        /// For how long the old one is kept and follows the log, for a rollback (90s, 15m, 24h, 7d).
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = keep)]
        keep_old: Duration,
        /// Don't wait for the end.
        #[arg(long)]
        no_wait: bool,
    },
    /// Build a read model anew and compare: exits with 0 if every row is the same, else with 1.
    Verify { name: String },
    /// Put the last live read model back, which is as current as the one it replaces.
    Rollback { name: String },
    /// Switch to a build that has caught up but differs from the live one.
    CutOver { name: String },
    /// End a build or a verification that is under way.
    Cancel { name: String },
    /// Look after events that could not be applied, and what waits behind them.
    #[command(subcommand)]
    DeadLetters(DeadLettersWhat),
}

#[derive(Debug, Clone, Args)]
pub struct Sagas {
    #[command(subcommand)]
    pub what: SagasWhat,
    /// URL of the admin API of a running instance [default: of the one whose data folder this is]
    #[arg(long, env = "CARTULARY_ADMIN_URL", global = true)]
    pub admin_url: Option<String>,
    /// Data folder of the instance that is meant.
    #[arg(long, env = "CARTULARY_DATA_DIR", default_value = "data", global = true)]
    pub data_dir: PathBuf,
    /// As JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum SagasWhat {
    /// How many are under way, and what they wait for.
    Status,
    /// Those that something is wrong with: a step that fails, a timer that is late, an outcome that
    /// stays unknown, no word for a quarter of an hour, goods that are not shipped or not paid for in
    /// time; and what is set aside because this build can't read it. Exits with 1 if there are any.
    Stuck {
        /// Those that have waited longest, at most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Everything that an order's sagas have done, step by step, and what they wait for.
    Show {
        /// The order's id.
        id: Uuid,
    },
    /// Do now what they wait for: what was set aside, the last step again, and the look-up of an unknown
    /// outcome.
    Retry {
        /// The order's id, or the one that `stuck` shows.
        id: Uuid,
    },
    /// Give a checkout up: whatever it has done is taken back, money first. Or, with --payment, only what
    /// the payment's provider is asked for and never answers, or refuses for ever: it is not asked any
    /// more, and what it states later is recorded as ever.
    Abandon {
        /// The order's id.
        id: Uuid,
        /// Only what the payment's provider is asked for.
        #[arg(long)]
        payment: bool,
        /// Why; it is recorded in the log.
        #[arg(long)]
        reason: String,
        /// Who says so; it is recorded with it.
        #[arg(long, env = "USER", hide_env_values = true)]
        by: Option<String>,
    },
    /// Compare payments with the providers' books now, record what was missed, have second payments undone, and
    /// show what somebody has to look at. Exits with 1 if there is any of that.
    Reconcile {
        /// What was made in this time, such as 24h [default: since the last comparison, and a bit before]
        #[arg(long, value_parser = ago)]
        since: Option<chrono::Duration>,
    },
}

#[derive(Debug, Clone, Args)]
pub struct Webhooks {
    #[command(subcommand)]
    pub what: WebhooksWhat,
    /// URL of the admin API of a running instance [default: of the one whose data folder this is]
    #[arg(long, env = "CARTULARY_ADMIN_URL", global = true)]
    pub admin_url: Option<String>,
    /// Data folder of the instance that is meant.
    #[arg(long, env = "CARTULARY_DATA_DIR", default_value = "data", global = true)]
    pub data_dir: PathBuf,
    /// As JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum WebhooksWhat {
    /// The endpoints, and how each is doing.
    List,
    /// Register an endpoint, which is sent what happens from now on. Prints its secret, this once.
    Add {
        /// Where to send it, with https.
        url: String,
        /// Types of events, separated by commas; a * at the end stands for anything, as in order.*
        #[arg(long, value_delimiter = ',', default_value = "*")]
        types: Vec<String>,
    },
    /// Send an endpoint nothing more, and forget what waits for it.
    Remove {
        /// The endpoint's id.
        id: Uuid,
    },
    /// Send an endpoint nothing until it is resumed.
    Pause {
        /// The endpoint's id.
        id: Uuid,
    },
    /// Go on with an endpoint, and send it all that it missed while it was paused.
    Resume {
        /// The endpoint's id.
        id: Uuid,
    },
    /// Give an endpoint a new secret, and print it, this once.
    RotateSecret {
        /// The endpoint's id.
        id: Uuid,
        /// For how long requests are signed with the old one too (90s, 15m, 24h, 7d), 30 days at most.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = keep)]
        overlap: Duration,
    },
    /// What an endpoint was sent, and what waits for it, the last first.
    Deliveries {
        /// The endpoint's id.
        id: Uuid,
        /// Only those that are pending, delivered or dead.
        #[arg(long)]
        state: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// What was given up, and why. Exits with 1 if there is any.
    DeadLetters {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Try what was given up again.
    Retry {
        /// The endpoint's id.
        id: Uuid,
        /// Only this one, by its webhook-id; one that waits is sent at once.
        message: Option<String>,
    },
    /// Send an endpoint all events of its types again from there on, by the ids that they had.
    Replay {
        /// The endpoint's id.
        id: Uuid,
        /// From this position in the log on.
        #[arg(long, value_name = "POSITION", required_unless_present = "since")]
        from: Option<u64>,
        /// From this moment on: a time (2026-11-23, 2026-11-23T10:00:00Z), or how long ago (90s, 15m, 2h, 7d).
        #[arg(long, value_name = "TIME", conflicts_with = "from")]
        since: Option<Moment>,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub enum DeadLettersWhat {
    /// What is set aside: a line for each order, SKU or cart.
    List {
        /// Only of this projection.
        name: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// One of them: its events, what went wrong, and what was done about it.
    Show {
        name: String,
        key: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try again, in order: after the code or the rows were mended.
    Retry {
        name: String,
        /// Only this one.
        key: Option<String>,
    },
    /// Do without the first event that can't be applied, for good; what waits behind it is tried again.
    Skip {
        name: String,
        key: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

fn keep(text: &str) -> Result<Duration, String> {
    let time = crate::how_long::how_long(text).and_then(|time| time.to_std().ok());
    time.ok_or_else(|| "expected a length of time such as 90s, 15m, 24h or 7d".to_owned())
}

fn ago(text: &str) -> Result<chrono::Duration, String> {
    let time = crate::how_long::how_long(text);
    time.ok_or_else(|| "expected a length of time such as 90s, 15m, 24h or 7d".to_owned())
}
