//! Who buys, and where it goes.

use serde::{Deserialize, Serialize};

use crate::country::Country;
use crate::text::Checks;

/// Who buys, and where it goes: personal data, in a field of its own in every event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buyer {
    pub email: String,
    pub shipping_address: Address,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub name: String,
    pub line1: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    pub city: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub postal_code: String,
    /// ISO 3166-1 alpha-2, such as GB.
    pub country: String,
}

impl Buyer {
    pub(crate) fn check(&self, checks: &mut Checks) {
        checks.line("/email", &self.email, 254);
        let parts = self.email.split_once('@');
        let plausible = parts.is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
        let plain = !self.email.contains(char::is_whitespace);
        checks.require(plausible && plain, "/email", "must be an e-mail address");
        let address = &self.shipping_address;
        checks.line("/shipping_address/name", &address.name, 200);
        checks.line("/shipping_address/line1", &address.line1, 200);
        checks.line("/shipping_address/city", &address.city, 100);
        checks.line("/shipping_address/postal_code", &address.postal_code, 20);
        for (pointer, text) in [("line2", &address.line2), ("region", &address.region)] {
            if let Some(text) = text {
                checks.line(&format!("/shipping_address/{pointer}"), text, 200);
            }
        }
        let country = address.country.parse::<Country>();
        checks.require(country.is_ok(), "/shipping_address/country", "must be an ISO 3166-1 code such as GB");
    }
}
