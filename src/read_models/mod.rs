//! `cartulary projections`: what operators ask of the read models, through the admin API.

mod dead_letters;
pub mod print;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use projections::status::ReadModelStatus;

use crate::addresses;
use crate::admin::client::{Client, segment};
use crate::admin::{RebuildBody, Version, Versions};
use crate::config::{Projections, ProjectionsWhat};

const POLL_INTERVAL: Duration = Duration::from_millis(250);
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Exit code where the answer is no.
const DIFFERENT: u8 = 1;

pub async fn run(options: Projections) -> anyhow::Result<ExitCode> {
    let url = match options.admin_url {
        Some(url) => url,
        None => addresses::of_data_dir(&options.data_dir)?.admin,
    };
    let client = Client::new(&url)?;
    match options.what {
        ProjectionsWhat::Status { name, watch, json } => status(&client, name.as_deref(), watch, json).await,
        ProjectionsWhat::Rebuild { name, all, verify, keep_old, no_wait } => {
            let body = RebuildBody { verify, keep_s: Some(keep_old.as_secs()) };
            rebuild(&client, name.filter(|_| !all).as_deref(), &body, no_wait).await
        }
        ProjectionsWhat::Verify { name } => verify(&client, &name).await,
        ProjectionsWhat::Rollback { name } => {
            let Version { projection, version } =
                client.post(&format!("/projections/{}/rollback", segment(&name)), None).await?;
            println!("{projection}_v{version} is live again");
            Ok(ExitCode::SUCCESS)
        }
        ProjectionsWhat::CutOver { name } => {
            let Version { projection, version } =
                client.post(&format!("/projections/{}/cut-over", segment(&name)), None).await?;
            println!("{projection}_v{version} is live");
            Ok(ExitCode::SUCCESS)
        }
        ProjectionsWhat::Cancel { name } => {
            client.cancel(&name).await?;
            println!("what was under way for {name} is cancelled");
            Ok(ExitCode::SUCCESS)
        }
        ProjectionsWhat::DeadLetters(what) => dead_letters::run(&client, what).await,
    }
}

async fn status(client: &Client, name: Option<&str>, watch: bool, json: bool) -> anyhow::Result<ExitCode> {
    loop {
        let models = client.status(name).await?;
        if watch && !json && std::io::stdout().is_terminal() {
            // Home, and everything below gone.
            print!("\x1b[H\x1b[2J");
        }
        match json {
            true => println!("{}", serde_json::to_string(&serde_json::json!({"data": models}))?),
            false => println!("{}", print::table(&models)),
        }
        if !watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            stop = crate::shutdown::requested() => {
                stop?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// Without a name, of all projections.
async fn rebuild(
    client: &Client,
    name: Option<&str>,
    body: &RebuildBody,
    no_wait: bool,
) -> anyhow::Result<ExitCode> {
    let body = Some(serde_json::to_value(body)?);
    let begun = match name {
        Some(name) => vec![client.post(&format!("/projections/{}/rebuild", segment(name)), body).await?],
        None => client.post::<Versions>("/projections/rebuild", body).await?.data,
    };
    for Version { projection, version } in &begun {
        println!("building {projection}_v{version} beside the live one");
    }
    if no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let bars = MultiProgress::new();
    let watching = begun.iter().map(|build| watch(client, build, &bars));
    let ended = tokio::select! {
        ended = futures_util::future::try_join_all(watching) => ended?,
        stop = crate::shutdown::requested() => {
            stop?;
            println!("It goes on in the platform; `cartulary projections status` shows it, and `cancel` ends it.");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let mut code = ExitCode::SUCCESS;
    for (build, end) in begun.iter().zip(ended) {
        println!("{}_v{} {}", build.projection, build.version, end.words);
        if !end.is_live {
            code = ExitCode::from(DIFFERENT);
        }
        if let Some(comparison) = client.comparison(build).await?.filter(|found| !found.is_equal()) {
            println!("{}", print::comparison(&comparison));
        }
    }
    Ok(code)
}

/// What a build came to.
struct End {
    is_live: bool,
    words: String,
}

/// Shows how the build goes on, until it's over.
async fn watch(client: &Client, build: &Version, bars: &MultiProgress) -> anyhow::Result<End> {
    let bar = bars.add(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template("{prefix:16} [{bar:32}] {percent:>3} %  {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(format!("{}_v{}", build.projection, build.version));
    let mut line_at = tokio::time::Instant::now() + PLAIN_INTERVAL;
    let end = loop {
        let models = client.status(Some(&build.projection)).await?;
        let model = models.iter().find(|model| model.version == build.version);
        if let Some(end) = end(model) {
            break end;
        }
        if let Some(model) = model {
            bar.set_length(model.log_position);
            bar.set_position(model.position);
            bar.set_message(print::pace(model));
            if bar.is_hidden() && tokio::time::Instant::now() >= line_at {
                line_at += PLAIN_INTERVAL;
                println!(
                    "{}: {} of {}, {}",
                    model.schema,
                    model.position,
                    model.log_position,
                    print::pace(model)
                );
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    bar.finish_and_clear();
    Ok(end)
}

fn end(model: Option<&ReadModelStatus>) -> Option<End> {
    let Some(model) = model else {
        return Some(End { is_live: false, words: "was cancelled".to_owned() });
    };
    if model.state == "live" {
        let events = model.events;
        return Some(End { is_live: true, words: format!("is live, after {events} events") });
    }
    let waits = |note: &&String| note.starts_with("differs") || note.starts_with("has set aside");
    let note = model.note.as_ref().filter(waits)?;
    let words = format!(
        "{note}: `cartulary projections cut-over {}` takes it all the same, `cancel` drops it",
        model.projection
    );
    Some(End { is_live: false, words })
}

async fn verify(client: &Client, name: &str) -> anyhow::Result<ExitCode> {
    let build: Version = client.post(&format!("/projections/{}/verify", segment(name)), None).await?;
    let bars = MultiProgress::new();
    let comparing = async {
        loop {
            if let Some(comparison) = client.comparison(&build).await? {
                return anyhow::Ok(comparison);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let watching = async {
        let end = watch(client, &build, &bars).await?;
        // It is dropped when it was compared.
        match client.comparison(&build).await? {
            Some(comparison) => Ok(comparison),
            None => anyhow::bail!("the verification {}", end.words),
        }
    };
    let comparison = tokio::select! {
        compared = comparing => compared?,
        watched = watching => watched?,
        stop = crate::shutdown::requested() => {
            stop?;
            client.cancel(name).await?;
            anyhow::bail!("cancelled");
        }
    };
    bars.clear()?;
    println!("{}", print::comparison(&comparison));
    Ok(if comparison.is_equal() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}
