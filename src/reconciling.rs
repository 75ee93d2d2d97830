//! `cartulary sagas reconcile`: payments compared with the providers' books, as it goes on.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use indicatif::ProgressBar;
use sagas::reconcile::tables::{Found, Reconciliation};

use crate::admin::client::Client;
use crate::admin::reconciliations::{Asked, ReconcileBody};
use crate::read_models::print::aligned;

/// Exit code where something is wrong.
const SOMETHING_WRONG: u8 = 1;

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long it may take until somebody begins.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);

pub async fn run(client: &Client, since: Option<chrono::Duration>, json: bool) -> anyhow::Result<ExitCode> {
    let since = since.map(|since| infra::clock::Clock::system().now() - since);
    let body = serde_json::to_value(ReconcileBody { since })?;
    let Asked { id } = client.post("/reconciliations", Some(body)).await?;
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(POLL_INTERVAL);
    let deadline = tokio::time::Instant::now() + BEGIN_LIMIT;
    let ended = loop {
        let now: Reconciliation = client.get(&format!("/reconciliations/{id}")).await?;
        bar.set_message(format!("{} payments compared, {} differ", now.payments, now.differences.len()));
        if now.ended_at.is_some() {
            break now;
        }
        if now.begun_at.is_none() && tokio::time::Instant::now() > deadline {
            bail!("nobody has begun yet: is a process with the role sagas running? It is done when one is");
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            stop = crate::shutdown::requested() => {
                stop?;
                bail!("it goes on in the platform, as {id}");
            }
        }
    };
    bar.finish_and_clear();
    match json {
        true => println!("{}", serde_json::to_string(&ended)?),
        false => println!("{}", text(&ended)),
    }
    let is_fine = ended.error.is_none() && ended.differences.iter().all(|found| found.is_repaired);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(SOMETHING_WRONG) })
}

fn text(ended: &Reconciliation) -> String {
    let mut text = format!("{} payments compared", ended.payments);
    if let Some(error) = &ended.error {
        text.push_str(&format!("\nnot compared: {error}"));
    }
    if ended.differences.is_empty() {
        text.push_str("\nno differences");
        return text;
    }
    let headings = ["", "PROVIDER", "WHAT", "PAYMENT", "ORDER", "AMOUNT", ""];
    let mut rows = vec![headings.map(str::to_owned)];
    for Found { provider, kind, order_id, reference, amount, currency, what, is_repaired } in
        &ended.differences
    {
        let done = if *is_repaired { "repaired" } else { "LOOK AT" };
        rows.push([
            done.to_owned(),
            provider.clone(),
            kind.clone(),
            reference.clone(),
            order_id.map_or_else(String::new, |id| id.to_string()),
            format!("{amount} {currency}"),
            what.clone(),
        ]);
    }
    text.push('\n');
    text.push_str(&aligned(&rows));
    text
}
