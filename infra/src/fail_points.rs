//! Places between an effect and its record, at which a test can let the process die.
//!
//! Only in builds with the feature `fail-points`: `FAILPOINTS='append.sent=20*off->return'` lets it
//! die when it comes there for the 21st time. Others know nothing of them.

/// A batch is sent, but for its last message.
pub const BATCH_HALF_SENT: &str = "batch.half_sent";
/// A commit is sent, and not acknowledged.
pub const APPEND_SENT: &str = "append.sent";
/// A commit or a batch is acknowledged, and nobody was told.
pub const APPEND_ACKNOWLEDGED: &str = "append.acknowledged";
/// A command's outcome is known here, and its client was not told.
pub const COMMAND_DONE: &str = "command.done";
/// A part of a snapshot is about to be saved.
pub const SNAPSHOT_SAVED: &str = "snapshot.saved";
/// The webhooks' checkpoint has moved, in a transaction that is not committed.
pub const WEBHOOK_CHECKPOINT: &str = "webhook.checkpoint";
/// Webhooks are claimed, and not sent.
pub const WEBHOOK_CLAIMED: &str = "webhook.claimed";
/// A webhook has arrived, and this is not written down.
pub const WEBHOOK_SENT: &str = "webhook.sent";

/// All on the way of a command.
pub const ALL: [&str; 5] = [BATCH_HALF_SENT, APPEND_SENT, APPEND_ACKNOWLEDGED, COMMAND_DONE, SNAPSHOT_SAVED];

/// A saga has recorded what it makes of an input, and done none of what follows.
pub const SAGA_RECORDED: &str = "saga.recorded";
/// A step of a saga is done, and the next is not begun, or the input not done with.
pub const SAGA_ACTED: &str = "saga.acted";
/// The payment provider has answered, and this is not recorded.
pub const PROVIDER_ANSWERED: &str = "provider.answered";

/// All on the way of a saga's input.
pub const SAGAS: [&str; 3] = [SAGA_RECORDED, SAGA_ACTED, PROVIDER_ANSWERED];

/// The environment variable that names a file, into which goes the name of each place that is passed.
pub const PASSES: &str = "CARTULARY_PASSES";

/// Reads what the environment says.
pub fn set_up() {
    #[cfg(feature = "fail-points")]
    std::mem::forget(fail::FailScenario::setup());
}

/// Dies here, if it was said so.
pub fn may_die(here: &str) {
    #[cfg(feature = "fail-points")]
    note(here);
    let _ = here;
    fail::fail_point!(here, |_| std::process::abort());
}

/// So that a test can learn how often each place is passed, and be at each of these times once.
#[cfg(feature = "fail-points")]
fn note(here: &str) {
    use std::fs::File;
    use std::io::Write;
    static PASSED: std::sync::LazyLock<Option<File>> = std::sync::LazyLock::new(|| {
        let path = std::env::var_os(PASSES)?;
        File::options().create(true).append(true).open(path).ok()
    });
    if let Some(mut passed) = PASSED.as_ref() {
        // One write each, which others don't come between.
        let _ = passed.write_all(format!("{here}\n").as_bytes());
    }
}
