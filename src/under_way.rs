//! `cartulary sagas`: what operators ask of checkouts and payments that are under way, through the admin API.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sagas::status::{Kind, Open, Stage, Step, Story};
use uuid::Uuid;

use crate::addresses;
use crate::admin::client::Client;
use crate::admin::sagas::{AbandonBody, Calling, Stages, Stuck};
use crate::config::{Sagas, SagasWhat};
use crate::read_models::print::aligned;

/// Exit code where something is wrong.
const SOMETHING_WRONG: u8 = 1;

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long a call may take to be taken up.
const CALL_LIMIT: Duration = Duration::from_secs(20);

pub async fn run(options: Sagas) -> anyhow::Result<ExitCode> {
    let url = match options.admin_url {
        Some(url) => url,
        None => addresses::of_data_dir(&options.data_dir)?.admin,
    };
    let client = Client::new(&url)?;
    match options.what {
        SagasWhat::Status => {
            let stages: Stages = client.get("/sagas").await?;
            print(options.json, &stages, || stages_table(&stages.data))?;
        }
        SagasWhat::Stuck { limit } => {
            let stuck: Stuck = client.get(&format!("/sagas/stuck?limit={limit}")).await?;
            print(options.json, &stuck, || open_table(&stuck.data))?;
            if !stuck.data.is_empty() {
                return Ok(ExitCode::from(SOMETHING_WRONG));
            }
        }
        SagasWhat::Show { id } => {
            let story: Story = client.get(&format!("/sagas/{id}")).await?;
            print(options.json, &story, || story_text(&story))?;
        }
        SagasWhat::Retry { id } => {
            let called = client.post(&format!("/sagas/{id}/retry"), None).await?;
            return taken_up(&client, id, &called, options.json).await;
        }
        SagasWhat::Abandon { id, payment, reason, by } => {
            let saga = if payment { Kind::Payment } else { Kind::Checkout };
            let body = Some(serde_json::to_value(AbandonBody { saga, reason, by })?);
            let called = client.post(&format!("/sagas/{id}/abandon"), body).await?;
            return taken_up(&client, id, &called, options.json).await;
        }
        SagasWhat::Reconcile { since } => {
            return crate::reconciling::run(&client, since, options.json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(json: bool, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(value)?),
        false => println!("{}", text()),
    }
    Ok(())
}

/// Waits until whoever has the saga's lane has taken the call up, and shows what came of it.
async fn taken_up(client: &Client, id: Uuid, called: &Calling, json: bool) -> anyhow::Result<ExitCode> {
    let deadline = tokio::time::Instant::now() + CALL_LIMIT;
    let is_waiting = |waiting: &Calling| waiting.calls.iter().any(|call| called.calls.contains(call));
    while is_waiting(&client.get(&format!("/sagas/{id}/call")).await?) {
        if tokio::time::Instant::now() > deadline {
            println!(
                "nobody has taken it up yet: is a process with the role sagas running? It is done when one is."
            );
            return Ok(ExitCode::from(SOMETHING_WRONG));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let story: Story = client.get(&format!("/sagas/{id}")).await?;
    print(json, &story, || story_text(&story))?;
    Ok(ExitCode::SUCCESS)
}

fn stages_table(stages: &[Stage]) -> String {
    if stages.is_empty() {
        return "nothing is under way".to_owned();
    }
    let mut rows = vec![["SAGA", "STAGE", "UNDER WAY", "OLDEST SINCE", "STUCK"].map(str::to_owned)];
    for Stage { saga, stage, sagas, oldest_since, stuck } in stages {
        let [sagas, stuck] = [sagas, stuck].map(ToString::to_string);
        rows.push([saga.clone(), stage.clone(), sagas, time(*oldest_since), stuck]);
    }
    aligned(&rows)
}

fn open_table(open: &[Open]) -> String {
    if open.is_empty() {
        return "nothing is stuck".to_owned();
    }
    let headings = ["SAGA", "ORDER", "STAGE", "SINCE", "GOES ON AT", "ATTEMPTS", "WHAT IS WRONG"];
    let mut rows = vec![headings.map(str::to_owned)];
    for Open { saga, id, stage, reason, since, deadline, attempts, error } in open {
        let stage = match reason {
            Some(reason) => format!("{stage} ({reason})"),
            None => stage.clone(),
        };
        rows.push([
            saga.clone(),
            id.to_string(),
            stage,
            time(*since),
            deadline.map_or_else(String::new, time),
            attempts.map_or_else(String::new, |attempts| attempts.to_string()),
            error.clone().unwrap_or_else(|| "it has waited for long".to_owned()),
        ]);
    }
    aligned(&rows)
}

fn story_text(story: &Story) -> String {
    let mut rows = vec![["AT", "POSITION", "", "WHAT HAPPENED", "BY", ""].map(str::to_owned)];
    for Step { position, at, kind, is_undo, data, actor, .. } in &story.steps {
        let sign = if *is_undo { "\u{2212}" } else { "+" };
        let data = if data.as_object().is_some_and(serde_json::Map::is_empty) {
            String::new()
        } else {
            data.to_string()
        };
        let at = at.map_or_else(String::new, time);
        rows.push([at, position.to_string(), sign.to_owned(), kind.clone(), actor.clone(), data]);
    }
    let mut text = aligned(&rows);
    for Open { saga, stage, reason, since, deadline, attempts, error, .. } in &story.sagas {
        let reason = reason.as_ref().map_or_else(String::new, |reason| format!(", because of {reason}"));
        let deadline = deadline.map_or_else(String::new, |at| format!("; goes on at {}", time(at)));
        let attempts = attempts.map_or_else(String::new, |attempts| format!("; {attempts} attempts"));
        let error = error.as_ref().map_or_else(String::new, |error| format!("; {error}"));
        let since = time(*since);
        text.push_str(&format!("\n{saga}: {stage} since {since}{reason}{deadline}{attempts}{error}"));
    }
    text
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}
