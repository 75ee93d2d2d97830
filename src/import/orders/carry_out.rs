//! Gives the plan's commands to execute, many at a time, and those of one stream one after the other.
//!
//! Every product with its stock, and every order, has its queue; each queue does one command at a
//! time. The queues are short, so the log comes to have everything nearly in the order in which it happened.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use domain::{Aggregate, Command, Sku, product};
use infra::execute::{Error, Executed, Executor, Executors, Request};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::earlier::Earlier;
use super::plan::{Plan, Step, What};
use super::rows::Unmappable;
use crate::import::progress::Progress;

/// Steps that wait in one queue.
const QUEUE_MAX: usize = 16;

/// Stocks that are read from the log at a time. They have many commits all over it, and the server is slow at
/// finding those for many at a time.
const LOADS_MAX: usize = 4;

/// For how long a command is given again while the log is unavailable.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How many commands of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub products: u64,
    pub orders: u64,
    pub reversals: u64,
    pub movements: u64,
}

/// What became of the commands.
#[derive(Debug, Default)]
pub struct Tally {
    pub new: Counts,
    /// Done by an earlier import of the same.
    pub before: Counts,
    /// Products that the shop had already, which were left as they are.
    pub left_as_they_are: u64,
    /// Stock movements of what has a stock of its own already.
    pub left_out: u64,
    pub problems: Vec<Unmappable>,
    /// The last position in the log that anything is at.
    pub log_position: u64,
}

/// Gives all of the plan's commands.
///
/// # Errors
/// The log stays unavailable, or is full. What was done until then stays; the same again goes on.
pub async fn carry_out(
    plan: &Arc<Plan>,
    executors: &Arc<Executors>,
    earlier: Earlier,
    queues: usize,
    progress: &Arc<Progress>,
) -> anyhow::Result<Tally> {
    let mut all = Tally { log_position: earlier.log_position, ..Tally::default() };
    let (earlier, loads) = (Arc::new(earlier), Arc::new(Semaphore::new(LOADS_MAX)));
    let (mut senders, mut workers) = (Vec::new(), JoinSet::new());
    for _ in 0..queues {
        let (sender, steps) = mpsc::channel(QUEUE_MAX);
        senders.push(sender);
        let queue = Queue {
            plan: plan.clone(),
            executors: executors.clone(),
            earlier: earlier.clone(),
            loads: loads.clone(),
            progress: progress.clone(),
            loaded: HashSet::new(),
            others_products: HashSet::new(),
            others_stock: HashSet::new(),
            tally: Tally::default(),
        };
        workers.spawn(queue.run(steps));
    }
    let plan = plan.clone();
    // It ends with the queues, whoever ends them.
    tokio::spawn(async move {
        for step in &plan.steps {
            let queue = plan.stream(step.what) as usize % senders.len();
            if senders[queue].send(*step).await.is_err() {
                return;
            }
        }
    });
    while let Some(tally) = workers.join_next().await {
        all += tally??;
    }
    all.problems.sort();
    Ok(all)
}

impl Plan {
    /// A number that steps on the same stream share; a product and its stock do, too.
    fn stream(&self, what: What) -> u32 {
        match what {
            What::Product(article)
            | What::Withdraw(article)
            | What::Open(article)
            | What::Dispatch { article, .. }
            | What::Return { article, .. }
            | What::Adjust { article, .. } => article,
            What::Order(order) => order,
            What::Reverse(reversal) => self.reversals[reversal as usize].order,
        }
    }
}

struct Queue {
    plan: Arc<Plan>,
    executors: Arc<Executors>,
    earlier: Arc<Earlier>,
    loads: Arc<Semaphore>,
    progress: Arc<Progress>,
    /// Articles whose stock is in memory.
    loaded: HashSet<u32>,
    /// Products that somebody else created.
    others_products: HashSet<u32>,
    /// Stock that somebody else has moved.
    others_stock: HashSet<u32>,
    tally: Tally,
}

impl Queue {
    async fn run(mut self, mut steps: mpsc::Receiver<Step>) -> anyhow::Result<Tally> {
        while let Some(step) = steps.recv().await {
            self.step(&step).await?;
            self.progress.done();
        }
        Ok(self.tally)
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step.what {
            What::Withdraw(article) if self.others_products.contains(&article) => return Ok(()),
            What::Dispatch { article, .. } | What::Return { article, .. } | What::Adjust { article, .. }
                if self.others_stock.contains(&article) =>
            {
                self.tally.left_out += 1;
                return Ok(());
            }
            _ => {}
        }
        let (request, command) = self.plan.command(step);
        if self.earlier.did(request.command_id, request.hash) {
            *self.tally.before.of(step.what) += 1;
            return Ok(());
        }
        let executors = self.executors.clone();
        match command {
            Command::Product(sku, command) => {
                let outcome = give(&executors.products, &sku, &request, &command).await?;
                self.product(step, outcome);
            }
            Command::Stock(sku, command) => {
                self.load(step.what, &sku).await?;
                let outcome = give(&executors.stock, &sku, &request, &command).await?;
                self.stock(step, outcome);
            }
            Command::Order(id, command) => {
                let outcome = give(&executors.orders, id, &request, &command).await?;
                self.order(step, outcome);
            }
            Command::Cart(..) | Command::Payment(..) => unreachable!("the file has none"),
        }
        Ok(())
    }

