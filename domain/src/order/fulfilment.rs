//! What happens to the goods of an order: shipped in one parcel or several, and sent back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Error, Event, Line, Order, Status};
use crate::ids::Sku;
use crate::money::{Currency, Money};
use crate::text::Checks;
use crate::totals::{Rate, Totals};

/// So many units of one product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    pub sku: Sku,
    pub quantity: u32,
}

/// How a parcel is found on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_number: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_url: Option<String>,
}

/// Without lines, all that is left is shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipmentAsked {
    pub shipment_id: Uuid,
    pub lines: Vec<Units>,
    pub parcel: Parcel,
}

/// Without lines, all that the buyer has comes back; without a refund, what was paid for it is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnAsked {
    pub return_id: Uuid,
    pub lines: Vec<Units>,
    pub refund: Option<Money>,
    pub reason: String,
}

/// Without an amount, all that is left is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundAsked {
    pub refund_id: Uuid,
    pub amount: Option<Money>,
    pub reason: String,
}

/// Units of one product in an order, and where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goods {
    pub ordered: u32,
    pub shipped: u32,
    pub returned: u32,
    /// What all that were ordered cost, in minor units.
    pub cost: i64,
}

/// Where the goods are. Invariant: returned <= shipped <= ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fulfilment {
    goods: BTreeMap<Sku, Goods>,
    /// Of a tax that comes on top of the goods' prices.
    tax_on_top: Option<Rate>,
}

impl Fulfilment {
    pub fn placed(&mut self, lines: &[Line], totals: Option<&Totals>) {
        let tax = totals.and_then(|totals| totals.tax.as_ref());
        self.tax_on_top = tax.filter(|tax| !tax.included).map(|tax| tax.rate);
        for line in lines {
            let goods = self.goods.entry(line.sku.clone()).or_default();
            goods.ordered = goods.ordered.saturating_add(line.quantity);
            goods.cost = goods.cost.saturating_add(line.total.amount);
        }
    }

    pub fn shipped(&mut self, lines: &[Units]) {
        for Units { sku, quantity } in lines {
            let goods = self.goods.entry(sku.clone()).or_default();
            goods.shipped = goods.shipped.saturating_add(*quantity);
        }
    }

    pub fn returned(&mut self, lines: &[Units]) {
        for Units { sku, quantity } in lines {
            let goods = self.goods.entry(sku.clone()).or_default();
            goods.returned = goods.returned.saturating_add(*quantity);
        }
    }

    /// Some of it is on its way, or was.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.goods.values().any(|goods| goods.shipped > 0)
    }

    #[must_use]
    pub fn status(&self) -> &'static str {
        let sum = |of: fn(&Goods) -> u32| self.goods.values().map(|goods| u64::from(of(goods))).sum::<u64>();
        let (ordered, shipped) = (sum(|goods| goods.ordered), sum(|goods| goods.shipped));
        fulfilment_status(ordered, shipped, sum(|goods| goods.returned))
    }

    /// All units of which there is something left, as `left` counts them.
    fn all(&self, left: fn(&Goods) -> u32) -> Vec<Units> {
        let units = self.goods.iter().map(|(sku, goods)| Units { sku: sku.clone(), quantity: left(goods) });
        units.filter(|units| units.quantity > 0).collect()
    }

    /// What was asked for, if there is so much of it; each product once.
    fn pick(
        &self,
        asked: Vec<Units>,
        left: fn(&Goods) -> u32,
        too_few: fn(Sku, u32) -> Error,
    ) -> Result<Vec<Units>, Error> {
        let mut checks = Checks::default();
        let mut seen: BTreeMap<Sku, u32> = BTreeMap::new();
        for (index, Units { sku, quantity }) in asked.into_iter().enumerate() {
            checks.require(quantity > 0, &format!("/lines/{index}/quantity"), "must be at least 1");
            if seen.insert(sku, quantity).is_some() {
                checks.add(&format!("/lines/{index}/sku"), "is there twice");
            }
        }
        checks.finish().map_err(Error::InvalidCommand)?;
        for (sku, quantity) in &seen {
            let goods = self.goods.get(sku).ok_or_else(|| Error::NotOrdered(sku.clone()))?;
            if *quantity > left(goods) {
                return Err(too_few(sku.clone(), left(goods)));
            }
        }
        Ok(seen.into_iter().map(|(sku, quantity)| Units { sku, quantity }).collect())
    }

    /// What was paid for these units, with the tax on them; rounded down where a price is not a whole number
    /// of minor units.
    fn paid_for(&self, lines: &[Units], currency: Currency) -> Money {
        let cost = |Units { sku, quantity }: &Units| {
            let goods = self.goods.get(sku)?;
            let cost = i128::from(goods.cost) * i128::from(*quantity) / i128::from(goods.ordered.max(1));
            i64::try_from(cost).ok()
        };
        let net = Money::new(lines.iter().filter_map(cost).fold(0, i64::saturating_add), currency);
        let tax = self.tax_on_top.map(|rate| rate.added_to(net));
        tax.and_then(|tax| net.plus(tax).ok()).unwrap_or(net)
    }
}

