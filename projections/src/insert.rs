//! COPY in Postgres's binary form: the fastest way to bring in rows that are not there yet.
//!
//! The form is told in Postgres's documentation of COPY, "Binary Format"; each value in it has the form
//! of its type's `send` function.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Microseconds from 1970 to 2000, where Postgres's time begins.
const EPOCH_US: i64 = 946_684_800_000_000;

const PIECE_BYTES: usize = 64 * 1024;

/// Rows on their way into a table.
pub(crate) struct Copy {
    statement: String,
    columns: i16,
    buffer: Vec<u8>,
}

impl Copy {
    pub fn new(table: &str, columns: &[&str]) -> Self {
        let statement = format!("copy {table} ({}) from stdin (format binary)", columns.join(", "));
        let columns =
            i16::try_from(columns.len()).unwrap_or_else(|_| unreachable!("a table has few columns"));
        Self { statement, columns, buffer: Vec::new() }
    }

    /// Begins a row; the values follow in the order of the columns.
    pub fn row(&mut self) -> Row<'_> {
        if self.buffer.is_empty() {
            self.buffer.extend(SIGNATURE);
            // Neither flags nor an extended header.
            self.buffer.extend([0; 8]);
        }
        self.buffer.extend(self.columns.to_be_bytes());
        Row { buffer: &mut self.buffer }
    }

    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Sends the rows, if there are any.
    pub async fn send(&mut self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.buffer.extend((-1_i16).to_be_bytes());
        let mut copying = transaction.copy_in_raw(&self.statement).await?;
        // In pieces, so that Postgres begins while the rest is on its way.
        for piece in self.buffer.chunks(PIECE_BYTES) {
            copying.send(piece).await?;
        }
        copying.finish().await?;
        self.buffer.clear();
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

    /// Postgres has no U+0000.
    pub fn text(&mut self, value: &str) -> &mut Self {
        match value.contains('\0') {
            true => self.value(value.replace('\0', "\u{FFFD}").as_bytes()),
            false => self.value(value.as_bytes()),
        }
    }

    pub fn timestamptz(&mut self, value: DateTime<Utc>) -> &mut Self {
        self.int8(value.timestamp_micros().saturating_sub(EPOCH_US))
    }

    pub fn jsonb(&mut self, value: &impl Serialize) -> &mut Self {
        const VERSION: u8 = 1;
        let begin = self.buffer.len();
        self.buffer.extend([0, 0, 0, 0, VERSION]);
        let written = crate::rows::write_json(value, self.buffer);
        written.unwrap_or_else(|error| unreachable!("rows are plain data: {error}"));
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

fn length_of(bytes: usize) -> [u8; 4] {
    // A message of the log is at most a megabyte or so.
    i32::try_from(bytes).unwrap_or_else(|_| unreachable!("no value has {bytes} bytes")).to_be_bytes()
}
