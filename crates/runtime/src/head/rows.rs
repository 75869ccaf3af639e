//! Labelled texts as files have them: CSV, JSON Lines, a JSON array. What is wrong is said with its line.
//!
//! Text is kept as it is; what of it matters is for the featurer to say.

use std::collections::BTreeSet;

use ring::digest::{Context, SHA256};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::ngrams::TEXT_BYTES_MAX;

/// The largest file that is read: a million short rows.
pub const FILE_BYTES_MAX: usize = 256 << 20;
pub const ROWS_MAX: usize = 1_000_000;
pub const LABELS_MAX: usize = 10_000;
pub const LABEL_BYTES_MAX: usize = 256;
pub const GROUP_BYTES_MAX: usize = 1_024;

/// One labelled text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub text: String,
    pub label: String,
    /// What it was taken from, where that matters: rows of one group are never both learned from and asked.
    pub group: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Error)]
pub enum RowsError {
    #[error("the file has {0} bytes; at most {FILE_BYTES_MAX} are read")]
    FileTooLarge(usize),
    #[error("the file has no rows")]
    Empty,
    #[error("the file has no column called {0}")]
    NoColumn(&'static str),
    #[error("line {line}: {why}")]
    Unreadable { line: u64, why: String },
    #[error("{place} {number}: {fault}")]
    Bad { place: &'static str, number: u64, fault: Fault },
}

/// What is wrong with one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("the text is empty")]
    NoText,
    #[error("the text has {0} bytes; at most {TEXT_BYTES_MAX} are read")]
    LongText(usize),
    #[error("the label is empty")]
    NoLabel,
    #[error("the label has {0} bytes; at most {LABEL_BYTES_MAX} are allowed")]
    LongLabel(usize),
    #[error("the group has {0} bytes; at most {GROUP_BYTES_MAX} are allowed")]
    LongGroup(usize),
    #[error("there are more than {ROWS_MAX} rows")]
    TooManyRows,
    #[error("there are more than {LABELS_MAX} labels")]
    TooManyLabels,
}

/// A row as JSON has it. Other members are not ours and are passed over.
#[derive(Deserialize)]
struct Json {
    text: String,
    #[serde(alias = "category")]
    label: String,
    #[serde(alias = "doc_title")]
    group: Option<String>,
}

/// The same where the text is made of an input.
#[derive(Deserialize)]
struct InputJson {
    input: Value,
    label: String,
    group: Option<String>,
}

/// With a header: `text`, `label` (or `category`), and if there is one, `group` (or `doc_title`).
pub fn csv(bytes: &[u8]) -> Result<Vec<Row>, RowsError> {
    bounded(bytes)?;
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
    let header = reader.headers().map_err(unreadable_csv)?.clone();
    let column = |names: &[&str]| header.iter().position(|name| names.contains(&name.trim_start_matches('\u{feff}')));
    let text = column(&["text"]).ok_or(RowsError::NoColumn("text"))?;
    let label = column(&["label", "category"]).ok_or(RowsError::NoColumn("label"))?;
    let group = column(&["group", "doc_title"]);
    let mut rows = Gathered::new("line");
    for record in reader.records() {
        let record = record.map_err(unreadable_csv)?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize| record.get(column).unwrap_or_default().to_owned();
        let group = group.map(field).filter(|group| !group.is_empty());
        rows.push(line, Row { text: field(text), label: field(label), group })?;
    }
    rows.finish()
}

/// An object a line: `text`, `label` (or `category`), and if there is one, `group` (or `doc_title`). Empty lines are passed over.
pub fn jsonl(bytes: &[u8]) -> Result<Vec<Row>, RowsError> {
    lines(bytes, |content| {
        let row: Json =
            serde_json::from_slice(content).map_err(|error| format!("column {}: {error}", error.column()))?;
        Ok(Row::from(row))
    })
}

/// An object a line: `input`, of which `text` makes what is read or says what is wrong with it, `label`, and perhaps `group`.
pub fn inputs(bytes: &[u8], text: impl Fn(&Value) -> Result<String, String>) -> Result<Vec<Row>, RowsError> {
    lines(bytes, |content| {
        let InputJson { input, label, group } = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        Ok(Row { text: text(&input)?, label, group })
    })
}

fn lines(bytes: &[u8], row: impl Fn(&[u8]) -> Result<Row, String>) -> Result<Vec<Row>, RowsError> {
    bounded(bytes)?;
    let mut rows = Gathered::new("line");
    for (line, content) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if !content.trim_ascii().is_empty() {
            rows.push(line, row(content).map_err(|why| RowsError::Unreadable { line, why })?)?;
        }
    }
    rows.finish()
}

