//! Processes that are killed, held still, or run out of memory.

use std::time::Duration;

use infra::fail_points;
use rustix::process::{Pid, Signal, kill_process};

use super::{Row, Scene};
use crate::support::memory::Limit;
use crate::support::servers::{Cluster, Nats};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_01_nats_server_is_killed() {
    let mut nats = Nats::start().await;
    let (mut row, mut scene) = (Row::begin("nats-server is killed"), Scene::start(nats.url(), &[]).await);
    while row.next(&mut scene.load).await {
        row.hits(&scene.load);
        nats.kill().await;
        nats.restart().await;
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_01_nodes_of_a_cluster_are_killed() {
    let mut cluster = Cluster::start().await;
    let log = cluster.log().await;
    let mut row = Row::begin("the leader, another node, or all of a cluster of three are killed");
    let mut scene = Scene::start(&cluster.url(), &["--log-replicas", "3"]).await;
    while row.next(&mut scene.load).await {
        let leader = cluster.leader(&log).await;
        row.hits(&scene.load);
        match row.rounds % 3 {
            0 => {
                for index in 0..3 {
                    cluster.kill(index).await;
                }
            }
            1 => cluster.kill(leader).await,
            _ => cluster.kill((leader + 1) % 3).await,
        }
        if !row.rounds.is_multiple_of(3) {
            // Two of three are enough.
            row.over(&mut scene.load).await;
        }
        cluster.restart_killed().await;
        row.over(&mut scene.load).await;
    }
    row.end(scene, &cluster.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_04_the_platform_is_killed() {
    let nats = Nats::start().await;
    let mut row = Row::begin("the platform is killed");
    let mut scene = Scene::start(nats.url(), &[]).await;
    while row.next(&mut scene.load).await {
        row.hits(&scene.load);
        scene.replace(row.rounds % 2, "").await;
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_04_the_platform_dies_between_an_effect_and_its_record() {
    let nats = Nats::start().await;
    let mut row = Row::begin("the platform dies between an effect and its record");
    let mut scene = Scene::start(nats.url(), &[]).await;
    while row.next(&mut scene.load).await {
        let place = fail_points::ALL[row.rounds % fail_points::ALL.len()];
        // Snapshots are rare, all else is not.
        let most = if place == fail_points::SNAPSHOT_SAVED { 5 } else { 300 };
        scene.replace(0, &format!("{place}={}*off->return", fastrand::u32(0..most))).await;
        crate::support::eventually(place, async || scene.roles[0].ended().then_some(())).await;
        row.hits(&scene.load);
        row.over(&mut scene.load).await;
    }
    scene.replace(0, "").await;
    row.end(scene, &nats.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_04_processes_are_held_still() {
    let nats = Nats::start().await;
    let mut row = Row::begin("nats-server or the platform is held still");
    let mut scene = Scene::start(nats.url(), &[]).await;
    while row.next(&mut scene.load).await {
        row.hits(&scene.load);
        let server = Pid::from_raw(nats.pid().cast_signed()).expect("a pid");
        let pid = [server, scene.roles[0].pid(), scene.roles[1].pid()][row.rounds % 3];
        kill_process(pid, Signal::STOP).expect("it runs");
        // Shorter and longer than an append may take.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..8_000))).await;
        kill_process(pid, Signal::CONT).expect("it runs");
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_24_a_process_is_out_of_memory() {
    let mut nats = Nats::start().await;
    let mut row = Row::begin("the platform or nats-server is out of memory");
    let mut scene = Scene::start(nats.url(), &[]).await;
    while row.next(&mut scene.load).await {
        row.hits(&scene.load);
        if row.rounds.is_multiple_of(2) {
            let Some(limit) = Limit::below(nats.pid()) else { return };
            crate::support::eventually("nats-server is killed", async || limit.killed().then_some(())).await;
            nats.kill().await;
            nats.restart().await;
        } else {
            let Some(limit) = Limit::below(scene.roles[0].pid().as_raw_pid().cast_unsigned()) else { return };
            crate::support::eventually("it is killed", async || limit.killed().then_some(())).await;
            scene.replace(0, "").await;
        }
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
}