/// Where the goods are, by their numbers: unfulfilled, partially_shipped, shipped, partially_returned or returned.
#[must_use]
pub fn fulfilment_status(ordered: u64, shipped: u64, returned: u64) -> &'static str {
    match () {
        () if shipped == 0 => "unfulfilled",
        () if returned >= shipped && shipped >= ordered => "returned",
        () if returned > 0 => "partially_returned",
        () if shipped < ordered => "partially_shipped",
        () => "shipped",
    }
}

fn to_ship(goods: &Goods) -> u32 {
    goods.ordered.saturating_sub(goods.shipped)
}

fn with_buyer(goods: &Goods) -> u32 {
    goods.shipped.saturating_sub(goods.returned)
}

impl Order {
    #[must_use]
    pub fn fulfilment(&self) -> &Fulfilment {
        &self.fulfilment
    }

    fn is_confirmed(&self) -> Result<(), Error> {
        match self.status {
            None => Err(Error::Unknown),
            Some(Status::Confirmed) if !self.is_to_be_cancelled() => Ok(()),
            Some(Status::Cancelled(reason)) => Err(Error::Cancelled(reason)),
            Some(Status::Imported) => Err(Error::Imported),
            Some(Status::Pending | Status::Confirmed) => Err(Error::NotConfirmed),
        }
    }

    pub(super) fn ship(&self, asked: ShipmentAsked) -> Result<Vec<Event>, Error> {
        self.is_confirmed()?;
        let ShipmentAsked { shipment_id, lines, parcel } = asked;
        let mut checks = Checks::default();
        let texts = [
            ("/carrier", &parcel.carrier, 100),
            ("/tracking_number", &parcel.tracking_number, 100),
            ("/tracking_url", &parcel.tracking_url, 2_000),
        ];
        for (pointer, text, chars_max) in texts {
            if let Some(text) = text {
                checks.line(pointer, text, chars_max);
            }
        }
        let url = parcel.tracking_url.as_deref();
        let is_web = url.is_none_or(|url| url.starts_with("https://") || url.starts_with("http://"));
        checks.require(is_web, "/tracking_url", "must begin with https:// or http://");
        checks.finish().map_err(Error::InvalidCommand)?;
        let lines = if lines.is_empty() {
            self.fulfilment.all(to_ship)
        } else {
            self.fulfilment.pick(lines, to_ship, |sku, left| Error::NothingToShip { sku, left })?
        };
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let mut after = self.fulfilment.clone();
        after.shipped(&lines);
        let is_last = after.all(to_ship).is_empty();
        Ok(vec![Event::Shipped { shipment_id, lines, parcel, is_last }])
    }

    pub(super) fn take_back(&self, asked: ReturnAsked) -> Result<Vec<Event>, Error> {
        self.is_confirmed()?;
        let ReturnAsked { return_id, lines, refund, reason } = asked;
        let mut checks = Checks::default();
        checks.line("/reason", &reason, 500);
        checks.finish().map_err(Error::InvalidCommand)?;
        let lines = if lines.is_empty() {
            self.fulfilment.all(with_buyer)
        } else {
            self.fulfilment.pick(lines, with_buyer, |sku, left| Error::NothingToReturn { sku, left })?
        };
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let amount = refund.or_else(|| {
            let kept = self.kept?;
            let paid = self.fulfilment.paid_for(&lines, kept.currency);
            Some(Money::new(paid.amount.min(kept.amount), kept.currency))
        });
        let refund = match amount {
            Some(amount) if amount.amount != 0 => {
                let reason = reason.clone();
                Some(self.refund(RefundAsked { refund_id: return_id, amount: Some(amount), reason })?)
            }
            _ => None,
        };
        let returned = Event::GoodsReturned { return_id, lines, reason };
        Ok(std::iter::once(returned).chain(refund.into_iter().flatten()).collect())
    }

    pub(super) fn refund(&self, asked: RefundAsked) -> Result<Vec<Event>, Error> {
        self.is_confirmed()?;
        let RefundAsked { refund_id, amount, reason } = asked;
        let kept = self.kept.ok_or(Error::NotConfirmed)?;
        let amount = amount.unwrap_or(kept);
        let mut checks = Checks::default();
        checks.line("/reason", &reason, 500);
        let is_plausible = amount.amount > 0 && amount.currency == kept.currency;
        if kept.amount > 0 {
            checks.require(is_plausible, "/amount", "must be above 0, in the order's currency");
        }
        checks.finish().map_err(Error::InvalidCommand)?;
        if amount.amount > kept.amount || kept.amount == 0 {
            return Err(Error::MoreThanPaid { kept });
        }
        Ok(vec![Event::RefundRequested { refund_id, amount, reason }])
    }

    pub(super) fn fail_refund(&self, refund_id: Uuid, reason: String) -> Vec<Event> {
        let amount = self.refunds.get(&refund_id);
        amount.map(|amount| Event::RefundFailed { refund_id, amount: *amount, reason }).into_iter().collect()
    }
}
