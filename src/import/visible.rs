//! Waiting until everybody sees what was brought in.

use std::time::{Duration, Instant};

use reqwest::Method;

use super::client::Client;
use super::progress::Progress;

/// How long the read models may stand still before nobody waits for them any more.
const STANDSTILL_LIMIT: Duration = Duration::from_secs(60);

/// Waits until the read models behind these paths have come to the position. As long as they move on,
/// there is hope. Where nothing was brought in, nobody is asked.
///
/// # Errors
/// They don't move on, or the shop can't be reached.
pub async fn visible(
    client: &Client,
    paths: &[&str],
    log_position: u64,
    progress: &Progress,
) -> anyhow::Result<()> {
    if log_position == 0 {
        return Ok(());
    }
    let wanted = log_position.to_string();
    let (mut last, mut moved_at) = (0, Instant::now());
    for path in paths {
        loop {
            // It waits, and then says how far it is.
            let headers = [("Min-Log-Position", wanted.as_str()), ("Prefer", "stale-ok")];
            let answer = client.send(Method::GET, path, &headers, None).await?;
            anyhow::ensure!(
                answer.status.is_success() || answer.log_position > 0,
                "{path}: {}",
                answer.problem()
            );
            if answer.log_position >= log_position {
                break;
            }
            if answer.log_position != last {
                (last, moved_at) = (answer.log_position, Instant::now());
            }
            progress.done_so_far(last);
            anyhow::ensure!(
                moved_at.elapsed() < STANDSTILL_LIMIT,
                "all of it is in the log, and the read models stand still at position {last} of {log_position}"
            );
        }
    }
    Ok(())
}
