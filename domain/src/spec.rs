//! Given, when, then: how the rules are told in tests.

use crate::Aggregate;

/// An aggregate with a past.
#[derive(Debug)]
pub struct Given<A: Aggregate> {
    state: A,
}

/// What the aggregate answered to a command.
#[derive(Debug)]
pub struct When<A: Aggregate> {
    state: A,
    outcome: Result<Vec<A::Event>, A::Error>,
}

/// The aggregate after these events.
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let mut state = A::default();
    events.into_iter().for_each(|event| state.evolve(&event));
    Given { state }
}

impl<A: Aggregate> Given<A> {
    pub fn when(self, command: A::Command) -> When<A> {
        let outcome = self.state.decide(command);
        When { state: self.state, outcome }
    }

    /// The state itself, for what its events don't say.
    pub fn state(&self) -> &A {
        &self.state
    }
}

impl<A: Aggregate> When<A> {
    /// Exactly these events happen; the story goes on after them.
    ///
    /// # Panics
    /// Something else happened.
    #[track_caller]
    pub fn then(mut self, expected: impl IntoIterator<Item = A::Event>) -> Given<A> {
        let events = match self.outcome {
            Ok(events) => events,
            Err(error) => panic!("refused: {error}"),
        };
        assert_eq!(events, expected.into_iter().collect::<Vec<_>>());
        events.iter().for_each(|event| self.state.evolve(event));
        Given { state: self.state }
    }

    /// All was as asked already.
    ///
    /// # Panics
    /// Something happened.
    #[track_caller]
    pub fn then_nothing(self) -> Given<A> {
        self.then([])
    }

    /// The business says no.
    ///
    /// # Panics
    /// It did not, or with another reason.
    #[track_caller]
    pub fn then_refused(self, expected: A::Error) -> Given<A>
    where
        A::Error: PartialEq,
    {
        match self.outcome {
            Err(error) => assert_eq!(error, expected),
            Ok(events) => panic!("not refused, but: {events:?}"),
        }
        Given { state: self.state }
    }
}
