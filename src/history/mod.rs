//! `cartulary history`: the log as an analyst wants to read it.

pub mod filter;
mod print;

use std::collections::VecDeque;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, Utc};
use domain::RecordedEvent;
use futures_util::StreamExt;
use infra::clock::Clock;
use infra::follow::Follower;
use infra::log::{EventLog, JetStreamLog, Stored};

use crate::config::{History, HistoryTail, HistoryWhat};
use filter::{Filter, Moment};
use print::Printer;

pub async fn run(options: History) -> anyhow::Result<ExitCode> {
    match options.what {
        HistoryWhat::Tail(options) => tail(options).await,
    }
}

async fn tail(options: HistoryTail) -> anyhow::Result<ExitCode> {
    let nats_url = match &options.nats_url {
        Some(url) => url.clone(),
        None => crate::addresses::of_data_dir(&options.data.data_dir)?.nats,
    };
    let connection = crate::platform::connect_nats(&nats_url).await?;
    let log: Arc<dyn EventLog> =
        Arc::new(JetStreamLog::existing(connection).await.context("there is no log")?);
    let now = Clock::system().now();
    let first = match &options.since {
        Some(moment) => position(log.as_ref(), moment, now).await?,
        None => 1,
    };
    let end = log.end().await?;
    let until = match &options.until {
        Some(moment) => end.min(until(log.as_ref(), moment, now).await?),
        None => end,
    };
    let filter = Filter::new(&options.types, options.id.clone());
    let mut output = Output::new(Printer::new(options.json, options.personal), options.last);
    let printed = async {
        match &options.id {
            // One stream is read on its own, however long the log is.
            Some(stream) => {
                for stored in log.load(stream, first.saturating_sub(1)).await? {
                    if stored.sequence <= until {
                        output.commit(&stored, &filter)?;
                    }
                }
            }
            None => scan(log.as_ref(), first, until, &filter, &mut output).await?,
        }
        output.flush_last()?;
        if options.follow {
            follow(log.clone(), end.max(first.saturating_sub(1)), &filter, &mut output).await?;
        }
        Ok(())
    };
    tokio::select! {
        printed = printed => closed_pipe_is_fine(printed),
        interrupted = crate::shutdown::requested() => interrupted.map_err(Into::into),
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn scan(
    log: &dyn EventLog,
    first: u64,
    until: u64,
    filter: &Filter,
    output: &mut Output,
) -> anyhow::Result<()> {
    if first > until {
        return Ok(());
    }
    let mut commits = log.follow(first.saturating_sub(1));
    while let Some(stored) = commits.next().await {
        let stored = stored?;
        output.commit(&stored, filter)?;
        if stored.sequence >= until {
            return Ok(());
        }
    }
    anyhow::bail!("the log stopped answering")
}

async fn follow(
    log: Arc<dyn EventLog>,
    after: u64,
    filter: &Filter,
    output: &mut Output,
) -> anyhow::Result<()> {
    let mut follower = Follower::new(log, after);
    loop {
        for stored in follower.batch(100).await? {
            output.commit(&stored, filter)?;
        }
        output.lines.flush()?;
    }
}

/// The first position at or after the moment.
async fn position(log: &dyn EventLog, moment: &Moment, now: DateTime<Utc>) -> anyhow::Result<u64> {
    let time = match moment.at(now) {
        filter::At::Position(position) => return Ok(position.max(1)),
        filter::At::Time(time) => time,
    };
    Ok(infra::log::first_at(log, time).await?)
}

/// The last position at or before the moment.
async fn until(log: &dyn EventLog, moment: &Moment, now: DateTime<Utc>) -> anyhow::Result<u64> {
    match moment.at(now) {
        filter::At::Position(position) => Ok(position),
        filter::At::Time(_) => Ok(position(log, moment, now).await?.saturating_sub(1)),
    }
}

/// Where events go: straight out, or the last few of them when all are known.
struct Output {
    lines: std::io::BufWriter<std::io::Stdout>,
    printer: Printer,
    last: Option<usize>,
    kept: VecDeque<String>,
}

impl Output {
    fn new(printer: Printer, last: Option<usize>) -> Self {
        Self { lines: std::io::BufWriter::new(std::io::stdout()), printer, last, kept: VecDeque::new() }
    }

    fn commit(&mut self, stored: &Stored, filter: &Filter) -> anyhow::Result<()> {
        let wanted = |(_, event): &(usize, &RecordedEvent)| filter.wants(&stored.commit.stream, &event.kind);
        for (index, event) in stored.commit.events.iter().enumerate().filter(wanted) {
            let line = self.printer.line(stored, index, event);
            match self.last {
                Some(last) => {
                    self.kept.push_back(line);
                    if self.kept.len() > last {
                        self.kept.pop_front();
                    }
                }
                None => writeln!(self.lines, "{line}")?,
            }
        }
        Ok(())
    }

    fn flush_last(&mut self) -> anyhow::Result<()> {
        for line in self.kept.drain(..) {
            writeln!(self.lines, "{line}")?;
        }
        Ok(self.lines.flush()?)
    }
}

/// `… | head` closes the pipe when it has seen enough.
fn closed_pipe_is_fine(outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        outcome => outcome,
    }
}
