//! The rules of the shop, pure: no clock, no randomness, no input or output.
//!
//! Every aggregate is one file of the same shape: `decide` turns a command into events or a
//! refusal, `evolve` folds an event into the state. [`Event`] and [`Command`] are the catalogue
//! of all that can happen and all that can be asked for.

pub mod aggregate;
pub mod cart;
pub mod commit;
pub mod country;
pub mod ids;
pub mod money;
pub mod order;
pub mod payment;
pub mod product;
pub mod schema;
pub mod spec;
pub mod stock;
pub mod terms;
pub mod text;
pub mod totals;

/// Hash of this crate's sources.
pub const CODE: &str = env!("CODE_HASH");

pub use aggregate::Aggregate;
pub use commit::{Commit, RecordedEvent};
pub use country::Country;
pub use ids::{CartId, CommandId, OrderId, QuoteId, Sku, StreamId};
pub use money::{Currency, Money};

/// Everything that can happen in the shop.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Product(product::Event),
    Stock(stock::Event),
    Cart(cart::Event),
    Order(order::Event),
    Payment(payment::Event),
}

impl Event {
    /// The one decode path from the log's form to the rules' form.
    ///
    /// # Errors
    /// `None` is an event of a category that the rules do not know (a saga's own stream, say);
    /// an error is an event of a known category that this build can't read.
    pub fn decode(recorded: &RecordedEvent) -> Result<Option<Self>, commit::DecodeError> {
        let event = match recorded.category() {
            category if is_known(category) && schema::current(&recorded.kind).is_none() => {
                return Err(commit::DecodeError::UnknownType { kind: recorded.kind.clone() });
            }
            product::CATEGORY => Self::Product(recorded.decode()?),
            stock::CATEGORY => Self::Stock(recorded.decode()?),
            cart::CATEGORY => Self::Cart(recorded.decode()?),
            order::CATEGORY => Self::Order(recorded.decode()?),
            payment::CATEGORY => Self::Payment(recorded.decode()?),
            _ => return Ok(None),
        };
        Ok(Some(event))
    }
}

/// Whether it's a category of the rules.
fn is_known(category: &str) -> bool {
    [product::CATEGORY, stock::CATEGORY, cart::CATEGORY, order::CATEGORY, payment::CATEGORY]
        .contains(&category)
}

/// Everything that can be asked of the shop, with the aggregate that is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Product(Sku, product::Command),
    Stock(Sku, stock::Command),
    Cart(CartId, cart::Command),
    Order(OrderId, order::Command),
    Payment(OrderId, payment::Command),
}

impl Command {
    /// The stream that the command is decided on.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Product(sku, _) => StreamId::of::<product::Product>(sku),
            Self::Stock(sku, _) => StreamId::of::<stock::Stock>(sku),
            Self::Cart(id, _) => StreamId::of::<cart::Cart>(id),
            Self::Order(id, _) => StreamId::of::<order::Order>(id),
            Self::Payment(id, _) => StreamId::of::<payment::Payment>(id),
        }
    }
}
