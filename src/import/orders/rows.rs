//! The rows of the file, read and kept in memory, small: half a million take some 40 MB.
//!
//! A row that can't be read as what its columns say is kept as a line number and a reason.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use csv::{ByteRecord, Reader, ReaderBuilder};
use domain::Currency;
use domain::text::Checks;

use super::fields::{self, Price};

/// The columns of the form, in their order.
pub const COLUMNS: [&str; 8] = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
];

/// All rows are in memory at a time, because an opening stock follows from all that came later.
pub const ROWS_MAX: usize = 20_000_000;

/// Most characters of an invoice's number, a customer's, and a code.
const NUMBER_CHARS_MAX: usize = 64;
const DESCRIPTION_CHARS_MAX: usize = 400;
const COUNTRY_CHARS_MAX: usize = 100;

/// A text that many rows have, kept once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(u32);

impl Text {
    pub const EMPTY: Self = Self(0);

    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }
}

/// One row that is what its columns say.
#[derive(Debug, Clone)]
pub struct Row {
    /// Line of the file on which it begins; the header is on line 1.
    pub line: u32,
    pub invoice: Text,
    pub code: Text,
    /// May be empty.
    pub description: Text,
    /// Empty if it is not known.
    pub customer: Text,
    pub country: Text,
    /// Neither 0 nor beyond ±1,000,000.
    pub quantity: i32,
    /// Seconds since 1970.
    pub at: i64,
    pub price: Price,
}

/// A row that becomes nothing, or not all that it should, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unmappable {
    pub line: u32,
    pub reason: String,
}

/// All rows of a file.
#[derive(Debug)]
pub struct Sheet {
    pub rows: Vec<Row>,
    /// Those that could not be read.
    pub unreadable: Vec<Unmappable>,
    texts: Texts,
}

#[derive(Debug)]
struct Texts {
    all: Vec<Arc<str>>,
    known: HashMap<Arc<str>, Text>,
}

impl Sheet {
    /// Reads all rows; `each` is called after every one.
    ///
    /// # Errors
    /// The file is not of this form, can't be read to its end, or has too many rows.
    pub fn read(file: Box<dyn BufRead>, currency: Currency, each: impl Fn()) -> anyhow::Result<Self> {
        let mut reader = reader(file);
        let mut record = ByteRecord::new();
        check_header(&mut reader, &mut record)?;
        let mut sheet = Self { rows: Vec::new(), unreadable: Vec::new(), texts: Texts::new() };
        // The rows of an invoice have the same time, most of them.
        let mut last_time = (Vec::new(), 0);
        while next(&mut reader, &mut record)? {
            let line = line_of(&record);
            match read_row(&record, line, currency, &mut sheet.texts, &mut last_time) {
                Ok(row) => sheet.rows.push(row),
                Err(reason) => sheet.unreadable.push(Unmappable { line, reason }),
            }
            let rows = sheet.rows.len() + sheet.unreadable.len();
            anyhow::ensure!(rows <= ROWS_MAX, "the file has more than {ROWS_MAX} rows, which is the most");
            each();
        }
        Ok(sheet)
    }

    pub fn text(&self, text: Text) -> &str {
        &self.texts.all[text.0 as usize]
    }
}

impl Texts {
    fn new() -> Self {
        let empty: Arc<str> = "".into();
        Self { all: vec![empty.clone()], known: HashMap::from([(empty, Text::EMPTY)]) }
    }

    /// The one copy of the text; what it is not to be is looked at when it comes for the first time.
    fn keep(&mut self, column: &str, text: &str, chars_max: usize) -> Result<Text, String> {
        if text.len() > chars_max && text.chars().count() > chars_max {
            return Err(format!("{column} has more than {chars_max} characters"));
        }
        if let Some(known) = self.known.get(text) {
            return Ok(*known);
        }
        let mut checks = Checks::default();
        checks.line("", text, chars_max);
        if let Some(wrong) = checks.finish().err().and_then(|wrong| wrong.into_iter().next()) {
            return Err(format!("{column} {}", wrong.detail));
        }
        let kept = Text(u32::try_from(self.all.len()).map_err(|_| "too many texts".to_owned())?);
        let text: Arc<str> = text.into();
        self.all.push(text.clone());
        self.known.insert(text, kept);
        Ok(kept)
    }
}

