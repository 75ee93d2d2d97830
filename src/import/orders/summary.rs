//! What an import comes to: of a plan alone, and of one that was carried out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::carry_out::{Counts, Tally};
use super::fields::month;
use super::plan::Plan;

/// Money of one country and month, in minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revenue {
    /// Of the orders.
    pub gross: i64,
    /// Given back in that month, whenever the order was.
    pub refunded: i64,
}

impl Revenue {
    fn net(self) -> i64 {
        self.gross - self.refunded
    }
}

/// Summary of an import that was carried out.
#[derive(Debug)]
pub struct Summary {
    pub tally: Tally,
    /// Rows that became nothing.
    pub unmappable: usize,
    /// Until the last command was done.
    pub commands_took: Duration,
    /// Until all of it was visible, if anybody was asked.
    pub visible_after: Option<Duration>,
}

impl Plan {
    /// By country and month.
    pub fn revenue(&self) -> BTreeMap<(&str, String), Revenue> {
        let mut all: BTreeMap<(&str, String), Revenue> = BTreeMap::new();
        for order in &self.orders {
            let gross: i64 = order.lines.iter().map(|row| self.total(self.row(*row))).sum();
            all.entry((self.text(order.country), month(order.at))).or_default().gross += gross;
        }
        for reversal in &self.reversals {
            let country = self.text(self.orders[reversal.order as usize].country);
            let refunded: i64 = reversal.lines.iter().map(|line| line.total).sum();
            all.entry((country, month(reversal.at))).or_default().refunded += refunded;
        }
        all.retain(|_, revenue| *revenue != Revenue::default());
        all
    }

    /// How many commands of each kind there are.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for step in &self.steps {
            *counts.of(step.what) += 1;
        }
        counts
    }

    /// All figures, for programs. Amounts are minor units.
    pub fn to_json(&self) -> Value {
        let (fates, counts) = (&self.fates, self.counts());
        let revenue = self.revenue().into_iter().map(|((country, month), revenue)| {
            let Revenue { gross, refunded } = revenue;
            json!({"country": country, "month": month, "gross": gross, "refunded": refunded, "net": revenue.net()})
        });
        let bare = self.orders.iter().filter(|order| order.lines.is_empty()).count();
        json!({
            "rows": {
                "order_lines": fates.order_lines,
                "reversals": fates.reversals,
                "corrections": fates.corrections,
                "unmappable": fates.unmappable,
            },
            "invoices": {
                "orders": fates.order_invoices,
                "cancellations": fates.cancellation_invoices,
                "corrections": fates.correction_invoices,
                "unmappable": fates.unmappable_invoices,
            },
            "articles": self.articles.len(),
            "orders": self.orders.len() - bare,
            "orders_of_unmatched_cancellations": bare,
            "commands": {
                "products": counts.products,
                "orders": counts.orders,
                "reversals": counts.reversals,
                "movements": counts.movements,
            },
            "currency": self.currency,
            "revenue": revenue.collect::<Vec<_>>(),
        })
    }
}

impl Counts {
    pub fn all(&self) -> u64 {
        self.products + self.orders + self.reversals + self.movements
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { products, orders, reversals, movements } = self;
        write!(
            f,
            "{products} of products, {orders} orders, {reversals} returns and refunds, {movements} stock movements"
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, unmappable, commands_took, visible_after } = self;
        let Tally { new, before, left_as_they_are, left_out, .. } = tally;
        let (all, seconds) = (new.all() + before.all(), commands_took.as_secs_f64());
        writeln!(f, "done now: {} events ({new})", new.all())?;
        writeln!(f, "done before: {} ({before})", before.all())?;
        if *left_as_they_are > 0 || *left_out > 0 {
            writeln!(f, "left alone: {left_as_they_are} products of the shop, {left_out} stock movements")?;
        }
        writeln!(f, "{unmappable} rows could not be mapped, or not wholly")?;
        write!(f, "{seconds:.1} s, {:.0} commands/s", all as f64 / seconds.max(0.001))?;
        match visible_after {
            Some(after) => write!(f, "; all of it is visible after {:.1} s", after.as_secs_f64()),
            None => write!(f, "; all of it is in the log (no instance is known that could show it)"),
        }
    }
}
