//! What a shopper types, and what is found for it.
//!
//! | typed                                | looked for                                      |
//! |--------------------------------------|-------------------------------------------------|
//! | words that occur together            | all of them                                     |
//! | a last word that occurs nowhere      | words that begin with it                        |
//! | another word that occurs nowhere     | the known word that is nearest to it            |
//! | words that don't occur together      | any of them                                     |
//! | nothing, or only words like `the`    | everything                                      |

use domain::product::Details;
use domain::{Money, Sku};
use infra::read_models::{ReadModel, Snapshot};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};

use super::words::{nearest, plain};

/// Values of a facet that are counted.
const FACET_VALUES_MAX: i64 = 50;

/// Words of a query that are looked for.
const WORDS_MAX: usize = 32;

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
    rank: i64,
    sku: Sku,
    /// All pages of a search look for the same, whatever became known in between.
    terms: Vec<Term>,
    any: bool,
}

/// One word of a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Term {
    word: Word,
    /// Whatever begins with the word is meant.
    prefix: bool,
    /// How much it tells: less, the more products have it.
    weight: f64,
}

/// What was typed between two spaces: letters and digits in lower case, with a space for whatever
/// else was between them. `KET-01` is one word of two parts, and both have to be found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct Word(String);

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
    pub sku: Sku,
    rank: i64,
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
    log_position: i64,
}

/// A term as Postgres looks for it, and in how many documents it is.
#[derive(Debug, FromRow)]
struct Known {
    /// Empty for words like `the`, which are in all texts and so in no index.
    query: String,
    documents: i64,
}

/// What is looked for, in Postgres's language.
#[derive(Debug)]
struct Queries {
    /// `None` for everything.
    whole: Option<String>,
    terms: Vec<String>,
    weights: Vec<f64>,
}

/// Searches, and says what for.
///
/// # Errors
/// Postgres does not answer.
pub async fn search(pool: &PgPool, model: &ReadModel, filter: &Filter) -> Result<Found, sqlx::Error> {
    let mut snapshot = model.snapshot(pool).await?;
    let typed = words(&filter.text);
    let (terms, any, known) = match &filter.after {
        Some(place) => {
            let sound = |term: &Term| Term { weight: term.weight.clamp(0.0, 1.0), ..term.clone() };
            let terms: Vec<Term> = place.terms.iter().take(WORDS_MAX).map(sound).collect();
            let known = look_up(&terms, &mut snapshot).await?;
            (terms, place.any, known)
        }
        None => understand(&typed, &mut snapshot).await?,
    };
    let queries = Queries::new(&terms, &known, any);
    let searched = joined(terms.iter().map(|term| &term.word));
    let Page {
        hits: Json(mut hits),
        total,
        brands: Json(brands),
        categories: Json(categories),
        log_position,
    } = page(filter, &queries, &searched, &mut snapshot).await?;
    let page_length = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    let more = hits.len() > page_length;
    hits.truncate(page_length);
    let corrected = (searched != joined(&typed)).then_some(searched);
    let next = hits.last().filter(|_| more);
    let next = next.map(|Hit { rank, sku, .. }| Place { rank: *rank, sku: sku.clone(), terms, any });
    Ok(Found { hits, total, brands, categories, corrected, next, log_position: log_position.cast_unsigned() })
}

/// The different words, in the order in which they were typed.
fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    for typed in text.split_whitespace() {
        let word = plain(typed, usize::MAX).split_whitespace().collect::<Vec<_>>().join(" ");
        if !word.is_empty() && words.len() < WORDS_MAX && !words.iter().any(|Word(known)| *known == word) {
            words.push(Word(word));
        }
    }
    words
}

fn joined<'a>(words: impl IntoIterator<Item = &'a Word>) -> String {
    words.into_iter().map(|Word(word)| word.as_str()).collect::<Vec<_>>().join(" ")
}

