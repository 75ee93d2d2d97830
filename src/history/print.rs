//! One event as a line: for people, or as a CloudEvents 1.0 object.

use std::io::IsTerminal;

use chrono::SecondsFormat;
use domain::RecordedEvent;
use infra::log::Stored;
use serde_json::{Value, json};

/// How events are printed.
pub struct Printer {
    json: bool,
    personal: bool,
    colour: bool,
}

impl Printer {
    pub fn new(json: bool, personal: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, personal, colour }
    }

    pub fn line(&self, stored: &Stored, index: usize, event: &RecordedEvent) -> String {
        if self.json {
            self.cloud_event(stored, index, event).to_string()
        } else {
            self.text(stored, index, event)
        }
    }

    /// CloudEvents 1.0, with the log's own facts as extension attributes.
    fn cloud_event(&self, stored: &Stored, index: usize, event: &RecordedEvent) -> Value {
        let commit = &stored.commit;
        let mut object = json!({
            "specversion": "1.0",
            "id": event.id,
            "source": "/cartulary",
            "type": event.kind,
            "subject": commit.stream.to_string(),
            "time": event.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            "datacontenttype": "application/json",
            "dataschemaversion": event.schema,
            "position": format!("{}.{index}", stored.sequence),
            "version": commit.version + index as u64,
            "recordedat": commit.recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            "actor": commit.actor,
            "commandid": commit.id,
            "correlationid": commit.correlation,
            "data": event.data,
        });
        if let Some(cause) = commit.causation {
            object["causationid"] = json!(cause);
        }
        if let Some(trace_parent) = &commit.trace_parent {
            object["traceparent"] = json!(trace_parent);
        }
        if let (Some(personal), true) = (&event.personal, self.personal) {
            object["data"]["personal"] = json!(personal);
        }
        object
    }

    fn text(&self, stored: &Stored, index: usize, event: &RecordedEvent) -> String {
        let commit = &stored.commit;
        let position = format!("{}.{index}", stored.sequence);
        let time = event.occurred_at.format("%Y-%m-%d %H:%M:%S%.3f");
        let personal = match (&event.personal, self.personal) {
            (None, _) => String::new(),
            (Some(personal), true) => format!(" personal={personal}"),
            (Some(_), false) => " personal=(left out)".to_owned(),
        };
        let (kind, reset) = self.kind_colour(&event.kind);
        format!(
            "{position:>9}  {time}  {kind}{:<29}{reset}  {:<45}  {}{personal}",
            event.kind,
            format!("{} v{}", commit.stream, commit.version + index as u64),
            summary(&json!(event.data)),
        )
    }

    fn kind_colour(&self, kind: &str) -> (&'static str, &'static str) {
        const BAD: [&str; 5] = ["refused", "declined", "cancel", "failed", "unknown"];
        match self.colour {
            false => ("", ""),
            true if BAD.iter().any(|bad| kind.contains(bad)) => ("\u{1b}[31m", "\u{1b}[0m"),
            true => ("\u{1b}[36m", "\u{1b}[0m"),
        }
    }
}

/// `name=value` for each of the data's fields, long ones cut.
fn summary(data: &Value) -> String {
    const VALUE_CHARS_MAX: usize = 60;
    let Some(fields) = data.as_object() else { return data.to_string() };
    let field = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Object(money) if money.contains_key("amount") && money.contains_key("currency") => {
                serde_json::from_value::<domain::Money>(value.clone())
                    .map_or_else(|_| value.to_string(), |money| money.to_string())
            }
            other => other.to_string(),
        };
        match text.char_indices().nth(VALUE_CHARS_MAX) {
            Some((cut, _)) => format!("{name}={}…", &text[..cut]),
            None => format!("{name}={text}"),
        }
    };
    fields.iter().map(field).collect::<Vec<_>>().join(" ")
}
