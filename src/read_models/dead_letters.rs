//! `cartulary projections dead-letters`: what could not be applied, and what is to become of it.

use std::process::ExitCode;

use projections::dead_letters::{DeadLetter, DeadLetterDetails};
use serde_json::json;

use super::print::aligned;
use crate::admin::client::{Client, segment};
use crate::admin::dead_letters::{Asked, DeadLetterInAll, DeadLetters};
use crate::config::DeadLettersWhat;

pub async fn run(client: &Client, what: DeadLettersWhat) -> anyhow::Result<ExitCode> {
    match what {
        DeadLettersWhat::List { name, json } => {
            let path = name.map(|name| format!("/projections/{}/dead-letters", segment(&name)));
            let letters: DeadLetters = client.get(path.as_deref().unwrap_or("/dead-letters")).await?;
            match json {
                true => println!("{}", serde_json::to_string(&letters)?),
                false => println!("{}", table(&letters.data)),
            }
        }
        DeadLettersWhat::Show { name, key, json } => {
            let path = format!("/projections/{}/dead-letters/{}", segment(&name), segment(&key));
            let letters: DeadLetterInAll = client.get(&path).await?;
            match json {
                true => println!("{}", serde_json::to_string(&letters)?),
                false => letters.data.iter().for_each(|letter| println!("{}", details(letter))),
            }
        }
        DeadLettersWhat::Retry { name, key } => {
            let name = segment(&name);
            let path = match key {
                Some(key) => format!("/projections/{name}/dead-letters/{}/retry", segment(&key)),
                None => format!("/projections/{name}/dead-letters/retry"),
            };
            let Asked { asked } = client.post(&path, None).await?;
            println!("{asked} will be tried again in a moment; `dead-letters list` shows what is left");
        }
        DeadLettersWhat::Skip { name, key, reason } => {
            let path = format!("/projections/{}/dead-letters/{}/skip", segment(&name), segment(&key));
            let Asked { asked } = client.post(&path, Some(json!({ "reason": reason }))).await?;
            println!(
                "its first event is done without, in {asked} read models; what waits behind it is tried in a moment"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(letters: &[DeadLetter]) -> String {
    if letters.is_empty() {
        return "nothing is set aside".to_owned();
    }
    let headings = ["READ MODEL", "KEY", "SINCE", "POSITION", "EVENT", "EVENTS", "TRIES", "REASON"];
    let mut rows = vec![headings.map(str::to_owned)];
    for letter in letters {
        rows.push([
            letter.read_model.clone(),
            letter.key.clone(),
            letter.since.format("%Y-%m-%d %H:%M:%S").to_string(),
            format!("{}.{}", letter.position, letter.index),
            letter.kind.clone(),
            letter.events.to_string(),
            letter.attempts.to_string(),
            match letter.is_asked {
                true => "(is tried again in a moment)".to_owned(),
                false => letter.reason.clone().unwrap_or_default(),
            },
        ]);
    }
    aligned(&rows)
}

fn details(details: &DeadLetterDetails) -> String {
    let DeadLetterDetails { letter, data, events_set_aside, history } = details;
    let mut text = format!(
        "{} {}\n  {} at {}.{} of {} can't be applied: {}\n  data: {data}\n  {} events are set aside:",
        letter.read_model,
        letter.key,
        letter.kind,
        letter.position,
        letter.index,
        letter.stream,
        letter.reason.as_deref().unwrap_or("(it is not known why)"),
        letter.events,
    );
    for event in events_set_aside {
        text += &format!("\n    {}.{}  {}  {}", event.position, event.index, event.kind, event.stream);
    }
    text += "\n  history, the latest first:";
    for entry in history {
        let at = entry.at.format("%Y-%m-%d %H:%M:%S");
        text += &format!("\n    {at}  {}: {}", entry.what, entry.detail);
    }
    text
}
