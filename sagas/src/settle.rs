//! Getting an outcome for a payment's open request from the provider.
//!
//! | what is known                                    | what is done                                    |
//! |--------------------------------------------------|-------------------------------------------------|
//! | nobody has asked yet                             | ask                                             |
//! | somebody may have asked                          | look it up; what is found is the outcome        |
//! | it is not found, and the key is young            | ask again, with the same key                    |
//! | its key only brings the failure of the first try | look it up; long enough after, it was not done  |
//! | a refund is refused, or what may have been done  | the same                                        |
//! | it is not found, and the key may be forgotten    | look it up again, later: it may still appear    |
//! | it is not found, long after                      | it never arrived, and will not any more         |
//!
//! Providers forget keys (Stripe after 24 hours, others never heed them), so a key counts for less, and
//! nothing is made twice on the strength of it. Captures and voids need none: done twice, they are refused.

#[cfg(test)]
mod spec;

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::payment::{Command, Operation, Outcome, Request, State, Statement};
use infra::clock::Clock;
use infra::payment::{Answer, NoAnswer, PaymentProvider, Wanted};

/// How long a look-up, a request and another look-up may take together. A provider's guard gives up each of them
/// earlier; this is for one that has none.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(30);

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
    /// So long after it was made, what a request made is in the provider's books, if it made anything. Longer than
    /// the longest pause between two tries, so that it is over for the one before as well.
    pub books_lag: chrono::Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            safe_window: chrono::Duration::hours(20),
            horizon: chrono::Duration::hours(48),
            review_after: chrono::Duration::hours(1),
            books_lag: chrono::Duration::minutes(2),
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
        Ok(Heard::Stated(statement)) => (Outcome::Stated { statement, look_up_at: again_at }, Vec::new()),
        Ok(Heard::Refused(reason)) => {
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
    let outcome = Command::Record { name: request.open.name(), attempt, outcome, at };
    let others = others.into_iter().map(|statement| Command::Observe { statement, at });
    std::iter::once(outcome).chain(others).collect()
}

enum Heard {
    Stated(Statement),
    Refused(String),
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
    let is_repeat = !is_first || request.open.attempt > 0;
    if (is_repeat || !is_safe)
        && let Some(found) = look_up(provider, request).await?
    {
        return Ok(found);
    }
    let creates = request.open.operation.creates();
    if creates && !is_safe {
        return Ok(Heard::Nothing);
    }
    // Where keys are forgotten, what is refused may be refused because it was done: before, or by another process
    // at the same time. A buyer who is declined at the first try hears so at once.
    let may_be_done = match request.open.operation {
        Operation::Refund => true,
        Operation::Authorize => is_repeat,
        Operation::Capture | Operation::Void => false,
    };
    let (reason, is_known) = match provider.ask(request).await? {
        Answer::Stated(statement) => return Ok(Heard::Stated(statement)),
        Answer::Refused { reason } if !may_be_done => return Ok(Heard::Refused(reason)),
        Answer::Refused { reason } => (reason, !is_repeat),
        Answer::Failed { reason } => (reason, false),
    };
    // It is over, so what it did shows, at the latest when the books have had their time; of which there was enough
    // since requests whose time is not known.
    let is_in_the_books = request.open.asked_at.is_none() || age > patience.books_lag;
    Ok(match look_up(provider, request).await? {
        Some(found) => found,
        None if is_known || creates && is_in_the_books => Heard::Refused(reason),
        None => Heard::Nothing,
    })
}

/// What the provider's books say came of the request, if they do.
async fn look_up(provider: &dyn PaymentProvider, request: &Request) -> Result<Option<Heard>, NoAnswer> {
    let mut found = provider.look_up(wanted(request)).await?;
    found.sort_by_key(|statement| std::cmp::Reverse(rank(&statement.state)));
    let Some(at) = found.iter().position(|statement| answers(request, statement)) else { return Ok(None) };
    let statement = found.remove(at);
    Ok(Some(Heard::Found(statement, found)))
}

/// A payment by its name, or what there may be for the order since shortly before it was asked for.
fn wanted(request: &Request) -> Wanted<'_> {
    let since = since(request.open.asked_at);
    Wanted { order_id: request.order_id, reference: request.provider_reference.as_deref(), since }
}

/// Before that, by the provider's clock, there can't be anything that was asked for then.
pub(crate) fn since(asked_at: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    asked_at.map(|asked_at| asked_at - CLOCKS_DIFFER_MAX)
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
