//! Rows by key: those that a batch touches are read, changed in memory, and written back at once.
//!
//! They stay in memory for a while: as long as a lane has its lease, nobody else writes them.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::str::FromStr;

use foldhash::fast::RandomState;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::insert::{Inserts, Record};

/// Rows of one table that are kept in memory between batches, and their bytes; with more, it begins anew.
const KEPT_MAX: usize = 5_000;
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// About what a row without long texts takes.
pub(crate) const ROW_BYTES: usize = 200;

/// A table whose rows are structs with the columns as fields.
pub(crate) struct Table {
    pub name: &'static str,
    pub key: &'static str,
    /// The key's type, such as `uuid`.
    pub key_type: &'static str,
    /// All others.
    pub columns: &'static [&'static str],
}

/// A row of such a table.
pub(crate) trait Row:
    Record + Clone + PartialEq + DeserializeOwned + Send + Sync + Unpin + 'static
{
    const TABLE: Table;

    type Key: Clone + Eq + Hash + Display + FromStr + Send + Sync + 'static;

    /// About how many it takes in memory, and on its way to the table.
    fn bytes(&self) -> usize {
        ROW_BYTES
    }
}

/// What is known of a row.
struct Known<R> {
    /// What it is to be; nothing, if there is to be none.
    now: Option<R>,
    /// What it is in the table, if that is something else.
    before: Option<Option<R>>,
}

/// Rows in memory, and which of them are to be written.
pub(crate) struct Rows<R: Row> {
    known: HashMap<R::Key, Known<R>, RandomState>,
    changed: Vec<R::Key>,
    /// Of those that were changed.
    changed_bytes: usize,
    /// Of all.
    known_bytes: usize,
}

impl<R: Row> Default for Rows<R> {
    fn default() -> Self {
        Self { known: HashMap::default(), changed: Vec::new(), changed_bytes: 0, known_bytes: 0 }
    }
}