/// The terms to look for, and whether any of them is enough.
async fn understand(
    typed: &[Word],
    snapshot: &mut Snapshot,
) -> Result<(Vec<Term>, bool, Vec<Known>), sqlx::Error> {
    let term = |word: &Word| Term { word: word.clone(), prefix: false, weight: 0.0 };
    let mut terms: Vec<Term> = typed.iter().map(term).collect();
    let mut known = look_up(&terms, snapshot).await?;
    for index in 0..terms.len() {
        let last = index + 1 == terms.len();
        if known[index].is_unknown()
            && let Some(meant) = mend(&terms[index], last, snapshot).await?
        {
            (terms[index], known[index]) = meant;
        }
    }
    for (term, known) in terms.iter_mut().zip(&known) {
        #[expect(clippy::cast_precision_loss, reason = "a count of products is far below 2^52")]
        let documents = known.documents as f64;
        term.weight = 1.0 / (1.0 + documents.ln_1p());
    }
    let any = match Queries::new(&terms, &known, false).whole {
        Some(all) if terms.len() > 1 => !is_found(&all, snapshot).await?,
        _ => false,
    };
    Ok((terms, any, known))
}

/// What was probably meant by a word that occurs nowhere.
async fn mend(
    term: &Term,
    last: bool,
    snapshot: &mut Snapshot,
) -> Result<Option<(Term, Known)>, sqlx::Error> {
    let mut guesses = Vec::with_capacity(2);
    if last {
        guesses.push(Term { prefix: true, ..term.clone() });
    }
    if let Some(word) = nearest(&term.word.0, snapshot).await? {
        guesses.push(Term { word: Word(word), ..term.clone() });
    }
    let known = look_up(&guesses, snapshot).await?;
    Ok(guesses.into_iter().zip(known).find(|(_, known)| known.documents > 0))
}

async fn look_up(terms: &[Term], snapshot: &mut Snapshot) -> Result<Vec<Known>, sqlx::Error> {
    if terms.is_empty() {
        return Ok(Vec::new());
    }
    let (words, prefixes): (Vec<&str>, Vec<bool>) =
        terms.iter().map(|Term { word, prefix, .. }| (word.0.as_str(), *prefix)).unzip();
    // Beyond some thousand documents, how many more there are tells nothing.
    sqlx::query_as(snapshot.sql(
        "select query::text, (select count(*) from (
                    select from {schema}.documents where words @@ query limit 3000) as counted) as documents
         from unnest($1::text[], $2::bool[]) with ordinality as term (word, prefix, place),
              lateral (select case when prefix then to_tsquery('simple', quote_literal(word) || ':*')
                                   else plainto_tsquery('english', word) end as query) as term_query
         order by place",
    ))
    .bind(words)
    .bind(prefixes)
    .fetch_all(snapshot.connection())
    .await
}

/// Whether any product is found for the query.
async fn is_found(query: &str, snapshot: &mut Snapshot) -> Result<bool, sqlx::Error> {
    let exists = "select exists (select from {schema}.documents where words @@ $1::tsquery)";
    sqlx::query_scalar(snapshot.sql(exists)).bind(query).fetch_one(snapshot.connection()).await
}

impl Known {
    fn is_unknown(&self) -> bool {
        self.documents == 0 && !self.query.is_empty()
    }
}

impl Queries {
    fn new(terms: &[Term], known: &[Known], any: bool) -> Self {
        let told = || terms.iter().zip(known).filter(|(_, known)| !known.query.is_empty());
        let terms: Vec<String> = told().map(|(_, known)| known.query.clone()).collect();
        let weights = told().map(|(term, _)| term.weight).collect();
        let parts: Vec<String> = terms.iter().map(|query| format!("({query})")).collect();
        let whole = (!parts.is_empty()).then(|| parts.join(if any { " | " } else { " & " }));
        Self { whole, terms, weights }
    }
}

impl TryFrom<String> for Word {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let parts = plain(&text, usize::MAX);
        let same = !text.is_empty() && parts.split_whitespace().eq(text.split(' '));
        if same { Ok(Self(text)) } else { Err("not a word as a query has it") }
    }
}

