//! Every figure of the README: measured beside its baseline, in one run, as a ratio.
//!
//! `make bench`, `make bench ONLY=write`, `make bench ONLY=write/hot-sku`, `make bench QUICK=1`.

mod baseline;
mod baskets;
mod checkout;
mod cpu;
mod history;
mod load;
mod read;
mod rebuild;
mod report;
mod servers;
mod write;

use std::process::ExitCode;

use report::{Plan, Report};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(database) = std::env::var(baseline::DATABASE) {
        runtime.block_on(baseline::serve(&database));
        return ExitCode::SUCCESS;
    }
    let plan = Plan::from_env();
    let mut report = Report::open();
    runtime.block_on(async {
        write::measure(&plan, &mut report).await;
        read::measure(&plan, &mut report).await;
        rebuild::measure(&plan, &mut report).await;
        checkout::measure(&plan, &mut report).await;
    });
    if report.is_empty() {
        eprintln!("ONLY names no figure");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
