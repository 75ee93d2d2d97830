//! From rows to what happened, in order of time: a pure function.
//!
//! | row                                          | becomes                                             |
//! |----------------------------------------------|-----------------------------------------------------|
//! | of an invoice, quantity above 0              | a line of an order; of goods, they leave the shelf  |
//! | of an invoice, below 0, at price 0, of goods | a correction of the stock                           |
//! | of a C invoice, quantity below 0             | a return (goods) or a refund (no goods)             |
//! | any other, and those of A invoices           | nothing, and is listed                              |

mod articles;

use std::collections::HashMap;

use domain::order::LINES_MAX;
use domain::{Currency, Sku};

use super::book::{Book, Part, Sale};
use super::codes;
use super::fields::Price;
use super::rows::{Row, Sheet, Text, Unmappable};
pub use articles::Article;

/// Bytes of an order's lines, estimated; a commit has to fit into one message.
const LINES_BYTES_MAX: usize = 800_000;
const LINE_BYTES: usize = 200;

/// All that is to be told to the shop.
#[derive(Debug)]
pub struct Plan {
    pub sheet: Sheet,
    pub currency: Currency,
    pub skus: HashMap<Text, Sku>,
    /// What each code is called.
    pub titles: HashMap<Text, Text>,
    pub articles: Vec<Article>,
    pub orders: Vec<Order>,
    pub reversals: Vec<Reversal>,
    /// By time.
    pub steps: Vec<Step>,
    pub unmappable: Vec<Unmappable>,
    pub fates: Fates,
}

/// How many rows became what; every row is in one of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fates {
    pub order_lines: u64,
    pub reversals: u64,
    pub corrections: u64,
    pub unmappable: u64,
    /// Invoices of each kind: an invoice that has both lines and corrections is an order.
    pub order_invoices: u64,
    pub cancellation_invoices: u64,
    pub correction_invoices: u64,
    pub unmappable_invoices: u64,
}

#[derive(Debug)]
pub struct Order {
    pub number: Text,
    pub at: i64,
    pub customer: Text,
    pub country: Text,
    /// Indexes of its rows; none, if only what was given back is known.
    pub lines: Vec<u32>,
}

/// What one cancellation gave back of one order.
#[derive(Debug)]
pub struct Reversal {
    /// Number of the cancellation.
    pub number: Text,
    pub at: i64,
    pub order: u32,
    /// Goods came back; otherwise only money did.
    pub is_return: bool,
    pub lines: Vec<ReversedLine>,
}

#[derive(Debug, Clone, Copy)]
pub struct ReversedLine {
    /// Index of its row.
    pub row: u32,
    pub quantity: u32,
    /// Minor units.
    pub total: i64,
}

/// One thing that happened: one command, on one product, stock or order.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Seconds since 1970.
    pub at: i64,
    pub what: What,
}

/// All numbers are indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Product(u32),
    /// Nobody knows what it costs, so nobody may buy it.
    Withdraw(u32),
    Open(u32),
    Order(u32),
    Reverse(u32),
    Dispatch {
        article: u32,
        order: u32,
        quantity: u32,
    },
    Return {
        article: u32,
        reversal: u32,
        quantity: u32,
    },
    /// The `nth` correction of its invoice.
    Adjust {
        article: u32,
        row: u32,
        nth: u32,
    },
}

impl What {
    /// Whether it's about what is on the shelf.
    pub fn is_of_stock(self) -> bool {
        match self {
            Self::Open(_) | Self::Dispatch { .. } | Self::Return { .. } | Self::Adjust { .. } => true,
            Self::Product(_) | Self::Withdraw(_) | Self::Order(_) | Self::Reverse(_) => false,
        }
    }
}

/// An invoice, and its rows in their order.
struct Invoice {
    number: Text,
    at: i64,
    rows: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Kind {
    Sale,
    Cancellation,
    BadDebt,
    Unknown,
}

/// What becomes of a row.
enum Fate {
    /// Of an order, or of a reversal.
    Line,
    Correction,
    Unmappable(&'static str),
}

/// What is known so far, while the invoices go by.
struct Planner {
    plan: Plan,
    book: Book,
    article_of: HashMap<Text, u32>,
}

impl Plan {
    #[must_use]
    pub fn of(mut sheet: Sheet, currency: Currency) -> Self {
        let unmappable = std::mem::take(&mut sheet.unreadable);
        let (skus, invoices) = (codes::skus(&sheet), invoices(&sheet));
        let titles = articles::titles(&sheet);
        let fates = Fates { unmappable: unmappable.len() as u64, ..Fates::default() };
        let (articles, orders, reversals, steps) = Default::default();
        let plan =
            Self { sheet, currency, skus, titles, articles, orders, reversals, steps, unmappable, fates };
        let mut planner = Planner { plan, book: Book::default(), article_of: HashMap::new() };
        for invoice in invoices {
            planner.invoice(&invoice);
        }
        let mut plan = planner.plan;
        plan.finish_articles();
        plan.unmappable.sort();
        plan
    }