async fn page(
    filter: &Filter,
    queries: &Queries,
    phrase: &str,
    snapshot: &mut Snapshot,
) -> Result<Page, sqlx::Error> {
    let after = filter.after.as_ref();
    let code = filter.text.trim().replace('\0', " ").to_lowercase();
    sqlx::query_as(snapshot.sql(PAGE))
        .bind(&queries.whole)
        .bind(&filter.brand)
        .bind(&filter.category)
        .bind(filter.min_price)
        .bind(filter.max_price)
        .bind(after.map(|place| place.rank))
        .bind(after.map(|place| place.sku.as_str()))
        .bind(filter.limit.saturating_add(1))
        .bind(FACET_VALUES_MAX)
        .bind(&queries.terms)
        .bind(&queries.weights)
        .bind(phrase)
        .bind(code)
        .bind(snapshot.schema())
        .fetch_one(snapshot.connection())
        .await
}

/// Ranks as BM25 does (Robertson and Zaragoza 2009): a term counts the more the rarer it is, counts
/// less the second time, and counts more in a short title. Where it stands matters most; the four
/// weights are those of description, attributes, brand and category, and title. Words in the order
/// of the query are a little better; a code that is given whole is what was meant. The rank is a
/// whole number, because pages go on from it exactly.
///
/// Each facet is counted without its own filter, so that a shopper sees what else there is.
const PAGE: &str = "
    with terms as materialized (
        select query::tsquery, weight from unnest($10::text[], $11::float8[]) as term (query, weight)
    ), hits as materialized (
        select sku, brand, category, amount,
               case when $1::tsquery is null then 0 else (1e6 * (
                   (select sum(weight * score / (0.5 + score)) from terms, lateral (
                       select ts_rank('{0.2, 0.05, 0.3, 1.0}', words, query) / (0.5 + title_words / 20.0) as score
                   ) as scores)
                   * case when words @@ phraseto_tsquery('english', $12) then 1.05 else 1 end
                   + case when lower(sku) = $13 then 100 else 0 end
               ))::bigint end as rank
        from {schema}.documents
        where $1::tsquery is null or words @@ $1::tsquery
    ), flagged as materialized (
        select *, ($2::text is null or brand = $2) as of_brand,
               ($3::text is null or category = $3 or (category >= $3 || '>' and category < $3 || '?')) as of_category
        from hits where ($4::bigint is null or amount >= $4) and ($5::bigint is null or amount <= $5)
    ), place as (
        select sku, rank from flagged
        where of_brand and of_category
          and ($6::bigint is null or rank < $6 or (rank = $6 and sku > $7::text))
        order by rank desc, sku limit $8
    )
    select
        (select coalesce(min(position), 0) from cartulary.lanes where reader = $14) as log_position,
        (select count(*) from flagged where of_brand and of_category) as total,
        coalesce((select jsonb_agg(jsonb_build_object('value', brand, 'count', n) order by n desc, brand)
            from (select brand, count(*) as n from flagged where of_category
                  group by brand order by n desc, brand limit $9) as counted), '[]') as brands,
        coalesce((select jsonb_agg(jsonb_build_object('value', category, 'count', n) order by n desc, category)
            from (select category, count(*) as n from flagged where of_brand
                  group by category order by n desc, category limit $9) as counted), '[]') as categories,
        coalesce((select jsonb_agg(jsonb_build_object('sku', sku, 'rank', rank, 'details', details, 'price', price,
                'available', coalesce(on_hand - held, 0)) order by rank desc, sku)
            from place join {schema}.products using (sku) left join {schema}.availability using (sku)), '[]') as hits";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_is_between_the_rest() {
        let typed = words("  Café-au-lait, 12.5\" & (USB_C)! usb");
        assert_eq!(typed, ["café au lait", "12.5", "usb c", "usb"].map(|word| Word(word.to_owned())));
        assert!(words("\0 :*|&!'\\").is_empty());
    }

    #[test]
    fn no_cursor_brings_anything_but_words() {
        let term = |word: &str| serde_json::json!({"word": word, "prefix": false, "weight": 0.5});
        assert!(serde_json::from_value::<Term>(term("usb")).is_ok());
        assert!(serde_json::from_value::<Term>(term("ket 01")).is_ok());
        for hostile in ["", " ", "two  spaces", "a & b", "'", "\0", "Upper", "a:*"] {
            assert!(serde_json::from_value::<Term>(term(hostile)).is_err(), "{hostile}");
        }
    }
}
