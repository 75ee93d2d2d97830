//! Who uses the processors while something is measured: what bounds a figure when nothing else does.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::time::Instant;

use crate::load::Load;
use crate::servers::{Instance, Servers};

/// Ticks a second in `/proc/<pid>/stat`, on every Linux.
const TICKS: f64 = 100.0;

/// Adds up the time of processors over several rounds.
pub struct Meter {
    processes: [(&'static str, Processes); 4],
    spent: RefCell<Spent>,
}

enum Processes {
    These(Vec<u32>),
    /// With those that it has begun: Postgres has one for each connection.
    Family(u32),
}

#[derive(Default)]
struct Spent {
    commands: f64,
    elapsed: f64,
    /// Of each kind of process.
    seconds: [f64; 4],
}

impl Meter {
    pub fn new(commands: &Instance, servers: &Servers) -> Self {
        let processes = [
            ("cartulary", Processes::These(vec![commands.pid()])),
            ("nats-server", Processes::These(servers.nats_pids())),
            ("Postgres", Processes::Family(servers.postgres.pid())),
            ("load", Processes::These(vec![std::process::id()])),
        ];
        Self { processes, spent: RefCell::default() }
    }

    pub async fn of(&self, load: impl Future<Output = Load>) -> Load {
        let seconds = || self.processes.each_ref().map(|(_, processes)| processes.used());
        let (began, before): (_, [f64; 4]) = (Instant::now(), seconds());
        let load = load.await;
        let after = seconds();
        let mut spent = self.spent.borrow_mut();
        spent.commands += load.answered as f64;
        spent.elapsed += began.elapsed().as_secs_f64();
        for (sum, (after, before)) in spent.seconds.iter_mut().zip(after.into_iter().zip(before)) {
            *sum += after - before;
        }
        load
    }
}

impl Processes {
    /// Seconds that they have used of the processors.
    fn used(&self) -> f64 {
        match self {
            Self::These(pids) => pids.iter().copied().map(used).sum(),
            Self::Family(first) => {
                let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
                let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
                pids.filter(|pid| pid == first || parent(*pid) == Some(*first)).map(used).sum()
            }
        }
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn used(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS
}

impl fmt::Display for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spent { commands, elapsed, seconds } = &*self.spent.borrow();
        write!(formatter, "      a command takes")?;
        for ((name, _), seconds) in self.processes.iter().zip(seconds) {
            write!(formatter, " {name} {:.0} µs,", seconds / commands * 1e6)?;
        }
        let busy = seconds.iter().sum::<f64>() / elapsed;
        let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        write!(formatter, " which keeps {busy:.1} of {processors} processors busy")
    }
}
