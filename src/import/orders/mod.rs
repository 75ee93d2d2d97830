//! `cartulary import orders`: what another shop's records say, told as events with the times at which they
//! happened.
//!
//! 1. The rows of the file are read (`rows`), each checked (`fields`).
//! 2. They become a plan (`plan`): what happened, by time. Cancellations are matched with the orders that
//!    they may be about (`book`), and opening stock is derived. So far, nothing is asked of anybody.
//! 3. Its commands (`commands`) are given to execute in this process (`carry_out`), but for those that an
//!    `earlier` import has done.
//! 4. Where an instance is known, its read models are waited for; what could not be mapped is listed (`report`).

mod book;
mod carry_out;
mod codes;
mod commands;
mod earlier;
mod fields;
mod plan;
mod report;
mod rows;
mod shop;
mod summary;

use std::io::{BufRead, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use domain::Currency;

use super::lines;
use super::progress::Progress;
use super::visible::visible;
use crate::config::ImportOrders;
use plan::Plan;
use rows::{Sheet, Unmappable};
use shop::Shop;
use summary::Summary;

pub async fn run(options: ImportOrders) -> anyhow::Result<ExitCode> {
    tokio::select! {
        outcome = import(&options) => outcome,
        interrupted = crate::shutdown::requested() => {
            interrupted?;
            anyhow::bail!("interrupted; the same command again goes on where this one stopped");
        }
    }
}

async fn import(options: &ImportOrders) -> anyhow::Result<ExitCode> {
    // An instance that isn't there is told before half a million rows are read.
    let shop = match options.dry_run {
        true => None,
        false => Some(Shop::open(options).await?),
    };
    let (file, currency) = (options.file.clone(), options.currency);
    let mut plan = tokio::task::spawn_blocking(move || read(&file, currency)).await??;
    if options.no_stock {
        plan.steps.retain(|step| !step.what.is_of_stock());
    }
    let Some(shop) = shop else {
        println!("{}", plan.to_json());
        list(options, &plan.unmappable)?;
        return Ok(exit_code(&plan.unmappable));
    };
    let (plan, started) = (Arc::new(plan), Instant::now());
    let earlier = earlier::Earlier::find(&plan, &shop.log).await?;
    let progress = Arc::new(Progress::of_count("events", plan.steps.len() as u64, "commands"));
    let queues = usize::from(options.concurrency);
    let tally = carry_out::carry_out(&plan, &shop.executors, earlier, queues, &progress).await;
    progress.finish();
    let tally = tally.context("the import stopped; the same command again goes on from there")?;
    let commands_took = started.elapsed();
    let mut unmappable = [plan.unmappable.as_slice(), &tally.problems].concat();
    unmappable.sort();
    list(options, &unmappable)?;
    let mut visible_after = None;
    if let Some(client) = &shop.client {
        let progress = Progress::of_count("read models", tally.log_position, "positions");
        let seen = visible(client, &shop::PATHS, tally.log_position, &progress).await;
        progress.finish();
        seen?;
        visible_after = Some(started.elapsed());
    }
    let rows = unmappable.chunk_by(|one, next| one.line == next.line).count();
    println!("{}", Summary { tally, unmappable: rows, commands_took, visible_after });
    Ok(exit_code(&unmappable))
}

fn exit_code(unmappable: &[Unmappable]) -> ExitCode {
    if unmappable.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// The plan for the file.
fn read(path: &Path, currency: Currency) -> anyhow::Result<Plan> {
    let bytes = std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0);
    let progress = Arc::new(Progress::of_file(path, bytes, "rows"));
    let sheet = Sheet::read(open(path, &progress)?, currency, || progress.done());
    progress.finish();
    Ok(Plan::of(sheet.with_context(|| path.display().to_string())?, currency))
}

fn open(path: &Path, progress: &Arc<Progress>) -> anyhow::Result<Box<dyn BufRead>> {
    let file: Box<dyn Read + Send> =
        Box::new(std::fs::File::open(path).with_context(|| path.display().to_string())?);
    lines::unpacked(file, progress).with_context(|| path.display().to_string())
}

/// Lists what could not be mapped. The file is read once more for it, so that its rows need not be in
/// memory as they stand there.
fn list(options: &ImportOrders, unmappable: &[Unmappable]) -> anyhow::Result<()> {
    let file = || open(&options.file, &Arc::new(Progress::quiet()));
    match &options.report {
        Some(path) => report::write(path, file()?, unmappable),
        None if unmappable.is_empty() => Ok(()),
        None => {
            report::text(file()?, unmappable)?.iter().for_each(|line| eprintln!("{line}"));
            Ok(())
        }
    }
}
