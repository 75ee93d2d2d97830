//! Every figure of the README: measured beside its baseline, in one run, as a ratio.
//!
//! `make bench`, `make bench ONLY=write`, `make bench ONLY=write/hot-sku`, `make bench QUICK=1`.

mod cpu;
mod load;
mod report;
mod servers;
mod write;

use std::process::ExitCode;

use report::{Plan, Report};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let plan = Plan::from_env();
    let mut report = Report::open();
    runtime.block_on(write::measure(&plan, &mut report));
    if report.is_empty() {
        eprintln!("ONLY names no figure");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
