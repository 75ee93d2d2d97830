//! Orders of another shop, imported from its records: rule by rule, through crashes, and to the penny.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use domain::commit::Commit;
use futures_util::StreamExt;
use infra::log::{EventLog, JetStreamLog};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::revenue::{self, NetRevenue};
use crate::support::shop::{PROGRAM, Shop, checkout, product};
use crate::support::{Folder, data_file, eventually};

const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

fn import(shop: &Shop, file: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["import", "orders"]).arg(file).args(flags);
    command.env("CARTULARY_DATA_DIR", shop.folder.path().join("data"));
    command.env_remove("NATS_URL").env_remove("CARTULARY_URL").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn imported(shop: &Shop, file: &Path, flags: &[&str]) -> Output {
    import(shop, file, flags).output().await.expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

async fn log(shop: &Shop) -> JetStreamLog {
    let connection = infra::nats::connect(&shop.addresses.nats).await.expect("nats-server answers");
    JetStreamLog::existing(connection).await.expect("a log")
}

async fn commits(log: &JetStreamLog) -> Vec<Commit> {
    let end = usize::try_from(log.end().await.expect("an end")).expect("small");
    log.follow(0).take(end).map(|stored| stored.expect("readable").commit).collect().await
}

/// `stream type data` of all events on the stream, in their order.
fn events(commits: &[Commit], stream: &str) -> Vec<(String, Value)> {
    let commits = commits.iter().filter(|commit| commit.stream.to_string() == stream);
    let of_commit = |commit: &Commit| commit.events.clone();
    let event =
        |event: domain::RecordedEvent| (event.kind, serde_json::from_str(event.data.get()).expect("JSON"));
    commits.flat_map(of_commit).map(event).collect()
}

/// The stream of the imported order with that number.
fn order(commits: &[Commit], number: &str) -> String {
    let has_number = |commit: &&Commit| {
        let first = &commit.events[0];
        first.kind == "order.imported"
            && serde_json::from_str::<Value>(first.data.get()).expect("JSON")["number"] == number
    };
    commits.iter().find(has_number).unwrap_or_else(|| panic!("no order {number}")).stream.to_string()
}

const RULES: &[u8] = b"\
536365,85123A,WHITE HOLDER,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
536365,POST,POSTAGE,1,2010-12-01 08:26:00,18.00,17850.0,United Kingdom
536365,85123A,WHITE HOLDER,1,2010-12-01 08:27:00,2.55,17850.0,United Kingdom
536365,85123A,,2,2010-12-01 08:26:00,0,17850.0,United Kingdom
536366,22423,CAKE STAND,4,2010-12-02 09:00:00,10.95,,France
536367,BANK CHARGES,Bank Charges,1,2010-12-03 09:00:00,15.005,12345,United Kingdom
536368,22423,damaged,-1,2010-12-04 09:00:00,0,,United Kingdom
536369,22423,,-2,2010-12-04 10:00:00,0,,United Kingdom
C536370,85123A,WHITE HOLDER,-7,2011-01-05 09:00:00,2.55,17850.0,United Kingdom
C536370,POST,POSTAGE,-1,2011-01-05 09:00:00,18.00,17850.0,United Kingdom
C536371,22423,CAKE STAND,-1,2011-01-06 09:00:00,10.95,,France
A536372,B,Adjust bad debt,1,2011-01-07 09:00:00,-11062.06,,United Kingdom
536373,22423,CAKE STAND,one,2011-01-08 09:00:00,10.95,,France
536373,22423,CAF\xc9,1,2011-01-08 09:00:00,10.95,,France
536374,10001,MUG,5,2011-01-09 09:00:00,1.00,17850.0,United Kingdom
";

fn write_rules(folder: &Folder) -> std::path::PathBuf {
    let file = folder.path().join("rules.csv");
    std::fs::write(&file, [HEADER.as_bytes(), RULES].concat()).expect("written");
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_shows_in_the_log_and_again_changes_nothing() {
    let shop = Shop::start(Folder::new()).await;
    let file = write_rules(&shop.folder);
    // The shop has one of the articles already, and stock of it.
    shop.post("/v1/products", &product("10001")).await;
    shop.post("/v1/stock/10001/receipts", &json!({"quantity": 3})).await;

    let first = imported(&shop, &file, &[]).await;
    assert_eq!(first.status.code(), Some(1), "some rows can't be mapped: {first:?}");
    let listed = text(&first.stderr);
    for (line, reason) in [
        (13, "bad debt"),
        (14, "Quantity `one`"),
        (15, "not UTF-8"),
        (16, "a history of its own; its 1 movements are left out"),
    ] {
        let is_it = |text: &str| text.starts_with(&format!("row {line}: ")) && text.contains(reason);
        assert!(listed.lines().any(is_it), "{line} {reason}: {listed}");
    }
    assert!(text(&first.stdout).contains("4 rows could not be mapped"), "{first:?}");
    assert!(text(&first.stdout).contains("all of it is visible"), "{first:?}");

    let log = log(&shop).await;
    let end = log.end().await.expect("an end");
    let told = commits(&log).await;
    the_orders_are_as_the_rules_say(&told);
    the_stock_is_as_the_rules_say(&told);

    let again = imported(&shop, &file, &[]).await;
    assert!(text(&again.stdout).contains("done now: 0 events"), "{again:?}");
    assert_eq!(text(&again.stderr), listed, "the same rows are listed");
    assert_eq!(log.end().await.expect("an end"), end, "the log did not grow");

    no_saga_follows(&shop, &log, end).await;
    an_imported_article_is_sold(&shop).await;
    shop.stop();
}

fn the_orders_are_as_the_rules_say(told: &[Commit]) {
    let gbp = |amount: i64| json!({"amount": amount, "currency": "GBP"});
    let one = order(told, "536365");
    let events_of_one = events(told, &one);
    let kinds: Vec<_> = events_of_one.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["order.imported", "order.returned", "order.refunded"]);
    let (_, order_data) = &events_of_one[0];
    let lines: Vec<_> = order_data["lines"].as_array().expect("lines").iter().collect();
    let line = |index: usize| (&lines[index]["sku"], &lines[index]["title"], &lines[index]["quantity"]);
    assert_eq!(lines.len(), 4, "lines of one SKU stay apart");
    assert_eq!(line(3), (&json!("85123A"), &json!("WHITE HOLDER"), &json!(2)), "the product's title");
    assert_eq!((&order_data["country"], &order_data["total"]), (&json!("United Kingdom"), &gbp(3585)));
    let commit = told.iter().find(|commit| commit.stream.to_string() == one).expect("there");
    assert_eq!(commit.events[0].occurred_at.to_rfc3339(), "2010-12-01T08:26:00+00:00");
    assert_eq!(commit.events[0].personal.as_ref().expect("a buyer").get(), r#"{"customer":"17850"}"#);
    assert!(commit.recorded_at > commit.events[0].occurred_at, "it is recorded today");
    let (_, returned) = &events_of_one[1];
    assert_eq!((&returned["reference"], &returned["refund"]), (&json!("C536370"), &gbp(1785)));
    assert_eq!(events_of_one[2].1["refund"], gbp(1800), "postage is no goods");

    let fees = &events(told, &order(told, "536367"))[0].1;
    assert_eq!((&fees["lines"][0]["sku"], &fees["total"]), (&json!("BANK-CHARGES"), &gbp(1501)));
    assert_eq!(fees["lines"][0]["title"], "Bank Charges [BANK CHARGES]", "the original is kept");
    let bare = events(told, &order(told, "C536371"));
    assert_eq!((&bare[0].1["lines"], &bare[0].1["total"]), (&json!([]), &gbp(0)));
    assert_eq!((bare[1].0.as_str(), &bare[1].1["refund"]), ("order.returned", &gbp(1095)));
}

fn the_stock_is_as_the_rules_say(told: &[Commit]) {
    let brief = |stream: &str| -> Vec<String> {
        let data = |data: &Value| match (&data["quantity"], &data["delta"]) {
            (Value::Null, delta) => format!("{delta} {}", data["reason"].as_str().expect("a reason")),
            (quantity, _) => quantity.to_string(),
        };
        events(told, stream).iter().map(|(kind, event)| format!("{kind} {}", data(event))).collect()
    };
    let holder = ["stock.opened 9", "stock.dispatched 9", "stock.returned 7"];
    assert_eq!(brief("stock/85123A"), holder);
    let stand = [
        "stock.opened 7",
        "stock.dispatched 4",
        "stock.adjusted -1 damaged",
        "stock.adjusted -2 no reason given",
        "stock.returned 1",
    ];
    assert_eq!(brief("stock/22423"), stand);
    assert_eq!(events(told, "stock/22423")[0].1["derived"], true);
    assert_eq!(brief("stock/10001"), ["stock.received 3"], "somebody else's stock is left alone");
    assert_eq!(events(told, "product/10001").len(), 1, "and so is the product");
    let stand = events(told, "product/22423").remove(0).1;
    assert_eq!((&stand["title"], &stand["price"]["amount"]), (&json!("CAKE STAND"), &json!(1095)));
    for code in ["POST", "BANK-CHARGES", "B"] {
        assert!(events(told, &format!("product/{code}")).is_empty(), "{code} is no goods");
    }
}

/// The sagas have read all of it, and done nothing.
async fn no_saga_follows(shop: &Shop, log: &JetStreamLog, end: u64) {
    eventually("the sagas have read the import", async || {
        let ready = shop.get("/readyz").await.body;
        let readers = ready["readers"].as_object()?.clone();
        readers.values().all(|position| position.as_u64() >= Some(end)).then_some(())
    })
    .await;
    let categories: BTreeSet<_> =
        commits(log).await.iter().map(|commit| commit.stream.category().to_owned()).collect();
    assert_eq!(categories, ["order", "product", "stock"].map(str::to_owned).into());
    assert_eq!(log.end().await.expect("an end"), end);
    let timers = log.context().get_stream("TIMERS").await.expect("the timers' stream");
    assert_eq!(timers.cached_info().state.messages, 0, "nothing is to be done later");
}

async fn an_imported_article_is_sold(shop: &Shop) {
    let cart = shop.cart("22423", 1).await;
    let accepted = shop.post(&format!("/v1/carts/{cart}/checkout"), &checkout("tok_approve")).await;
    let order = accepted.body["order_id"].as_str().expect("an order").to_owned();
    assert_eq!(shop.settled(&order).await["status"], "confirmed");
}

/// Invoices of many articles, with cancellations and corrections between them.
fn many_invoices() -> String {
    let mut rows = HEADER.to_owned();
    for number in 0..400 {
        let time = format!("2011-{:02}-{:02} 10:{:02}:00", number / 40 + 1, number / 2 % 20 + 1, number % 60);
        for line in 0..4 {
            let article = 20_000 + (number * 7 + line * 3) % 50;
            rows += &format!("{number},{article},THING {article},{},{time},1.25,7,EIRE\n", line + 1);
        }
        if number % 5 == 4 {
            let article = 20_000 + (number * 7) % 50;
            rows += &format!("C{number},{article},THING {article},-1,{time},1.25,7,EIRE\n");
            rows += &format!("{},{article},lost,-1,{time},0,,EIRE\n", 10_000 + number);
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_goes_on_where_it_stopped() {
    let shop = Shop::start(Folder::new()).await;
    let file = shop.folder.path().join("many.csv");
    std::fs::write(&file, many_invoices()).expect("written");
    let planned = imported(&shop, &file, &["--dry-run"]).await;
    let planned: Value = serde_json::from_slice(&planned.stdout).expect("JSON");
    let log = log(&shop).await;
    for part in [300, 900, 1500] {
        let mut running =
            import(&shop, &file, &["--concurrency", "4"]).stderr(Stdio::null()).spawn().expect("it runs");
        eventually("it is in the middle", async || (log.end().await.expect("an end") >= part).then_some(()))
            .await;
        running.kill().await.expect("it runs");
    }
    let stopped_at = log.end().await.expect("an end");
    let last = imported(&shop, &file, &[]).await;
    assert!(last.status.success(), "{last:?}");
    let told = commits(&log).await;
    let all: u64 = planned["commands"].as_object().expect("counts").values().filter_map(Value::as_u64).sum();
    assert!(stopped_at < all, "the last one was killed in the middle, too");
    // What was on its way when it was killed may have come after that look at the log.
    let now =
        (1..=all - stopped_at).find(|now| text(&last.stdout).contains(&format!("done now: {now} events")));
    assert!(now.is_some(), "{last:?}");
    assert_eq!(told.len() as u64, all, "everything once");
    let ids: BTreeSet<_> = told.iter().map(|commit| commit.id).collect();
    assert_eq!(ids.len(), told.len());
    assert_eq!(revenue::of_log(&told), revenue::of_file(&file));
    stock_moves_by_time(&told);
    a_longer_file_adds_what_is_new(&shop, &file, &log).await;
    shop.stop();
}

async fn a_longer_file_adds_what_is_new(shop: &Shop, file: &Path, log: &JetStreamLog) {
    let end = log.end().await.expect("an end");
    let new = "500,20001,THING 20001,100,2011-12-01 10:00:00,1.25,7,EIRE\n";
    std::fs::write(file, many_invoices() + new).expect("written");
    let longer = imported(shop, file, &[]).await;
    assert!(text(&longer.stdout).contains("done now: 2 events"), "{longer:?}");
    assert!(text(&longer.stderr).contains("has derived another opening stock, which stays"), "{longer:?}");
    let told = commits(log).await;
    let added: BTreeSet<_> = told[usize::try_from(end).expect("small")..]
        .iter()
        .map(|commit| commit.events[0].kind.as_str())
        .collect();
    assert_eq!(added, ["order.imported", "stock.dispatched"].into());
    assert_eq!(revenue::of_log(&told), revenue::of_file(file));
}

/// Each stock tells its movements in the order in which they happened, whatever ended the import.
fn stock_moves_by_time(told: &[Commit]) {
    let mut last = BTreeMap::new();
    for commit in told.iter().filter(|commit| commit.stream.category() == "stock") {
        let at = commit.events[0].occurred_at;
        let before = last.insert(commit.stream.clone(), at);
        assert!(before.is_none_or(|before| before <= at), "{}", commit.stream);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_interrupts_is_told_how_to_go_on() {
    let shop = Shop::start(Folder::new()).await;
    let file = shop.folder.path().join("many.csv");
    std::fs::write(&file, many_invoices()).expect("written");
    let log = log(&shop).await;
    let running =
        import(&shop, &file, &["--concurrency", "1"]).stderr(Stdio::piped()).spawn().expect("it runs");
    eventually("it is in the middle", async || (log.end().await.expect("an end") > 50).then_some(())).await;
    let pid = rustix::process::Pid::from_raw(running.id().expect("it runs").cast_signed()).expect("an id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let ended = tokio::time::timeout(Duration::from_secs(20), running.wait_with_output()).await;
    let ended = ended.expect("it ends soon").expect("a child");
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        text(&ended.stderr).contains("the same command again goes on where this one stopped"),
        "{ended:?}"
    );
    shop.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_mapped_is_listed_in_a_file() {
    let folder = Folder::new();
    let (file, report) = (write_rules(&folder), folder.path().join("report.csv"));
    let run = Command::new(PROGRAM)
        .args(["import", "orders", "--dry-run", "--report"])
        .args([&report, &file])
        .output()
        .await
        .expect("it runs");
    assert_eq!((run.status.code(), text(&run.stderr).as_str()), (Some(1), ""), "{run:?}");
    let listed = std::fs::read_to_string(&report).expect("a report");
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 4, "{listed}");
    assert!(lines[0].starts_with("row,reason,InvoiceNo,StockCode"), "{listed}");
    assert!(lines[1].starts_with("13,") && lines[1].contains("A536372,B,Adjust bad debt,1,"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_form_or_no_log_is_said_at_once() {
    let folder = Folder::new();
    let file = folder.path().join("other.csv");
    std::fs::write(&file, "a,b\n1,2\n").expect("written");
    let run = async |flags: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["import", "orders"]).arg(&file).args(flags).env("CARTULARY_DATA_DIR", folder.path());
        let output =
            command.env_remove("NATS_URL").env_remove("CARTULARY_URL").output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        text(&output.stderr)
    };
    assert!(run(&["--dry-run"]).await.contains("the first line is `a,b` instead of `InvoiceNo,"));
    assert!(run(&[]).await.contains("no instance is running"));
}

/// The plan for the real file accounts for every row once, and comes to the same money as a pass over the file.
#[tokio::test(flavor = "multi_thread")]
async fn real_records_are_planned_to_the_penny() {
    let Some(file) = data_file("online_retail_uci.csv.gz") else { return };
    let mut command = Command::new(PROGRAM);
    let output = command.args(["import", "orders", "--dry-run"]).arg(&file).output().await.expect("it runs");
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        plan["rows"],
        json!({"order_lines": 531_282, "reversals": 9_288, "corrections": 1_336, "unmappable": 3})
    );
    let rows: u64 = plan["rows"].as_object().expect("rows").values().filter_map(Value::as_u64).sum();
    assert_eq!(rows, 541_909, "every row once");
    assert_eq!(
        plan["invoices"],
        json!({"orders": 20_725, "cancellations": 3_836, "corrections": 1_336, "unmappable": 3})
    );
    let invoices: u64 =
        plan["invoices"].as_object().expect("invoices").values().filter_map(Value::as_u64).sum();
    assert_eq!(invoices, 25_900);
    let listed = text(&output.stderr);
    // What takes long, on a busy machine, says how far it is.
    let rows: Vec<_> = listed.lines().filter(|line| line.starts_with("row ")).collect();
    assert_eq!(rows.len(), 3, "{listed}");
    assert!(rows.iter().all(|line| line.contains("bad debt") && line.contains(",B,")), "{listed}");

    let planned: NetRevenue = plan["revenue"]
        .as_array()
        .expect("revenue")
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().expect("text").to_owned();
            ((text("country"), text("month")), one["net"].as_i64().expect("an amount"))
        })
        .filter(|(_, net)| *net != 0)
        .collect();
    assert_eq!(planned, revenue::of_file(&file));
    assert_eq!(planned.values().sum::<i64>(), 975_880_999);
}

/// What the read models say of the real file is what the file says, to the penny. Without stock, which is most
/// of what there is and none of the money.
#[tokio::test(flavor = "multi_thread")]
async fn real_revenue_is_in_the_read_models_to_the_penny() {
    let Some(file) = data_file("online_retail_uci.csv.gz") else { return };
    let shop = Shop::start(Folder::new()).await;
    let run = imported(&shop, &file, &["--no-stock"]).await;
    assert!(text(&run.stdout).contains("all of it is visible"), "{run:?}");
    let of_file = revenue::of_file(&file);
    let pool = sqlx::PgPool::connect(&shop.addresses.postgres).await.expect("Postgres answers");
    let of_orders = revenue::of_read_model(&pool).await;
    let different: Vec<_> = of_file.iter().filter(|(key, net)| of_orders.get(*key) != Some(*net)).collect();
    assert!(different.is_empty() && of_orders.len() == of_file.len(), "{different:?}");

    let mut by_month: BTreeMap<&str, i64> = BTreeMap::new();
    let mut by_country: BTreeMap<&str, i64> = BTreeMap::new();
    for ((country, month), net) in &of_file {
        *by_month.entry(month).or_default() += net;
        *by_country.entry(country).or_default() += net;
    }
    for (by, expected) in [("month", by_month), ("country", by_country)] {
        let report = shop.get(&format!("/v1/reports/sales?by={by}")).await.body;
        let lines = report["data"].as_array().expect("lines");
        let found: BTreeMap<&str, i64> = lines
            .iter()
            .map(|line| (line["key"].as_str().expect("a key"), line["net"].as_i64().expect("an amount")))
            .collect();
        assert_eq!(found, expected);
    }
    let largest = order(&commits(&log(&shop).await).await, "573585");
    let shown = shop.get(&format!("/v1/orders/{}", largest.trim_start_matches("order/"))).await.body;
    assert_eq!((&shown["number"], &shown["status"]), (&json!("573585"), &json!("imported")));
    assert_eq!(shown["lines"].as_array().map(Vec::len), Some(1_114));
}