impl<R: Row> Rows<R> {
    /// Gets to know the rows with these keys, or that there are none.
    pub async fn load(
        &mut self,
        keys: impl IntoIterator<Item = R::Key>,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let mut wanted = Vec::new();
        for key in keys {
            self.known.entry(key).or_insert_with_key(|key| {
                wanted.push(key.to_string());
                Known { now: None, before: None }
            });
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let Table { name, key, key_type, columns } = R::TABLE;
        let columns = columns.iter().map(|column| format!(", '{column}', {column}")).collect::<String>();
        let select = format!(
            "select {key}::text, jsonb_build_object('{key}', {key}{columns}) from {name}
             where {key} = any($1::text[]::{key_type}[])"
        );
        let rows: Vec<(String, Json<R>)> =
            sqlx::query_as(AssertSqlSafe(select)).bind(wanted).fetch_all(connection).await?;
        for (key, Json(row)) in rows {
            if let Some(known) = key.parse().ok().and_then(|key| self.known.get_mut(&key)) {
                self.known_bytes += row.bytes();
                known.now = Some(row);
            }
        }
        Ok(())
    }

    /// The row with the key, which was loaded.
    pub fn get(&self, key: &R::Key) -> Option<&R> {
        self.known.get(key)?.now.as_ref()
    }

    /// Changes the row with the key, which was loaded; nothing, if there is none.
    pub fn change<T>(&mut self, key: &R::Key, change: impl FnOnce(&mut Option<R>) -> T) -> T {
        let known = self.known.entry(key.clone()).or_insert(Known { now: None, before: None });
        let bytes = |row: &Option<R>| row.as_ref().map_or(0, R::bytes);
        let before = bytes(&known.now);
        let is_first = known.before.is_none();
        if is_first {
            known.before = Some(known.now.clone());
            self.changed.push(key.clone());
        }
        let changed = change(&mut known.now);
        let after = bytes(&known.now);
        self.known_bytes = (self.known_bytes + after).saturating_sub(before);
        self.changed_bytes += if is_first { after.max(ROW_BYTES) } else { after.saturating_sub(before) };
        changed
    }

    /// About how many bytes are to be written, or kept until they are.
    pub fn pending_bytes(&self) -> usize {
        self.changed_bytes
    }

    /// What was and what is to be, of each row that was changed since the last time it was written.
    pub fn changes(&self) -> impl Iterator<Item = (Option<&R>, Option<&R>)> {
        let known = self.changed.iter().filter_map(|key| self.known.get(key));
        let both = known.filter_map(|known| Some((known.before.as_ref()?.as_ref(), known.now.as_ref())));
        both.filter(|(before, now)| before != now)
    }

    /// Writes what was changed.
    pub async fn store(&mut self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Table { name, key, columns, .. } = R::TABLE;
        let all: Vec<&str> = std::iter::once(&key).chain(columns).copied().collect();
        let (mut new, mut different, mut gone) = (Inserts::new(name, &all), Vec::new(), Vec::new());
        for key in &self.changed {
            let Some(Known { now, before: Some(before) }) = self.known.get(key) else { continue };
            match (before, now) {
                (None, Some(row)) => new.add(row),
                (Some(before), Some(row)) if before != row => different.push(row),
                (Some(_), None) => gone.push(key.to_string()),
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
        update::<R>(&different, transaction).await?;
        delete::<R>(gone, transaction).await?;
        new.store(transaction).await?;
        self.settle();
        Ok(())
    }

    /// What is in memory is what is in the table.
    fn settle(&mut self) {
        for key in self.changed.drain(..) {
            if let Some(known) = self.known.get_mut(&key) {
                known.before = None;
            }
        }
        self.changed_bytes = 0;
        if self.known.len() > KEPT_MAX || self.known_bytes > KEPT_BYTES_MAX {
            self.known = HashMap::default();
            self.known_bytes = 0;
        }
    }
}

async fn update<R: Row>(rows: &[&R], transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let Table { name, key, columns, .. } = R::TABLE;
    let new = columns.iter().map(|column| format!("new.{column}")).collect::<Vec<_>>().join(", ");
    let update = format!(
        "update {name} as old set ({}) = row({new})
         from jsonb_populate_recordset(null::{name}, $1::text::jsonb) as new where old.{key} = new.{key}",
        columns.join(", ")
    );
    sqlx::query(AssertSqlSafe(update)).bind(storable(rows)?).execute(transaction).await?;
    Ok(())
}

async fn delete<R: Row>(keys: Vec<String>, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let Table { name, key, key_type, .. } = R::TABLE;
    let delete = format!("delete from {name} where {key} = any($1::text[]::{key_type}[])");
    sqlx::query(AssertSqlSafe(delete)).bind(keys).execute(transaction).await?;
    Ok(())
}

/// As JSON that Postgres accepts, in text.
pub(crate) fn storable(rows: &(impl Serialize + ?Sized)) -> Result<String, sqlx::Error> {
    let mut json = Vec::new();
    write_json(&rows, &mut json).map_err(|error| sqlx::Error::Encode(error.into()))?;
    String::from_utf8(json).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Appends JSON that Postgres accepts. It has no U+0000, and an event with one (the APIs refuse
/// them) must not stop a projection for ever.
pub(crate) fn write_json(value: &impl Serialize, buffer: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    const NUL: &[u8] = b"\\u0000";
    let begin = buffer.len();
    serde_json::to_writer(&mut *buffer, value)?;
    if memchr::memmem::find(&buffer[begin..], NUL).is_some() {
        buffer.truncate(begin);
        let mut value = serde_json::to_value(value)?;
        clean(&mut value);
        serde_json::to_writer(buffer, &value)?;
    }
    Ok(())
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{FFFD}"),
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(fields) => {
            if fields.keys().any(|name| name.contains('\0')) {
                let renamed = std::mem::take(fields).into_iter();
                *fields = renamed.map(|(name, value)| (name.replace('\0', "\u{FFFD}"), value)).collect();
            }
            fields.values_mut().for_each(clean);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::insert;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Note {
        id: String,
        text: String,
    }

    impl Record for Note {
        fn binary(&self, row: &mut insert::Row<'_>) {
            row.text(&self.id).text(&self.text);
        }
    }

    impl Row for Note {
        const TABLE: Table = Table { name: "notes", key: "id", key_type: "text", columns: &["text"] };

        type Key = String;

        fn bytes(&self) -> usize {
            ROW_BYTES + self.text.len()
        }
    }

    fn set(rows: &mut Rows<Note>, id: &str, bytes: usize) {
        rows.change(&id.to_owned(), |note| *note = Some(Note { id: id.to_owned(), text: "x".repeat(bytes) }));
    }

    #[test]
    fn long_texts_count_for_what_they_take() {
        let mut rows = Rows::default();
        set(&mut rows, "a", 10_000);
        assert!((10_000..11_000).contains(&rows.pending_bytes()), "{}", rows.pending_bytes());
        set(&mut rows, "a", 10_000);
        assert!(rows.pending_bytes() < 11_000, "the same again takes no more");
        set(&mut rows, "b", 5_000);
        assert!(rows.pending_bytes() > 15_000);
        rows.settle();
        assert_eq!((rows.pending_bytes(), rows.known.len()), (0, 2));
    }

    #[test]
    fn what_is_kept_is_bounded_however_few_rows_they_are() {
        let mut rows = Rows::default();
        for number in 0..1_000 {
            set(&mut rows, &number.to_string(), 100_000);
            rows.settle();
            let kept: usize =
                rows.known.values().filter_map(|known| known.now.as_ref()).map(Row::bytes).sum();
            assert!(kept <= KEPT_BYTES_MAX + 100_000 + ROW_BYTES, "{kept} bytes of {number} rows");
        }
    }

    #[test]
    fn what_changes_again_and_again_takes_no_more() {
        let mut rows = Rows::default();
        set(&mut rows, "other", 100);
        for _ in 0..1_000 {
            set(&mut rows, "hot", 100_000);
            rows.settle();
        }
        assert_eq!(rows.known.len(), 2);
    }

    #[test]
    fn postgres_gets_no_nul() {
        let json = storable(&[Note { id: "a\0b".to_owned(), text: "\\u0000 in words".to_owned() }]).unwrap();
        assert_eq!(json, r#"[{"id":"a�b","text":"\\u0000 in words"}]"#);
    }
}
