//! `cartulary dev`: everything in one process, with its own nats-server and Postgres.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use infra::embedded::{Addresses, DataFolder, Embedded};

use crate::config::{self, Dev, Role};
use crate::platform::{Platform, without_password};
use crate::starter;

const ALL_ROLES: [Role; 5] =
    [Role::CommandApi, Role::Projections, Role::QueryApi, Role::Sagas, Role::Webhooks];

/// File in the data folder with the key that the secrets of webhooks are sealed with.
const WEBHOOKS_KEY: &str = "webhooks.key";

pub async fn run(mut options: Dev) -> anyhow::Result<ExitCode> {
    crate::telemetry::begin(options.platform.log_json);
    let folder = DataFolder::open(&options.data.data_dir)?;
    let mut stop = Box::pin(crate::shutdown::requested());
    let external = options.platform.nats_url.is_some() && options.platform.database_url.is_some();
    let mut embedded = match external {
        true => None,
        false => Some(tokio::select! {
            started = Embedded::start(&folder) => started?,
            interrupted = &mut stop => {
                // The next start finds and ends what was left half-started.
                interrupted?;
                return Ok(ExitCode::SUCCESS);
            }
        }),
    };
    options.platform.log_bytes_max.get_or_insert(log_bytes_max(folder.path()));
    if let Some(own) = &embedded {
        options.platform.nats_monitoring_url.get_or_insert(own.nats.monitoring_url());
    }
    options.platform.webhooks.to_loopback.get_or_insert(true);
    let payments = &mut options.platform.payments;
    let is_a_trial = !payments.are_for_real_money();
    payments.sandbox.get_or_insert(is_a_trial);
    if options.platform.webhooks.keys.is_empty() {
        options.platform.webhooks.keys.push(folder.key(WEBHOOKS_KEY)?.parse()?);
    }
    let servers = servers(&options.platform, embedded.as_ref())?;
    let outcome = tokio::select! {
        outcome = serve(&options, &folder, servers) => outcome,
        words = died(&mut embedded) => Err(anyhow::anyhow!(words)),
    };
    folder.remove_addresses();
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    if outcome.is_ok() {
        println!("Stopped; all of it is in {}.", folder.path().display());
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// URLs of what the platform works on.
struct Servers {
    nats: String,
    /// As others reach it, who may be elsewhere.
    postgres: String,
    /// As the platform does.
    postgres_local: String,
}

/// Those that the settings name, and otherwise its own.
fn servers(settings: &config::Platform, own: Option<&Embedded>) -> anyhow::Result<Servers> {
    let choose = |named: &Option<String>, own: Option<&str>| named.clone().or(own.map(str::to_owned));
    let postgres = |own| choose(&settings.database_url, own).context("there is no Postgres");
    let nats = choose(&settings.nats_url, own.map(|own| own.nats.url()));
    Ok(Servers {
        nats: nats.context("there is no nats-server")?,
        postgres: postgres(own.map(|own| own.postgres.url()))?,
        postgres_local: postgres(own.map(|own| own.postgres.local_url()))?,
    })
}

/// Serves until it is told to stop.
async fn serve(options: &Dev, folder: &DataFolder, servers: Servers) -> anyhow::Result<()> {
    let Servers { nats, postgres, postgres_local } = servers;
    let platform = Platform::start(&options.platform, &nats, &postgres_local, &ALL_ROLES).await?;
    let served = async {
        anyhow::ensure!(
            platform.unsafe_log.is_empty(),
            "the log is not safe to work on: {}",
            platform.unsafe_log.join("; ")
        );
        if !options.no_seed {
            starter::seed(folder.path(), &platform.url(), platform.log_was_empty).await?;
        }
        crate::health::wait_until_ready(&platform.url()).await?;
        let admin = platform.admin_url().unwrap_or_default();
        let addresses = Addresses { http: platform.url(), admin, nats, postgres, pid: std::process::id() };
        folder.write_addresses(&addresses)?;
        println!("{}", welcome(&addresses, folder.path()));
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        outcome = served => match outcome {
            Ok(()) => crate::shutdown::requested().await.map_err(Into::into),
            error => error,
        },
        interrupted = crate::shutdown::requested() => interrupted.map_err(Into::into),
    };
    folder.remove_addresses();
    platform.stop().await;
    outcome
}

async fn died(embedded: &mut Option<Embedded>) -> String {
    match embedded {
        Some(embedded) => embedded.died().await,
        None => std::future::pending().await,
    }
}

/// Half of the disk that's free, so that a full log is a clean error and not a full disk.
fn log_bytes_max(folder: &Path) -> i64 {
    let free = rustix::fs::statvfs(folder).map(|disk| disk.f_bavail * disk.f_frsize);
    free.ok().and_then(|free| i64::try_from(free / 2).ok()).unwrap_or(-1)
}

fn welcome(addresses: &Addresses, folder: &Path) -> String {
    let Addresses { http, admin, nats, postgres, .. } = addresses;
    let (nats, postgres) = (without_password(nats), without_password(postgres));
    let folder = folder.display();
    let json = "-H 'Content-Type: application/json'";
    format!(
        r#"
Cartulary is ready.

  shop         {http}   (described at {http}/openapi.json)
  admin API    {admin}   (described at {admin}/openapi.json)
  log          {nats}
  read models  {postgres}
  data         {folder}   (addresses.json has the passwords)

Try:

  curl '{http}/v1/search?q=headphones&limit=2'
  CART=$(curl -s -X POST {http}/v1/carts -H "Idempotency-Key: $RANDOM$RANDOM" | sed 's/.*"id":"\([^"]*\)".*/\1/')
  curl -X PUT {http}/v1/carts/$CART/lines/{sku} {json} -d '{{"quantity": 1}}'
  curl -X POST {http}/v1/carts/$CART/checkout -H "Idempotency-Key: $RANDOM$RANDOM" -H 'Prefer: wait=5' {json} -d '{{"email": "ann@example.com", "shipping_address": {{"name": "Ann", "line1": "1 High Street", "city": "Leeds", "postal_code": "LS1 1AA", "country": "GB"}}, "payment": {{"method": "sandbox", "token": "tok_approve"}}}}'

Ctrl-C stops it.
"#,
        sku = starter::EXAMPLE_SKU,
    )
}
