//! Timers that may not be taken, and fire for whoever asks, until somebody is done with them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::log::Unavailable;
use infra::timers::{Timer, Timers};

use super::{Calm, Mutant};

type Name = (String, String, String);

/// One firing of a timer.
type Fired = (Name, u32, DateTime<Utc>);

pub struct SimulatedTimers {
    set: Mutex<BTreeMap<Name, Timer>>,
    /// Delivered until somebody is done with them, whatever becomes of their name: several payments' requests
    /// have a first look-up, one after the other, and whoever is done with one is not with the next.
    fired: Mutex<BTreeMap<Fired, Timer>>,
    random: Mutex<fastrand::Rng>,
    calm: Calm,
    mutant: Mutant,
}

impl SimulatedTimers {
    pub fn new(random: fastrand::Rng, calm: Calm, mutant: Mutant) -> Self {
        Self { set: Mutex::default(), fired: Mutex::default(), random: Mutex::new(random), calm, mutant }
    }

    /// Those whose time has come.
    pub fn due(&self, now: DateTime<Utc>) -> Vec<Timer> {
        let mut set = self.set.lock().expect("no panic");
        let mut fired = self.fired.lock().expect("no panic");
        for (name, timer) in set.extract_if(.., |_, timer| timer.at <= now) {
            fired.insert((name, timer.generation, timer.at), timer);
        }
        fired.values().cloned().collect()
    }

    /// Somebody is done with it.
    pub fn done(&self, timer: &Timer) {
        let name = (timer.saga.clone(), timer.id.clone(), timer.name.clone());
        self.fired.lock().expect("no panic").remove(&(name, timer.generation, timer.at));
    }

    fn answers(&self) -> Result<(), Unavailable> {
        let fails = !self.calm.is_calm() && self.random.lock().expect("no panic").u32(0..100) < 10;
        if fails { Err(Unavailable::because("no answer")) } else { Ok(()) }
    }
}

impl Timers for SimulatedTimers {
    fn set<'a>(&'a self, timer: &'a Timer) -> BoxFuture<'a, Result<(), Unavailable>> {
        async move {
            self.answers()?;
            let name = (timer.saga.clone(), timer.id.clone(), timer.name.clone());
            self.set.lock().expect("no panic").insert(name, timer.clone());
            // It may have been set, and the answer be lost.
            self.answers()
        }
        .boxed()
    }

    fn cancel<'a>(
        &'a self,
        saga: &'a str,
        id: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Unavailable>> {
        async move {
            self.answers()?;
            let name = (saga.to_owned(), id.to_owned(), name.to_owned());
            let mut set = self.set.lock().expect("no panic");
            match self.mutant {
                Mutant::AllTimersCancelled => set.retain(|(_, one, _), _| *one != name.1),
                _ => drop(set.remove(&name)),
            }
            drop(set);
            self.answers()
        }
        .boxed()
    }
}
