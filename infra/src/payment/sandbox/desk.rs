//! The sandbox's desk: enters what it is asked for into the ledger, all that has come in meanwhile at a time.

use std::collections::HashMap;

use chrono::{DateTime, Duration, Utc};
use domain::payment::{Operation, Request, State, Statement};
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::super::NoAnswer;
use super::ledger::{self, Line};
use super::no_answer;
use crate::clock::Clock;

/// How long what is slow takes.
pub const SLOW: Duration = Duration::seconds(5);

/// How long `tok_late` takes.
const LATE: Duration = Duration::minutes(1);

/// Requests that are entered at a time.
const TOGETHER_MAX: usize = 256;

/// How often it's looked at what others have entered meanwhile, before there is no answer.
const LOOKS_MAX: usize = 100;

/// A request that has come in, and who waits for it.
struct Asked {
    request: Request,
    answer: oneshot::Sender<Result<Entered, NoAnswer>>,
}

/// A request that is in the ledger.
pub struct Entered {
    pub line: Line,
    /// What the ledger says of the payment since.
    pub statement: Option<Statement>,
    /// It was not there before.
    pub is_first: bool,
}

/// Where requests come in. What waits there is entered, even if nobody waits for the answer any more.
#[derive(Clone)]
pub struct Desk(mpsc::Sender<Asked>);

impl Desk {
    pub fn open(ledger: PgPool, clock: Clock) -> Self {
        let (sender, mut asked) = mpsc::channel(TOGETHER_MAX);
        tokio::spawn(async move {
            let mut together = Vec::new();
            while asked.recv_many(&mut together, TOGETHER_MAX).await > 0 {
                let (requests, waiting): (Vec<_>, Vec<_>) =
                    together.drain(..).map(|Asked { request, answer }| (request, answer)).unzip();
                let mut entered = enter(&requests, &clock, &ledger).await.map(Vec::into_iter);
                for answer in waiting {
                    let outcome = match &mut entered {
                        Ok(entered) => entered.next().ok_or_else(|| NoAnswer("it got lost".to_owned())),
                        Err(error) => Err(NoAnswer(error.to_string())),
                    };
                    // Nobody may wait for it any more.
                    let _ = answer.send(outcome);
                }
            }
        });
        Self(sender)
    }

    /// Enters the request, or finds it entered before under its key.
    pub async fn enter(&self, request: &Request) -> Result<Entered, NoAnswer> {
        let closed = |_| NoAnswer("the desk is closed".to_owned());
        let (answer, entered) = oneshot::channel();
        self.0.send(Asked { request: request.clone(), answer }).await.map_err(|_| closed(()))?;
        entered.await.map_err(|_| closed(()))?
    }
}

/// Enters requests in the order in which they came, all or none. Where somebody else has entered the next line of one
/// of these orders meanwhile, it's all looked at again.
async fn enter(requests: &[Request], clock: &Clock, ledger: &PgPool) -> Result<Vec<Entered>, NoAnswer> {
    let orders: Vec<Uuid> = requests.iter().map(|request| request.order_id.0).collect();
    let mut connection = ledger.acquire().await.map_err(no_answer)?;
    for _ in 0..LOOKS_MAX {
        let lines = ledger::lines(&orders, &mut connection).await.map_err(no_answer)?;
        // What was entered before has happened before.
        let (entered, news) = draft(requests, lines, clock.now());
        if news.is_empty() || ledger::enter(news, &mut connection).await.map_err(no_answer)? {
            return Ok(entered);
        }
    }
    Err(NoAnswer("others keep entering something about the same orders".to_owned()))
}

/// How the requests stand in the ledger after these lines, and the lines that are new.
fn draft(requests: &[Request], lines: Vec<Line>, now: DateTime<Utc>) -> (Vec<Entered>, Vec<Line>) {
    let mut known: HashMap<Uuid, Vec<Line>> = HashMap::new();
    for line in lines {
        known.entry(line.order_id).or_default().push(line);
    }
    let mut news = Vec::new();
    let mut entered = Vec::with_capacity(requests.len());
    for request in requests {
        let lines = known.entry(request.order_id.0).or_default();
        let key = request.idempotency_key();
        let before = lines.iter().find(|line| line.idempotency_key == key).cloned();
        let is_first = before.is_none();
        let line = before.unwrap_or_else(|| {
            let line = new_line(request, lines, now);
            let charged_back = charges_back(request).then(|| line.charged_back(now + SLOW));
            // Another request may have led to it before.
            let is_new =
                |line: &Line| lines.iter().all(|known| known.idempotency_key != line.idempotency_key);
            let charged_back = charged_back.filter(is_new);
            for new in charged_back.into_iter().chain([line.clone()]) {
                let new = new.numbered(lines.len());
                news.push(new.clone());
                lines.push(new);
            }
            line
        });
        let statement = statement(lines, &line.provider_reference, now);
        entered.push(Entered { line, statement, is_first });
    }
    (entered, news)
}

