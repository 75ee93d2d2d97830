//! Cartulary's one binary: every role, and every tool for who works with them.

mod addresses;
mod admin;
mod config;
mod demo;
mod dev;
mod health;
mod history;
mod how_long;
mod import;
mod limits;
mod metrics;
mod platform;
mod providers;
mod psp_sim;
mod read_models;
mod reconciling;
mod safety;
mod sandbox;
mod serve;
mod shutdown;
mod starter;
mod telemetry;
mod terms;
mod under_way;
mod webhooks;

use std::process::ExitCode;

use clap::Parser;
use config::{Cli, Verb};

/// A command allocates much and little at a time; this takes a tenth of its time off.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    infra::fail_points::set_up();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cartulary: the runtime does not start: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = runtime.block_on(run(cli));
    // What still hangs on the network must not hold up the end.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| {
        eprintln!("cartulary: {error:#}");
        ExitCode::from(2)
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.verb {
        Verb::Dev(options) => dev::run(options).await,
        Verb::Serve(options) => serve::run(options).await,
        Verb::Projections(options) => read_models::run(options).await,
        Verb::Sagas(options) => under_way::run(options).await,
        Verb::Webhooks(options) => webhooks::run(options).await,
        Verb::Import(options) => import::run(options).await,
        Verb::History(options) => history::run(options).await,
        Verb::Demo(options) => demo::run(options).await,
        Verb::PspSim(options) => psp_sim::run(options).await,
    }
}
