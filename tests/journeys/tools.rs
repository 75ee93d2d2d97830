//! The command line's tools, run as people run them.

use std::process::Output;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::shop::{PROGRAM, Shop, checkout, product, shared};
use crate::support::{Folder, data_file, eventually};

async fn run(shop: &Shop, arguments: &[&str]) -> Output {
    let data_dir = shop.folder.path().join("data");
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env("CARTULARY_DATA_DIR", data_dir);
    command.env_remove("NATS_URL").env_remove("CARTULARY_URL").output().await.expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_twice_changes_nothing_and_bad_lines_are_named() {
    let shop = shared().await;
    let folder = Folder::new();
    let file = folder.path().join("catalogue.jsonl");
    let good = |index: u32| {
        let mut product = product(&format!("import-{index}"));
        product["stock"] = json!(index);
        product.to_string()
    };
    let icecat =
        r#"{"id":"import-9","title":"Ink","supplier":"HP","price":995,"ean":[],"attr_t_product_type":"Ink"}"#;
    let mut lines: Vec<String> = (1..=5).map(good).collect();
    lines.extend([
        icecat.into(),
        "{".into(),
        String::new(),
        r#"{"sku":"x y"}"#.into(),
        good(6).replace("Mug", "\\u0000"),
    ]);
    std::fs::write(&file, lines.join("\n")).expect("written");
    let import = ["import", "catalogue", file.to_str().expect("a path"), "--currency", "EUR", "--stock", "3"];
    let first = run(shop, &import).await;
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    let bad = text(&first.stderr);
    for number in ["line 7: not JSON", "line 9: ", "line 10: "] {
        assert!(bad.contains(number), "{bad}");
    }
    assert!(text(&first.stdout).contains("6 created, 0 updated, 0 unchanged; 3 bad lines"), "{first:?}");
    let ink = shop.get("/v1/products/import-9").await.body;
    assert_eq!((&ink["price"], &ink["available"]), (&json!({"amount": 995, "currency": "EUR"}), &json!(3)));
    assert_eq!((&ink["category"], &ink["brand"]), (&json!(["Ink"]), &json!("HP")));

    let again = run(shop, &import).await;
    assert!(text(&again.stdout).contains("0 created, 0 updated, 6 unchanged"), "{again:?}");
    assert_eq!(shop.get("/v1/products/import-5").await.body["available"], 5, "stock came once");

    let changed = lines[..6].join("\n").replace("Mug import-1", "Cup").replace("995", "990");
    std::fs::write(&file, changed).expect("written");
    let third = run(shop, &import).await;
    assert_eq!(third.status.code(), Some(0), "{third:?}");
    assert!(text(&third.stdout).contains("0 created, 2 updated, 4 unchanged"), "{third:?}");
    assert_eq!(shop.get("/v1/products/import-1").await.body["title"], "Cup");
    assert_eq!(shop.get("/v1/products/import-9").await.body["price"]["amount"], 990);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_catalogue_is_imported_and_searched() {
    let Some(file) = data_file("icecat_chorus_products.jsonl.gz") else { return };
    let shop = Shop::start(Folder::new()).await;
    let import =
        ["import", "catalogue", file.to_str().expect("a path"), "--currency", "EUR", "--stock", "10"];
    let started = Instant::now();
    let first = run(&shop, &import).await;
    assert!(text(&first.stdout).contains("19406 created"), "{first:?}");
    eprintln!("imported 19,406 products in {:.1?}", started.elapsed());
    let end = shop.get("/readyz").await.body["log_position"].as_u64();
    let again = run(&shop, &import).await;
    assert!(text(&again.stdout).contains("0 created, 0 updated, 19406 unchanged; 0 bad"), "{again:?}");
    assert_eq!(shop.get("/readyz").await.body["log_position"].as_u64(), end, "the log did not grow");
    let search = async |query: &str| shop.get(&format!("/v1/search?q={query}")).await.body;
    let laptops = search("laptop").await;
    assert!(laptops["total"].as_u64() > Some(10), "{}", laptops["total"]);
    let typo = search("latpop").await;
    assert_eq!((&typo["corrected"], &typo["total"]), (&json!("laptop"), &laptops["total"]));
    shop.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_read_as_an_analyst_wants_it() {
    let shop = shared().await;
    let sku = shop.product("history", 5).await;
    let cart = shop.cart(&sku, 2).await;
    let accepted = shop.post(&format!("/v1/carts/{cart}/checkout"), &checkout("tok_decline")).await;
    let order = accepted.body["order_id"].as_str().expect("an id").to_owned();
    shop.settled(&order).await;

    let stream = format!("order/{order}");
    let tail = run(shop, &["history", "tail", "--id", &stream, "--json"]).await;
    let events: Vec<Value> =
        text(&tail.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["order.placed", "order.cancelled"]);
    assert_eq!((&events[0]["specversion"], &events[0]["subject"]), (&json!("1.0"), &json!(stream)));
    assert!(!text(&tail.stdout).contains("alice@"), "personal data is left out");
    let personal = run(shop, &["history", "tail", "--id", &stream, "--json", "--personal"]).await;
    assert!(text(&personal.stdout).contains("alice@example.com"));

    let stock = run(shop, &["history", "tail", "--type", "stock.*", "--id", &format!("stock/{sku}")]).await;
    assert_eq!(text(&stock.stdout).lines().count(), 3, "received, reserved, released: {stock:?}");
    let since = accepted.position().to_string();
    let one = run(shop, &["history", "tail", "--since", &since, "--until", &since]).await;
    assert!(
        text(&one.stdout).contains("cart.checked_out") && text(&one.stdout).lines().count() == 1,
        "{one:?}"
    );
    let last = run(shop, &["history", "tail", "--since", "1h", "--type", "product.*", "--last", "1"]).await;
    assert_eq!(text(&last.stdout).lines().count(), 1, "{last:?}");
    let wrong = run(shop, &["history", "tail", "--since", "yesterday"]).await;
    assert!(!wrong.status.success() && text(&wrong.stderr).contains("expected a position"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_followed_until_it_is_enough() {
    let shop = shared().await;
    let data_dir = shop.folder.path().join("data");
    let mut command = Command::new(PROGRAM);
    command.args(["history", "tail", "--follow", "--since", "0s", "--type", "cart.created"]);
    command.env("CARTULARY_DATA_DIR", data_dir).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("it runs");
    let mut output = child.stdout.take().expect("a pipe");
    let seen = eventually("an event comes", async || {
        shop.post("/v1/carts", &json!({})).await;
        let mut buffer = [0; 4096];
        let read = tokio::io::AsyncReadExt::read(&mut output, &mut buffer);
        let read = tokio::time::timeout(std::time::Duration::from_millis(500), read).await;
        read.ok().map(|read| text(&buffer[..read.expect("a pipe")]))
    });
    assert!(seen.await.contains("cart.created"));
    let pid =
        rustix::process::Pid::from_raw(child.id().expect("it runs").cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert!(child.wait().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_tells_its_story_on_a_shop_of_its_own() {
    let output =
        Command::new(PROGRAM).arg("demo").env_remove("CARTULARY_URL").output().await.expect("it runs");
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", text(&output.stderr));
    for word in ["order.confirmed", "payment.declined", "Everything is as it should be."] {
        assert!(told.contains(word), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_instance_the_tools_say_so() {
    let folder = Folder::new();
    let output = Command::new(PROGRAM)
        .args(["history", "tail", "--data-dir"])
        .arg(folder.path())
        .env_remove("NATS_URL")
        .output()
        .await
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no instance is running"), "{output:?}");
}
