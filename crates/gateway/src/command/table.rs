//! Tables for people: no lines between the cells, so that they can be cut and searched, and nothing in them that could
//! steer a terminal.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use tollgate_types::PicoSum;

/// The head of a column, and which way its cells lean.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// What stands where there is nothing.
pub const NONE: &str = "-";

/// A table, or `empty` if it would have no rows.
pub fn table(columns: &[Column], rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return empty.to_owned();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(Column::title));
    for (column, style) in columns.iter().zip(table.column_iter_mut()) {
        style.set_padding((0, 2));
        if matches!(column, Column::Number(_)) {
            style.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    without_trailing_space(&table.to_string())
}

/// Two columns, a field a line.
pub fn fields(pairs: &[(&str, String)]) -> String {
    let widest = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:widest$}  {}", printable(value));
    pairs.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// A decimal integer of picodollars, in dollars. What is no such thing is shown as it is: better than nothing.
pub fn usd(picousd: &str) -> String {
    picousd.parse().map_or_else(|_| picousd.to_owned(), |pico| PicoSum(pico).to_string())
}

impl Column {
    fn title(&self) -> &'static str {
        match self {
            Self::Text(title) | Self::Number(title) => title,
        }
    }
}

/// Names are people's words: an escape sequence in one must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn without_trailing_space(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_lean_right() {
        let rows = vec![vec!["demo".into(), "1.50".into()], vec!["x".into(), "100.00".into()]];
        let shown = table(&[Column::Text("TENANT"), Column::Number("USD")], rows, "nothing");
        assert_eq!(shown, "TENANT     USD\ndemo      1.50\nx       100.00");
    }

    #[test]
    fn no_rows_say_so_in_words() {
        assert_eq!(table(&[Column::Text("TENANT")], Vec::new(), "no tenants"), "no tenants");
    }

    #[test]
    fn nothing_in_a_cell_can_steer_the_terminal() {
        let rows = vec![vec!["\u{1b}[2Jx\r\n\u{9b}y".into()]];
        let shown = table(&[Column::Text("NAME")], rows, "");
        assert_eq!(shown.lines().count(), 2);
        assert!(!shown.contains('\u{1b}') && !shown.contains('\r') && !shown.contains('\u{9b}'), "{shown:?}");
        assert!(!fields(&[("name", "\u{1b}]0;x\u{7}".into())]).contains('\u{1b}'));
    }

    #[test]
    fn picodollars_are_shown_in_dollars_with_every_digit() {
        assert_eq!(usd("12345000"), "0.000012345");
        assert_eq!(usd("-1000000000000"), "-1.00");
        assert_eq!(usd("?"), "?");
    }

    #[test]
    fn fields_line_up() {
        assert_eq!(fields(&[("id", "demo".into()), ("created", or_none::<String>(None))]), "id       demo\ncreated  -");
    }
}
