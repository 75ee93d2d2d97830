//! How far a long job is: a bar in a terminal, now and then a plain line elsewhere.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Progress through a file, in bytes read and in products dealt with.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    bytes_total: u64,
    bytes_read: AtomicU64,
    products: AtomicU64,
    started: Instant,
    last_line: Mutex<Instant>,
    quiet: bool,
}

impl Progress {
    pub fn new(file: &Path, bytes_total: u64) -> Self {
        let bar = ProgressBar::new(bytes_total);
        let style = "{msg} [{bar:32}] {percent:>3} %  {prefix}  {elapsed} gone, {eta} to go";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        bar.set_message(name.clone());
        Self::with_bar(bar, name, bytes_total, false)
    }

    /// For jobs that nobody watches.
    pub fn quiet() -> Self {
        Self::with_bar(ProgressBar::hidden(), String::new(), 0, true)
    }

    fn with_bar(bar: ProgressBar, name: String, bytes_total: u64, quiet: bool) -> Self {
        let (bytes_read, products) = (AtomicU64::new(0), AtomicU64::new(0));
        let (started, last_line) = (Instant::now(), Mutex::new(Instant::now()));
        Self { bar, name, bytes_total, bytes_read, products, started, last_line, quiet }
    }

    pub fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One more product is dealt with.
    pub fn product(&self) {
        let products = self.products.fetch_add(1, Ordering::Relaxed) + 1;
        if self.quiet {
            return;
        }
        let read = self.bytes_read.load(Ordering::Relaxed);
        let per_second = products as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        if self.bar.is_hidden() {
            self.plain_line(products, read, per_second);
        } else {
            self.bar.set_prefix(format!("{products} products, {per_second:.0}/s"));
            self.bar.set_position(read);
        }
    }

    /// Something that is worth a line of its own.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn plain_line(&self, products: u64, read: u64, per_second: f64) {
        let Ok(mut last) = self.last_line.try_lock() else { return };
        if last.elapsed() >= PLAIN_INTERVAL {
            *last = Instant::now();
            let percent = read * 100 / self.bytes_total.max(1);
            eprintln!("{}: {products} products, {per_second:.0}/s, {percent} % of the file", self.name);
        }
    }
}
