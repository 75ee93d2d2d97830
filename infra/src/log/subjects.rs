//! Names on the wire: `ev.<partition>.<category>.<id>`.

use domain::StreamId;

/// The stream that holds the log.
pub(super) const STREAM: &str = "EVENTS";

/// What the log's stream listens to.
pub(super) const ALL: &str = "ev.>";

/// The subject of one aggregate's stream: its consistency boundary.
///
/// A `.` separates the tokens of a subject, so that of an id is written `%2E`; ids have no `%`.
#[must_use]
pub fn subject(stream: &StreamId) -> String {
    format!("ev.{}.{}.{}", stream.partition(), stream.category(), stream.id().replace('.', "%2E"))
}

/// The stream that a subject is of; nothing, if the log has no such subjects.
pub(super) fn stream_of(subject: &str) -> Option<StreamId> {
    let mut tokens = subject.strip_prefix("ev.")?.splitn(3, '.');
    let (_, category, id) = (tokens.next()?, tokens.next()?, tokens.next().filter(|id| !id.contains('.'))?);
    format!("{category}/{}", id.replace("%2E", ".")).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_ids_do_not_make_new_tokens() {
        let stream: StreamId = "stock/A.1-b_C".parse().unwrap();
        assert_eq!(subject(&stream), format!("ev.{}.stock.A%2E1-b_C", stream.partition()));
        assert_eq!(stream_of(&subject(&stream)), Some(stream));
        assert_eq!(stream_of("ev.7.stock.a.b"), None);
    }
}
