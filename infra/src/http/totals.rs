//! What a purchase consists of, as both APIs show it.

use domain::order::Line;
use domain::totals::{Shipping, Tax, Totals};
use serde::Serialize;
use utoipa::ToSchema;

use super::MoneyBody;

/// What a purchase comes to.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Totals)]
pub struct TotalsBody {
    /// Of the lines.
    pub subtotal: MoneyBody,
    pub shipping: ShippingBody,
    /// Null where none is due.
    pub tax: Option<TaxBody>,
    /// What is paid: subtotal and shipping, and the tax where it is not included.
    pub total: MoneyBody,
}

/// A way to the buyer, at what it costs for this purchase.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Shipping)]
pub struct ShippingBody {
    #[schema(example = "express")]
    pub method: String,
    #[schema(example = "Express delivery")]
    pub name: String,
    pub price: MoneyBody,
    /// Working days that it takes: `3` or `3-5`; null where the shop doesn't say.
    pub delivery_days: Option<String>,
}

/// The tax on all of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Tax)]
pub struct TaxBody {
    #[schema(example = "VAT")]
    pub name: String,
    /// In percent.
    #[schema(example = "7.7")]
    pub rate: String,
    pub amount: MoneyBody,
    /// It is part of the prices; otherwise it comes on top.
    pub included: bool,
}

/// A line of an order or a quote.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = OrderLine)]
pub struct LineBody {
    pub sku: String,
    pub title: String,
    pub quantity: u32,
    pub unit_price: MoneyBody,
    pub total: MoneyBody,
}

impl From<Totals> for TotalsBody {
    fn from(Totals { subtotal, shipping, tax, total }: Totals) -> Self {
        let (shipping, tax) = (shipping.into(), tax.map(TaxBody::from));
        Self { subtotal: subtotal.into(), shipping, tax, total: total.into() }
    }
}

impl From<Shipping> for ShippingBody {
    fn from(Shipping { method, name, price, delivery_days }: Shipping) -> Self {
        Self { method, name, price: price.into(), delivery_days }
    }
}

impl From<Tax> for TaxBody {
    fn from(Tax { name, rate, amount, included }: Tax) -> Self {
        Self { name, rate: rate.to_string(), amount: amount.into(), included }
    }
}

impl From<Line> for LineBody {
    fn from(line: Line) -> Self {
        let Line { sku, title, quantity, unit_price, total } = line;
        let (unit_price, total) = (unit_price.into(), total.into());
        Self { sku: sku.to_string(), title, quantity, unit_price, total }
    }
}
