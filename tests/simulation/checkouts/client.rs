//! Who gives commands: with a key for each, until it is known what became of it, and now and then once more.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::commit::Hash;
use domain::{Aggregate, CommandId, StreamId};
use infra::execute::{Error, Executed, Executor, Executors, Loaded, Request};
use infra::writer::Priority;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Counts;
use crate::answers::Answers;

/// Longest time after which it is asked again what became of a command that is done.
const ASKED_AGAIN_MAX_MS: u64 = 60_000;

/// Finds an aggregate's executor.
type Of<A> = fn(&Executors) -> &Executor<A>;

/// Where commands are given: processes of which any may get any, whoever got the one before.
pub struct Desk {
    processes: [Arc<Executors>; 2],
    random: Mutex<fastrand::Rng>,
    answers: Mutex<Answers>,
    /// The versions that clients know of.
    known: Mutex<BTreeMap<StreamId, u64>>,
    /// Who asks again, later.
    curious: Mutex<JoinSet<()>>,
    counts: Counts,
}

#[derive(Clone)]
pub struct Client {
    name: u128,
    desk: Arc<Desk>,
}

impl Desk {
    pub fn new(processes: [Arc<Executors>; 2], random: fastrand::Rng, counts: Counts) -> Arc<Self> {
        let (random, answers) = (random.into(), Mutex::default());
        Arc::new(Self {
            processes,
            random,
            answers,
            known: Mutex::default(),
            curious: Mutex::default(),
            counts,
        })
    }

    pub fn client(self: &Arc<Self>, name: u128) -> Client {
        Client { name, desk: self.clone() }
    }

    /// What all clients were told, once nobody asks any more.
    pub async fn closed(&self) -> Answers {
        let mut curious = std::mem::take(&mut *self.curious.lock().expect("no panic"));
        while let Some(asked) = curious.join_next().await {
            asked.unwrap_or_else(|error| panic!("{error}"));
        }
        std::mem::take(&mut *self.answers.lock().expect("no panic"))
    }

    fn any(&self) -> &Executors {
        let random = self.random.lock().expect("no panic").usize(0..self.processes.len());
        &self.processes[random]
    }

    /// The answer, when there is one; none if the command is refused.
    async fn answer<A: Aggregate>(
        &self,
        of: Of<A>,
        id: &str,
        request: &Request,
        command: &A::Command,
    ) -> Option<Executed<A>> {
        loop {
            let outcome = of(self.any()).execute(id, request, command.clone()).await;
            let mut answers = self.answers.lock().expect("no panic");
            match outcome {
                Ok(done) => {
                    answers.done(request.command_id, &done);
                    self.knows(StreamId::of::<A>(id), done.version);
                    return Some(done);
                }
                Err(Error::Refused(_)) => {
                    answers.refused(request.command_id);
                    self.counts.note("a command is refused");
                    return None;
                }
                Err(Error::OutcomeUnknown(_)) => self.counts.note("a command's outcome is unknown"),
                Err(_) => {}
            }
            drop(answers);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn knows(&self, stream: StreamId, version: u64) {
        let mut known = self.known.lock().expect("no panic");
        let known = known.entry(stream).or_default();
        *known = version.max(*known);
    }
}

impl Client {
    /// Gives a command until it is known what became of it; false, if it was refused. The same step of the same
    /// client is the same command, and has one answer, whenever it is asked for.
    pub async fn insist<A: Aggregate>(
        &self,
        of: Of<A>,
        id: impl Display,
        step: &str,
        command: A::Command,
    ) -> bool {
        let (id, request) = (id.to_string(), request(self.name, step));
        let Some(done) = self.desk.answer(of, &id, &request, &command).await else { return false };
        if done.events.is_empty() {
            return true;
        }
        let desk = self.desk.clone();
        let later = Duration::from_millis(desk.random.lock().expect("no panic").u64(0..ASKED_AGAIN_MAX_MS));
        let asks_again = async move {
            tokio::time::sleep(later).await;
            let again = desk.answer(of, &id, &request, &command).await;
            // With the very same bytes, from clocks that differ by just as much, who did it can't be told.
            let is_recognised = again.is_some_and(|again| again.repeated || again.sequence == done.sequence);
            assert!(is_recognised, "{id}: what is done is not recognised");
            desk.counts.note("a command is given again");
        };
        self.desk.curious.lock().expect("no panic").spawn(asks_again);
        true
    }

    /// I10: the aggregate, at least as new as anything that any client was told before; none if it can't be read.
    pub async fn load<A: Aggregate>(&self, of: Of<A>, id: impl Display) -> Option<Loaded<A>> {
        let stream = StreamId::of::<A>(&id);
        let known = self.desk.known.lock().expect("no panic").get(&stream).copied().unwrap_or(0);
        let loaded = of(self.desk.any()).load(id).await.ok()?;
        assert!(known <= loaded.version, "{stream} is at {known}, and read at {}", loaded.version);
        self.desk.knows(stream, loaded.version);
        Some(loaded)
    }
}

/// The same step of the same client is the same command.
pub fn request(client: u128, step: &str) -> Request {
    let command_id = CommandId(Uuid::new_v5(&Uuid::from_u128(client), step.as_bytes()));
    Request {
        command_id,
        hash: Hash::of(step.as_bytes()),
        actor: "buyer".into(),
        correlation: command_id,
        causation: Some(command_id.0),
        trace_parent: None,
        expected_version: None,
        occurred_at: None,
        priority: Priority::Normal,
    }
}
