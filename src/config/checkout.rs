//! How long a checkout waits for what, and when the money is taken.

use chrono::Duration;
use clap::{Args, ValueEnum};
use sagas::checkout::{CaptureAt, Limits};

/// When the money is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Capture {
    /// As soon as the order is confirmed.
    Confirmation,
    /// All of it, when the first parcel goes.
    Shipment,
}

#[derive(Debug, Clone, Args)]
pub struct Checkout {
    /// Seconds until every line has to be held; then the order is cancelled.
    #[arg(long, env = "CARTULARY_TIME_TO_HOLD_S", default_value_t = 60, value_parser = seconds())]
    pub time_to_hold_s: u32,
    /// Seconds that a buyer has to pay, from the checkout on; then the order is cancelled.
    #[arg(long, env = "CARTULARY_TIME_TO_PAY_S", default_value_t = 900, value_parser = seconds())]
    pub time_to_pay_s: u32,
    /// Seconds that a buyer has for what the payment provider requires of them, such as 3-D Secure.
    #[arg(long, env = "CARTULARY_TIME_FOR_CHALLENGE_S", default_value_t = 600, value_parser = seconds())]
    pub time_for_challenge_s: u32,
    /// Seconds that the payment provider has to capture what it has authorised; then the order is cancelled,
    /// unless it is shipped.
    #[arg(long, env = "CARTULARY_TIME_TO_CAPTURE_S", default_value_t = 86_400, value_parser = seconds())]
    pub time_to_capture_s: u32,
    /// Seconds that the shop has to ship a confirmed order. Then it is told as overdue, or cancelled, where
    /// the money was to be taken at shipment: authorisations lapse after 7 days with most providers. 0, if
    /// nothing is shipped; then an order is over when it's paid.
    #[arg(long, env = "CARTULARY_TIME_TO_SHIP_S", default_value_t = 518_400)]
    pub time_to_ship_s: u32,
    /// When the money is taken.
    #[arg(long, env = "CARTULARY_CAPTURE_AT", value_enum, default_value_t = Capture::Confirmation)]
    pub capture_at: Capture,
}

impl Checkout {
    pub fn limits(&self) -> Limits {
        let seconds = |seconds: u32| Duration::seconds(i64::from(seconds));
        Limits {
            hold: seconds(self.time_to_hold_s),
            authorization: seconds(self.time_to_pay_s),
            challenge: seconds(self.time_for_challenge_s),
            capture: seconds(self.time_to_capture_s),
            shipment: Some(self.time_to_ship_s).filter(|limit| *limit > 0).map(seconds),
            capture_at: match self.capture_at {
                Capture::Confirmation => CaptureAt::Confirmation,
                Capture::Shipment => CaptureAt::Shipment,
            },
        }
    }
}

fn seconds() -> clap::builder::RangedU64ValueParser<u32> {
    clap::builder::RangedU64ValueParser::<u32>::new().range(1..)
}
