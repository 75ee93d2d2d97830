//! That an order is placed, and what becomes of its lines, is heard at once, and together.
//!
//! Each of these answers comes by in the log, too; but told from there, each would cost a commit of its own: in a large
//! order, a thousand, one after the other. Nothing is overtaken by that: an order begins with being placed, and whatever
//! a shelf says of an order answers what its checkout asked. What the saga makes of several answers has the id of
//! its reaction to the first of them, so who hears that one in the log finds it, and acts on it; and the others change
//! nothing any more.

use std::collections::VecDeque;
use std::fmt::Display;

use domain::{Aggregate, RecordedEvent, StreamId};
use infra::execute::{Executed, Request};

use crate::checkout;
use crate::saga::Input;
use crate::work::{Again, Kind, Sagas, Work};

/// What is made of them has to fit into one message.
const TOGETHER_MAX: usize = 256;

/// What has come of an input.
#[derive(Default)]
pub(crate) struct Reaction {
    /// Something was recorded, and that not before.
    pub is_news: bool,
    /// What came of its steps.
    pub answers: Vec<Work>,
}

impl Sagas {
    /// Deals with an input and all that answers what is done about it.
    pub(crate) async fn deal_with_checkout(&self, work: &Work) -> Result<(), Again> {
        if let (Input::Event { .. }, Some(position)) = (&work.input, work.position)
            && self.index.heard.take(position)
        {
            return Ok(());
        }
        let mut answers = VecDeque::from(self.react(work).await?.answers);
        while !answers.is_empty() {
            let together: Vec<Work> = answers.drain(..answers.len().min(TOGETHER_MAX)).collect();
            let reaction = self.react(&heard(&together)).await?;
            answers.extend(reaction.answers);
            // If it's none, somebody else has heard one of them: they are told one by one, by the log.
            if reaction.is_news {
                together.iter().filter_map(|work| work.position).for_each(|at| self.index.heard.note(at));
            }
        }
        Ok(())
    }

    /// What a step's command led to, as the log will tell it; nothing, if the saga does not follow that.
    pub(crate) fn answer<A: Aggregate>(
        &self,
        work: &Work,
        request: &Request,
        id: impl Display,
        executed: Executed<A>,
        event: fn(A::Event) -> domain::Event,
    ) -> Option<Work> {
        let stream = StreamId::of::<A>(id);
        let event = executed.events.into_iter().next().map(event)?;
        let is_followed = checkout::follows(stream.id(), &event) == Some(work.order_id);
        is_followed.then(|| Work {
            kind: Kind::Checkout,
            order_id: work.order_id,
            input: Input::Event { stream, event, at: self.clock.now() },
            cause: RecordedEvent::id(request.command_id, 0),
            correlation: work.correlation,
            position: Some(executed.sequence),
            is_first: false,
            by: None,
        })
    }
}

/// Several answers as one input.
fn heard(together: &[Work]) -> Work {
    match together {
        [one] => one.clone(),
        [first, ..] => {
            let input = Input::Together(together.iter().map(|work| work.input.clone()).collect());
            Work { input, ..first.clone() }
        }
        [] => unreachable!("there is one"),
    }
}
