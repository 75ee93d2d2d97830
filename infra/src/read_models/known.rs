//! What a process knows of the read models, and who in it waits for them.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::oneshot;

use super::ReadModel;
use super::seen::{self, Seen};
use crate::lanes::Lease;

#[derive(Debug)]
pub(super) struct Known {
    /// Version of each projection's code in this build.
    codes: HashMap<&'static str, i32>,
    /// Nothing before the first look at the tables.
    seen: Option<Vec<Seen>>,
    /// Who waits for which position of a projection, by their number. Only who is at the end of it is woken, for
    /// lanes move all the time.
    waiting: HashMap<String, BTreeMap<(u64, u64), oneshot::Sender<()>>>,
    /// Those who ever waited.
    waited: u64,
}

impl Known {
    pub fn new(codes: HashMap<&'static str, i32>) -> Self {
        Self { codes, seen: None, waiting: HashMap::new(), waited: 0 }
    }

    pub fn has_looked(&self) -> bool {
        self.seen.is_some()
    }

    /// The live one; but if that is of newer code than this build's, and the one before it, of this
    /// build's code, is still kept, then that: while two builds run at a time, each queries the
    /// tables that it knows.
    pub fn choose(&self, projection: &str) -> Option<&ReadModel> {
        let models = || self.seen.iter().flatten().map(|seen| &seen.model);
        let of_projection = || models().filter(|model| model.projection == projection);
        let live = of_projection().find(|model| model.state == "live")?;
        let fits = |model: &&ReadModel| self.codes.get(projection) == Some(&model.code);
        if fits(&live) {
            return Some(live);
        }
        let kept = |model: &&ReadModel| {
            model.state == "standby" && model.version < live.version && model.code < live.code && fits(model)
        };
        of_projection().rfind(kept).or(Some(live))
    }

    /// Nobody waits for what there is not.
    pub fn has_reached(&self, projection: &str, position: u64) -> bool {
        self.has_looked() && self.choose(projection).is_none_or(|model| model.position.0 >= position)
    }

    /// Tells when the projection has reached the position.
    pub fn wait(&mut self, projection: &str, position: u64) -> (u64, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        self.waited += 1;
        self.waiting.entry(projection.to_owned()).or_default().insert((position, self.waited), tell);
        (self.waited, told)
    }

    pub fn wait_no_more(&mut self, projection: &str, position: u64, number: u64) {
        let Some(waiting) = self.waiting.get_mut(projection) else { return };
        waiting.remove(&(position, number));
        if waiting.is_empty() {
            self.waiting.remove(projection);
        }
    }

    pub fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A lane's holder says how far it has come.
    pub fn moved(&mut self, lease: &Lease, position: u64) {
        let mut seen = self.seen.iter_mut().flatten();
        let Some(seen) = seen.find(|seen| seen.reader == lease.reader) else { return };
        if seen.moved(lease, position) {
            let projection = seen.model.projection.clone();
            self.tell(&projection);
        }
    }

    /// What is known at this moment.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.clone().unwrap_or_default()
    }

    /// The tables say so, and that was known when they were looked at.
    pub fn looked(&mut self, before: &[Seen], looked: Vec<Seen>) {
        self.seen = Some(seen::after(before, self.seen.as_deref().unwrap_or_default(), looked));
        let waited_for: Vec<String> = self.waiting.keys().cloned().collect();
        waited_for.iter().for_each(|projection| self.tell(projection));
    }

    /// Wakes those whose position the projection has reached. Each then takes itself off the list.
    fn tell(&mut self, projection: &str) {
        let reached = self.choose(projection).map_or(u64::MAX, |model| model.position.0);
        let Some(waiting) = self.waiting.get_mut(projection) else { return };
        let later = waiting.split_off(&(reached.saturating_add(1), 0));
        for tell in std::mem::replace(waiting, later).into_values() {
            // It may have come to its limit.
            let _ = tell.send(());
        }
    }

    /// Whether no other process has a lane of any of them.
    pub fn are_ours(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.iter().all(Seen::is_ours))
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen::tests::{lease, orders};
    use super::*;

    #[test]
    fn only_those_are_woken_whose_position_is_reached() {
        let mut known = Known::new([("orders", 7)].into());
        assert!(!known.has_reached("orders", 0), "nobody has looked yet");
        let (_, mut first) = known.wait("orders", 10);
        let (number, mut second) = known.wait("orders", 20);
        known.looked(&[], vec![orders([(1, 9), (1, 12)])]);
        assert!(first.try_recv().is_err());
        known.moved(&lease(0, 1), 19);
        assert!(first.try_recv().is_ok() && second.try_recv().is_err());
        known.moved(&lease(1, 1), 30);
        assert!(second.try_recv().is_err(), "the other lane is not there yet");
        known.moved(&lease(0, 1), 20);
        assert!(second.try_recv().is_ok());
        known.wait_no_more("orders", 20, number);
        assert!(!known.is_waited_for());
        assert!(known.has_reached("nothing_of_that_name", 5), "nobody waits for what there is not");
    }
}
