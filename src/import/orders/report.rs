//! The list of what could not be mapped: every row with its reason, in a file or in the terminal.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use anyhow::Context;

use super::rows::{self, COLUMNS, Unmappable};

/// Rows that are shown in the terminal; the rest is counted.
const SHOWN_MAX: usize = 100;

/// Writes all of them as CSV: the line, the reason, and the row's own columns.
///
/// # Errors
/// One of the files can't be read or written.
pub fn write(path: &Path, file: Box<dyn BufRead>, unmappable: &[Unmappable]) -> anyhow::Result<()> {
    let rows = rows_of(file, unmappable)?;
    let mut report = csv::WriterBuilder::new()
        .flexible(true)
        .from_path(path)
        .with_context(|| format!("{} can't be written", path.display()))?;
    report.write_record(["row", "reason"].iter().chain(&COLUMNS))?;
    for Unmappable { line, reason } in unmappable {
        let (number, own) = (line.to_string(), rows.get(line).into_iter().flatten());
        report.write_record([number.as_str(), reason.as_str()].into_iter().chain(own.map(String::as_str)))?;
    }
    Ok(report.flush()?)
}

/// The first of them, and how many others there are for each reason.
///
/// # Errors
/// The file can't be read.
pub fn text(file: Box<dyn BufRead>, unmappable: &[Unmappable]) -> anyhow::Result<Vec<String>> {
    let (shown, others) = unmappable.split_at(unmappable.len().min(SHOWN_MAX));
    let rows = rows_of(file, shown)?;
    let mut text: Vec<String> = shown
        .iter()
        .map(|Unmappable { line, reason }| {
            format!("row {line}: {reason}: {}", rows.get(line).map(|row| row.join(",")).unwrap_or_default())
        })
        .collect();
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for Unmappable { reason, .. } in others {
        *reasons.entry(reason).or_default() += 1;
    }
    text.extend(reasons.into_iter().take(SHOWN_MAX).map(|(reason, count)| format!("{count} more: {reason}")));
    if !others.is_empty() {
        text.push(format!("{} rows more than these; --report FILE lists all of them", others.len()));
    }
    Ok(text)
}

fn rows_of(
    file: Box<dyn BufRead>,
    unmappable: &[Unmappable],
) -> anyhow::Result<std::collections::HashMap<u32, Vec<String>>> {
    let mut lines: Vec<u32> = unmappable.iter().map(|one| one.line).collect();
    lines.sort_unstable();
    lines.dedup();
    rows::pick(file, &mut lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rows: u32) -> Box<dyn BufRead> {
        let rows: String = (0..rows).map(|row| format!("A{row},\"B, C\"\n")).collect();
        Box::new(std::io::Cursor::new(format!("{}{rows}", rows::tests::HEADER)))
    }

    fn unmappable(rows: u32) -> Vec<Unmappable> {
        (0..rows).map(|row| Unmappable { line: row + 2, reason: "it is odd".to_owned() }).collect()
    }

    #[test]
    fn few_are_all_shown_and_many_are_counted() {
        assert_eq!(text(file(2), &unmappable(1)).unwrap(), ["row 2: it is odd: A0,B, C"]);
        let many = text(file(300), &unmappable(250)).unwrap();
        assert_eq!(many.len(), SHOWN_MAX + 2);
        assert!(many[SHOWN_MAX].contains("150 more: it is odd"), "{many:?}");
    }

    #[test]
    fn a_file_has_every_row_as_it_was() {
        let path = tempfile::NamedTempFile::new().unwrap();
        write(path.path(), file(300), &unmappable(250)).unwrap();
        let written = std::fs::read_to_string(path.path()).unwrap();
        assert!(written.starts_with("row,reason,InvoiceNo,"), "{written}");
        assert_eq!(written.lines().count(), 251);
        assert_eq!(written.lines().nth(250), Some("251,it is odd,A249,\"B, C\""));
    }
}
