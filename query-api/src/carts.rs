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
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::QueryApi;
use crate::answer::{Answer, Asked, Missing, unavailable};

/// A cart.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cart<'a> {
    id: Uuid,
    /// open or checked_out
    status: &'static str,
    #[schema(value_type = Vec<Line>)]
    lines: &'a RawValue,
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
    fn new(quoted: &carts::Quoted, unlike: Option<&'static str>) -> Self {
        let carts::Quoted { quote_id, country, region, totals, expires_at } = quoted.clone();
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
    if let Some((known, log_position)) = known(&api, id, &asked) {
        return Ok(known.answer.at(api.clock.now(), log_position, &asked));
    }
    let model = api.fresh(carts::NAME, &asked).await?;
    let (cart, log_position) = carts::cart(&api.pool, &model, id.0).await.map_err(unavailable)?;
    let Some((cart, lines)) = cart else {
        let missing =
            Missing { code: "cart_not_found", detail: "there is no cart with this id", log_position };
        return Ok(missing.into_response());
    };
    let shown = Arc::new(Known::new(Shown::new(cart, lines), model.version, log_position));
    api.carts.put(&id.to_string(), shown.clone());
    Ok(shown.answer.at(api.clock.now(), log_position, &asked))
}

/// The cart as it is kept, if that is not older than what the database would say.
fn known(api: &QueryApi, id: CartId, asked: &Asked) -> Option<(Arc<Known<Shown>>, u64)> {
    let model = api.read_models.seen(carts::NAME)?;
    api.carts.get(&id.to_string(), model.version, asked.min_log_position().max(model.position.0))
}

/// What is shown of a cart at any time, as it is kept.
#[derive(Debug)]
pub(crate) struct Shown {
    cart: carts::Cart,
    lines: Box<RawValue>,
    lines_hash: Hash,
    total: Option<MoneyBody>,
    is_for_sale: bool,
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
        self.lines.get().len() + size_of::<Self>()
    }
}

impl Shown {
    fn new(cart: carts::Cart, lines: Vec<carts::Line>) -> Self {
        let totals: Option<Vec<Money>> = lines.iter().map(line_total).collect();
        let total = totals.and_then(|totals| {
            let (first, rest) = totals.split_first()?;
            rest.iter().try_fold(*first, |sum, total| sum.plus(*total)).ok()
        });
        let is_for_sale = lines.iter().all(|line| line.for_sale);
        let lines: Vec<Line> = lines.into_iter().map(Line::from).collect();
        let lines = serde_json::value::to_raw_value(&lines)
            .unwrap_or_else(|error| unreachable!("plain data: {error}"));
        let lines_hash = Hash::of(lines.get().as_bytes());
        Self { cart, lines, lines_hash, total: total.map(MoneyBody::from), is_for_sale }
    }

    fn at(&self, now: DateTime<Utc>, log_position: u64, asked: &Asked) -> Response {
        let carts::Cart { id, order_id, version, quote, .. } = &self.cart;
        let unlike = self.unlike_quote(now);
        let body = Cart {
            id: *id,
            status: if order_id.is_some() { "checked_out" } else { "open" },
            lines: &self.lines,
            total: self.total,
            order_id: *order_id,
            quote: quote.as_ref().map(|quote| Quote::new(quote, unlike)),
        };
        // The cart's own version, which If-Match compares, and what else changes what is shown: titles and
        // prices, and time.
        let (lines, quote) = (self.lines_hash.to_string(), unlike.unwrap_or("holds"));
        let version = format!("{version}-{}-{quote}", &lines[..16]);
        Answer::private(body, log_position, asked).etag(version, asked).into_response()
    }

    /// Why the quote, if there is one, does not hold.
    fn unlike_quote(&self, now: DateTime<Utc>) -> Option<&'static str> {
        let quote = self.cart.quote.as_ref()?;
        match () {
            () if self.cart.lines_changed => Some(Changed::Lines.code()),
            () if now >= quote.expires_at => Some(Changed::QuoteExpired.code()),
            () if !self.is_for_sale => Some("not_for_sale"),
            () => None,
        }
    }
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
