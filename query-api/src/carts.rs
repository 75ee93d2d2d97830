//! One cart, at the prices of the moment.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::cart::Changed;
use domain::commit::Hash;
use domain::{CartId, Money, cart, product};
use infra::feed::Entry;
use infra::http::{MoneyBody, Path, Problem, TotalsBody};
use infra::known::{Change, Keep, Known};
use projections::carts;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::QueryApi;
use crate::answer::{Asked, Missing, unavailable};
use crate::representation::Representation;

/// A cart.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cart {
    id: Uuid,
    /// open or checked_out
    status: &'static str,
    lines: Vec<Line>,
    /// Null while it's empty, or while its lines can't be added up.
    total: Option<MoneyBody>,
    /// While it's checked out.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<Uuid>,
    /// The last one; null if there never was one.
    quote: Option<Quote>,
}

/// What the cart was quoted, and whether that holds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CartQuote)]
pub(crate) struct Quote {
    quote_id: Uuid,
    expires_at: DateTime<Utc>,
    /// Where it goes.
    #[schema(example = "GB")]
    country: String,
    /// The region, if it has a tax of its own.
    region: Option<String>,
    totals: TotalsBody,
    /// Whether a checkout with it is charged just that.
    holds: bool,
    /// Why it does not hold: `quote_expired`, `lines_changed`, or `not_for_sale` of a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Quote {
    fn new(quoted: carts::Quoted, unlike: Option<&'static str>) -> Self {
        let carts::Quoted { quote_id, country, region, totals, expires_at } = quoted;
        let totals = totals.into();
        Self {
            quote_id: quote_id.0,
            expires_at,
            country,
            region,
            totals,
            holds: unlike.is_none(),
            reason: unlike,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CartLine)]
pub(crate) struct Line {
    sku: String,
    title: String,
    quantity: i32,
    unit_price: MoneyBody,
    total: Option<MoneyBody>,
    /// False once the product has been withdrawn.
    for_sale: bool,
}

/// Get a cart
#[utoipa::path(get, path = "/v1/carts/{id}", tag = "carts",
    params(("id" = Uuid, Path), ("Min-Log-Position" = Option<u64>, Header), ("Prefer" = Option<String>, Header)),
    responses(
        (status = 200, description = "At the prices of the moment, with its last quote", body = Cart,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 404, description = "`cart_not_found`, `not_found`", body = Problem),
        (status = 503, description = "`not_yet_projected`, `read_models_unavailable`", body = Problem),
    ))]
pub(crate) async fn get(
    State(api): State<Arc<QueryApi>>,
    Path(id): Path<CartId>,
    asked: Asked,
) -> Result<Response, Problem> {
    if let Some(answer) = known(&api, id, &asked) {
        return Ok(answer);
    }
    let model = api.fresh(carts::NAME, &asked).await?;
    let (cart, log_position) = carts::cart(&api.pool, &model, id.0).await.map_err(unavailable)?;
    let Some((cart, lines)) = cart else {
        let missing =
            Missing { code: "cart_not_found", detail: "there is no cart with this id", log_position };
        return Ok(missing.into_response());
    };
    let shown = Shown::new(cart, lines, api.clock.now());
    let answer = shown.cart.private(log_position, &asked);
    api.carts.put(&id.to_string(), Known::new(shown, model.version, log_position));
    Ok(answer)
}

/// The cart as it is kept, if that is not older than what the database would say, and true now.
fn known(api: &QueryApi, id: CartId, asked: &Asked) -> Option<Response> {
    let model = api.read_models.seen(carts::NAME)?;
    let least = asked.min_log_position().max(model.position.0);
    let (known, log_position) = api.carts.get(&id.to_string(), model.version, least)?;
    let Shown { cart, .. } = &known.answer;
    known.answer.is_true_at(api.clock.now()).then(|| cart.private(log_position, asked))
}

/// What is shown of a cart, as it is kept.
#[derive(Debug)]
pub(crate) struct Shown {
    cart: Representation,
    /// From when on time alone shows something else: when its quote expires.
    until: Option<DateTime<Utc>>,
}

