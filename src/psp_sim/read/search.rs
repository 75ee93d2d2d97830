//! Search of payments, above all by the caller's own reference.
//!
//! A query is one or more clauses with AND between them: `metadata['key']:'value'`, `status:'value'`,
//! `currency:'value'`, `amount:123`.

use std::ops::Bound;

use serde_json::{Value, json};

use super::{limit, shown};
use crate::psp_sim::book::Book;
use crate::psp_sim::call::Call;
use crate::psp_sim::decide::Moment;
use crate::psp_sim::money::Intent;
use crate::psp_sim::refusal::Refusal;

#[derive(Debug, PartialEq, Eq)]
enum Clause {
    Metadata(String, String),
    Status(String),
    Currency(String),
    Amount(String),
}

impl Clause {
    fn holds(&self, intent: &Intent) -> bool {
        match self {
            Self::Metadata(key, value) => intent.metadata.get(key) == Some(value),
            Self::Status(status) => intent.status.name() == status,
            Self::Currency(currency) => intent.currency.eq_ignore_ascii_case(currency),
            Self::Amount(amount) => intent.amount.to_string() == *amount,
        }
    }
}

pub fn intents(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Value, Refusal> {
    let params = &call.params;
    params.only(&["query", "limit", "page"])?;
    let wrong = || {
        let message = "The query is not understood: it is made of clauses such as metadata['key']:'value'.";
        Refusal::parameter("query", "parameter_invalid_string", message)
    };
    let clauses = clauses(params.needed("query")?).ok_or_else(wrong)?;
    let limit = limit(params)?;
    // A page's name is the id after which it begins.
    let end = params.text("page").map_or(Bound::Unbounded, Bound::Excluded);
    let earlier = book.intents.range::<str, _>((Bound::Unbounded, end)).rev().map(|(_, intent)| intent);
    let is_meant = |intent: &&Intent| {
        intent.visible_ms <= moment.at_ms && clauses.iter().all(|clause| clause.holds(intent))
    };
    let mut kept = earlier.filter(is_meant);
    let found: Vec<_> = kept.by_ref().take(limit).collect();
    let has_more = kept.next().is_some();
    let next_page = found.last().filter(|_| has_more).map(|intent| intent.id.clone());
    let data: Vec<_> = found.into_iter().map(|intent| shown(intent, call, moment)).collect();
    Ok(json!({
        "object": "search_result", "url": call.path, "has_more": has_more, "next_page": next_page,
        "data": data,
    }))
}

fn clauses(query: &str) -> Option<Vec<Clause>> {
    let mut rest = query.trim();
    let mut clauses = Vec::new();
    loop {
        let (clause, behind) = clause(rest)?;
        clauses.push(clause);
        let behind = behind.trim_start();
        if behind.is_empty() {
            return Some(clauses);
        }
        let (and, behind) = behind.split_at_checked(4)?;
        rest = and.eq_ignore_ascii_case("and ").then(|| behind.trim_start())?;
    }
}

fn clause(text: &str) -> Option<(Clause, &str)> {
    let name_ends = text.find([':', '['])?;
    let (name, rest) = text.split_at(name_ends);
    if name == "metadata" {
        let (key, rest) = quoted(rest.strip_prefix('[')?)?;
        let (value, rest) = quoted(rest.strip_prefix("]:")?)?;
        return Some((Clause::Metadata(key, value), rest));
    }
    let rest = rest.strip_prefix(':')?;
    if name == "amount" {
        let ends = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
        let (amount, rest) = rest.split_at(ends);
        return (!amount.is_empty()).then(|| (Clause::Amount(amount.to_owned()), rest));
    }
    let (value, rest) = quoted(rest)?;
    match name {
        "status" => Some((Clause::Status(value), rest)),
        "currency" => Some((Clause::Currency(value), rest)),
        _ => None,
    }
}

/// A text in single or double quotes, with `\` before a quote in it; and what is behind.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((index, char)) = chars.next() {
        match char {
            '\\' => value.push(chars.next()?.1),
            _ if char == quote => return Some((value, &text[index + 1..])),
            _ => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        let metadata = |key: &str, value: &str| Clause::Metadata(key.to_owned(), value.to_owned());
        assert_eq!(clauses("metadata['attempt_ref']:'a-1'"), Some(vec![metadata("attempt_ref", "a-1")]));
        assert_eq!(clauses(r#"metadata["k"]:"it's""#), Some(vec![metadata("k", "it's")]));
        assert_eq!(clauses(r"metadata['k']:'it\'s'"), Some(vec![metadata("k", "it's")]));
        let both = clauses("status:'succeeded' AND amount:500");
        assert_eq!(both, Some(vec![Clause::Status("succeeded".into()), Clause::Amount("500".into())]));
        let wrong = ["", "metadata", "metadata['k']", "metadata['k']:'v", "metadata[k]:'v'", "amount:", "é"];
        let more = ["status:'x' OR status:'y'", "customer:'x'", "status:'x' é", "status:'x' AND ", "'\\"];
        for wrong in wrong.into_iter().chain(more) {
            assert_eq!(clauses(wrong), None, "{wrong}");
        }
    }
}
