//! The settings of webhooks.

use std::time::Duration;

use clap::Args;
use infra::secret::Secret;

use super::whole;

#[derive(Debug, Clone, Args)]
pub struct WebhookSettings {
    /// Key that the secrets of webhooks are sealed with in the database: 64 hexadecimal digits, as `openssl rand
    /// -hex 32` makes them. The same for all processes with an admin API; without, no endpoint can be added. To
    /// replace it, put the new one before it, with a comma between them; after the next start, which seals anew,
    /// the old one is not needed any more [default: in `dev`, one that is made in the data folder]
    #[arg(
        long = "webhooks-key",
        env = "CARTULARY_WEBHOOKS_KEY",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "KEY"
    )]
    pub keys: Vec<Secret>,
    /// Let webhooks go to this machine, also without TLS [default: true in `dev`, else false]
    #[arg(long = "webhooks-to-loopback", env = "CARTULARY_WEBHOOKS_TO_LOOPBACK", value_name = "BOOL")]
    pub to_loopback: Option<bool>,
    /// Let webhooks go to private networks, over TLS. Never to link-local addresses, where clouds keep secrets.
    #[arg(long = "webhooks-to-private", env = "CARTULARY_WEBHOOKS_TO_PRIVATE", value_parser = clap::builder::FalseyValueParser::new())]
    pub to_private: bool,
    /// Most webhooks on their way to one endpoint, of all processes together.
    #[arg(long = "webhooks-in-flight-max", env = "CARTULARY_WEBHOOKS_IN_FLIGHT_MAX", default_value_t = 8, value_parser = whole(1..=1_000))]
    pub in_flight_max: usize,
    /// Milliseconds that an endpoint may take to answer.
    #[arg(long = "webhooks-time-limit-ms", env = "CARTULARY_WEBHOOKS_TIME_LIMIT_MS", default_value_t = 10_000, value_parser = ms(100))]
    pub time_limit_ms: u64,
    /// Milliseconds until a webhook that failed is sent again; each further pause is three times as long.
    #[arg(long = "webhooks-retry-first-ms", env = "CARTULARY_WEBHOOKS_RETRY_FIRST_MS", default_value_t = 5_000, value_parser = ms(10))]
    pub retry_first_ms: u64,
    /// Longest such pause, in milliseconds: 8 hours without; also the longest Retry-After that is heeded.
    #[arg(long = "webhooks-retry-max-ms", env = "CARTULARY_WEBHOOKS_RETRY_MAX_MS", default_value_t = 28_800_000, value_parser = ms(10))]
    pub retry_max_ms: u64,
    /// Milliseconds after which a webhook is given up, and becomes a dead letter: 3 days without.
    #[arg(long = "webhooks-give-up-after-ms", env = "CARTULARY_WEBHOOKS_GIVE_UP_AFTER_MS", default_value_t = 259_200_000, value_parser = ms(10))]
    pub give_up_after_ms: u64,
    /// For how many days a delivered webhook is remembered; a dead letter, ten times as long.
    #[arg(long = "webhooks-keep-days", env = "CARTULARY_WEBHOOKS_KEEP_DAYS", default_value_t = 7, value_parser = clap::value_parser!(u64).range(0..=3_650))]
    pub keep_days: u64,
}

/// Up to a year.
fn ms(least: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..=365 * 24 * 60 * 60 * 1_000)
}

impl WebhookSettings {
    pub fn rules(&self) -> webhooks::Rules {
        webhooks::Rules { loopback: self.to_loopback.unwrap_or(false), private: self.to_private }
    }

    /// # Errors
    /// One of them is none.
    pub fn keys(&self) -> Result<webhooks::Keys, webhooks::sealing::NoKey> {
        let keys: Result<_, _> = self.keys.iter().map(|key| key.reveal().parse()).collect();
        keys.map(webhooks::Keys::new)
    }

    pub fn settings(&self, keys: webhooks::Keys) -> webhooks::Settings {
        webhooks::Settings {
            rules: self.rules(),
            keys,
            in_flight_max: u32::try_from(self.in_flight_max).unwrap_or(u32::MAX),
            time_limit: Duration::from_millis(self.time_limit_ms),
            retry_first: Duration::from_millis(self.retry_first_ms),
            retry_max: Duration::from_millis(self.retry_max_ms),
            give_up_after: Duration::from_millis(self.give_up_after_ms),
            keep: Duration::from_secs(self.keep_days * 24 * 60 * 60),
        }
    }
}
