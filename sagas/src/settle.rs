//! Getting an outcome for a payment's open request from the provider.

use std::time::Duration;

use domain::payment::{Command, Operation, Outcome, Request};
use infra::clock::Clock;
use infra::payment::{Answer, NoAnswer, PaymentProvider};

/// How long a provider may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Longest time between two look-ups.
const LOOK_UP_MAX: Duration = Duration::from_secs(60);

/// Asks the provider, or looks up what became of it, and says what to record.
pub async fn settle(provider: &dyn PaymentProvider, request: &Request, clock: &Clock) -> Command {
    let answer = tokio::time::timeout(ANSWER_LIMIT, ask(provider, request)).await;
    let answer = answer.unwrap_or_else(|_| Err(NoAnswer("it took too long".to_owned())));
    let look_up_in = |after: Duration| Outcome::Unknown { look_up_at: clock.now() + after };
    let outcome = match answer {
        Ok(Answer::Done { provider_reference }) => Outcome::Done { provider_reference },
        Ok(Answer::Processing { look_up_after }) => look_up_in(look_up_after),
        // Money must be given back, so a refusal to do it is asked again until it's done.
        Ok(Answer::Declined { reason }) if is_undo(request.operation) => {
            tracing::error!(order = %request.order_id, operation = request.operation.code(), reason,
                "the payment provider refuses to give money back; it will be asked again");
            look_up_in(backoff(request.attempt))
        }
        Ok(Answer::Declined { reason }) => Outcome::Declined { reason },
        Err(error) => {
            tracing::warn!(order = %request.order_id, operation = request.operation.code(), %error,
                "the outcome is unknown; it will be looked up");
            look_up_in(backoff(request.attempt))
        }
    };
    Command::Record { operation: request.operation, attempt: request.attempt, outcome }
}

/// The first time, the request is made. Later, it's looked up; if it never arrived, it's made
/// again, with the same key.
async fn ask(provider: &dyn PaymentProvider, request: &Request) -> Result<Answer, NoAnswer> {
    if request.attempt > 0
        && let Some(answer) = provider.look_up(request).await?
    {
        return Ok(answer);
    }
    provider.ask(request).await
}

fn is_undo(operation: Operation) -> bool {
    matches!(operation, Operation::Void | Operation::Refund)
}

/// 1 s, 2 s, 4 s, … up to a minute.
fn backoff(attempt: u32) -> Duration {
    Duration::from_secs(1_u64 << attempt.min(6)).min(LOOK_UP_MAX)
}
