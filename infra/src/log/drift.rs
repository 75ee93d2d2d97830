//! What in a stream's config may not be otherwise, if what is acknowledged is to stay.

use std::time::Duration;

use async_nats::jetstream::stream::Config;

/// Says how the actual config differs from the wanted one; that it takes no batches is no danger.
pub(super) fn found(actual: &Config, wanted: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, actual: String, wanted: String| {
        if actual != wanted {
            found.push(format!("the log's stream has {name} {actual} instead of {wanted}"));
        }
    };
    let yes = |yes: bool| yes.to_string();
    compare("subjects", actual.subjects.join(", "), wanted.subjects.join(", "));
    compare("retention", format!("{:?}", actual.retention), format!("{:?}", wanted.retention));
    compare("discard", format!("{:?}", actual.discard), format!("{:?}", wanted.discard));
    compare("storage", format!("{:?}", actual.storage), format!("{:?}", wanted.storage));
    compare("replicas", actual.num_replicas.to_string(), wanted.num_replicas.to_string());
    compare("max_age", format!("{:?}", actual.max_age), format!("{:?}", Duration::ZERO));
    compare("max_msgs", actual.max_messages.to_string(), wanted.max_messages.to_string());
    let per_subject = |config: &Config| config.max_messages_per_subject.to_string();
    compare("max_msgs_per_subject", per_subject(actual), per_subject(wanted));
    compare("a max_bytes", yes(actual.max_bytes > 0 || wanted.max_bytes <= 0), yes(true));
    compare("deny_delete", yes(actual.deny_delete), yes(true));
    compare("deny_purge", yes(actual.deny_purge), yes(true));
    compare("allow_direct", yes(actual.allow_direct), yes(true));
    compare("allow_rollup_hdrs", yes(actual.allow_rollup), yes(false));
    compare("allow_msg_ttl", yes(actual.allow_message_ttl), yes(false));
    compare("allow_msg_schedules", yes(actual.allow_message_schedules), yes(false));
    compare("no_ack", yes(actual.no_ack), yes(false));
    compare("sealed", yes(actual.sealed), yes(false));
    compare("a source or mirror", yes(actual.mirror.is_some() || actual.sources.is_some()), yes(false));
    found
}
