//! Getting an outcome for a payment's open request from the provider.
//!
//! | what is known                                    | what is done                                    |
//! |--------------------------------------------------|-------------------------------------------------|
//! | nobody has asked yet                             | ask                                             |
//! | somebody may have asked                          | look it up; what is found is the outcome        |
//! | it is not found, and the key is young            | ask again, with the same key                    |
//! | it is not found, and the key may be forgotten    | look it up again, later: it may still appear    |
//! | it is not found, long after                      | it never arrived, and will not any more         |
//!
//! Providers forget keys (Stripe after 24 hours, others never heed them), so a key counts for less, and
//! nothing is made twice on the strength of it. Captures and voids need none: done twice, they are refused.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::payment::{Command, Operation, Outcome, Request, State, Statement};
use infra::clock::Clock;
use infra::payment::{Answer, NoAnswer, PaymentProvider, Wanted};

/// How long a provider may take to answer.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Longest time between two look-ups.
const LOOK_UP_MAX: Duration = Duration::from_secs(60);

/// How far the provider's clock may be behind.
const CLOCKS_DIFFER_MAX: chrono::Duration = chrono::Duration::minutes(10);

/// How long what is said of a request can be relied on.
#[derive(Debug, Clone)]
pub struct Patience {
    /// So long after it was made, a request may be made again with its key.
    pub safe_window: chrono::Duration,
    /// So long after it was made, a request that is not in the provider's books never arrived.
    pub horizon: chrono::Duration,
    /// So long after it was made, somebody should look at a request without an outcome.
    pub review_after: chrono::Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            safe_window: chrono::Duration::hours(20),
            horizon: chrono::Duration::hours(48),
            review_after: chrono::Duration::hours(1),
        }
    }
}

/// Gets an outcome for the request, and says what to record: that first, then what else was found.
///
/// `is_first` if nobody can have asked before.
pub async fn settle(
    provider: &dyn PaymentProvider,
    request: &Request,
    is_first: bool,
    clock: &Clock,
    patience: &Patience,
) -> Vec<Command> {
    let (operation, attempt) = (request.open.operation, request.open.attempt);
    let heard = tokio::time::timeout(ANSWER_LIMIT, ask(provider, request, is_first, clock, patience)).await;
    let heard = heard.unwrap_or_else(|_| Err(NoAnswer("it took too long".to_owned())));
    let at = clock.now();
    let age = request.open.asked_at.map_or_else(chrono::Duration::zero, |asked_at| at - asked_at);
    let again_at = at + backoff(request);
    let (outcome, others) = match heard {
        Ok(Heard::Answer(Answer::Stated(statement))) => {
            (Outcome::Stated { statement, look_up_at: again_at }, Vec::new())
        }
        Ok(Heard::Answer(Answer::Refused { reason })) => {
            if matches!(operation, Operation::Void | Operation::Refund) {
                tracing::error!(order = %request.order_id, operation = operation.code(), reason,
                    "the payment provider refuses to give money back; it will be asked again");
            }
            (Outcome::Refused { reason, again_at }, Vec::new())
        }
        Ok(Heard::Found(statement, others)) => (Outcome::Stated { statement, look_up_at: again_at }, others),
        Ok(Heard::Nothing) if age > patience.horizon => (Outcome::NeverArrived, Vec::new()),
        Ok(Heard::Nothing) => {
            let is_overdue = age > patience.review_after;
            (Outcome::Unknown { look_up_at: again_at, is_overdue }, Vec::new())
        }
        Err(error) => {
            tracing::warn!(order = %request.order_id, operation = operation.code(), %error,
                "the outcome is unknown; it will be looked up");
            let is_overdue = age > patience.review_after;
            (Outcome::Unknown { look_up_at: again_at, is_overdue }, Vec::new())
        }
    };
    let outcome = Command::Record { operation, attempt, outcome, at };
    let others = others.into_iter().map(|statement| Command::Observe { statement, at });
    std::iter::once(outcome).chain(others).collect()
}

enum Heard {
    Answer(Answer),
    /// In the provider's books, with other payments for the same order.
    Found(Statement, Vec<Statement>),
    /// It's not in the books, and it's too late to ask again.
    Nothing,
}

async fn ask(
    provider: &dyn PaymentProvider,
    request: &Request,
    is_first: bool,
    clock: &Clock,
    patience: &Patience,
) -> Result<Heard, NoAnswer> {
    let age = request.open.asked_at.map_or_else(chrono::Duration::zero, |asked_at| clock.now() - asked_at);
    let is_safe = age <= patience.safe_window;
    if !is_first || request.open.attempt > 0 || !is_safe {
        let mut found = provider.look_up(wanted(request)).await?;
        found.sort_by_key(|statement| std::cmp::Reverse(rank(&statement.state)));
        if let Some(at) = found.iter().position(|statement| answers(request, statement)) {
            let statement = found.remove(at);
            return Ok(Heard::Found(statement, found));
        }
    }
    if request.open.operation.creates() && !is_safe {
        return Ok(Heard::Nothing);
    }
    provider.ask(request).await.map(Heard::Answer)
}

/// A payment by its name, or what there may be for the order since shortly before it was asked for.
fn wanted(request: &Request) -> Wanted<'_> {
    let since = request.open.asked_at.map(|asked_at: DateTime<Utc>| asked_at - CLOCKS_DIFFER_MAX);
    Wanted { order_id: request.order_id, reference: request.provider_reference.as_deref(), since }
}

/// Whether the statement says what became of the request.
fn answers(request: &Request, statement: &Statement) -> bool {
    match (request.open.operation, &request.open.refund) {
        (Operation::Authorize, _) => true,
        (Operation::Capture, _) => matches!(statement.state, State::Captured | State::Voided),
        (Operation::Void, _) => matches!(statement.state, State::Captured | State::Voided),
        (Operation::Refund, name) => {
            let mut names = statement.refunds.iter().map(|refund| refund.name.as_deref());
            names.any(|found| found.is_some() && found == name.as_deref())
        }
    }
}

/// Of several payments for one order, the one that went furthest is the order's.
fn rank(state: &State) -> u8 {
    match state {
        State::Captured => 5,
        State::Authorized => 4,
        State::Processing => 3,
        State::ActionRequired => 2,
        State::Declined { .. } => 1,
        State::Voided => 0,
    }
}

/// 1 s, 2 s, 4 s, … up to a minute; a fifth more or less, so that not all come at once.
fn backoff(request: &Request) -> Duration {
    let attempt = request.open.attempt;
    let pause = Duration::from_secs(1_u64 << attempt.min(6)).min(LOOK_UP_MAX);
    let (_, random) = request.order_id.0.as_u64_pair();
    let jitter = 80 + random.rotate_left(attempt % 64) % 41;
    pause * u32::try_from(jitter).unwrap_or(100) / 100
}