/// The rows on these lines, as they stand in the file: their fields, which may be of any number.
///
/// # Errors
/// The file can't be read.
pub fn pick(file: Box<dyn BufRead>, lines: &mut [u32]) -> anyhow::Result<HashMap<u32, Vec<String>>> {
    lines.sort_unstable();
    let (mut reader, mut record) = (reader(file), ByteRecord::new());
    let mut found = HashMap::new();
    while found.len() < lines.len() && next(&mut reader, &mut record)? {
        let line = line_of(&record);
        if lines.binary_search(&line).is_ok() {
            let field = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
            found.insert(line, record.iter().map(field).collect());
        }
    }
    Ok(found)
}

fn reader(file: Box<dyn BufRead>) -> Reader<Box<dyn BufRead>> {
    ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file)
}

fn next(reader: &mut Reader<Box<dyn BufRead>>, record: &mut ByteRecord) -> anyhow::Result<bool> {
    let line = reader.position().line();
    reader
        .read_byte_record(record)
        .map_err(|error| anyhow::anyhow!("the file is not readable beyond line {line}: {error}"))
}

fn line_of(record: &ByteRecord) -> u32 {
    record.position().and_then(|position| u32::try_from(position.line()).ok()).unwrap_or(u32::MAX)
}

fn check_header(reader: &mut Reader<Box<dyn BufRead>>, record: &mut ByteRecord) -> anyhow::Result<()> {
    next(reader, record)?;
    let found: Vec<_> = record.iter().map(String::from_utf8_lossy).collect();
    let named = |(found, expected): (&std::borrow::Cow<str>, &&str)| {
        found.trim_start_matches('\u{feff}').trim() == *expected
    };
    let right = found.len() == COLUMNS.len() && found.iter().zip(&COLUMNS).all(named);
    let shown: String = found.join(",").chars().take(200).collect();
    anyhow::ensure!(right, "the first line is `{shown}` instead of `{}`", COLUMNS.join(","));
    Ok(())
}

fn read_row(
    record: &ByteRecord,
    line: u32,
    currency: Currency,
    texts: &mut Texts,
    last_time: &mut (Vec<u8>, i64),
) -> Result<Row, String> {
    if record.len() != COLUMNS.len() {
        return Err(format!("it has {} columns instead of {}", record.len(), COLUMNS.len()));
    }
    let field = |column: usize| {
        let text = std::str::from_utf8(&record[column]);
        text.map(str::trim).map_err(|_| format!("{} is not UTF-8", COLUMNS[column]))
    };
    let required = |column: usize| match field(column)? {
        "" => Err(format!("{} is empty", COLUMNS[column])),
        text => Ok(text),
    };
    let mut keep = |column: usize, text, chars_max| texts.keep(COLUMNS[column], text, chars_max);
    let (quantity, price) = (quantity(required(3)?)?, price(required(5)?, currency)?);
    if price.times(quantity.unsigned_abs(), currency).abs() > fields::TOTAL_MAX {
        return Err("Quantity × UnitPrice is beyond all measure".to_owned());
    }
    let at = match (required(4)?, &record[4] == last_time.0.as_slice()) {
        (_, true) => last_time.1,
        (text, false) => {
            let at = fields::time(text);
            let at =
                at.ok_or_else(|| format!("InvoiceDate `{text}` is not a time such as 2010-12-01 08:26:00"))?;
            *last_time = (record[4].to_vec(), at);
            at
        }
    };
    Ok(Row {
        line,
        invoice: keep(0, required(0)?, NUMBER_CHARS_MAX)?,
        code: keep(1, required(1)?, NUMBER_CHARS_MAX)?,
        description: keep(2, field(2)?, DESCRIPTION_CHARS_MAX)?,
        customer: keep(6, fields::customer(field(6)?), NUMBER_CHARS_MAX)?,
        country: keep(7, required(7)?, COUNTRY_CHARS_MAX)?,
        quantity,
        at,
        price,
    })
}

fn quantity(text: &str) -> Result<i32, String> {
    match text.parse::<i32>() {
        Ok(0) => Err("Quantity is 0".to_owned()),
        Ok(quantity) if quantity.unsigned_abs() <= fields::QUANTITY_MAX => Ok(quantity),
        _ => Err(format!("Quantity `{text}` is not a whole number within ±{}", fields::QUANTITY_MAX)),
    }
}