impl Keep for Shown {
    fn change(commit: &Entry) -> Change<'_> {
        match commit.stream() {
            Some(stream) if stream.category() == cart::CATEGORY => Change::Of(stream.id()),
            // Its title, its price: of whichever carts it is in.
            Some(stream) if stream.category() == product::CATEGORY => Change::OfAll,
            _ => Change::Nothing,
        }
    }

    fn bytes(&self) -> usize {
        self.cart.bytes() + size_of::<Self>()
    }
}

impl Shown {
    fn new(cart: carts::Cart, lines: Vec<carts::Line>, now: DateTime<Utc>) -> Self {
        let is_for_sale = lines.iter().all(|line| line.for_sale);
        let unlike = unlike_quote(&cart, is_for_sale, now);
        let until = cart.quote.as_ref().map(|quote| quote.expires_at).filter(|expires_at| now < *expires_at);
        let carts::Cart { id, order_id, version, quote, .. } = cart;
        let body = Cart {
            id,
            status: if order_id.is_some() { "checked_out" } else { "open" },
            total: total(&lines).map(MoneyBody::from),
            lines: lines.into_iter().map(Line::from).collect(),
            order_id,
            quote: quote.map(|quote| Quote::new(quote.0, unlike)),
        };
        // The cart's own version, which If-Match compares, and what else changes what is shown: titles and
        // prices, and time.
        let version = |json: &[u8]| format!("{version}-{}", &Hash::of(json).to_string()[..16]);
        Self { cart: Representation::new(&body, version), until }
    }

    fn is_true_at(&self, now: DateTime<Utc>) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Why the quote, if there is one, does not hold.
fn unlike_quote(cart: &carts::Cart, is_for_sale: bool, now: DateTime<Utc>) -> Option<&'static str> {
    let quote = cart.quote.as_ref()?;
    match () {
        () if cart.lines_changed => Some(Changed::Lines.code()),
        () if now >= quote.expires_at => Some(Changed::QuoteExpired.code()),
        () if !is_for_sale => Some("not_for_sale"),
        () => None,
    }
}

/// Of all lines, as far as they can be added up.
fn total(lines: &[carts::Line]) -> Option<Money> {
    let totals: Option<Vec<Money>> = lines.iter().map(line_total).collect();
    let totals = totals?;
    let (first, rest) = totals.split_first()?;
    rest.iter().try_fold(*first, |sum, total| sum.plus(*total)).ok()
}

fn line_total(line: &carts::Line) -> Option<Money> {
    line.price.times(line.quantity.cast_unsigned()).ok()
}

impl From<carts::Line> for Line {
    fn from(line: carts::Line) -> Self {
        let total = line_total(&line).map(MoneyBody::from);
        let carts::Line { sku, quantity, title, price, for_sale } = line;
        Self { sku, title, quantity, unit_price: price.0.into(), total, for_sale }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;
    use sqlx::types::Json;

    use super::*;

    /// Nothing in the log says that a quote expires: who keeps a cart has to look at the clock.
    #[test]
    fn a_kept_cart_is_true_until_its_quote_expires() {
        let (now, expires_in) = (DateTime::UNIX_EPOCH, TimeDelta::seconds(10));
        let gbp = json!({"amount": 1250, "currency": "GBP"});
        let totals = json!({"subtotal": gbp, "shipping": {"method": "post", "name": "Post", "price": gbp}, "total": gbp});
        let quote = carts::Quoted {
            quote_id: domain::QuoteId(Uuid::nil()),
            country: "GB".to_owned(),
            region: None,
            totals: serde_json::from_value(totals).unwrap(),
            expires_at: now + expires_in,
        };
        let (id, quote) = (Uuid::nil(), Some(Json(quote)));
        let cart = carts::Cart { id, order_id: None, version: 1, quote, lines_changed: false };

        let kept = Shown::new(cart.clone(), Vec::new(), now);
        assert!(kept.is_true_at(now + expires_in - TimeDelta::milliseconds(1)));
        assert!(!kept.is_true_at(now + expires_in));
        let expired = Shown::new(cart, Vec::new(), now + expires_in);
        assert!(expired.is_true_at(DateTime::<Utc>::MAX_UTC), "time changes nothing more");
    }
}
