//! What a shopper types, and what is found for it.

use domain::Money;
use domain::product::Details;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};

use super::NAME;
use crate::catalog::snapshot;

/// Values of a facet that are counted.
const FACET_VALUES_MAX: i64 = 50;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// As typed; empty for everything.
    pub text: String,
    pub brand: Option<String>,
    /// `Audio>Headphones`, or `Audio` with all below it.
    pub category: Option<String>,
    /// In minor units.
    pub min_price: Option<i64>,
    pub max_price: Option<i64>,
    /// Only what comes after this one.
    pub after: Option<Place>,
    pub limit: i64,
}

/// A place in the order of hits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    pub rank: f64,
    pub sku: String,
    /// The text that was found, after corrections: the pages of one search must not change it.
    pub text: String,
    /// Any of the words was enough.
    pub any: bool,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    pub hits: Vec<Hit>,
    pub total: i64,
    pub brands: Vec<Facet>,
    pub categories: Vec<Facet>,
    /// What was searched for instead of what was typed.
    pub corrected: Option<String>,
    /// Where the next page begins, if there is one.
    pub next: Option<Place>,
    /// The position in the log that this is true at.
    pub log_position: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Hit {
    pub sku: String,
    pub rank: f64,
    pub details: Details,
    pub price: Money,
    pub available: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facet {
    pub value: String,
    pub count: i64,
}

/// Hits, facets and total of one moment.
#[derive(FromRow)]
struct Page {
    hits: Json<Vec<Hit>>,
    total: i64,
    brands: Json<Vec<Facet>>,
    categories: Json<Vec<Facet>>,
}

/// Searches: for all the words as typed, then with the typing errors mended, then for any of them.
///
/// # Errors
/// Postgres does not answer.
pub async fn search(pool: &PgPool, filter: &Filter) -> Result<Found, sqlx::Error> {
    let mut snapshot = snapshot(pool).await?;
    let typed = words(&filter.text);
    let (text, any) = match &filter.after {
        Some(place) => (place.text.clone(), place.any),
        None => understand(&typed, &mut snapshot).await?,
    };
    let query = tsquery(&text, any, &mut snapshot).await?;
    let mut page = page(filter, query.as_deref(), &mut snapshot).await?;
    let log_position = infra::checkpoint::read(&mut snapshot, NAME).await?;
    let more = page.hits.len() as i64 > filter.limit;
    page.hits.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
    let next = page.hits.last().filter(|_| more).map(|last| Place {
        rank: last.rank,
        sku: last.sku.clone(),
        text: text.clone(),
        any,
    });
    let corrected = (text != typed.join(" ")).then_some(text);
    let Page { hits: Json(hits), total, brands: Json(brands), categories: Json(categories) } = page;
    Ok(Found { hits, total, brands, categories, corrected, next, log_position })
}

/// Lower-case words; everything else than letters and digits separates them.
fn words(text: &str) -> Vec<String> {
    let separates = |c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-'));
    let words = text.split(separates).map(|word| word.trim_matches(['.', '_', '-']).to_lowercase());
    words.filter(|word| !word.is_empty()).take(32).collect()
}

/// The words to search for, and whether any of them is enough.
async fn understand(typed: &[String], connection: &mut PgConnection) -> Result<(String, bool), sqlx::Error> {
    let all = typed.join(" ");
    if typed.is_empty() || found(&all, connection).await? {
        return Ok((all, false));
    }
    let mut mended = Vec::with_capacity(typed.len());
    for word in typed {
        mended.push(match found(word, connection).await? {
            true => word.clone(),
            false => nearest(word, connection).await?.unwrap_or_else(|| word.clone()),
        });
    }
    let mended = mended.join(" ");
    let any = typed.len() > 1 && !found(&mended, connection).await?;
    Ok((mended, any))
}

/// Whether any product has all these words.
async fn found(text: &str, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from search.documents where for_sale and words @@ plainto_tsquery('english', $1))",
    )
    .bind(text)
    .fetch_one(connection)
    .await
}

