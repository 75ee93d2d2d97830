//! How far a long job is: a bar in a terminal, now and then a plain line elsewhere.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Progress of one phase: how much of its way it has gone, and how many things it has dealt with.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    /// What is dealt with, such as `products`.
    unit: &'static str,
    /// Length of the way: bytes of a file, or just things.
    way: u64,
    gone: AtomicU64,
    done: AtomicU64,
    /// Whether each thing that is done is a step of the way.
    counts: bool,
    started: Instant,
    last_line: Mutex<Instant>,
    quiet: bool,
}

impl Progress {
    /// Through a file, in bytes read and in things dealt with.
    pub fn of_file(file: &Path, bytes: u64, unit: &'static str) -> Self {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::with_bar(bar(&name, bytes), name, unit, bytes)
    }

    /// Through so many things.
    pub fn of_count(name: &str, count: u64, unit: &'static str) -> Self {
        Self { counts: true, ..Self::with_bar(bar(name, count), name.to_owned(), unit, count) }
    }

    /// For jobs that nobody watches.
    pub fn quiet() -> Self {
        Self { quiet: true, ..Self::with_bar(ProgressBar::hidden(), String::new(), "", 0) }
    }

    fn with_bar(bar: ProgressBar, name: String, unit: &'static str, way: u64) -> Self {
        let (gone, done, last_line) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Instant::now()));
        let (counts, quiet, started) = (false, false, Instant::now());
        Self { bar, name, unit, way, gone, done, counts, started, last_line, quiet }
    }

    /// So many more bytes of the file were read.
    pub fn read(&self, bytes: u64) {
        self.gone.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One more thing is dealt with.
    pub fn done(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.show(done);
    }

    /// So many things are dealt with.
    pub fn done_so_far(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.show(done);
    }

    /// Something that is worth a line of its own.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&self, done: u64) {
        if self.quiet {
            return;
        }
        let gone = if self.counts { done } else { self.gone.load(Ordering::Relaxed) };
        let unit = self.unit;
        let per_second = || done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        if !self.bar.is_hidden() {
            self.bar.set_prefix(format!("{done} {unit}, {:.0}/s", per_second()));
            self.bar.set_position(gone);
            return;
        }
        let Ok(mut last) = self.last_line.try_lock() else { return };
        if last.elapsed() >= PLAIN_INTERVAL {
            *last = Instant::now();
            let (name, percent) = (&self.name, (gone * 100 / self.way.max(1)).min(100));
            let left = self.way.saturating_sub(gone) as f64 / gone.max(1) as f64;
            let to_go = self.started.elapsed().as_secs_f64() * left;
            eprintln!("{name}: {done} {unit}, {:.0}/s, {percent} %, {to_go:.0} s to go", per_second());
        }
    }
}

fn bar(name: &str, way: u64) -> ProgressBar {
    let bar = ProgressBar::new(way);
    let style = "{msg} [{bar:32}] {percent:>3} %  {prefix}  {elapsed} gone, {eta} to go";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(name.to_owned());
    bar
}
