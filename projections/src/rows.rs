//! Rows by key: those that a batch touches are read, folded in memory, and written back at once.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection};

/// A table whose rows are structs with the columns as fields.
pub(crate) struct Table {
    pub name: &'static str,
    pub key: &'static str,
    /// The key's type, such as `uuid`.
    pub key_type: &'static str,
    /// All others.
    pub columns: &'static [&'static str],
}

impl Table {
    /// The rows with these keys that there are.
    pub async fn load<R: DeserializeOwned + Send + Unpin + 'static>(
        &self,
        keys: &[String],
        transaction: &mut PgConnection,
    ) -> Result<BTreeMap<String, R>, sqlx::Error> {
        let Self { name, key, key_type, columns } = self;
        let columns = columns.iter().map(|column| format!(", '{column}', {column}")).collect::<String>();
        let select = format!(
            "select {key}::text, jsonb_build_object('{key}', {key}{columns}) from {name}
             where {key} = any($1::text[]::{key_type}[])"
        );
        let rows: Vec<(String, Json<R>)> =
            sqlx::query_as(AssertSqlSafe(select)).bind(keys).fetch_all(transaction).await?;
        Ok(rows.into_iter().map(|(key, Json(row))| (key, row)).collect())
    }

    /// Writes these rows, in place of those with the same key.
    pub async fn store<'r, R: Serialize + 'r>(
        &self,
        rows: impl IntoIterator<Item = &'r R>,
        transaction: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let rows = storable_rows(rows)?;
        if rows.is_empty() {
            return Ok(());
        }
        let Self { name, key, columns, .. } = self;
        let names = columns.join(", ");
        let new = columns.iter().map(|column| format!("excluded.{column}")).collect::<Vec<_>>().join(", ");
        let upsert = format!(
            "insert into {name} ({key}, {names})
             select {key}, {names} from jsonb_populate_recordset(null::{name}, $1)
             on conflict ({key}) do update set ({names}) = row({new})"
        );
        sqlx::query(AssertSqlSafe(upsert)).bind(Json(rows)).execute(transaction).await?;
        Ok(())
    }
}

/// Rows as JSON that Postgres accepts. It has no U+0000, and an event with one (the APIs refuse
/// them) must not stop a projection for ever.
pub(crate) fn storable_rows<'r, R: Serialize + 'r>(
    rows: impl IntoIterator<Item = &'r R>,
) -> Result<Vec<Value>, sqlx::Error> {
    let rows = rows.into_iter().map(storable).collect::<Result<_, _>>();
    rows.map_err(|error| sqlx::Error::Encode(error.into()))
}

fn storable(row: &impl Serialize) -> Result<Value, serde_json::Error> {
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
    let mut value = serde_json::to_value(row)?;
    clean(&mut value);
    Ok(value)
}
