//! `cartulary webhooks`: what operators do about endpoints and what they are sent, through the admin API.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::json;
use webhooks::deliveries::Delivery;
use webhooks::endpoints::{Endpoint, WithSecret};
use webhooks::replays::Replay;

use crate::addresses;
use crate::admin::client::{Client, segment};
use crate::admin::dead_letters::Asked;
use crate::admin::webhooks::{Deliveries, EndpointList};
use crate::config::{Webhooks, WebhooksWhat};
use crate::history::filter::{At, Moment};
use crate::read_models::print::aligned;

/// Exit code where something is wrong.
const SOMETHING_WRONG: u8 = 1;

pub async fn run(options: Webhooks) -> anyhow::Result<ExitCode> {
    let url = match &options.admin_url {
        Some(url) => url.clone(),
        None => addresses::of_data_dir(&options.data_dir)?.admin,
    };
    let client = Client::new(&url)?;
    let json = options.json;
    match options.what {
        WebhooksWhat::List => {
            let list: EndpointList = client.get("/webhooks").await?;
            print(json, &list, || endpoints_table(&list.data))?;
        }
        WebhooksWhat::Add { url, types } => {
            let body = json!({ "url": url, "types": types });
            let added: WithSecret = client.post("/webhooks", Some(body)).await?;
            print(json, &added, || with_secret(&added))?;
        }
        WebhooksWhat::Remove { id } => client.act(Method::DELETE, &format!("/webhooks/{id}")).await?,
        WebhooksWhat::Pause { id } => {
            let endpoint: Endpoint = client.post(&format!("/webhooks/{id}/pause"), None).await?;
            print(json, &endpoint, || endpoints_table(std::slice::from_ref(&endpoint)))?;
        }
        WebhooksWhat::Resume { id } => {
            let endpoint: Endpoint = client.post(&format!("/webhooks/{id}/resume"), None).await?;
            print(json, &endpoint, || endpoints_table(std::slice::from_ref(&endpoint)))?;
        }
        WebhooksWhat::RotateSecret { id, overlap } => {
            let body = json!({ "overlap_s": overlap.as_secs() });
            let rotated: WithSecret =
                client.post(&format!("/webhooks/{id}/rotate-secret"), Some(body)).await?;
            print(json, &rotated, || with_secret(&rotated))?;
        }
        WebhooksWhat::Deliveries { id, state, limit } => {
            let state = state.map_or_else(String::new, |state| format!("&state={}", segment(&state)));
            let path = format!("/webhooks/{id}/deliveries?limit={limit}{state}");
            let found: Deliveries = client.get(&path).await?;
            print(json, &found, || deliveries_table(&found.data, "nothing was sent yet"))?;
        }
        WebhooksWhat::DeadLetters { limit } => {
            let dead: Deliveries = client.get(&format!("/webhooks/dead-letters?limit={limit}")).await?;
            print(json, &dead, || deliveries_table(&dead.data, "nothing was given up"))?;
            if !dead.data.is_empty() {
                return Ok(ExitCode::from(SOMETHING_WRONG));
            }
        }
        WebhooksWhat::Retry { id, message } => {
            let body = json!({ "id": message });
            let asked: Asked = client.post(&format!("/webhooks/{id}/retry"), Some(body)).await?;
            print(json, &asked, || format!("{} are tried again", asked.asked))?;
        }
        WebhooksWhat::Replay { id, from, since } => {
            let body = match (from, since.map(now)) {
                (Some(position), _) | (None, Some(At::Position(position))) => json!({ "from": position }),
                (None, Some(At::Time(time))) => json!({ "since": time }),
                (None, None) => anyhow::bail!("give --from or --since"),
            };
            let replay: Replay = client.post(&format!("/webhooks/{id}/replay"), Some(body)).await?;
            let text = || format!("positions {} to {} are sent again", replay.from, replay.until);
            print(json, &replay, text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn now(moment: Moment) -> At {
    moment.at(infra::clock::Clock::system().now())
}

fn print(json: bool, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(value)?),
        false => println!("{}", text()),
    }
    Ok(())
}

fn with_secret(WithSecret { endpoint, secret }: &WithSecret) -> String {
    let until = endpoint.previous_secret_until.map_or_else(String::new, |until| {
        format!("\nUntil {}, requests are signed with the old one too.", time(until))
    });
    format!(
        "endpoint  {}\nsecret    {secret}\nThe secret is shown this once; keep it where the receiver finds it.{until}",
        endpoint.id
    )
}

fn endpoints_table(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return "there are no endpoints".to_owned();
    }
    let headings = ["ENDPOINT", "URL", "TYPES", "STATE", "WAITING", "GIVEN UP", "NOTE"];
    let mut rows = vec![headings.map(str::to_owned)];
    for endpoint in endpoints {
        let note = match (&endpoint.reason, endpoint.failing_since) {
            (Some(reason), _) => reason.clone(),
            (None, Some(since)) => format!("{} failures since {}", endpoint.failures, time(since)),
            (None, None) if endpoint.unreadable > 0 => {
                format!("{} commits wait for a build that can read them", endpoint.unreadable)
            }
            (None, None) => String::new(),
        };
        rows.push([
            endpoint.id.to_string(),
            endpoint.url.clone(),
            endpoint.types.join(","),
            endpoint.state.clone(),
            endpoint.pending.to_string(),
            endpoint.dead.to_string(),
            note,
        ]);
    }
    aligned(&rows)
}

fn deliveries_table(deliveries: &[Delivery], none: &str) -> String {
    if deliveries.is_empty() {
        return none.to_owned();
    }
    let headings = ["ENDPOINT", "ID", "TYPE", "POSITION", "STATE", "ATTEMPTS", "NEXT AT", "LAST"];
    let mut rows = vec![headings.map(str::to_owned)];
    for delivery in deliveries {
        let last = match (&delivery.last_error, delivery.last_status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => status.to_string(),
            (None, None) => String::new(),
        };
        rows.push([
            delivery.endpoint.to_string(),
            delivery.id.clone(),
            delivery.kind.clone(),
            format!("{}.{}", delivery.position, delivery.index),
            delivery.state.clone(),
            delivery.attempts.to_string(),
            delivery.next_at.map_or_else(String::new, time),
            last,
        ]);
    }
    aligned(&rows)
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}
