//! A basket of 1,114 lines, as many as a shop really sold at once, beside one of 10.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checkout::{Buyer, GROUP, shop, sku};
use crate::load::{self, Requests, Until};
use crate::report::{Figure, Plan, Report, Target};
use crate::servers::{Instance, Servers};

pub async fn measure(plan: &Plan, report: &mut Report) {
    let figure = |name, target| Figure { group: GROUP, name, unit: "ms", target };
    let page = figure("cart-1114-lines", Target::RatioAtMost(3.0));
    let plain = figure("cart-1114-lines-plain", Target::RatioAtMost(3.0));
    let changed = figure("cart-1114-lines-changed", Target::None);
    let all = figure("checkout-1114-lines", Target::RatioAtMost(1114.0 / 10.0));
    let servers = Servers::start().await;
    let shop = shop(&servers).await;
    let mut rounds: [Vec<(f64, Option<f64>)>; 4] = Default::default();
    for _ in 0..plan.rounds() {
        let (mut few, mut many) = (Basket::open(&shop, 10).await, Basket::open(&shop, 1_114).await);
        let (few_changed, many_changed) = (few.changed_page_ms().await, many.changed_page_ms().await);
        let packed =
            pages_ms(&shop, [&few, &many].map(|it| load::get_packed_at(&it.page, it.position))).await;
        let plain = pages_ms(&shop, [&few, &many].map(|it| load::get_at(&it.page, it.position))).await;
        let checkouts = [few.checkout_ms().await, many.checkout_ms().await];
        for (round, [few, many]) in
            rounds.iter_mut().zip([packed, plain, [few_changed, many_changed], checkouts])
        {
            round.push((many, Some(few)));
        }
    }
    for (figure, rounds) in [page, plain, changed, all].iter().zip(&rounds) {
        report.note(figure, rounds);
    }
    shop.stop().await;
    servers.stop().await;
}

/// What each of two pages takes of the machine that are not changed meanwhile, with several buyers at a time: so that no processor
/// falls asleep, to be woken by the next request, which takes longer than any page and would hide what that costs.
async fn pages_ms(shop: &Instance, pages: [String; 2]) -> [f64; 2] {
    const BUYERS: usize = 8;
    const PAGES: u64 = 20_000;
    let mut took = [0.0; 2];
    for (page, took) in pages.into_iter().zip(&mut took) {
        let page: Requests = Arc::new(move |_| page.clone());
        let load = load::run(&shop.address, BUYERS, Until::Answered(PAGES), page).await;
        *took = 1e3 / load.per_second();
    }
    took
}

fn percentile_ms(mut took: Vec<Duration>, percent: usize) -> f64 {
    took.sort_unstable();
    took[took.len() * percent / 100].as_secs_f64() * 1e3
}

/// A cart that somebody looks at for long.
struct Basket {
    buyer: Buyer,
    cart: String,
    page: String,
    /// Where it is as it is.
    position: u64,
}

impl Basket {
    async fn open(shop: &Instance, lines: u64) -> Self {
        let mut buyer = Buyer::open(shop).await;
        let (cart, position) = buyer.cart((0..lines).map(sku)).await;
        Self { buyer, page: format!("/v1/carts/{cart}"), cart, position }
    }

    /// Its page right after a change, which the read model has to come to first; packed anew.
    async fn changed_page_ms(&mut self) -> f64 {
        const CHANGES: u64 = 20;
        let mut took = Vec::new();
        for change in 0..CHANGES {
            let line = format!("{}/lines/{}", self.page, sku(0));
            let change = load::put(&line, &format!("{{\"quantity\": {}}}", 2 - change % 2));
            self.position = self.buyer.0.send(&change).await.expect("a position");
            let began = Instant::now();
            self.buyer.0.send(&load::get_packed_at(&self.page, self.position)).await;
            took.push(began.elapsed());
        }
        percentile_ms(took, 50)
    }

    /// Its checkout, until it's confirmed and visible.
    async fn checkout_ms(&mut self) -> f64 {
        let began = Instant::now();
        let order = self.buyer.check_out(&self.cart, 120).await;
        assert_eq!(order["status"], "confirmed", "{order}");
        began.elapsed().as_secs_f64() * 1e3
    }
}