    pub fn row(&self, index: u32) -> &Row {
        &self.sheet.rows[index as usize]
    }

    pub fn text(&self, text: Text) -> &str {
        self.sheet.text(text)
    }

    /// Minor units of a whole row.
    pub fn total(&self, row: &Row) -> i64 {
        row.price.times(row.quantity.unsigned_abs(), self.currency)
    }
}

/// By time; at the same minute, as they come in the file.
fn invoices(sheet: &Sheet) -> Vec<Invoice> {
    let mut all: Vec<Invoice> = Vec::new();
    let mut known: HashMap<Text, usize> = HashMap::new();
    for (index, row) in (0..).zip(&sheet.rows) {
        let invoice = *known.entry(row.invoice).or_insert_with(|| {
            all.push(Invoice { number: row.invoice, at: row.at, rows: Vec::new() });
            all.len() - 1
        });
        let invoice = &mut all[invoice];
        invoice.at = invoice.at.min(row.at);
        invoice.rows.push(index);
    }
    all.sort_by_key(|invoice| invoice.at);
    all
}

fn kind(number: &str) -> Kind {
    let (letter, digits) = match number.as_bytes() {
        [letter @ (b'A'..=b'Z' | b'a'..=b'z'), digits @ ..] => (letter.to_ascii_uppercase(), digits),
        digits => (b' ', digits),
    };
    let numbered = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    match letter {
        b' ' if numbered => Kind::Sale,
        b'C' if numbered => Kind::Cancellation,
        b'A' if numbered => Kind::BadDebt,
        _ => Kind::Unknown,
    }
}

/// What becomes of a row of an invoice of this kind.
fn fate(kind: Kind, row: &Row, is_goods: bool) -> Fate {
    match kind {
        Kind::BadDebt => Fate::Unmappable("an adjustment of bad debt is no order"),
        Kind::Unknown => Fate::Unmappable("InvoiceNo is neither a number nor C or A and a number"),
        Kind::Sale | Kind::Cancellation if row.price < Price::ZERO => {
            Fate::Unmappable("UnitPrice is below 0")
        }
        Kind::Sale if row.quantity > 0 => Fate::Line,
        Kind::Sale if row.price > Price::ZERO => {
            Fate::Unmappable("Quantity is below 0 at a price, and the invoice is no cancellation")
        }
        Kind::Sale if is_goods => Fate::Correction,
        Kind::Sale => {
            Fate::Unmappable("Quantity is below 0 at price 0, and there is no stock of what is no goods")
        }
        Kind::Cancellation if row.quantity < 0 => Fate::Line,
        Kind::Cancellation => Fate::Unmappable("Quantity is above 0 in a cancellation"),
    }
}

impl Planner {
    fn invoice(&mut self, invoice: &Invoice) {
        let first = self.plan.row(invoice.rows[0]);
        let (customer, country) = (first.customer, first.country);
        let kind = kind(self.plan.text(invoice.number));
        let bytes = |row: &u32| LINE_BYTES + self.plan.text(self.plan.row(*row).description).len();
        let is_too_large =
            invoice.rows.len() > LINES_MAX || invoice.rows.iter().map(bytes).sum::<usize>() > LINES_BYTES_MAX;
        let (mut lines, mut corrections) = (Vec::new(), Vec::new());
        for index in invoice.rows.iter().copied() {
            let row = self.plan.row(index);
            let fate = match kind {
                Kind::Sale | Kind::Cancellation if is_too_large => {
                    Fate::Unmappable("the invoice has too many lines for one message of the log")
                }
                Kind::Sale | Kind::Cancellation if (row.customer, row.country) != (customer, country) => {
                    Fate::Unmappable("CustomerID or Country is not that of the invoice's first row")
                }
                _ => fate(kind, row, codes::is_goods(self.plan.text(row.code))),
            };
            match fate {
                Fate::Line => lines.push(index),
                Fate::Correction => corrections.push(index),
                Fate::Unmappable(reason) => {
                    let unmappable = Unmappable { line: row.line, reason: reason.to_owned() };
                    self.plan.unmappable.push(unmappable);
                    self.plan.fates.unmappable += 1;
                }
            }
        }
        let fates = &mut self.plan.fates;
        fates.corrections += corrections.len() as u64;
        match (kind, lines.is_empty()) {
            (Kind::Cancellation, false) => {
                fates.cancellation_invoices += 1;
                fates.reversals += lines.len() as u64;
                self.cancellation(invoice, &lines, customer, country);
            }
            (_, false) => {
                fates.order_invoices += 1;
                fates.order_lines += lines.len() as u64;
                let Invoice { number, at, .. } = *invoice;
                self.order(Order { number, at, customer, country, lines });
            }
            (_, true) if !corrections.is_empty() => fates.correction_invoices += 1,
            (_, true) => fates.unmappable_invoices += 1,
        }
        for (nth, row) in (0..).zip(corrections) {
            self.correction(invoice.at, row, nth);
        }
    }

