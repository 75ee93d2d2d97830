//! The catalogue: one product, many, and the tree of categories.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domain::product::Details;
use domain::{Sku, product, stock};
use infra::feed::Entry;
use infra::http::{MoneyBody, Path, Problem, Query};
use infra::known::{Change, Keep, Known};
use projections::catalog;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::QueryApi;
use crate::answer::{Answer, Asked, Missing, cursor, limit, place, text, unavailable};
use crate::representation::Representation;

/// A product as it can be bought.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Product {
    sku: String,
    title: String,
    description: String,
    brand: String,
    /// Path from the widest to the narrowest.
    category: Vec<String>,
    price: MoneyBody,
    attributes: BTreeMap<String, String>,
    images: Vec<String>,
    gtins: Vec<String>,
    /// Units that can be ordered now.
    available: i64,
}

impl Product {
    pub fn new(sku: String, details: Details, price: domain::Money, available: i64) -> Self {
        let Details { title, description, brand, category, attributes, images, gtins } = details;
        let (price, available) = (price.into(), available.max(0));
        Self { sku, title, description, brand, category, price, attributes, images, gtins, available }
    }
}

impl From<catalog::Product> for Product {
    fn from(product: catalog::Product) -> Self {
        Self::new(product.sku, product.details.0, product.price.0, product.available)
    }
}

/// What is shown of a product, as it is kept.
#[derive(Debug)]
pub(crate) struct Shown(Representation);

impl Keep for Shown {
    fn change(commit: &Entry) -> Change<'_> {
        match commit.stream() {
            Some(stream) if [product::CATEGORY, stock::CATEGORY].contains(&stream.category()) => {
                Change::Of(stream.id())
            }
            _ => Change::Nothing,
        }
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// A page of products.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Products {
    data: Vec<Product>,
    /// To be given as `after` for the next page; null on the last.
    next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Path from the widest on, such as `Audio` or `Audio>Headphones`.
    category: Option<String>,
    brand: Option<String>,
    /// 1 to 100; 20 without.
    limit: Option<i64>,
    /// `next` of the page before.
    after: Option<String>,
}

/// List products
#[utoipa::path(get, path = "/v1/products", tag = "products",
    params(ListQuery, ("Min-Log-Position" = Option<u64>, Header), ("Prefer" = Option<String>, Header)),
    responses(
        (status = 200, description = "In the order of their SKUs", body = Products, headers(("Log-Position" = u64))),
        (status = 400, description = "`invalid_parameter`, `invalid_cursor`", body = Problem),
        (status = 503, description = "`not_yet_projected`, `read_models_unavailable`", body = Problem),
    ))]
pub(crate) async fn list(
    State(api): State<Arc<QueryApi>>,
    asked: Asked,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let filter = catalog::Filter {
        brand: text("brand", query.brand)?,
        category: text("category", query.category)?,
        after: place(query.after.as_deref())?.map(|sku: Sku| sku.to_string()),
        limit: limit + 1,
    };
    let model = api.fresh(catalog::NAME, &asked).await?;
    let (mut products, position) =
        catalog::products(&api.pool, &model, &filter).await.map_err(unavailable)?;
    let more = products.len() as i64 > limit;
    products.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = products.last().filter(|_| more).map(|last| cursor(&last.sku));
    let data = products.into_iter().map(Product::from).collect();
    Ok(Answer::shared(Json(Products { data, next }), position, &asked).into_response())
}

/// Get a product
#[utoipa::path(get, path = "/v1/products/{sku}", tag = "products",
    params(("sku" = String, Path), ("Min-Log-Position" = Option<u64>, Header), ("Prefer" = Option<String>, Header),
        ("If-None-Match" = Option<String>, Header)),
    responses(
        (status = 200, description = "As it can be bought now", body = Product,
            headers(("ETag" = String, description = "\"<product version>-<stock version>\", and -gzip of a packed one"), ("Log-Position" = u64))),
        (status = 304, description = "It is as the ETag says"),
        (status = 404, description = "`product_not_found`, `not_found`", body = Problem),
        (status = 503, description = "`not_yet_projected`, `read_models_unavailable`", body = Problem),
    ))]
