//! `cartulary demo`: a purchase that works out and one that doesn't, step by step, with what each
//! leaves in the log and in the read models.

mod instance;
mod story;

use std::process::ExitCode;

use crate::config::Demo;
use instance::Instance;

pub async fn run(options: Demo) -> anyhow::Result<ExitCode> {
    let (url, nats, own) = match &options.url {
        Some(url) => {
            let nats = std::env::var("NATS_URL").ok();
            let nats = nats
                .or_else(|| crate::addresses::of_data_dir(&options.data_dir).ok().map(|found| found.nats));
            (url.clone(), nats, None)
        }
        None => {
            println!("Starting a shop of its own, in a temporary folder …");
            let instance = Instance::start().await?;
            let addresses = instance.addresses().clone();
            (addresses.http, Some(addresses.nats), Some(instance))
        }
    };
    let outcome = tokio::select! {
        outcome = story::tell(&url, nats.as_deref()) => outcome,
        interrupted = crate::shutdown::requested() => {
            interrupted.map_err(Into::into).and_then(|()| Err(anyhow::anyhow!("interrupted")))
        }
    };
    if let Some(instance) = own {
        instance.stop().await?;
    }
    outcome?;
    println!("\nEverything is as it should be.");
    Ok(ExitCode::SUCCESS)
}
