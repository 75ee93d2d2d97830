//! Rules of the provider, told as stories, and as a property of all of them.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::psp_sim::book::Record;
use crate::psp_sim::call::route;
use crate::psp_sim::faults::Fault;
use crate::psp_sim::money::Status;
use crate::psp_sim::params::Params;

/// A provider without a network or a disk, at a time of ours.
#[derive(Default)]
struct Provider {
    book: Book,
    records: Vec<Record>,
    now_ms: i64,
}

impl Provider {
    fn ask(&mut self, method: &str, path: &str, form: &str) -> (u16, Value) {
        self.ask_under(method, path, form, &Plan::default())
    }

    fn ask_under(&mut self, method: &str, path: &str, form: &str, plan: &Plan) -> (u16, Value) {
        let (operation, id) = route(method, path).unwrap();
        let params = Params::read(form.as_bytes()).unwrap();
        let call = Call { operation, path: path.to_owned(), id: id.to_owned(), params, key: None };
        let decision = decide(&self.book, &call, self.moment(), plan);
        match decision {
            Ok(Decision { changes, answer }) => {
                self.record(changes);
                (answer.status, answer.body)
            }
            Err(refusal) => (refusal.status, refusal.answer().body),
        }
    }

    fn moment(&self) -> Moment<'static> {
        Moment {
            number: self.book.last_number + 1,
            at_ms: self.now_ms,
            salt: "salt",
            base_url: "http://127.0.0.1:1",
            request: None,
            key: None,
        }
    }

    fn record(&mut self, changes: Vec<Change>) {
        let number = self.book.last_number + 1;
        let record = Record { number, at_ms: self.now_ms, request: None, changes, answer: None };
        self.book.evolve(&record);
        self.records.push(record);
    }

    fn later(&mut self, by_ms: i64) {
        self.now_ms += by_ms;
        while let Some((_, id)) = self.book.due.first().filter(|(due_ms, _)| *due_ms <= self.now_ms).cloned()
        {
            let changes = turn(&self.book, &id, self.moment());
            self.record(changes);
        }
    }

    fn pay(&mut self, method: &str, more: &str) -> (u16, Value) {
        let form = format!("amount=1000&currency=GBP&confirm=true&payment_method={method}&{more}");
        self.ask("POST", "/v1/payment_intents", &form)
    }

    /// Kinds of the events so far.
    fn told(&self) -> Vec<&str> {
        self.book.events.values().map(|event| event.kind.as_str()).collect()
    }
}

fn id(body: &Value) -> String {
    body["id"].as_str().unwrap().to_owned()
}

fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().unwrap_or_default()
}

#[test]
fn money_is_held_then_taken_in_part_and_the_rest_released() {
    let mut provider = Provider::default();
    let (status, held) = provider.pay("pm_card_visa", "capture_method=manual&metadata[attempt_ref]=a");
    assert_eq!((status, held["status"].as_str()), (200, Some("requires_capture")));
    assert_eq!((held["amount_capturable"].as_i64(), held["currency"].as_str()), (Some(1000), Some("gbp")));
    let capture = format!("/v1/payment_intents/{}/capture", id(&held));
    assert_eq!(code(&provider.ask("POST", &capture, "amount_to_capture=1001").1), "amount_too_large");
    let (_, taken) = provider.ask("POST", &capture, "amount_to_capture=600");
    assert_eq!((&taken["status"], &taken["amount_received"]), (&"succeeded".into(), &600.into()));
    assert_eq!(taken["amount_capturable"], 0);
    let (status, again) = provider.ask("POST", &capture, "");
    assert_eq!((status, code(&again)), (400, "payment_intent_unexpected_state"));
    let (status, cancel) = provider.ask("POST", &capture.replace("capture", "cancel"), "");
    assert_eq!((status, code(&cancel)), (400, "payment_intent_unexpected_state"));
    let kinds = ["charge.succeeded", "payment_intent.amount_capturable_updated", "charge.captured"];
    assert_eq!(provider.told()[1..], [&kinds[..], &["payment_intent.succeeded"]].concat());
}

#[test]
fn what_nobody_captures_is_released_after_a_week() {
    let mut provider = Provider::default();
    let (_, held) = provider.pay("pm_card_visa", "capture_method=manual");
    provider.later(7 * 24 * 60 * 60 * 1000);
    let intent = &provider.book.intents[&id(&held)];
    assert_eq!((intent.status, intent.capturable), (Status::Canceled, 0));
    assert_eq!(intent.cancellation_reason.as_deref(), Some("automatic"));
}

