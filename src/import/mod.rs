//! `cartulary import`: bring data in, through commands.

pub mod catalogue;
mod client;
pub mod forms;
mod lines;
mod orders;
pub mod progress;
mod visible;

use std::process::ExitCode;
use std::sync::Arc;

use crate::config::{Import, ImportCatalogue, ImportWhat};

pub use client::{Answer, Client};

pub async fn run(options: Import) -> anyhow::Result<ExitCode> {
    match options.what {
        ImportWhat::Catalogue(options) => import_catalogue(options).await,
        ImportWhat::Orders(options) => orders::run(options).await,
    }
}

async fn import_catalogue(options: ImportCatalogue) -> anyhow::Result<ExitCode> {
    let url = crate::addresses::http(&options.instance)?;
    let bytes = std::fs::metadata(&options.file).map(|metadata| metadata.len()).unwrap_or(0);
    let file = std::fs::File::open(&options.file)
        .map_err(|error| anyhow::anyhow!("{}: {error}", options.file.display()))?;
    let progress = Arc::new(progress::Progress::of_file(&options.file, bytes, "products"));
    let settings = catalogue::Settings {
        currency: options.currency,
        stock: options.stock,
        concurrency: usize::from(options.concurrency),
    };
    let client = Client::new(url)?;
    let import = catalogue::import(&client, Box::new(file), &settings, &progress);
    let summary = tokio::select! {
        summary = import => summary?,
        interrupted = crate::shutdown::requested() => {
            interrupted?;
            progress.finish();
            anyhow::bail!("interrupted; the same command again goes on where this one stopped");
        }
    };
    progress.finish();
    println!("{summary}");
    Ok(if summary.bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