/// The line of a request that is new, where these are the lines about its order.
fn new_line(request: &Request, lines: &[Line], now: DateTime<Utc>) -> Line {
    let (operation, token) = (request.open.operation, request.payment.token.as_str());
    let reference = request.provider_reference.clone();
    let reference = reference.filter(|_| operation != Operation::Authorize);
    let reference = reference.unwrap_or_else(|| ledger::new_reference(request));
    let before = statement(lines, &reference, now);
    let declined = match operation {
        Operation::Authorize => declined(token),
        Operation::Capture if token == "tok_capture_declined" => Some("expired_card"),
        Operation::Refund if token == "tok_refund_refused" && request.open.round == 0 => {
            Some("insufficient_balance")
        }
        Operation::Capture | Operation::Void | Operation::Refund => impossible(request, before.as_ref()),
    };
    let halves = matches!(
        (operation, token),
        (Operation::Authorize, "tok_less") | (Operation::Capture, "tok_capture_less")
    );
    let takes = match (operation, token) {
        (Operation::Authorize, "tok_slow") | (Operation::Refund, "tok_refund_slow") => SLOW,
        (Operation::Authorize, "tok_late") => LATE,
        _ => Duration::zero(),
    };
    Line {
        idempotency_key: request.idempotency_key(),
        order_id: request.order_id.0,
        operation: operation.code().to_owned(),
        provider_reference: reference,
        amount: if halves { request.amount.amount / 2 } else { request.amount.amount },
        currency: request.amount.currency.code().to_owned(),
        declined: declined.map(str::to_owned),
        settles_at: now + takes,
        asked_at: now,
        number: None,
        challenge: (operation == Operation::Authorize && token == "tok_challenge")
            .then(|| ledger::ASKED.to_owned()),
    }
}

/// Whether the buyer's bank takes back what the request captures.
pub fn charges_back(request: &Request) -> bool {
    request.open.operation == Operation::Capture && request.payment.token == "tok_charge_back"
}

fn statement(lines: &[Line], reference: &str, now: DateTime<Utc>) -> Option<Statement> {
    let all = ledger::statements(lines, now);
    all.into_iter().map(|booked| booked.statement).find(|one| one.reference == reference)
}

fn declined(token: &str) -> Option<&'static str> {
    match token {
        "tok_approve"
        | "tok_slow"
        | "tok_lost"
        | "tok_late"
        | "tok_twice"
        | "tok_challenge"
        | "tok_less"
        | "tok_capture_less"
        | "tok_capture_declined"
        | "tok_refund_slow"
        | "tok_refund_refused"
        | "tok_charge_back" => None,
        "tok_decline" => Some("insufficient_funds"),
        _ => Some("unknown_token"),
    }
}

/// Why the ledger does not allow the operation, if it does not.
fn impossible(request: &Request, before: Option<&Statement>) -> Option<&'static str> {
    let Some(before) = before else { return Some("not_authorized") };
    match (request.open.operation, &before.state) {
        (Operation::Capture, State::Authorized) if request.amount.amount <= before.authorized => None,
        (Operation::Capture, State::Voided) => Some("voided"),
        (Operation::Capture, State::Captured) => Some("captured"),
        (Operation::Capture, _) => Some("not_authorized"),
        (Operation::Void, State::Captured) => Some("captured"),
        (Operation::Void, State::Voided) => Some("voided"),
        (Operation::Refund, State::Captured) => {
            let refunds = before.refunds.iter().map(|refund| refund.amount);
            let given_back = refunds.fold(0_i64, i64::saturating_add);
            let is_left = request.amount.amount <= before.captured.saturating_sub(given_back);
            (!is_left).then_some("more_than_captured")
        }
        (Operation::Refund, _) => Some("not_captured"),
        (Operation::Authorize | Operation::Void, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use domain::cart::PaymentMethod;
    use domain::payment::OpenRequest;
    use domain::{Money, OrderId};

    use super::*;

    fn capture(round: u32) -> Request {
        let operation = Operation::Capture;
        let (refund, stray, attempt, asked_at, is_under_review) = (None, None, 0, None, false);
        Request {
            order_id: OrderId(Uuid::from_u128(7)),
            amount: Money { amount: 100, currency: "GBP".parse().expect("a currency") },
            payment: PaymentMethod { method: "sandbox".into(), token: "tok_charge_back".into() },
            open: OpenRequest {
                operation,
                amount: 100,
                refund,
                stray,
                attempt,
                round,
                asked_at,
                is_under_review,
            },
            provider_reference: Some("p-1".into()),
        }
    }

    /// A key that is entered twice would be refused for ever.
    #[test]
    fn no_key_is_entered_twice_and_each_line_has_its_number() {
        let now = DateTime::UNIX_EPOCH;
        let (entered, first) = draft(&[capture(0)], Vec::new(), now);
        assert!(entered[0].is_first);
        assert_eq!(first.len(), 2, "the capture, and that it is charged back");
        let (entered, again) = draft(&[capture(0), capture(1)], first.clone(), now);
        assert_eq!(entered.iter().map(|entered| entered.is_first).collect::<Vec<_>>(), [false, true]);
        assert_eq!(again.len(), 1, "it is charged back once: {again:?}");
        let numbers: Vec<_> = first.iter().chain(&again).map(|line| line.number).collect();
        assert_eq!(numbers, [Some(0), Some(1), Some(2)]);
    }
}