    /// Brings the stock into memory, before its first command would.
    async fn load(&mut self, what: What, sku: &Sku) -> anyhow::Result<()> {
        if !self.loaded.insert(self.plan.stream(what)) {
            return Ok(());
        }
        let loads = self.loads.clone();
        let _one = loads.acquire().await?;
        let began = Instant::now();
        while let Err(trouble) = self.executors.stock.version(sku).await {
            anyhow::ensure!(began.elapsed() < PATIENCE, "{trouble}");
            tokio::time::sleep(PAUSE_MAX).await;
        }
        Ok(())
    }

    fn product(&mut self, step: &Step, outcome: Outcome<product::Product>) {
        match outcome {
            Ok(executed) => self.executed(step, &executed),
            Err(Error::Refused(product::Error::Exists) | Error::OtherRequest) => {
                self.tally.left_as_they_are += 1;
                if let What::Product(article) = step.what {
                    self.others_products.insert(article);
                }
            }
            Err(error) => self.problem(step, &error.to_string()),
        }
    }

    fn stock(&mut self, step: &Step, outcome: Outcome<domain::stock::Stock>) {
        match (outcome, step.what) {
            (Ok(executed), _) => self.executed(step, &executed),
            (Err(Error::OtherRequest), What::Open(_)) => {
                self.problem(step, "an earlier import has derived another opening stock, which stays");
            }
            (Err(Error::Stale { .. } | Error::Refused(_)), What::Open(article)) => {
                self.others_stock.insert(article);
                let movements = self.plan.articles[article as usize].movements;
                let reason = format!(
                    "the shop's stock of it has a history of its own; its {movements} movements are left out"
                );
                self.problem(step, &reason);
            }
            (Err(error), _) => self.problem(step, &error.to_string()),
        }
    }

    fn order(&mut self, step: &Step, outcome: Outcome<domain::order::Order>) {
        match outcome {
            Ok(executed) => self.executed(step, &executed),
            Err(Error::OtherRequest) => {
                self.problem(step, "the invoice was imported before, with other content");
            }
            Err(error) => self.problem(step, &error.to_string()),
        }
    }

    fn executed<A: Aggregate>(&mut self, step: &Step, executed: &Executed<A>) {
        let Tally { new, before, log_position, .. } = &mut self.tally;
        *log_position = executed.sequence.max(*log_position);
        *(if executed.repeated { before } else { new }).of(step.what) += 1;
    }

    fn problem(&mut self, step: &Step, reason: &str) {
        let problem = |line| Unmappable { line, reason: reason.to_owned() };
        self.tally.problems.extend(self.plan.lines_of(step).into_iter().map(problem));
    }
}

type Outcome<A> = Result<Executed<A>, Error<<A as Aggregate>::Error>>;

/// Gives the command until the log has an answer to it.
async fn give<A: Aggregate>(
    executor: &Executor<A>,
    id: impl Display,
    request: &Request,
    command: &A::Command,
) -> anyhow::Result<Outcome<A>> {
    let (began, mut pause) = (Instant::now(), Duration::from_millis(50));
    loop {
        let outcome = executor.execute(&id, request, command.clone()).await;
        match &outcome {
            Err(Error::LogFull) => anyhow::bail!("the log is full"),
            Err(unreadable @ Error::Unreadable(_)) => anyhow::bail!("{unreadable}"),
            Err(trouble @ (Error::Unavailable(_) | Error::Overloaded(_) | Error::OutcomeUnknown(_))) => {
                anyhow::ensure!(began.elapsed() < PATIENCE, "{trouble}");
            }
            Ok(_) | Err(Error::Refused(_) | Error::Stale { .. } | Error::OtherRequest) => return Ok(outcome),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Counts {
    /// Where such a step is counted.
    pub fn of(&mut self, what: What) -> &mut u64 {
        match what {
            What::Product(_) | What::Withdraw(_) => &mut self.products,
            What::Order(_) => &mut self.orders,
            What::Reverse(_) => &mut self.reversals,
            What::Open(_) | What::Dispatch { .. } | What::Return { .. } | What::Adjust { .. } => {
                &mut self.movements
            }
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.products += other.products;
        self.orders += other.orders;
        self.reversals += other.reversals;
        self.movements += other.movements;
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.new += other.new;
        self.before += other.before;
        self.left_as_they_are += other.left_as_they_are;
        self.left_out += other.left_out;
        self.problems.extend(other.problems);
        self.log_position = self.log_position.max(other.log_position);
    }
}
