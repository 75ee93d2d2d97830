//! `cartulary psp-sim`: a payment service provider that judges how its callers treat money.
//!
//! It speaks the part of Stripe's API that takes, captures, releases and returns money. All that it did
//! is in a ledger of its own, on disk before anybody is answered: the ground truth against which the
//! platform's log is held. What can go wrong between a shop and its provider goes wrong here, when it
//! is asked for or by a seed.

mod api;
mod book;
mod call;
mod control;
mod decide;
mod faults;
pub mod idempotency;
mod ledger;
mod lines;
mod methods;
mod money;
mod objects;
mod packed;
mod params;
mod read;
mod refusal;
mod reply;
mod server;
mod sim;
mod webhooks;

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use infra::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{PspSim, PspSimLedger, PspSimWhat};
use book::Book;
use ledger::Ledger;
use lines::Lines;
use sim::{Settings, Sim, WebhookSettings};

pub async fn run(options: PspSim) -> anyhow::Result<ExitCode> {
    match options.what {
        Some(PspSimWhat::Ledger(options)) => print(&options),
        None => simulate(options).await,
    }
}

async fn simulate(options: PspSim) -> anyhow::Result<ExitCode> {
    crate::telemetry::begin(options.log_json);
    let settings = settings(&options);
    if let Err(why) = settings.check() {
        bail!("{why}");
    }
    let (ledger, content) = Ledger::open(&options.data_dir)?;
    // Whoever works with payments that nobody may see from outside is on this machine.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
        .await
        .with_context(|| format!("port {} of 127.0.0.1 can't be listened to", options.port))?;
    let url = format!("http://{}", listener.local_addr()?);
    let records = content.records.len();
    let sim = Arc::new(Sim::new(ledger, content, settings, url.clone(), Clock::system()));
    println!("listening on {url}");
    std::io::stdout().flush()?;
    tracing::info!(records, "the simulator is at work");
    let (end, ends) = watch::channel(false);
    let time = tokio::spawn({
        let sim = sim.clone();
        async move { sim.keep_time().await }
    });
    let delivery = tokio::spawn(webhooks::deliver(sim.clone()));
    let server = tokio::spawn(server::serve(listener, sim.clone(), ends));
    let outcome = tokio::select! {
        requested = crate::shutdown::requested() => requested.map_err(Into::into),
        why = sim.ledger.has_failed() => Err(anyhow::anyhow!("the ledger can't be written: {why}")),
    };
    end.send_replace(true);
    server.await?;
    time.abort();
    delivery.abort();
    outcome?;
    // The last notes about answers are nobody's to wait for but ours.
    sim.is_durable().await?;
    Ok(ExitCode::SUCCESS)
}

fn settings(options: &PspSim) -> Settings {
    Settings {
        idempotency: options.idempotency,
        seed: options.seed,
        fault_rate: options.fault_rate,
        hold_ms: options.hold_ms,
        webhooks: WebhookSettings {
            duplicates_percent: options.webhook_duplicates_percent,
            reorder_percent: options.webhook_reorder_percent,
            reorder_ms: options.webhook_reorder_ms,
            backoff_ms: options.webhook_backoff_ms,
            timeout_ms: options.webhook_timeout_ms,
        },
    }
}

/// Prints the ledger of a simulator, which may be running.
fn print(options: &PspSimLedger) -> anyhow::Result<ExitCode> {
    let content = ledger::read(&options.data_dir)?;
    let (mut book, mut lines) = (Book::default(), Lines::default());
    for record in &content.records {
        book.evolve(record);
        lines.evolve(&book, record);
    }
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let printed = lines.lines.iter().try_for_each(|line| match options.json {
        true => writeln!(output, "{}", serde_json::json!(line)),
        false => writeln!(output, "{}", lines::text(line)),
    });
    match printed.and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