#[test]
fn a_declined_payment_can_be_tried_again_with_another_method() {
    let mut provider = Provider::default();
    let (status, declined) = provider.pay("pm_card_visa_chargeDeclinedInsufficientFunds", "");
    assert_eq!((status, code(&declined)), (402, "card_declined"));
    assert_eq!(declined["error"]["decline_code"], "insufficient_funds");
    let intent = &declined["error"]["payment_intent"];
    assert_eq!(intent["status"], "requires_payment_method");
    let path = format!("/v1/payment_intents/{}", id(intent));
    let confirm = format!("{path}/confirm");
    assert_eq!(provider.ask("POST", &confirm, "").0, 400, "it needs a method");
    assert_eq!(provider.ask("POST", &path, "amount=900&metadata[k]=v").1["amount"], 900);
    let (status, paid) = provider.ask("POST", &confirm, "payment_method=pm_card_visa");
    assert_eq!((status, &paid["status"], &paid["amount_received"]), (200, &"succeeded".into(), &900.into()));
    assert_eq!(paid["metadata"]["k"], "v");
}

#[test]
fn a_challenge_is_passed_or_failed() {
    let mut provider = Provider::default();
    for (passed, wanted) in [(true, Status::Succeeded), (false, Status::RequiresPaymentMethod)] {
        let (_, asked) = provider.pay("pm_card_threeDSecure2Required", "return_url=https://shop.example/r");
        assert_eq!(asked["status"], "requires_action");
        let url = asked["next_action"]["redirect_to_url"]["url"].as_str().unwrap();
        assert!(url.ends_with(&format!("/_sim/challenges/{}", id(&asked))), "{url}");
        let intent = provider.book.intents[&id(&asked)].clone();
        let changes = challenge_ended(&intent, passed, provider.moment()).unwrap();
        provider.record(changes);
        let intent = &provider.book.intents[&id(&asked)];
        assert_eq!(intent.status, wanted);
        assert!(challenge_ended(intent, true, provider.moment()).is_err(), "once");
    }
    let (status, nobody) = provider.pay("pm_card_authenticationRequired", "off_session=true");
    assert_eq!((status, code(&nobody)), (402, "authentication_required"));
}

