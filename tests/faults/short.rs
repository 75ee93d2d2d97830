//! What takes seconds: each kill once, at a moment that comes by itself.

use std::time::Duration;

use infra::fail_points;
use rustix::process::{Pid, Signal, kill_process};

use super::Scene;
use crate::support::servers::Nats;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_kills_and_pauses() {
    let mut nats = Nats::start().await;
    let mut scene = Scene::start(nats.url(), &[]).await;
    for index in 0..2 {
        scene.load.go_on(200).await;
        nats.kill().await;
        nats.restart().await;
        scene.load.go_on(200).await;
        scene.replace(index, "").await;
        scene.load.go_on(200).await;
        for pid in [Pid::from_raw(nats.pid().cast_signed()).expect("a pid"), scene.roles[index].pid()] {
            kill_process(pid, Signal::STOP).expect("it runs");
            tokio::time::sleep(Duration::from_millis(700)).await;
            kill_process(pid, Signal::CONT).expect("it runs");
            scene.load.go_on(200).await;
        }
    }
    let told = scene.load.finish().await;
    told.holds(&nats.log().await).await;
    println!("{told}");
    assert!(told.interrupted().values().sum::<u64>() > 20, "nothing was hit: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_a_death_at_any_place() {
    let nats = Nats::start().await;
    let mut scene = Scene::start(nats.url(), &[]).await;
    for place in fail_points::ALL {
        scene.replace(0, &format!("{place}=5*off->return")).await;
        crate::support::eventually(place, async || scene.roles[0].ended().then_some(())).await;
    }
    scene.replace(0, "").await;
    scene.load.go_on(200).await;
    let told = scene.load.finish().await;
    told.holds(&nats.log().await).await;
    println!("{told}");
}
