//! Orders of another shop: a record of what happened there, and of what was given back.

use serde::{Deserialize, Serialize};

use super::{Error, Event, Line, Order, Status};
use crate::money::Money;
use crate::text::Checks;

/// Most lines of an imported order: a commit is one message, and has to fit into one.
pub const LINES_MAX: usize = 4_000;

/// An order of another shop, as its records have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its number there.
    pub number: String,
    /// Where the goods went, as the record has it.
    pub country: String,
    /// Who bought, as the record has it.
    pub customer: Option<String>,
    /// None, if only its return is known.
    pub lines: Vec<Line>,
    /// Sum of the lines.
    pub total: Money,
}

/// What was given back: with the goods, or without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reversal {
    /// Number of the cancellation or credit note.
    pub reference: String,
    pub lines: Vec<Line>,
    /// Sum of the lines, as a positive amount.
    pub refund: Money,
}

/// The buyer as an imported record has them: personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customer {
    pub customer: String,
}

impl Order {
    pub(super) fn import(&self, record: Import) -> Result<Vec<Event>, Error> {
        if self.status.is_some() {
            return Err(Error::Exists);
        }
        let mut checks = Checks::default();
        checks.line("/number", &record.number, 64);
        checks.line("/country", &record.country, 100);
        if let Some(customer) = &record.customer {
            checks.line("/customer", customer, 64);
        }
        checks.require(record.lines.len() <= LINES_MAX, "/lines", "are too many for one message");
        check_lines(&record.lines, record.total, "/total", &mut checks);
        checks.finish().map_err(Error::Invalid)?;
        let Import { number, country, customer, lines, total } = record;
        let personal = customer.map(|customer| Customer { customer });
        Ok(vec![Event::Imported { number, country, lines, total, personal }])
    }

    pub(super) fn reverse(&self, reversal: Reversal) -> Result<Reversal, Error> {
        match self.status {
            None => return Err(Error::Unknown),
            Some(Status::Pending | Status::Confirmed | Status::Cancelled(_)) => {
                return Err(Error::NotImported);
            }
            Some(Status::Imported) => {}
        }
        let mut checks = Checks::default();
        checks.line("/reference", &reversal.reference, 64);
        check_lines(&reversal.lines, reversal.refund, "/refund", &mut checks);
        checks.finish().map_err(Error::Invalid)?;
        match self.kept {
            Some(kept) if !kept.minus(reversal.refund).is_ok_and(|rest| rest.amount >= 0) => {
                Err(Error::MoreThanPaid { kept })
            }
            _ => Ok(reversal),
        }
    }
}

/// The sum of the lines has to be what is said to be it. A line's total is not always its quantity
/// times its unit price: an imported price may be a fraction of a minor unit.
fn check_lines(lines: &[Line], sum: Money, pointer: &str, checks: &mut Checks) {
    for (index, line) in lines.iter().enumerate() {
        checks.line(&format!("/lines/{index}/title"), &line.title, 500);
        checks.require(line.quantity > 0, &format!("/lines/{index}/quantity"), "must be at least 1");
        let is_plausible = line.total.amount >= 0 && line.unit_price.amount >= 0;
        checks.require(is_plausible, &format!("/lines/{index}/total"), "must not be negative");
    }
    let total = lines.iter().try_fold(Money::new(0, sum.currency), |total, line| total.plus(line.total));
    checks.require(total == Ok(sum), pointer, "must be the sum of the lines");
}

#[cfg(test)]
mod spec {
    use super::super::spec::{line, money, placed};
    use super::super::{Command, Reason};
    use super::*;
    use crate::spec::given;
    use crate::text::Invalid;

    fn record(lines: Vec<Line>, total: i64) -> Import {
        let customer = Some("17850".to_owned());
        Import {
            number: "536365".into(),
            country: "EIRE".into(),
            customer,
            lines,
            total: money(total, "GBP"),
        }
    }

    fn imported() -> Event {
        let Import { number, country, customer, lines, total } = record(vec![line("MUG", 2, 500)], 1000);
        let personal = customer.map(|customer| Customer { customer });
        Event::Imported { number, country, lines, total, personal }
    }

    fn reversal(quantity: u32) -> Reversal {
        let line = line("MUG", quantity, 500);
        Reversal { reference: "C536379".into(), refund: line.total, lines: vec![line] }
    }

    #[test]
    fn an_imported_order_is_a_record() {
        given::<Order>([])
            .when(Command::Import(record(vec![line("MUG", 2, 500)], 1000)))
            .then([imported()])
            .when(Command::Confirm)
            .then_nothing()
            .when(Command::Cancel { reason: Reason::OutOfStock })
            .then_nothing()
            .when(Command::RequestCancellation)
            .then_refused(Error::Imported);
    }

    #[test]
    fn no_more_is_given_back_than_was_paid() {
        given::<Order>([imported()])
            .when(Command::ImportReturn(reversal(1)))
            .then([Event::Returned(reversal(1))])
            .when(Command::ImportRefund(reversal(1)))
            .then([Event::Refunded(reversal(1))])
            .when(Command::ImportReturn(reversal(1)))
            .then_refused(Error::MoreThanPaid { kept: money(0, "GBP") });
    }

    #[test]
    fn of_an_order_from_before_the_record_only_its_return_is_known() {
        let Event::Imported { number, country, personal, .. } = imported() else { unreachable!() };
        let bare = Event::Imported { number, country, personal, lines: vec![], total: money(0, "GBP") };
        given::<Order>([bare]).when(Command::ImportReturn(reversal(3))).then([Event::Returned(reversal(3))]);
        given::<Order>([]).when(Command::ImportReturn(reversal(3))).then_refused(Error::Unknown);
        given::<Order>([placed()]).when(Command::ImportReturn(reversal(3))).then_refused(Error::NotImported);
    }

    #[test]
    fn a_record_that_does_not_add_up_is_refused() {
        let wrong = record(vec![line("MUG", 2, 500)], 999);
        let invalid = vec![Invalid::new("/total", "must be the sum of the lines")];
        given::<Order>([]).when(Command::Import(wrong)).then_refused(Error::Invalid(invalid));
        given::<Order>([imported()]).when(Command::Import(record(vec![], 0))).then_refused(Error::Exists);
    }
}
