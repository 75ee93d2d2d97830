//! The goods: what each is called, what it costs, and how many there must have been at the beginning.

use std::collections::HashMap;

use domain::Money;
use domain::stock::MOVEMENT_MAX;

use super::{Plan, Step, What};
use crate::import::orders::fields::Price;
use crate::import::orders::rows::{Sheet, Text, Unmappable};

/// Goods with one code: a product, and its stock.
#[derive(Debug)]
pub struct Article {
    pub code: Text,
    /// Index of the first row that is about it.
    pub first_row: u32,
    /// That of the latest sale above 0.
    price: Option<Price>,
    /// Movements of its stock.
    pub movements: u64,
    on_hand: i64,
    lowest: i64,
}

impl Article {
    pub fn new(code: Text, first_row: u32) -> Self {
        Self { code, first_row, price: None, movements: 0, on_hand: 0, lowest: 0 }
    }

    /// Sales come by time.
    pub fn sold_at(&mut self, price: Price) {
        if price > Price::ZERO {
            self.price = Some(price);
        }
    }

    pub fn moved(&mut self, delta: i64) {
        self.movements += 1;
        self.on_hand += delta;
        self.lowest = self.lowest.min(self.on_hand);
    }

    /// The least that there must have been at the beginning, if the stock is never to fall below 0.
    pub fn opening(&self) -> u64 {
        self.lowest.unsigned_abs()
    }
}

/// What each code is called: the most frequent description of its rows that have a price. Those without
/// one are often notes about the stock, such as `damaged`.
pub fn titles(sheet: &Sheet) -> HashMap<Text, Text> {
    let mut counts: HashMap<(Text, Text), (u64, usize)> = HashMap::new();
    for (index, row) in sheet.rows.iter().enumerate() {
        if row.price > Price::ZERO && !row.description.is_empty() {
            counts.entry((row.code, row.description)).or_insert((0, index)).0 += 1;
        }
    }
    let mut best: HashMap<Text, (u64, usize, Text)> = HashMap::new();
    for ((code, description), (count, first)) in counts {
        let one = best.entry(code).or_insert((count, first, description));
        // Of those as frequent, the one that came first.
        if (count, std::cmp::Reverse(first)) > (one.0, std::cmp::Reverse(one.1)) {
            *one = (count, first, description);
        }
    }
    best.into_iter().map(|(code, (.., title))| (code, title)).collect()
}

impl Plan {
    /// The price at which the article is offered, if it was ever sold for at least a minor unit.
    pub fn price(&self, article: &Article) -> Option<Money> {
        article.price.map(|price| price.one(self.currency)).filter(|price| price.amount > 0)
    }

    /// What the code is called; itself, if nothing better is known.
    pub fn title(&self, code: Text) -> &str {
        self.text(self.titles.get(&code).copied().unwrap_or(code))
    }

    /// Takes back the steps that turned out not to be needed, or not to be possible.
    pub(super) fn finish_articles(&mut self) {
        let articles = &self.articles;
        let is_too_many = |article: &Article| article.opening() > u64::from(MOVEMENT_MAX);
        let priced: Vec<bool> = articles.iter().map(|article| self.price(article).is_some()).collect();
        let too_many: Vec<bool> = articles.iter().map(is_too_many).collect();
        self.steps.retain(|Step { what, .. }| match what {
            What::Withdraw(article) => !priced[*article as usize],
            What::Open(article)
            | What::Dispatch { article, .. }
            | What::Return { article, .. }
            | What::Adjust { article, .. } => !too_many[*article as usize],
            What::Product(_) | What::Order(_) | What::Reverse(_) => true,
        });
        for article in self.articles.iter().filter(|article| is_too_many(article)) {
            let (opening, movements) = (article.opening(), article.movements);
            let reason = format!(
                "there must have been {opening} of it at the beginning, and no more than {MOVEMENT_MAX} can be; \
                 its {movements} stock movements are left out"
            );
            let line = self.sheet.rows[article.first_row as usize].line;
            self.unmappable.push(Unmappable { line, reason });
        }
    }
}
