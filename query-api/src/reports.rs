//! Reports, for analysts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{Months, NaiveDate};
use infra::http::{Problem, Query};
use projections::sales::{self, By, Filter, ReportLine};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::QueryApi;
use crate::answer::{Answer, Asked, cursor, invalid_cursor, place, unavailable};

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SalesQuery {
    /// What there is a line for: day, month, country or product.
    by: String,
    /// First day that counts, such as 2011-01-31, or a whole month, such as 2011-01 (UTC).
    from: Option<String>,
    /// Last day that counts, in the same forms.
    to: Option<String>,
    /// 1 to 1000; 100 without.
    limit: Option<i64>,
    /// `next` of the page before.
    after: Option<String>,
}

/// Sales of one day, month, country or product, in one currency. Amounts are in its minor units.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SalesLine {
    /// YYYY-MM-DD, YYYY-MM, a SKU, or a country: ISO 3166-1 alpha-2, or exactly as it was imported.
    #[schema(example = "2011-01")]
    key: String,
    #[schema(example = "GBP")]
    currency: String,
    /// Orders that were confirmed; of a product, those with it.
    orders: i64,
    /// Units that were sold.
    units: i64,
    /// What they cost: the sum of the lines, with the tax that is in their prices.
    gross: i64,
    /// What was paid for shipping; 0 by product, and of imported orders, where it is among the lines.
    shipping: i64,
    /// Tax that came on top of the prices; 0 by product, and where prices have it in them.
    tax: i64,
    /// What was given back, when it was. By product, it is what the goods that came back had cost.
    refunded: i64,
    /// Gross, shipping and tax, without what was given back.
    net: i64,
}

/// A page of a report.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SalesReport {
    /// In the order of their keys.
    data: Vec<SalesLine>,
    /// To be given as `after` for the next page; null on the last.
    next: Option<String>,
}

/// Sales by day, month, country or product
///
/// An order counts on the day on which it was confirmed, an imported one on the day on which it was placed; what is
/// cancelled or given back counts on the day on which that happened. Days are UTC's, countries those that it is
/// shipped to. By product, only what belongs to the goods is counted: no shipping, no tax that comes on top, and
/// no money that was given back without goods.
#[utoipa::path(get, path = "/v1/reports/sales", tag = "reports",
    params(SalesQuery, ("Min-Log-Position" = Option<u64>, Header), ("Prefer" = Option<String>, Header)),
    responses(
        (status = 200, description = "What was sold, and what was given back", body = SalesReport,
            headers(("Log-Position" = u64))),
        (status = 400, description = "`invalid_parameter`, `invalid_cursor`", body = Problem),
        (status = 503, description = "`not_yet_projected`, `read_models_unavailable`", body = Problem),
    ))]
pub(crate) async fn sales(
    State(api): State<Arc<QueryApi>>,
    asked: Asked,
    Query(query): Query<SalesQuery>,
) -> Result<Response, Problem> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_parameter(format!("limit is 1 to {LIMIT_MAX}")));
    }
    let filter = Filter {
        by: by(&query.by)?,
        from: query.from.as_deref().map(|from| Ok(days("from", from)?.0)).transpose()?,
        to: query.to.as_deref().map(|to| Ok(days("to", to)?.1)).transpose()?,
        after: after(query.after.as_deref())?,
        limit: limit + 1,
    };
    let model = api.fresh(sales::NAME, &asked).await?;
    let (mut lines, position) = sales::report(&api.pool, &model, &filter).await.map_err(unavailable)?;
    let more = lines.len() as i64 > limit;
    lines.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = lines.last().filter(|_| more).map(|last| cursor(&(&last.key, &last.currency)));
    let data = lines.into_iter().map(SalesLine::from).collect();
    Ok(Answer::private(Json(SalesReport { data, next }), position, &asked).into_response())
}

/// Nothing has U+0000, and Postgres takes none.
fn after(cursor: Option<&str>) -> Result<Option<(String, String)>, Problem> {
    let after: Option<(String, String)> = place(cursor)?;
    match &after {
        Some((key, currency)) if key.contains('\0') || currency.contains('\0') => Err(invalid_cursor()),
        _ => Ok(after),
    }
}

fn by(text: &str) -> Result<By, Problem> {
    match text {
        "day" => Ok(By::Day),
        "month" => Ok(By::Month),
        "country" => Ok(By::Country),
        "product" => Ok(By::Product),
        _ => Err(Problem::bad_parameter("by is day, month, country or product")),
    }
}

/// First and last of the days that are meant.
fn days(name: &str, text: &str) -> Result<(NaiveDate, NaiveDate), Problem> {
    let day = |text: &str| text.parse::<NaiveDate>().ok().filter(|day| (0..=9999).contains(&year(*day)));
    if let Some(day) = day(text) {
        return Ok((day, day));
    }
    let month =
        day(&format!("{text}-01")).and_then(|first| Some((first, first.checked_add_months(Months::new(1))?)));
    let month = month.and_then(|(first, next)| Some((first, next.pred_opt()?)));
    month.ok_or_else(|| {
        Problem::bad_parameter(format!("{name} is a day such as 2011-01-31, or a month such as 2011-01"))
    })
}

fn year(day: NaiveDate) -> i32 {
    chrono::Datelike::year(&day)
}

impl From<ReportLine> for SalesLine {
    fn from(line: ReportLine) -> Self {
        let ReportLine { key, currency, orders, units, gross, shipping, tax, refunded } = line;
        let net = gross.saturating_add(shipping).saturating_add(tax).saturating_sub(refunded);
        Self { key, currency, orders, units, gross, shipping, tax, refunded, net }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_all_of_its_days() {
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        assert_eq!(days("to", "2012-02").unwrap(), (date("2012-02-01"), date("2012-02-29")));
        assert_eq!(days("from", "2011-12-31").unwrap(), (date("2011-12-31"), date("2011-12-31")));
        for hostile in ["", "2011", "2011-13", "2011-02-30", "x", "\0", "+262142-12", "99999-01-01"] {
            assert_eq!(days("to", hostile).unwrap_err().code(), "invalid_parameter", "{hostile:?}");
        }
    }
}
