//! Disks that lose their power, fill up, fail, or take long.

use std::time::Duration;

use infra::log::EventLog;
use rustix::process::{Pid, Signal, kill_process};

use super::{Row, Scene};
use crate::support::disk::Disk;
use crate::support::servers::Nats;
use crate::support::strace::Injection;

/// Cuts the power of the log's disk, and gives it back.
async fn cut_power(nats: &mut Nats, disk: &Disk) {
    let pid = Pid::from_raw(nats.pid().cast_signed()).expect("a pid");
    // All at one moment: nothing may be acknowledged that the disk has no power for.
    kill_process(pid, Signal::STOP).expect("it runs");
    disk.cut_power();
    nats.kill().await;
    disk.restore_power();
    nats.restart().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_02_the_power_is_cut() {
    let Some(disk) = Disk::ext4() else { return };
    let mut nats = Nats::start_in(disk.path().join("nats"), false).await;
    let mut row = Row::begin("the power of the log's disk is cut");
    let mut scene = Scene::start(nats.url(), &[]).await;
    while row.next(&mut scene.load).await {
        row.hits(&scene.load);
        cut_power(&mut nats, &disk).await;
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
    nats.kill().await;
}

/// The control: the same with a server that acknowledges what the disk does not have.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_02_a_server_that_does_not_sync_loses_what_it_acknowledged() {
    let Some(disk) = Disk::ext4() else { return };
    let mut nats = Nats::start_in(disk.path().join("nats"), true).await;
    let mut scene = Scene::start(nats.url(), &[]).await;
    scene.load.go_on(1_000).await;
    let told = scene.load.told();
    // Nobody appends any more, so that what is lost can be seen.
    scene.roles.clear();
    cut_power(&mut nats, &disk).await;
    let lost = told.lost(&nats.log().await).await;
    println!("without sync_interval: always, a power cut loses {lost} acknowledged commands; {told}");
    assert!(lost > 0, "this soak would not see a loss");
    nats.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_05_the_disk_is_full() {
    const ROOMY: u64 = 2 << 30;
    let Some(disk) = Disk::tmpfs(ROOMY) else { return };
    let mut nats = Nats::start_in(disk.path().join("nats"), false).await;
    let mut row = Row::begin("the log's disk is full");
    let mut scene = Scene::start(nats.url(), &[]).await;
    while row.next(&mut scene.load).await {
        disk.resize(disk.used() + fastrand::u64(0..2 << 20));
        let reasons = crate::support::eventually("it's seen that the log takes nothing", async || {
            Some(scene.reasons().await).filter(|reasons| !reasons.is_empty())
        })
        .await;
        assert!(reasons[0].contains("the log has taken no commit"), "{reasons:?}");
        row.hits(&scene.load);
        disk.resize(ROOMY);
        // It trusts its disk again only from its next start.
        nats.kill().await;
        nats.restart().await;
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
    nats.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_07_fsync_fails() {
    let mut nats = Nats::start().await;
    let mut row = Row::begin("an fsync of the log fails");
    let mut scene = Scene::start(nats.url(), &[]).await;
    while row.next(&mut scene.load).await {
        let what = format!("fsync:error=EIO:when={}", fastrand::u32(1..200));
        let Some(injection) = Injection::start(nats.pid(), &what) else { return };
        crate::support::eventually("an fsync fails", async || (injection.hits() > 0).then_some(())).await;
        row.hits(&scene.load);
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(injection);
        nats.kill().await;
        nats.restart().await;
        row.over(&mut scene.load).await;
    }
    row.end(scene, &nats.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn row_08_fsync_takes_long() {
    let nats = Nats::start().await;
    let mut row = Row::begin("each fsync of the log takes 20 to 200 ms longer");
    let mut scene = Scene::start(nats.url(), &[]).await;
    while row.next(&mut scene.load).await {
        let longer_us = fastrand::u32(20..200) * 1_000;
        let Some(injection) = Injection::start(nats.pid(), &format!("fsync:delay_exit={longer_us}")) else {
            return;
        };
        row.hits(&scene.load);
        row.over(&mut scene.load).await;
        scene.load.go_on(300).await;
        assert!(injection.hits() > 0, "no fsync took long");
        drop(injection);
        let unknown = scene.load.told().interrupted().remove("outcome_unknown");
        assert_eq!(unknown, None, "a log that is slow is no log that fails, at {longer_us} µs");
    }
    let log = nats.log().await;
    assert!(log.end().await.is_ok());
    row.end(scene, &log).await;
}
