//! What is done about a request without an outcome, by how old it is and by what the provider knows.

use std::sync::Mutex;

use domain::payment::{OpenRequest, Refund, RefundState};
use domain::{Money, OrderId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::payment::Page;

use super::*;

/// Knows what it is told, and answers no request, or refuses each.
#[derive(Default)]
struct Provider {
    known: Vec<Statement>,
    /// Answers not even a look-up.
    is_dead: bool,
    refuses: bool,
    asked: Mutex<u32>,
}

impl PaymentProvider for Provider {
    fn name(&self) -> &'static str {
        "silent"
    }

    fn ask<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        *self.asked.lock().expect("no panic") += 1;
        let answer = match self.refuses {
            true => Ok(Answer::Refused { reason: "no".to_owned() }),
            false => Err(NoAnswer("the answer got lost".to_owned())),
        };
        async { answer }.boxed()
    }

    fn look_up<'a>(&'a self, _: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>> {
        let dead = || NoAnswer("nobody is there".to_owned());
        async move { if self.is_dead { Err(dead()) } else { Ok(self.known.clone()) } }.boxed()
    }

    fn list<'a>(
        &'a self,
        _: DateTime<Utc>,
        _: DateTime<Utc>,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, NoAnswer>> {
        unreachable!("nobody reconciles")
    }

    fn challenge<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, NoAnswer>> {
        unreachable!("nobody is challenged")
    }

    fn order_of<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>> {
        unreachable!("nobody asks whose it is")
    }
}

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::Duration::days(20_000)
}

fn request(operation: Operation, attempt: u32, age: chrono::Duration) -> Request {
    let refund = (operation == Operation::Refund).then(|| "refund".to_owned());
    let asked_at = Some(now() - age);
    let (stray, round, is_under_review) = (None, 0, false);
    Request {
        order_id: OrderId(uuid::Uuid::from_u128(7)),
        amount: Money::new(1000, "GBP".parse().expect("a currency")),
        payment: domain::cart::PaymentMethod { method: "silent".to_owned(), token: "tok".to_owned() },
        open: OpenRequest {
            operation,
            amount: 1000,
            refund,
            stray,
            attempt,
            round,
            asked_at,
            is_under_review,
        },
        provider_reference: (operation != Operation::Authorize).then(|| "p-1".to_owned()),
    }
}

/// What is to be recorded first, and how often the provider was asked to do it.
async fn settled(provider: &Provider, request: &Request, is_first: bool) -> (Outcome, u32) {
    let clock = Clock::from_fn(now);
    let commands = settle(provider, request, is_first, &clock, &Patience::default()).await;
    let Some(Command::Record { outcome, .. }) = commands.into_iter().next() else { panic!("an outcome") };
    (outcome, *provider.asked.lock().expect("no panic"))
}

fn is_unknown(outcome: &Outcome, overdue: bool) -> bool {
    matches!(outcome, Outcome::Unknown { is_overdue, .. } if *is_overdue == overdue)
}

const HOUR: chrono::Duration = chrono::Duration::hours(1);
const MINUTE: chrono::Duration = chrono::Duration::minutes(1);

#[tokio::test]
async fn what_creates_is_asked_for_again_while_its_key_is_young_and_never_after() {
    for operation in [Operation::Authorize, Operation::Refund] {
        for (age, asked, is_overdue) in [
            (MINUTE, 1, false),
            (HOUR - MINUTE, 1, false),
            (HOUR + MINUTE, 1, true),
            (HOUR * 20 - MINUTE, 1, true),
            (HOUR * 20 + MINUTE, 0, true),
            (HOUR * 48 - MINUTE, 0, true),
        ] {
            let (outcome, times) = settled(&Provider::default(), &request(operation, 3, age), false).await;
            assert_eq!(times, asked, "{operation:?} after {age}");
            assert!(is_unknown(&outcome, is_overdue), "{operation:?} after {age}: {outcome:?}");
        }
        // Even if this process believes that it is the first.
        let (_, times) = settled(&Provider::default(), &request(operation, 0, HOUR * 21), true).await;
        assert_eq!(times, 0, "{operation:?}");
    }
}

