//! From a step of the plan to the command that tells it to the shop.
//!
//! Every id derives from the invoice's number and the step, so the same file again gives the same
//! commands, which the log knows already.

use std::collections::BTreeMap;

use domain::commit::Hash;
use domain::order::{Import, Line, Reversal as Reversed};
use domain::product::Details;
use domain::{Command, CommandId, Money, OrderId, Sku, order, product, stock};
use infra::execute::Request;
use infra::writer::Priority;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fields::moment;
use super::plan::{Article, Plan, Step, What};
use super::rows::{Row, Text};

/// The namespace of all ids that `import/orders` derives, for ever.
const SCOPE: Uuid = Uuid::from_u128(0x2f6b_7d31_98c4_5e0a_b1d7_4c93_e85a_6f20);

/// On whose behalf all of it is.
pub const ACTOR: &str = "import";

/// The file does not say more of its articles.
const BRAND: &str = "Unbranded";
const CATEGORY: &str = "Imported";

/// Most characters of a correction's reason.
const REASON_CHARS_MAX: usize = 200;
const NO_REASON: &str = "no reason given";

/// The id of what has this name in the file; no part of a name has a line break.
fn id(parts: &[&str]) -> Uuid {
    Uuid::new_v5(&SCOPE, parts.join("\n").as_bytes())
}

pub fn order_id(number: &str) -> OrderId {
    OrderId(id(&[number, "order id"]))
}

impl Plan {
    /// The command of a step, and how it's recognised when it comes again.
    pub fn command(&self, step: &Step) -> (Request, Command) {
        let (name, content, command) = match step.what {
            What::Product(article) => self.create(self.article(article)),
            What::Withdraw(article) => {
                let article = self.article(article);
                let command = Command::Product(self.sku(article.code), product::Command::Withdraw);
                (vec![self.text(article.code), "withdraw"], Value::Null, command)
            }
            What::Open(article) => {
                let article = self.article(article);
                let quantity = u32::try_from(article.opening()).unwrap_or(u32::MAX);
                let open = stock::Command::Open { quantity, derived: true };
                let command = Command::Stock(self.sku(article.code), open);
                (vec![self.text(article.code), "open"], json!(quantity), command)
            }
            What::Order(order) => self.import(order),
            What::Reverse(reversal) => self.reverse(reversal),
            What::Dispatch { article, order, quantity } => {
                let (number, code) = (self.orders[order as usize].number, self.article(article).code);
                let order_id = order_id(self.text(number));
                let command = Command::Stock(self.sku(code), stock::Command::Dispatch { order_id, quantity });
                (vec![self.text(number), "dispatch", self.text(code)], json!(quantity), command)
            }
            What::Return { article, reversal, quantity } => {
                let (reversal, code) = (&self.reversals[reversal as usize], self.article(article).code);
                let number = self.text(self.orders[reversal.order as usize].number);
                let order_id = order_id(number);
                let command = Command::Stock(self.sku(code), stock::Command::Return { order_id, quantity });
                let name = vec![self.text(reversal.number), "restock", number, self.text(code)];
                (name, json!(quantity), command)
            }
            What::Adjust { article, row, nth } => return self.adjust(step, article, row, nth),
        };
        (request(step, &name, &content), command)
    }

    fn article(&self, article: u32) -> &Article {
        &self.articles[article as usize]
    }

    fn sku(&self, code: Text) -> Sku {
        let sku = self.skus.get(&code).cloned();
        sku.unwrap_or_else(|| unreachable!("the codes of all rows have one"))
    }

    fn create(&self, article: &Article) -> (Vec<&str>, Value, Command) {
        let (code, sku) = (self.text(article.code), self.sku(article.code));
        let kept = (sku.as_str() != code).then(|| ("Code".to_owned(), code.to_owned()));
        let details = Details {
            title: self.title(article.code).to_owned(),
            description: String::new(),
            brand: BRAND.to_owned(),
            category: vec![CATEGORY.to_owned()],
            attributes: kept.into_iter().collect::<BTreeMap<_, _>>(),
            images: Vec::new(),
            gtins: Vec::new(),
        };
        let price = self.price(article).unwrap_or(Money::new(0, self.currency));
        let content = json!([details, price]);
        let command = Command::Product(sku.clone(), product::Command::Create { sku, details, price });
        (vec![code, "product"], content, command)
    }