#[test]
fn what_is_under_way_ends_when_its_time_has_come() {
    let mut provider = Provider::default();
    let late = |kind: &str| {
        let fault: Fault = serde_json::from_str(&format!(r#"{{"kind":"{kind}","ms":5000}}"#)).unwrap();
        Plan::of(vec![fault])
    };
    let form = "amount=1000&currency=gbp&confirm=true&payment_method=pm_card_visa&capture_method=manual";
    for (kind, wanted) in [("late", "requires_capture"), ("late_decline", "requires_payment_method")] {
        let (_, begun) = provider.ask_under("POST", "/v1/payment_intents", form, &late(kind));
        assert_eq!(begun["status"], "processing");
        let path = format!("/v1/payment_intents/{}", id(&begun));
        assert_eq!(provider.ask("POST", &format!("{path}/cancel"), "").0, 400);
        provider.later(4_999);
        assert_eq!(provider.ask("GET", &path, "").1["status"], "processing");
        provider.later(1);
        assert_eq!(provider.ask("GET", &path, "").1["status"], wanted);
    }
}

#[test]
fn refunds_turn_as_their_payment_method_says() {
    for (method, at_first, at_last, left) in [
        ("pm_card_visa", "succeeded", "succeeded", 0),
        ("pm_card_pendingRefund", "pending", "succeeded", 0),
        ("pm_card_refundFail", "succeeded", "failed", 1000),
    ] {
        let mut provider = Provider::default();
        let (_, paid) = provider.pay(method, "");
        let form = format!("payment_intent={}", id(&paid));
        let (_, refund) = provider.ask("POST", "/v1/refunds", &form);
        assert_eq!(refund["status"], at_first, "{method}");
        assert_eq!(code(&provider.ask("POST", "/v1/refunds", &form).1), "charge_already_refunded");
        provider.later(60_000);
        let path = format!("/v1/refunds/{}", id(&refund));
        assert_eq!(provider.ask("GET", &path, "").1["status"], at_last, "{method}");
        assert_eq!(provider.book.intents[&id(&paid)].refundable(), left, "{method}");
    }
}

#[test]
fn what_is_not_valid_is_refused_with_its_parameter() {
    let mut provider = Provider::default();
    let fine = "amount=1000&currency=gbp";
    for (form, param, wanted) in [
        ("currency=gbp".to_owned(), "amount", "parameter_missing"),
        ("amount=1000".to_owned(), "currency", "parameter_missing"),
        ("amount=1000&currency=pounds".to_owned(), "currency", "parameter_invalid_string"),
        ("amount=99999999999999999999&currency=gbp".to_owned(), "amount", "amount_too_large"),
        (format!("{fine}&confirm=true"), "payment_method", "parameter_missing"),
        (format!("{fine}&confirm=1"), "confirm", "parameter_invalid_boolean"),
        (format!("{fine}&payment_method=pm_1"), "payment_method", "resource_missing"),
        (format!("{fine}&capture_method=later"), "capture_method", "parameter_invalid_string"),
        (format!("{fine}&colour=red"), "colour", "parameter_unknown"),
        (format!("{fine}&return_url=javascript:x"), "return_url", "url_invalid"),
        (format!("{fine}&metadata=x"), "metadata", "parameter_invalid_string"),
        (format!("{fine}&metadata[k]={}", "x".repeat(501)), "metadata", "parameter_invalid_string"),
    ] {
        let (status, body) = provider.ask("POST", "/v1/payment_intents", &form);
        assert_eq!(
            (status, body["error"]["param"].as_str(), code(&body)),
            (400, Some(param), wanted),
            "{form}"
        );
    }
    assert!(provider.book.intents.is_empty());
    assert_eq!(provider.ask("POST", "/v1/payment_intents/pi_1/capture", "").0, 404);
    assert_eq!(provider.ask("POST", "/v1/refunds", "payment_intent=pi_1").0, 404);
}

#[derive(Debug, Clone)]
enum Step {
    Pay(&'static str, bool),
    Capture(Option<i64>),
    Cancel,
    Refund(Option<i64>),
    Later(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let methods =
        proptest::sample::select(vec!["pm_card_visa", "pm_card_refundFail", "pm_card_pendingRefund"]);
    let amount = || proptest::option::of(1..1_200_i64);
    let step = prop_oneof![
        1 => (methods, any::<bool>()).prop_map(|(method, manual)| Step::Pay(method, manual)),
        2 => amount().prop_map(Step::Capture),
        1 => Just(Step::Cancel),
        6 => amount().prop_map(Step::Refund),
        2 => (1..100_000_i64).prop_map(Step::Later),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nobody_gets_back_more_than_was_taken_and_the_books_are_a_fold(steps in steps()) {
        let mut provider = Provider::default();
        let mut payment = String::new();
        let optional = |name: &str, amount: Option<i64>| {
            amount.map(|amount| format!("&{name}={amount}")).unwrap_or_default()
        };
        for step in steps {
            let path = format!("/v1/payment_intents/{payment}");
            match step {
                Step::Pay(method, manual) => {
                    let (_, body) = provider.pay(method, if manual { "capture_method=manual" } else { "" });
                    payment = id(&body);
                }
                Step::Capture(amount) => {
                    provider.ask("POST", &format!("{path}/capture"), &optional("amount_to_capture", amount));
                }
                Step::Cancel => {
                    provider.ask("POST", &format!("{path}/cancel"), "");
                }
                Step::Refund(amount) => {
                    let form = format!("payment_intent={payment}{}", optional("amount", amount));
                    provider.ask("POST", "/v1/refunds", &form);
                }
                Step::Later(by_ms) => provider.later(by_ms),
            }
            for intent in provider.book.intents.values() {
                prop_assert!(0 <= intent.refunded && intent.refunded <= intent.received, "{intent:?}");
                prop_assert!(intent.received + intent.capturable <= intent.amount, "{intent:?}");
                let refunds = provider.book.refunds.values().filter(|refund| refund.intent == intent.id);
                let alive = refunds.filter(|refund| refund.status != crate::psp_sim::money::RefundStatus::Failed);
                prop_assert_eq!(alive.map(|refund| refund.amount).sum::<i64>(), intent.refunded);
            }
        }
        let mut again = Book::default();
        for record in &provider.records {
            let line = serde_json::to_string(record).unwrap();
            again.evolve(&serde_json::from_str(&line).unwrap());
        }
        prop_assert_eq!(format!("{:?}", again), format!("{:?}", provider.book));
    }
}