fn price(text: &str, currency: Currency) -> Result<Price, String> {
    let price = Price::parse(text).filter(|price| price.times(1, currency) <= domain::product::PRICE_MAX);
    price.ok_or_else(|| format!("UnitPrice `{text}` is not a price such as 2.55"))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const HEADER: &str =
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

    pub fn sheet(rows: &str) -> Sheet {
        read(format!("{HEADER}{rows}").as_bytes()).unwrap()
    }

    fn read(bytes: &[u8]) -> anyhow::Result<Sheet> {
        let file = Box::new(std::io::Cursor::new(bytes.to_vec()));
        Sheet::read(file, "GBP".parse().unwrap(), || {})
    }

    #[test]
    fn rows_are_read_as_their_columns_say() {
        let sheet = sheet(
            "536365,85123A,\"HOLDER, \"\"WHITE\"\"\",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n",
        );
        let row = &sheet.rows[0];
        assert_eq!((row.line, row.quantity), (2, 6));
        assert_eq!(sheet.text(row.description), "HOLDER, \"WHITE\"");
        assert_eq!((sheet.text(row.customer), sheet.text(row.country)), ("17850", "United Kingdom"));
        assert!(sheet.unreadable.is_empty());
    }

    #[test]
    fn what_is_not_of_its_column_is_kept_with_its_reason() {
        let mut bytes = HEADER.as_bytes().to_vec();
        for (row, _) in BAD {
            bytes.extend(*row);
            bytes.push(b'\n');
        }
        let sheet = read(&bytes).unwrap();
        assert!(sheet.rows.is_empty(), "{:?}", sheet.rows);
        for (index, (_, expected)) in BAD.iter().enumerate() {
            let Unmappable { line, reason } = &sheet.unreadable[index];
            assert_eq!(*line as usize, index + 2);
            assert!(reason.contains(expected), "{reason}");
        }
    }

    const BAD: &[(&[u8], &str)] = &[
        (b"1,2", "2 columns instead of 8"),
        (b"1,A,caf\xe9,1,2010-12-01 08:26:00,1,,UK", "Description is not UTF-8"),
        (
            b"1,A,\"bell\x07\",1,2010-12-01 08:26:00,1,,UK",
            "Description must not contain the control character U+0007",
        ),
        (b"1,A,x,1.5,2010-12-01 08:26:00,1,,UK", "Quantity `1.5`"),
        (b"1,A,x,0,2010-12-01 08:26:00,1,,UK", "Quantity is 0"),
        (b"1,A,x,9999999,2010-12-01 08:26:00,1,,UK", "Quantity `9999999`"),
        (b"1,A,x,1,yesterday,1,,UK", "InvoiceDate `yesterday`"),
        (b"1,A,x,1,2010-12-01 08:26:00,1e3,,UK", "UnitPrice `1e3`"),
        (b"1,A,x,1,2010-12-01 08:26:00,999999999,,UK", "UnitPrice `999999999`"),
        (b"1,A,x,1,2010-12-01 08:26:00,1,,", "Country is empty"),
        (b",A,x,1,2010-12-01 08:26:00,1,,UK", "InvoiceNo is empty"),
        (b"1,,x,1,2010-12-01 08:26:00,1,,UK", "StockCode is empty"),
    ];

    #[test]
    fn another_form_is_refused_as_a_whole() {
        for text in
            ["", "a,b\n", "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"]
        {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("instead of `InvoiceNo,StockCode"), "{error}");
        }
        assert!(read(format!("\u{feff}{HEADER}").as_bytes()).unwrap().rows.is_empty());
    }

    #[test]
    fn rows_are_found_again_by_their_lines() {
        let text = format!("{HEADER}1,\"a\nb\",c\n2,d\n3,e\n");
        let found = pick(Box::new(std::io::Cursor::new(text)), &mut [4, 2]).unwrap();
        assert_eq!(found[&2], ["1", "a\nb", "c"]);
        assert_eq!(found[&4], ["2", "d"]);
        assert_eq!(found.len(), 2);
    }
}