/// The known word with the fewest changes; of several, the most frequent.
async fn nearest(word: &str, connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    if word.contains(|c: char| c.is_ascii_digit()) {
        // A code that nothing has is no typing error of another one.
        return Ok(None);
    }
    let length = i32::try_from(word.chars().count()).unwrap_or(i32::MAX);
    // Two letters that changed places count as two changes.
    let changes = match length {
        ..=3 => return Ok(None),
        4 => 1,
        _ => 2,
    };
    sqlx::query_scalar(
        "select word from (
             select word, documents, public.levenshtein_less_equal(word, $1, $2) as changes
             from search.words where length(word) between $3 - 2 and $3 + 2 and documents > 0
         ) as near
         where changes <= $2
         order by changes, left(word, 1) = left($1, 1) desc, documents desc, word limit 1",
    )
    .bind(word)
    .bind(changes)
    .bind(length)
    .fetch_optional(connection)
    .await
}

/// The words as stems, in Postgres's own language; `None` for everything.
async fn tsquery(
    text: &str,
    any: bool,
    connection: &mut PgConnection,
) -> Result<Option<String>, sqlx::Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let all: String = sqlx::query_scalar("select plainto_tsquery('english', $1)::text")
        .bind(text)
        .fetch_one(connection)
        .await?;
    Ok(Some(if any { all.replace("' & '", "' | '") } else { all }))
}

async fn page(
    filter: &Filter,
    query: Option<&str>,
    connection: &mut PgConnection,
) -> Result<Page, sqlx::Error> {
    let after = filter.after.as_ref();
    sqlx::query_as(PAGE)
        .bind(query)
        .bind(&filter.brand)
        .bind(&filter.category)
        .bind(filter.min_price)
        .bind(filter.max_price)
        .bind(after.map(|place| place.rank))
        .bind(after.map(|place| &place.sku))
        .bind(filter.limit + 1)
        .bind(FACET_VALUES_MAX)
        .fetch_one(connection)
        .await
}

/// Each facet is counted without its own filter, so that a shopper sees what else there is.
const PAGE: &str = "
    with hits as materialized (
        select sku, brand, category, (price ->> 'amount')::bigint as amount,
               case when $1::tsquery is null then 0
                    else ts_rank('{0.05, 0.15, 0.4, 1.0}', words, $1::tsquery, 1)::float8 end as rank
        from search.documents
        where for_sale and ($1::tsquery is null or words @@ $1::tsquery)
    ), flagged as materialized (
        select *, ($2::text is null or brand = $2) as of_brand,
               ($3::text is null or category = $3 or (category >= $3 || '>' and category < $3 || '?')) as of_category
        from hits where ($4::bigint is null or amount >= $4) and ($5::bigint is null or amount <= $5)
    ), place as (
        select sku, rank from flagged
        where of_brand and of_category
          and ($6::float8 is null or rank < $6 or (rank = $6 and sku > $7::text collate \"C\"))
        order by rank desc, sku limit $8
    )
    select
        (select count(*) from flagged where of_brand and of_category) as total,
        coalesce((select jsonb_agg(jsonb_build_object('value', brand, 'count', n) order by n desc, brand)
            from (select brand, count(*) as n from flagged where of_category
                  group by brand order by n desc, brand limit $9) as counted), '[]') as brands,
        coalesce((select jsonb_agg(jsonb_build_object('value', category, 'count', n) order by n desc, category)
            from (select category, count(*) as n from flagged where of_brand
                  group by category order by n desc, category limit $9) as counted), '[]') as categories,
        coalesce((select jsonb_agg(jsonb_build_object('sku', sku, 'rank', rank, 'details', details, 'price', price,
                'available', coalesce(on_hand - held, 0)) order by rank desc, sku)
            from place join search.documents using (sku) left join search.availability using (sku)), '[]') as hits";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_is_between_the_rest() {
        assert_eq!(words("  Café-au-lait, 12.5\" & (USB_C)! "), ["café-au-lait", "12.5", "usb_c"]);
        assert!(words("\0 :*|&!'\\").is_empty());
    }
}