pub(crate) async fn get(
    State(api): State<Arc<QueryApi>>,
    Path(sku): Path<Sku>,
    asked: Asked,
) -> Result<Response, Problem> {
    if let Some(answer) = known(&api, &sku, &asked) {
        return Ok(answer);
    }
    let model = api.fresh(catalog::NAME, &asked).await?;
    let (product, log_position) =
        catalog::product(&api.pool, &model, sku.as_str()).await.map_err(unavailable)?;
    let Some(product) = product else {
        let detail = "there is no product for sale with this SKU";
        return Ok(Missing { code: "product_not_found", detail, log_position }.into_response());
    };
    let version = format!("{}-{}", product.version, product.stock_version);
    let shown = Shown(Representation::new(&Product::from(product), |_| version));
    let answer = shown.0.shared(log_position, &asked);
    api.products.put(sku.as_str(), Known::new(shown, model.version, log_position));
    Ok(answer)
}

/// The answer, if it is known, and not older than what the database would say.
fn known(api: &QueryApi, sku: &Sku, asked: &Asked) -> Option<Response> {
    let model = api.read_models.seen(catalog::NAME)?;
    let least = asked.min_log_position().max(model.position.0);
    let (known, log_position) = api.products.get(sku.as_str(), model.version, least)?;
    Some(known.answer.0.shared(log_position, asked))
}

/// A category and those below it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Category {
    name: String,
    path: Vec<String>,
    /// Products for sale in it and below it.
    count: i64,
    #[schema(no_recursion)]
    children: Vec<Category>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Categories {
    data: Vec<Category>,
}

/// The tree of categories
#[utoipa::path(get, path = "/v1/categories", tag = "products",
    params(("Min-Log-Position" = Option<u64>, Header), ("Prefer" = Option<String>, Header)),
    responses(
        (status = 200, description = "With the number of products for sale", body = Categories,
            headers(("Log-Position" = u64))),
        (status = 503, description = "`not_yet_projected`, `read_models_unavailable`", body = Problem),
    ))]
pub(crate) async fn categories(State(api): State<Arc<QueryApi>>, asked: Asked) -> Result<Response, Problem> {
    let model = api.fresh(catalog::NAME, &asked).await?;
    let (counts, position) = catalog::categories(&api.pool, &model).await.map_err(unavailable)?;
    Ok(Answer::shared(Json(Categories { data: tree(&counts) }), position, &asked).into_response())
}

fn tree(counts: &[(String, i64)]) -> Vec<Category> {
    let mut roots: Vec<Category> = Vec::new();
    for (path, count) in counts {
        let path: Vec<String> = path.split(catalog::LEVELS).map(str::to_owned).collect();
        let mut level = &mut roots;
        for depth in 1..=path.len() {
            let name = &path[depth - 1];
            let at = level.iter().position(|category| category.name == *name).unwrap_or_else(|| {
                let (name, path) = (name.clone(), path[..depth].to_vec());
                level.push(Category { name, path, count: 0, children: Vec::new() });
                level.len() - 1
            });
            level[at].count += count;
            level = &mut level[at].children;
        }
    }
    sort(&mut roots);
    roots
}

fn sort(categories: &mut [Category]) {
    categories.sort_by(|a, b| a.name.cmp(&b.name));
    categories.iter_mut().for_each(|category| sort(&mut category.children));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_to_the_top() {
        let counts = [("B".to_owned(), 1), ("A>Y".to_owned(), 2), ("A>X".to_owned(), 3), ("A".to_owned(), 4)];
        let tree = serde_json::to_value(tree(&counts)).unwrap();
        assert_eq!((&tree[0]["name"], &tree[0]["count"]), (&"A".into(), &9.into()));
        assert_eq!(tree[0]["children"][0]["path"], serde_json::json!(["A", "X"]));
        assert_eq!(tree[1]["children"], serde_json::json!([]));
    }
}
