//! The book of what was sold and has not come back: which orders a cancellation is about.
//!
//! The file does not say it. A row of a cancellation is about the latest earlier order of the same
//! customer and country that has the same code at the same price, and enough of it left; where none has
//! enough, about several, from the latest back. Where the customer is not known, it is about none.

use std::collections::HashMap;

use super::fields::Price;
use super::rows::Text;

/// What has to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sale {
    pub customer: Text,
    pub country: Text,
    pub code: Text,
    pub price: Price,
}

#[derive(Debug, Default)]
pub struct Book {
    /// By time; what is used up is taken out.
    sold: HashMap<Sale, Vec<Left>>,
    /// Minor units of each order that were not given back: no more can be.
    kept: HashMap<u32, i64>,
}

#[derive(Debug)]
struct Left {
    order: u32,
    quantity: u32,
}

/// A part of a row that is about one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// None, if no order is known that it is about.
    pub order: Option<u32>,
    pub quantity: u32,
    /// Minor units.
    pub total: i64,
}

impl Book {
    /// Notes a line of an order.
    pub fn sold(&mut self, order: u32, sale: Sale, quantity: u32, total: i64) {
        *self.kept.entry(order).or_default() += total;
        if sale.customer.is_empty() {
            return;
        }
        let left = self.sold.entry(sale).or_default();
        match left.last_mut() {
            Some(last) if last.order == order => last.quantity = last.quantity.saturating_add(quantity),
            _ => left.push(Left { order, quantity }),
        }
    }

    /// Takes so many back. `total` is what so many cost; the parts sum up to what all of them do, however
    /// their prices are rounded.
    pub fn take_back(&mut self, sale: &Sale, quantity: u32, total: impl Fn(u32) -> i64) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut taken = 0;
        let Self { sold, kept } = self;
        if let Some(left) = sold.get_mut(sale) {
            let whole = left.iter().rposition(|left| left.quantity >= quantity);
            let from = whole.map_or(left.len(), |index| index + 1);
            for Left { order, quantity: left } in left[..from].iter_mut().rev() {
                let part = (*left).min(quantity - taken);
                let cost = total(taken + part) - total(taken);
                let kept = kept.entry(*order).or_default();
                // A fraction of a penny, rounded up often enough, would be more than was paid.
                if part == 0 || cost > *kept {
                    continue;
                }
                *kept -= cost;
                *left -= part;
                taken += part;
                parts.push(Part { order: Some(*order), quantity: part, total: cost });
            }
            left.retain(|left| left.quantity > 0);
        }
        if taken < quantity {
            let cost = total(quantity) - total(taken);
            parts.push(Part { order: None, quantity: quantity - taken, total: cost });
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::sheet;
    use super::*;

    fn sale(price: &str) -> Sale {
        let sheet = sheet(&format!("1,A,x,1,2010-12-01 08:26:00,{price},7,UK\n"));
        let row = &sheet.rows[0];
        Sale { customer: row.customer, country: row.country, code: row.code, price: row.price }
    }

    fn part(order: u32, quantity: u32, total: i64) -> Part {
        Part { order: Some(order), quantity, total }
    }

    fn rest(quantity: u32, total: i64) -> Part {
        Part { order: None, quantity, total }
    }

    #[test]
    fn the_latest_order_with_enough_is_meant() {
        let (mut book, sale) = (Book::default(), sale("2"));
        let cost = |quantity: u32| i64::from(quantity) * 200;
        for (order, quantity) in [(1, 5), (2, 3), (3, 1)] {
            book.sold(order, sale, quantity, cost(quantity));
        }
        assert_eq!(book.take_back(&sale, 3, cost), [part(2, 3, 600)]);
        assert_eq!(book.take_back(&sale, 1, cost), [part(3, 1, 200)]);
        assert_eq!(book.take_back(&sale, 7, cost), [part(1, 5, 1000), rest(2, 400)]);
        assert_eq!(book.take_back(&sale, 1, cost), [rest(1, 200)]);
    }

    #[test]
    fn several_orders_are_meant_where_none_has_enough() {
        let (mut book, sale) = (Book::default(), sale("2"));
        let cost = |quantity: u32| i64::from(quantity) * 200;
        for order in 1..=3 {
            book.sold(order, sale, 2, cost(2));
        }
        book.sold(3, sale, 1, cost(1));
        assert_eq!(book.take_back(&sale, 4, cost), [part(3, 3, 600), part(2, 1, 200)]);
    }

    #[test]
    fn other_prices_customers_and_the_unknown_are_not_meant() {
        let (mut book, sale) = (Book::default(), sale("2"));
        book.sold(1, sale, 1, 200);
        let none = Sale { price: Price::parse("3").unwrap(), ..sale };
        assert_eq!(book.take_back(&none, 1, |quantity| i64::from(quantity) * 300), [rest(1, 300)]);
        let unknown = Sale { customer: Text::EMPTY, ..sale };
        book.sold(2, unknown, 1, 200);
        assert_eq!(book.take_back(&unknown, 1, |quantity| i64::from(quantity) * 200), [rest(1, 200)]);
    }

    #[test]
    fn parts_sum_up_and_no_order_gives_back_more_than_was_paid() {
        let (mut book, sale) = (Book::default(), sale("0.005"));
        let cost = |quantity: u32| sale.price.times(quantity, "GBP".parse().unwrap());
        book.sold(1, sale, 3, cost(3));
        let parts: Vec<_> = (0..3).flat_map(|_| book.take_back(&sale, 1, cost)).collect();
        // 3 cost 2, and one costs 1.
        assert_eq!(parts, [part(1, 1, 1), part(1, 1, 1), rest(1, 1)]);
        let mut book = Book::default();
        book.sold(1, sale, 1, 1);
        book.sold(2, sale, 1, 1);
        let parts = book.take_back(&sale, 2, cost);
        assert_eq!(parts.iter().map(|part| part.total).sum::<i64>(), cost(2));
    }
}