    fn step(&mut self, at: i64, what: What) {
        self.plan.steps.push(Step { at, what });
    }

    fn order(&mut self, order: Order) {
        let Order { at, customer, country, .. } = order;
        let number = index(self.plan.orders.len());
        self.step(at, What::Order(number));
        let mut units: Vec<(u32, u32)> = Vec::new();
        for line in &order.lines {
            let row = self.plan.row(*line);
            let (code, price, quantity) = (row.code, row.price, row.quantity.unsigned_abs());
            let total = self.plan.total(row);
            self.book.sold(number, Sale { customer, country, code, price }, quantity, total);
            if let Some(article) = self.article(*line, at) {
                self.plan.articles[article as usize].sold_at(price);
                add(&mut units, article, quantity);
            }
        }
        self.plan.orders.push(order);
        for (article, quantity) in units {
            self.plan.articles[article as usize].moved(-i64::from(quantity));
            self.step(at, What::Dispatch { article, order: number, quantity });
        }
    }

    fn cancellation(&mut self, invoice: &Invoice, rows: &[u32], customer: Text, country: Text) {
        let Invoice { number, at, .. } = *invoice;
        let first = self.plan.reversals.len();
        let mut own_order = None;
        let mut units: Vec<((u32, u32), u32)> = Vec::new();
        for index_of_row in rows {
            let row = self.plan.row(*index_of_row).clone();
            let sale = Sale { customer, country, code: row.code, price: row.price };
            let total = |quantity| row.price.times(quantity, self.plan.currency);
            let parts = self.book.take_back(&sale, row.quantity.unsigned_abs(), total);
            let article = self.article(*index_of_row, at);
            for Part { order, quantity, total } in parts {
                let order = order.unwrap_or_else(|| {
                    *own_order.get_or_insert_with(|| {
                        self.plan.orders.push(Order { number, at, customer, country, lines: Vec::new() });
                        index(self.plan.orders.len() - 1)
                    })
                });
                let line = ReversedLine { row: *index_of_row, quantity, total };
                let is_return = article.is_some();
                let so_far = &mut self.plan.reversals[first..];
                let place =
                    so_far.iter_mut().position(|one| (one.order, one.is_return) == (order, is_return));
                let reversal = first + place.unwrap_or(so_far.len());
                match self.plan.reversals.get_mut(reversal) {
                    Some(reversal) => reversal.lines.push(line),
                    None => {
                        self.plan.reversals.push(Reversal { number, at, order, is_return, lines: vec![line] })
                    }
                }
                if let Some(article) = article {
                    add(&mut units, (article, index(reversal)), quantity);
                }
            }
        }
        if let Some(own) = own_order {
            self.step(at, What::Order(own));
        }
        for reversal in first..self.plan.reversals.len() {
            self.step(at, What::Reverse(index(reversal)));
        }
        for ((article, reversal), quantity) in units {
            self.plan.articles[article as usize].moved(quantity.into());
            self.step(at, What::Return { article, reversal, quantity });
        }
    }

    fn correction(&mut self, at: i64, row: u32, nth: u32) {
        if let Some(article) = self.article(row, at) {
            let quantity = self.plan.row(row).quantity;
            self.plan.articles[article as usize].moved(quantity.into());
            self.step(at, What::Adjust { article, row, nth });
        }
    }

    /// The article that the row is about, if it's goods. When it's the first time, its product and its
    /// stock begin here.
    fn article(&mut self, row: u32, at: i64) -> Option<u32> {
        let code = self.plan.row(row).code;
        if let Some(known) = self.article_of.get(&code) {
            return Some(*known);
        }
        if !codes::is_goods(self.plan.text(code)) {
            return None;
        }
        let article = index(self.plan.articles.len());
        self.article_of.insert(code, article);
        self.plan.articles.push(Article::new(code, row));
        for what in [What::Product(article), What::Withdraw(article), What::Open(article)] {
            self.step(at, what);
        }
        Some(article)
    }
}

/// Adds up what belongs together, in the order in which it comes; there is little of it at a time.
fn add<K: PartialEq>(units: &mut Vec<(K, u32)>, key: K, quantity: u32) {
    match units.iter_mut().find(|(known, _)| *known == key) {
        Some((_, sum)) => *sum = sum.saturating_add(quantity),
        None => units.push((key, quantity)),
    }
}

/// There are fewer of anything than rows, whose number is bounded.
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or_else(|_| unreachable!("no more than a few of each row"))
}

#[cfg(test)]
mod tests;
