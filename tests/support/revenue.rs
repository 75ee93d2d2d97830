//! Net revenue by country and month, from wherever it can be known: all of these have to agree, to the penny.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use domain::commit::Commit;
use domain::order;
use sqlx::PgPool;
use uuid::Uuid;

/// Minor units by country and month (`2010-12`): what was paid, less what was given back in that month.
pub type NetRevenue = BTreeMap<(String, String), i64>;

/// Straight from a file in the form of the UCI Online Retail data set, row by row: every total is rounded to
/// the penny, half away from zero, and adjustments of bad debt (A invoices) are left out.
pub fn of_file(path: &Path) -> NetRevenue {
    let file = std::fs::File::open(path).expect("a file");
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let file: Box<dyn Read> =
        if packed { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut net = NetRevenue::new();
    for row in csv::Reader::from_reader(file).records() {
        let row = row.expect("a row");
        if row[0].starts_with('A') {
            continue;
        }
        let (quantity, thousandths): (i64, i64) = (row[3].parse().expect("a quantity"), thousandths(&row[5]));
        let product = quantity * thousandths;
        let pence = (product.abs() + 5) / 10 * product.signum();
        *net.entry((row[7].to_owned(), row[4][..7].to_owned())).or_default() += pence;
    }
    net.retain(|_, pence| *pence != 0);
    net
}

/// From the events of imported orders.
pub fn of_log<'a>(commits: impl IntoIterator<Item = &'a Commit>) -> NetRevenue {
    let (mut countries, mut net) = (BTreeMap::<Uuid, String>::new(), NetRevenue::new());
    for commit in commits.into_iter().filter(|commit| commit.stream.category() == order::CATEGORY) {
        let id: Uuid = commit.stream.id().parse().expect("an order's id");
        for event in &commit.events {
            let (country, pence) = match event.decode().expect("readable") {
                order::Event::Imported { country, total, .. } => {
                    countries.insert(id, country.clone());
                    (country, total.amount)
                }
                order::Event::Returned(reversal) | order::Event::Refunded(reversal) => {
                    (countries[&id].clone(), -reversal.refund.amount)
                }
                _ => continue,
            };
            *net.entry((country, event.occurred_at.format("%Y-%m").to_string())).or_default() += pence;
        }
    }
    net.retain(|_, pence| *pence != 0);
    net
}

/// From the read model of orders.
pub async fn of_read_model(pool: &PgPool) -> NetRevenue {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "select country, to_char(at, 'YYYY-MM'), sum(pence)::bigint from (
             select country, placed_at as at, (total ->> 'amount')::bigint as pence
             from orders.orders where status = 'imported'
             union all
             select country, at, -amount from orders.refunds join orders.orders on id = order_id
         ) as movements group by 1, 2 having sum(pence) <> 0",
    )
    .fetch_all(pool)
    .await
    .expect("rows");
    rows.into_iter().map(|(country, month, pence)| ((country, month), pence)).collect()
}

/// `2.55` → 2550; no price in the file has more than three decimals.
fn thousandths(price: &str) -> i64 {
    let (whole, decimals) = price.split_once('.').unwrap_or((price, ""));
    assert!(decimals.len() <= 3, "{price}");
    format!("{whole}{decimals:0<3}").parse().expect("a price")
}