/// One array of objects as in [`jsonl`], which is how TRAM's `single_label.json` comes.
pub fn json(bytes: &[u8]) -> Result<Vec<Row>, RowsError> {
    bounded(bytes)?;
    let read: Vec<Json> = serde_json::from_slice(bytes)
        .map_err(|error| RowsError::Unreadable { line: error.line() as u64, why: error.to_string() })?;
    let mut rows = Gathered::new("item");
    for (number, row) in (1..).zip(read) {
        rows.push(number, Row::from(row))?;
    }
    rows.finish()
}

/// SHA-256, in hexadecimal, of the rows in their order: each field with its length before it, a group that is not there as
/// none. Files of different kinds with the same rows have the same.
pub fn digest(rows: &[Row]) -> String {
    let mut context = Context::new(&SHA256);
    for row in rows {
        for field in [Some(&row.text), Some(&row.label), row.group.as_ref()] {
            // No text is 2^64 - 1 bytes long.
            let length = field.map_or(u64::MAX, |field| field.len() as u64);
            context.update(&length.to_le_bytes());
            context.update(field.map_or(&[], |field| field.as_bytes()));
        }
    }
    hex(context.finish().as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The labels there are, sorted by their bytes: the order in which a head has them.
pub fn labels(rows: &[Row]) -> Vec<String> {
    let sorted: BTreeSet<&str> = rows.iter().map(|row| row.label.as_str()).collect();
    sorted.into_iter().map(str::to_owned).collect()
}

/// What is wrong with a row by itself.
pub(super) fn check(row: &Row) -> Result<(), Fault> {
    match row {
        row if row.text.trim().is_empty() => Err(Fault::NoText),
        row if row.text.len() > TEXT_BYTES_MAX => Err(Fault::LongText(row.text.len())),
        row if row.label.trim().is_empty() => Err(Fault::NoLabel),
        row if row.label.len() > LABEL_BYTES_MAX => Err(Fault::LongLabel(row.label.len())),
        Row { group: Some(group), .. } if group.len() > GROUP_BYTES_MAX => Err(Fault::LongGroup(group.len())),
        _ => Ok(()),
    }
}

fn bounded(bytes: &[u8]) -> Result<(), RowsError> {
    if bytes.len() > FILE_BYTES_MAX { Err(RowsError::FileTooLarge(bytes.len())) } else { Ok(()) }
}

fn unreadable_csv(error: csv::Error) -> RowsError {
    let line = error.position().map_or(1, csv::Position::line);
    RowsError::Unreadable { line, why: error.to_string() }
}

/// Rows as they come, checked.
struct Gathered {
    place: &'static str,
    rows: Vec<Row>,
    labels: BTreeSet<String>,
}

// === impl Gathered ===

impl Gathered {
    fn new(place: &'static str) -> Self {
        Self { place, rows: Vec::new(), labels: BTreeSet::new() }
    }

    fn push(&mut self, number: u64, row: Row) -> Result<(), RowsError> {
        let bad = |fault| RowsError::Bad { place: self.place, number, fault };
        check(&row).map_err(bad)?;
        if self.rows.len() == ROWS_MAX {
            return Err(bad(Fault::TooManyRows));
        }
        if !self.labels.contains(&row.label) {
            if self.labels.len() == LABELS_MAX {
                return Err(bad(Fault::TooManyLabels));
            }
            self.labels.insert(row.label.clone());
        }
        self.rows.push(row);
        Ok(())
    }

    fn finish(self) -> Result<Vec<Row>, RowsError> {
        if self.rows.is_empty() { Err(RowsError::Empty) } else { Ok(self.rows) }
    }
}

// === impl Row ===

impl From<Json> for Row {
    fn from(json: Json) -> Self {
        Self { text: json.text, label: json.label, group: json.group }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, label: &str, group: Option<&str>) -> Row {
        Row { text: text.to_owned(), label: label.to_owned(), group: group.map(str::to_owned) }
    }

    fn check_error(read: Result<Vec<Row>, RowsError>, expected: &str) {
        let error = read.expect_err("refused").to_string();
        assert!(error.starts_with(expected), "{error}\n{expected}");
    }

    #[test]
    fn three_kinds_of_file_say_the_same_rows() {
        let expected = [row("a, b\nc", "x", Some("r")), row("d", "y", Some("s"))];
        let csv_text = b"\xef\xbb\xbftext,category,doc_title\n\"a, b\nc\",x,r\nd,y,s\n";
        let lines = b"{\"text\":\"a, b\\nc\",\"label\":\"x\",\"group\":\"r\",\"more\":[1]}\n\n{\"text\":\"d\",\"category\":\"y\",\"group\":\"s\"}\n";
        let array = br#"[{"text":"a, b\nc","label":"x","doc_title":"r"},{"text":"d","label":"y","doc_title":"s"}]"#;
        for read in [csv(csv_text), jsonl(lines), json(array)] {
            assert_eq!(read.expect("read"), expected);
        }
        assert_eq!(csv(b"label,text\nx,a\n").expect("read"), [row("a", "x", None)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        check_error(csv(b"text,label\na,x\n,y\n"), "line 3: the text is empty");
        check_error(csv(b"text,label\n\"a\nb\",x\nc,\n"), "line 4: the label is empty");
        check_error(csv(b"text,label\na,x\nb\n"), "line 3: ");
        check_error(csv(b"text,label\n\xff,x\n"), "line 2: ");
        check_error(csv(b"text,kind\na,x\n"), "the file has no column called label");
        check_error(csv(b"text,label\n"), "the file has no rows");
        check_error(csv(b""), "the file has no column called text");
        check_error(jsonl(b"{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":1}\n"), "line 2: column ");
        check_error(jsonl(b"\n{\"text\":\"a\"}"), "line 2: column ");
        check_error(jsonl(b" \n"), "the file has no rows");
        check_error(json(b"[{\"text\":\"a\",\"label\":\"x\"},\n{]"), "line 2: ");
        check_error(
            json(b"[{\"text\":\"a\",\"label\":\"x\"},{\"text\":\"b\",\"label\":\" \"}]"),
            "item 2: the label is empty",
        );
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let csv_of = |text: usize, label: usize, group: usize| {
            csv(format!("text,label,group\n{},{},{}\n", "t".repeat(text), "l".repeat(label), "g".repeat(group))
                .as_bytes())
        };
        assert!(csv_of(TEXT_BYTES_MAX, LABEL_BYTES_MAX, GROUP_BYTES_MAX).is_ok());
        check_error(csv_of(TEXT_BYTES_MAX + 1, 1, 1), "line 2: the text has 16385 bytes");
        check_error(csv_of(1, LABEL_BYTES_MAX + 1, 1), "line 2: the label has 257 bytes");
        check_error(csv_of(1, 1, GROUP_BYTES_MAX + 1), "line 2: the group has 1025 bytes");
        let many: String = (0..=LABELS_MAX).map(|label| format!("a,{label}\n")).collect();
        check_error(csv(format!("text,label\n{many}").as_bytes()), "line 10002: there are more than 10000 labels");
        let many = "a,x\n".repeat(ROWS_MAX + 1);
        check_error(csv(format!("text,label\n{many}").as_bytes()), "line 1000002: there are more than 1000000 rows");
    }

    #[test]
    fn the_digest_is_of_fields_and_order_and_not_of_their_seams() {
        let digests: BTreeSet<String> = [
            vec![row("ab", "c", None)],
            vec![row("a", "bc", None)],
            vec![row("ab", "c", Some(""))],
            vec![row("ab", "c", Some("c"))],
            vec![row("ab", "c", None), row("d", "e", None)],
            vec![row("d", "e", None), row("ab", "c", None)],
        ]
        .iter()
        .map(|rows| digest(rows))
        .collect();
        assert_eq!(digests.len(), 6);
    }

    #[test]
    fn labels_are_sorted_and_there_once() {
        let rows = [row("1", "b", None), row("2", "a", None), row("3", "b", None)];
        assert_eq!(labels(&rows), ["a", "b"]);
    }
}
