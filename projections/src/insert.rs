//! New rows: many go by COPY in Postgres's binary form, the fastest way there is; a few as JSON, at once.
//!
//! The binary form is told in Postgres's documentation of COPY, "Binary Format"; each value in it has the form
//! of its type's `send` function.

use chrono::{DateTime, Utc};
use infra::storable::storable;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Microseconds from 1970 to 2000, where Postgres's time begins.
const EPOCH_US: i64 = 946_684_800_000_000;

const PIECE_BYTES: usize = 64 * 1024;

/// Up to so many rows go as JSON in one statement: one way to the server and back, where COPY takes three.
const FEW: usize = 100;

/// What is to be a row: fields named like the columns, and their values in the columns' order.
pub(crate) trait Record: Serialize {
    fn binary(&self, row: &mut Row<'_>);
}

/// New rows on their way into a table.
pub(crate) struct Inserts {
    table: &'static str,
    columns: String,
    columns_count: i16,
    rows: usize,
    binary: Vec<u8>,
    /// The same in JSON, while they are few.
    json: Vec<u8>,
}

impl Inserts {
    pub fn new(table: &'static str, columns: &[&str]) -> Self {
        let columns_count =
            i16::try_from(columns.len()).unwrap_or_else(|_| unreachable!("a table has few columns"));
        let columns = columns.join(", ");
        Self { table, columns, columns_count, rows: 0, binary: Vec::new(), json: Vec::new() }
    }

    pub fn add(&mut self, record: &impl Record) {
        if self.rows == 0 {
            self.binary.extend(SIGNATURE);
            // Neither flags nor an extended header.
            self.binary.extend([0; 8]);
        }
        self.rows += 1;
        self.binary.extend(self.columns_count.to_be_bytes());
        record.binary(&mut Row { buffer: &mut self.binary });
        if self.rows <= FEW {
            self.json.push(if self.rows == 1 { b'[' } else { b',' });
            put_json(record, &mut self.json);
        }
    }

    /// How many bytes are to be written.
    pub fn bytes(&self) -> usize {
        self.binary.len()
    }

    /// Writes the rows, if there are any.
    pub async fn store(&mut self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        match self.rows {
            0 => return Ok(()),
            1..=FEW => self.insert(transaction).await?,
            _ => self.copy(transaction).await?,
        }
        // A lane that has caught up needs no room for many any more.
        (self.rows, self.binary, self.json) = (0, Vec::new(), Vec::new());
        Ok(())
    }

    async fn insert(&mut self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.json.push(b']');
        let json = str::from_utf8(&self.json).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let Self { table, columns, .. } = self;
        let insert = format!(
            "insert into {table} ({columns})
             select {columns} from jsonb_populate_recordset(null::{table}, $1::text::jsonb)"
        );
        sqlx::query(AssertSqlSafe(insert)).bind(json).execute(transaction).await?;
        Ok(())
    }

    async fn copy(&mut self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.binary.extend((-1_i16).to_be_bytes());
        let copy = format!("copy {} ({}) from stdin (format binary)", self.table, self.columns);
        let mut copying = transaction.copy_in_raw(&copy).await?;
        // In pieces, so that Postgres begins while the rest is on its way.
        for piece in self.binary.chunks(PIECE_BYTES) {
            copying.send(piece).await?;
        }
        copying.finish().await?;
        Ok(())
    }
}

/// A row, value by value.
pub(crate) struct Row<'b> {
    buffer: &'b mut Vec<u8>,
}

impl Row<'_> {
    pub fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.value(value.as_bytes())
    }

    pub fn int8(&mut self, value: i64) -> &mut Self {
        self.value(&value.to_be_bytes())
    }

    pub fn int4(&mut self, value: i32) -> &mut Self {
        self.value(&value.to_be_bytes())
    }

    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.value(&[u8::from(value)])
    }

    pub fn text(&mut self, value: &str) -> &mut Self {
        self.value(storable(value).as_bytes())
    }

    pub fn timestamptz(&mut self, value: DateTime<Utc>) -> &mut Self {
        self.int8(value.timestamp_micros().saturating_sub(EPOCH_US))
    }

    pub fn jsonb(&mut self, value: &impl Serialize) -> &mut Self {
        const VERSION: u8 = 1;
        let begin = self.buffer.len();
        self.buffer.extend([0, 0, 0, 0, VERSION]);
        put_json(value, self.buffer);
        let length = self.buffer.len() - begin - 4;
        self.buffer[begin..begin + 4].copy_from_slice(&length_of(length));
        self
    }

    /// The value if there is one, by the method of its type, or null.
    pub fn optional<T>(
        &mut self,
        value: Option<T>,
        put: impl for<'r> FnOnce(&'r mut Self, T) -> &'r mut Self,
    ) -> &mut Self {
        match value {
            Some(value) => put(self, value),
            None => {
                self.buffer.extend((-1_i32).to_be_bytes());
                self
            }
        }
    }

    fn value(&mut self, bytes: &[u8]) -> &mut Self {
        self.buffer.extend(length_of(bytes.len()));
        self.buffer.extend(bytes);
        self
    }
}

fn put_json(value: &impl Serialize, buffer: &mut Vec<u8>) {
    let written = crate::rows::write_json(value, buffer);
    written.unwrap_or_else(|error| unreachable!("rows are plain data: {error}"));
}

fn length_of(bytes: usize) -> [u8; 4] {
    // A message of the log is at most a megabyte or so.
    i32::try_from(bytes).unwrap_or_else(|_| unreachable!("no value has {bytes} bytes")).to_be_bytes()
}
