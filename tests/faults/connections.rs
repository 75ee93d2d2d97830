//! Connections between the platform and the log that carry nothing, or lose what they carry.

use std::time::Duration;

use super::{Row, Scene};
use crate::support::proxy::{Fate, Proxy};
use crate::support::servers::Nats;

/// A log that is reached through a proxy.
async fn start(name: &'static str) -> (Nats, Proxy, Row, Scene) {
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.port()).await;
    let scene = Scene::start(&nats.url_at(proxy.port()), &[]).await;
    (nats, proxy, Row::begin(name), scene)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_09_the_log_is_not_reached() {
    let (nats, proxy, mut row, mut scene) = start("the log is not reached").await;
    while row.next(&mut scene.load).await {
        row.hits(&scene.load);
        let fate = if row.rounds.is_multiple_of(2) { Fate::Cut } else { Fate::Held };
        proxy.for_all(fate);
        // Shorter and longer than an append may take.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..8_000))).await;
        proxy.for_all(Fate::Passes);
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_11_answers_are_lost() {
    let (nats, proxy, mut row, mut scene) = start("answers of the log are lost").await;
    while row.next(&mut scene.load).await {
        row.hits(&scene.load);
        proxy.now(Fate::AnswersLost);
        // As long as some appends get there.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..50))).await;
        proxy.now(Fate::Cut);
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_11_connections_are_half_open() {
    let (nats, proxy, mut row, mut scene) = start("connections to the log are half-open").await;
    while row.next(&mut scene.load).await {
        row.hits(&scene.load);
        // Nobody mends it: the platform has to find out.
        proxy.now(if row.rounds.is_multiple_of(2) { Fate::HalfOpen } else { Fate::AnswersLost });
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
}