#[tokio::test]
async fn what_is_not_in_the_books_long_after_never_arrived() {
    for operation in [Operation::Authorize, Operation::Refund] {
        let old = request(operation, 9, HOUR * 48 + MINUTE);
        assert_eq!(settled(&Provider::default(), &old, false).await, (Outcome::NeverArrived, 0));
        // Who can't be asked says nothing, however long ago it was.
        let dead = Provider { is_dead: true, ..Provider::default() };
        let (outcome, times) = settled(&dead, &old, false).await;
        assert!(is_unknown(&outcome, true) && times == 0, "{outcome:?}");
    }
}

#[tokio::test]
async fn what_moves_no_new_money_is_asked_for_however_old_it_is() {
    for operation in [Operation::Capture, Operation::Void] {
        let old = request(operation, 9, HOUR * 30);
        let (outcome, times) = settled(&Provider::default(), &old, false).await;
        assert!(is_unknown(&outcome, true) && times == 1, "{operation:?}: {outcome:?}");
    }
}

fn authorized() -> Statement {
    Statement {
        reference: "p-1".to_owned(),
        state: State::Authorized,
        currency: "GBP".parse().expect("a currency"),
        authorized: 1000,
        captured: 0,
        charged_back: 0,
        reinstated: 0,
        refunds: Vec::new(),
    }
}

#[tokio::test]
async fn what_is_found_is_the_outcome_and_nothing_is_asked_for() {
    let found = authorized();
    for age in [MINUTE, HOUR * 21, HOUR * 100] {
        let provider = Provider { known: vec![found.clone()], ..Provider::default() };
        let (outcome, times) = settled(&provider, &request(Operation::Authorize, 1, age), false).await;
        assert!(matches!(&outcome, Outcome::Stated { statement, .. } if *statement == found), "{outcome:?}");
        assert_eq!(times, 0);
    }
}

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused { reason, .. } if reason == "no")
}

#[tokio::test]
async fn who_is_declined_at_the_first_try_hears_so_at_once() {
    for operation in [Operation::Authorize, Operation::Refund, Operation::Capture, Operation::Void] {
        let refuses = Provider { refuses: true, ..Provider::default() };
        let (outcome, times) =
            settled(&refuses, &request(operation, 0, chrono::Duration::zero()), true).await;
        assert!(is_refused(&outcome) && times == 1, "{operation:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_refused_once_the_books_have_had_their_time() {
    let young = MINUTE * 2 - chrono::Duration::seconds(1);
    for operation in [Operation::Authorize, Operation::Refund] {
        for (attempt, is_first) in [(0, false), (1, true), (5, false)] {
            let refuses = Provider { refuses: true, ..Provider::default() };
            let (outcome, _) = settled(&refuses, &request(operation, attempt, young), is_first).await;
            assert!(is_unknown(&outcome, false), "{operation:?}, {attempt}: {outcome:?}");
            let (outcome, _) = settled(&refuses, &request(operation, attempt, MINUTE * 3), is_first).await;
            assert!(is_refused(&outcome), "{operation:?}, {attempt}: {outcome:?}");
        }
    }
}

/// It is carried out while it is asked for: by another process, that is.
#[tokio::test]
async fn a_refund_that_is_refused_because_it_is_done_is_done() {
    let mut refunded = Statement { state: State::Captured, captured: 1000, ..authorized() };
    let (name, reference) = (Some("refund".to_owned()), "r-1".to_owned());
    refunded.refunds.push(Refund { name, reference, amount: 1000, state: RefundState::Done });
    let provider = Provider { known: vec![refunded.clone()], refuses: true, ..Provider::default() };
    let (outcome, times) =
        settled(&provider, &request(Operation::Refund, 0, chrono::Duration::zero()), true).await;
    assert!(matches!(&outcome, Outcome::Stated { statement, .. } if *statement == refunded), "{outcome:?}");
    assert_eq!(times, 1);
}

#[test]
fn pauses_grow_up_to_a_minute_and_orders_do_not_come_at_once() {
    let pause = |order: u128, attempt| {
        let order_id = OrderId(uuid::Uuid::from_u128(order));
        backoff(&Request { order_id, ..request(Operation::Authorize, attempt, MINUTE) })
    };
    for (attempt, middle) in [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (7, 60), (u32::MAX, 60)] {
        let between = Duration::from_secs(middle) * 4 / 5..=Duration::from_secs(middle) * 6 / 5;
        assert!((1..100).all(|order| between.contains(&pause(order, attempt))), "{attempt}");
    }
    let different: std::collections::BTreeSet<_> = (0..100).map(|order| pause(order, 6)).collect();
    assert!(different.len() > 20, "{} of a hundred", different.len());
}