    fn import(&self, order: u32) -> (Vec<&str>, Value, Command) {
        let order = &self.orders[order as usize];
        let number = self.text(order.number);
        let line = |row: &u32| {
            let row = self.row(*row);
            self.line(row, row.quantity.unsigned_abs(), self.total(row))
        };
        let lines: Vec<Line> = order.lines.iter().map(line).collect();
        let total = self.sum(&lines);
        let customer = Some(self.text(order.customer).to_owned()).filter(|customer| !customer.is_empty());
        let country = self.text(order.country).to_owned();
        let content = json!([number, country, customer, lines, total]);
        let import = Import { number: number.to_owned(), country, customer, lines, total };
        (vec![number, "order"], content, Command::Order(order_id(number), order::Command::Import(import)))
    }

    fn reverse(&self, reversal: u32) -> (Vec<&str>, Value, Command) {
        let reversal = &self.reversals[reversal as usize];
        let line =
            |line: &super::plan::ReversedLine| self.line(self.row(line.row), line.quantity, line.total);
        let lines: Vec<Line> = reversal.lines.iter().map(line).collect();
        let refund = self.sum(&lines);
        let reference = self.text(reversal.number);
        let number = self.text(self.orders[reversal.order as usize].number);
        let reversed = Reversed { reference: reference.to_owned(), lines, refund };
        let content = json!(reversed);
        let (step, command) = match reversal.is_return {
            true => ("return", order::Command::ImportReturn(reversed)),
            false => ("refund", order::Command::ImportRefund(reversed)),
        };
        (vec![reference, step, number], content, Command::Order(order_id(number), command))
    }

    fn adjust(&self, step: &Step, article: u32, row: u32, nth: u32) -> (Request, Command) {
        let (row, code) = (self.row(row), self.article(article).code);
        let reason = match self.text(row.description) {
            "" => NO_REASON.to_owned(),
            text => text.chars().take(REASON_CHARS_MAX).collect(),
        };
        let delta = i64::from(row.quantity);
        let content = json!([delta, reason]);
        let name = [self.text(row.invoice), "adjust", self.text(code), &nth.to_string()];
        let command = Command::Stock(self.sku(code), stock::Command::Adjust { delta, reason });
        (request(step, &name, &content), command)
    }

    /// A line, of all of the row or of a part of it. What has no description is called what its code is; a
    /// code that is no SKU is kept behind that.
    fn line(&self, row: &Row, quantity: u32, total: i64) -> Line {
        let sku = self.sku(row.code);
        let code = self.text(row.code);
        let title = match self.text(row.description) {
            "" => self.title(row.code),
            description => description,
        };
        let title = match sku.as_str() == code {
            true => title.to_owned(),
            false => format!("{title} [{code}]"),
        };
        let total = Money::new(total, self.currency);
        Line { sku, title, quantity, unit_price: row.price.one(self.currency), total }
    }

    fn sum(&self, lines: &[Line]) -> Money {
        Money::new(lines.iter().map(|line| line.total.amount).sum(), self.currency)
    }

    /// The lines of the file that the step is about.
    pub fn lines_of(&self, step: &Step) -> Vec<u32> {
        let line = |row: u32| self.row(row).line;
        let of_article = |article: u32| vec![line(self.article(article).first_row)];
        match step.what {
            What::Product(article) | What::Withdraw(article) | What::Open(article) => of_article(article),
            What::Order(order) => self.orders[order as usize].lines.iter().map(|row| line(*row)).collect(),
            What::Reverse(reversal) => {
                self.reversals[reversal as usize].lines.iter().map(|one| line(one.row)).collect()
            }
            What::Dispatch { article, order, .. } => {
                let code = self.article(article).code;
                let lines = self.orders[order as usize].lines.iter();
                lines.filter(|row| self.row(**row).code == code).map(|row| line(*row)).collect()
            }
            What::Return { article, reversal, .. } => {
                let code = self.article(article).code;
                let lines = self.reversals[reversal as usize].lines.iter();
                lines.filter(|one| self.row(one.row).code == code).map(|one| line(one.row)).collect()
            }
            What::Adjust { row, .. } => vec![line(row)],
        }
    }
}

/// An invoice is what everything that follows from it belongs to.
fn request(step: &Step, name: &[&str], content: &Value) -> Request {
    let command_id = CommandId(id(name));
    // A stock has no movements before it is opened; if it has, they are not of this import.
    let expected_version = matches!(step.what, What::Open(_)).then_some(0);
    Request {
        command_id,
        hash: Hash::of(format!("{}\n{}\n{content}", name.join("\n"), step.at).as_bytes()),
        actor: ACTOR.to_owned(),
        correlation: CommandId(id(&[name[0], "order"])),
        causation: None,
        trace_parent: None,
        expected_version,
        occurred_at: Some(moment(step.at)),
        priority: Priority::Normal,
    }
}
