//! Who buys, one way or another.

use super::*;

/// Buys something, one way or another, and now and then thinks better of it.
pub async fn buy(number: u128, client: Client, mut random: fastrand::Rng) {
    tokio::time::sleep(Duration::from_millis(random.u64(0..20_000))).await;
    let cart_id = CartId(Uuid::from_u128(1_000 + number));
    let order_id = OrderId(Uuid::from_u128(2_000 + number));
    assert!(client.insist(|shop| &shop.carts, cart_id, "create", cart::Command::Create).await);
    let offer = Offer { title: "A thing".into(), price: gbp(random.i64(1..5_000)) };
    let mut offers = BTreeMap::new();
    for sku in SKUS.iter().take(random.usize(1..=SKUS.len())) {
        let (step, sku): (String, Sku) = (format!("line {sku}"), sku.parse().expect("a SKU"));
        offers.insert(sku.clone(), offer.clone());
        let set = cart::Command::SetLine { sku, quantity: random.u32(1..3), offer: Some(offer.clone()) };
        assert!(client.insist(|shop| &shop.carts, cart_id, &step, set).await);
    }
    let token = random.choice(TOKENS).expect("one");
    let quote_id = QuoteId(Uuid::from_u128(3_000 + number));
    let terms = Arc::new(terms());
    let asked = AskQuote {
        quote_id,
        country: "GB".into(),
        region: None,
        shipping_method: Some("post".into()),
        offers: offers.clone(),
        terms: terms.clone(),
        now: DateTime::UNIX_EPOCH,
    };
    let is_quoted = number.is_multiple_of(2);
    if is_quoted {
        let quote = cart::Command::Quote(Box::new(asked));
        assert!(client.insist(|shop| &shop.carts, cart_id, "quote", quote).await);
    }
    let check_out = cart::Command::CheckOut(Box::new(CheckOut {
        order_id,
        quote_id: is_quoted.then_some(quote_id),
        shipping_method: None,
        offers,
        expected_total: None,
        payment: PaymentMethod { method: "sandbox".into(), token: token.into() },
        buyer: buyer(),
        terms,
        now: DateTime::UNIX_EPOCH,
    }));
    assert!(client.insist(|shop| &shop.carts, cart_id, "check out", check_out).await);
    if random.u32(0..3) == 0 {
        tokio::time::sleep(Duration::from_millis(random.u64(0..60_000))).await;
        // Refused, if it is not placed yet, or cancelled or shipped by then.
        client.insist(|shop| &shop.orders, order_id, "cancel", order::Command::RequestCancellation).await;
    }
    tokio::time::sleep(Duration::from_millis(random.u64(0..60_000))).await;
    clerk::after_sales(number, order_id, &client, &mut random).await;
}
