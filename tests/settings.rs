//! Settings that keep a shop safe by themselves: no payment that is none, no secret that anybody can read.

use std::process::{Command, Output};

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::support::customer::Client;
use crate::support::receiver::Receiver;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::{PROGRAM, Roles, checkout_by, operate_webhooks};

const KEYS: [&str; 3] = [
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
];

#[tokio::test(flavor = "multi_thread")]
async fn nobody_pays_with_the_sandbox_unless_it_is_asked_for() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let stripe =
        [("CARTULARY_STRIPE_API_KEY", "sk_test_none"), ("CARTULARY_STRIPE_URL", "http://127.0.0.1:9")];
    for (sandbox, others, offered) in [
        ("", &stripe[..], "must be one of: stripe"),
        ("", &[], "there is no way to pay in this shop"),
        ("true", &stripe, "must be one of: sandbox, stripe"),
    ] {
        let environment = [others, &[("CARTULARY_SANDBOX", sandbox)]].concat();
        let roles = Roles::start_with(nats.url(), &database, &["command-api"], &environment).await;
        let client = Client::new(&roles.url, &database);
        let path = format!("/v1/carts/{}/checkout", uuid::Uuid::now_v7());
        let method = if sandbox.is_empty() { "sandbox" } else { "barter" };
        let refused = client.post(&path, &checkout_by(method, "tok_approve")).await;
        assert_eq!(refused.problem(), (422, "invalid", "/payment/method"));
        assert_eq!(refused.body["errors"][0]["detail"], offered);
        let page = client.send(client.request(Method::GET, "/v1/sandbox/challenges/x")).await;
        let code = if sandbox.is_empty() { "not_found" } else { "no_challenge" };
        assert_eq!(page.problem().1, code, "its page is there with it alone");
    }
}

/// Starts a process that is to refuse; what it says.
fn refusal(nats: &Nats, database: &str, key: Option<&str>) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "webhooks", "--port", "0", "--admin-port", "0"]);
    command.env("NATS_URL", nats.url()).env("DATABASE_URL", database);
    match key {
        Some(key) => command.env("CARTULARY_WEBHOOKS_KEY", key),
        None => command.env_remove("CARTULARY_WEBHOOKS_KEY"),
    };
    let Output { status, stderr, .. } = command.output().expect("it runs");
    assert!(!status.success());
    String::from_utf8_lossy(&stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_webhooks_are_sealed_and_only_their_key_opens_them() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let pool = PgPool::connect(&database).await.expect("Postgres answers");
    let start = async |keys: &str| {
        let environment = [("CARTULARY_WEBHOOKS_KEY", keys), ("CARTULARY_WEBHOOKS_TO_LOOPBACK", "true")];
        Roles::start_with(nats.url(), &database, &["command-api", "webhooks"], &environment).await
    };
    let stored = async || -> String {
        let secret = sqlx::query_scalar("select secret from cartulary.webhook_endpoints");
        secret.fetch_one(&pool).await.expect("one")
    };
    let receiver = Receiver::start().await;
    let add = async |roles: &Roles| {
        let arguments = ["add", &receiver.url, "--types", "product.created", "--json"];
        operate_webhooks(&roles.admin, &arguments).await
    };
    let keyless = start("").await;
    let (added, printed) = add(&keyless).await;
    assert!(!added && printed.contains("CARTULARY_WEBHOOKS_KEY"), "{printed}");
    drop(keyless);

    let roles = start(KEYS[0]).await;
    let (added, printed) = add(&roles).await;
    let endpoint: serde_json::Value = serde_json::from_str(&printed).expect(&printed);
    let secret = endpoint["secret"].as_str().expect("a secret");
    assert!(added && !stored().await.contains(secret.trim_start_matches("whsec_")), "{printed}");
    drop(roles);
    assert!(refusal(&nats, &database, Some(KEYS[2])).contains("is not among those given"));
    assert!(refusal(&nats, &database, None).contains("CARTULARY_WEBHOOKS_KEY"));
    assert!(refusal(&nats, &database, Some("short")).contains("64 hexadecimal digits"));

    // Another key takes over; then it is enough.
    let before = stored().await;
    drop(start(&[KEYS[1], KEYS[0]].join(",")).await);
    assert_ne!(stored().await, before);
    let roles = start(KEYS[1]).await;
    Client::new(&roles.url, &database).product("sealed", 0).await;
    receiver.has(1).await;
    drop(roles);

    // As an earlier build left it.
    sqlx::query("update cartulary.webhook_endpoints set secret = $1")
        .bind(secret)
        .execute(&pool)
        .await
        .expect("set");
    let roles = start(KEYS[1]).await;
    assert!(stored().await.starts_with("sealed:"));
    Client::new(&roles.url, &database).product("again", 0).await;
    receiver.has(2).await;
    let got = receiver.got();
    let signed = got[1].header("webhook-signature");
    let wanted = json!(signature(secret, &got[1].id(), got[1].header("webhook-timestamp"), &got[1].body));
    assert_eq!(json!(signed), wanted);
}

/// As the specification has it.
fn signature(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hmac::{Hmac, KeyInit, Mac};

    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("base64");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).expect("a key");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}
