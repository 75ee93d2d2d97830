//! A shop's terms, and somebody who buys there.

use std::collections::BTreeMap;

use domain::order::{Address, Buyer};
use domain::terms::{Countries, Method, Price, TaxRule, Terms};

/// Somebody who buys.
pub fn buyer() -> Buyer {
    Buyer {
        email: "alice@example.com".into(),
        shipping_address: Address {
            name: "Alice Ames".into(),
            line1: "1 High Street".into(),
            line2: None,
            city: "Leeds".into(),
            region: None,
            postal_code: "LS1 1AA".into(),
            country: "GB".into(),
        },
    }
}

/// Post costs something, and so does the state.
pub fn terms() -> Terms {
    let prices = BTreeMap::from([("GBP".parse().expect("a currency"), 395)]);
    let price = Price::In { prices, free_from: BTreeMap::new() };
    let method = Method {
        code: "post".into(),
        name: "Post".into(),
        countries: Countries::All,
        price,
        delivery_days: None,
    };
    let tax = TaxRule {
        country: "GB".parse().expect("a country"),
        regions: Vec::new(),
        name: "VAT".into(),
        rate: "20".parse().expect("a rate"),
        included: false,
        on_shipping: true,
    };
    Terms::new(1800, vec![method], vec![tax]).expect("sound")
}
