//! What is measured, and what comes of it: a table for people, JSON lines for programs.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

/// What is asked for.
pub struct Plan {
    only: Option<String>,
    pub quick: bool,
}

impl Plan {
    pub fn from_env() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self { only: set("ONLY"), quick: set("QUICK").is_some() }
    }

    pub fn wants(&self, group: &str, figure: &str) -> bool {
        let wanted = |only: &String| *only == group || *only == format!("{group}/{figure}");
        self.only.as_ref().is_none_or(wanted)
    }

    /// How long one round of one side takes.
    pub fn round(&self) -> Duration {
        Duration::from_secs(if self.quick { 3 } else { 10 })
    }

    /// How often both sides are measured, in turn.
    pub fn rounds(&self) -> usize {
        if self.quick { 3 } else { 5 }
    }
}

/// A figure, and what it is to reach.
pub struct Figure {
    pub group: &'static str,
    pub name: &'static str,
    pub unit: &'static str,
    pub target: Target,
}

#[derive(Clone, Copy)]
pub enum Target {
    /// At least so many times the baseline.
    RatioAtLeast(f64),
    /// At most so many times the baseline.
    RatioAtMost(f64),
    /// At most so much more than the baseline.
    MoreAtMost(f64),
    /// At least so much; there is no baseline.
    ValueAtLeast(f64),
    /// At most so much; there is no baseline.
    ValueAtMost(f64),
    /// To be looked at, beside another figure.
    None,
}

impl Target {
    fn is_met(self, value: f64, baseline: f64, ratio: f64) -> bool {
        match self {
            Self::RatioAtLeast(least) => ratio >= least,
            Self::RatioAtMost(most) => ratio <= most,
            Self::MoreAtMost(most) => value - baseline <= most,
            Self::ValueAtLeast(least) => value >= least,
            Self::ValueAtMost(most) => value <= most,
            Self::None => true,
        }
    }

    fn describe(self, unit: &str) -> String {
        match self {
            Self::RatioAtLeast(least) => format!("≥ {least} ×"),
            Self::RatioAtMost(most) => format!("≤ {most} ×"),
            Self::MoreAtMost(most) => format!("≤ + {most} {unit}"),
            Self::ValueAtLeast(least) => format!("≥ {least} {unit}"),
            Self::ValueAtMost(most) => format!("≤ {most} {unit}"),
            Self::None => "–".to_owned(),
        }
    }
}

pub struct Report {
    file: File,
    lines: usize,
}

impl Report {
    pub fn open() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&folder).expect("a folder for results");
        let file = OpenOptions::new().create(true).append(true).open(folder.join("results.jsonl"));
        println!(
            "{:<28} {:>12} {:>12} {:>8}  {:<14} met  (value, baseline and ratio are medians; lowest to highest ratio)",
            "figure", "value", "baseline", "ratio", "to reach"
        );
        Self { file: file.expect("a file for results"), lines: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Notes the rounds of a figure, each with its value and its baseline, if it has one.
    pub fn note(&mut self, figure: &Figure, rounds: &[(f64, Option<f64>)]) {
        let Figure { group, name, unit, target } = figure;
        let value = median(rounds.iter().map(|round| round.0));
        let baseline = median(rounds.iter().filter_map(|round| round.1));
        let ratios: Vec<f64> =
            rounds.iter().filter_map(|(value, baseline)| Some(value / (*baseline)?)).collect();
        let ratio = median(ratios.iter().copied());
        let met = target.is_met(value, baseline, ratio);
        let spread = ratios.iter().copied().reduce(f64::min).zip(ratios.iter().copied().reduce(f64::max));
        let number =
            |number: f64, digits| if number.is_nan() { "–".into() } else { format!("{number:.digits$}") };
        println!(
            "{:<28} {:>12} {:>12} {:>8}  {:<14} {}  {}",
            format!("{group}/{name}"),
            format!("{} {unit}", number(value, digits(value))),
            number(baseline, digits(baseline)),
            number(ratio, 2),
            target.describe(unit),
            if met { "yes" } else { "NO " },
            spread.map_or(String::new(), |(least, most)| format!("({least:.2} to {most:.2})")),
        );
        // What isn't a number is null in JSON.
        let line = json!({
            "group": group, "figure": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio,
            "target": target.describe(unit), "met": met, "rounds": rounds.len(), "at": infra::clock::Clock::system().now(),
        });
        writeln!(self.file, "{line}").expect("the result is written");
        self.lines += 1;
    }
}

fn digits(value: f64) -> usize {
    if value < 10.0 { 3 } else { 0 }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures one side after the other, so that both have the same weather.
pub async fn interleaved<V, B>(
    plan: &Plan,
    mut value: impl FnMut() -> V,
    mut baseline: impl FnMut() -> B,
) -> Vec<(f64, Option<f64>)>
where
    V: Future<Output = f64>,
    B: Future<Output = f64>,
{
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds() {
        let baseline = baseline().await;
        rounds.push((value().await, Some(baseline)));
    }
    rounds
}
