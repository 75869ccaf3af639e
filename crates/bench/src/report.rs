//! Tables for people; the last line, JSON for machines, is printed by [`last_line`].

use std::io::Write;

use anyhow::Result;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::Value;

use crate::latency::Summary;
use crate::load::Outcome;

/// A table with the first column to the left and the figures to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(head.to_vec());
    for row in rows {
        table.add_row(row.clone());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// Prints a line to standard output. A closed pipe is an error, not a panic.
pub fn line(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// The one line of JSON with which a long measurement ends.
pub fn last_line(report: &impl Serialize) -> Result<()> {
    line(&rounded(serde_json::to_value(report)?).to_string())
}

/// Fractions to the millionth: more is noise.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let exact = number.as_f64().unwrap_or_default();
            ((exact * 1e6).round() / 1e6).into()
        }
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, rounded(value))).collect(),
        other => other,
    }
}

/// Progress goes to standard error: standard output is the report.
pub fn progress(text: &str) {
    // Nobody to tell if even that is closed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

pub fn decimals(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

/// A figure that may be missing.
pub fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| decimals(value, digits))
}

pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A run of the load generator, for people.
pub fn load_table(outcome: &Outcome) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (name, latencies) in [
        ("latency", &outcome.latency),
        ("time to first token", &outcome.first_token),
        ("gap between events", &outcome.gaps),
    ] {
        if latencies.count() > 0 {
            rows.push(latency_row(name, &latencies.summary()));
        }
    }
    let latencies = table(&["ms", "count", "mean", "p50", "p90", "p99", "p99.9", "max"], &rows);
    format!("{latencies}\n{}", table(&["load", "figure"], &figures(outcome)))
}

fn latency_row(name: &str, summary: &Summary) -> Vec<String> {
    let quantiles = [summary.mean_ms, summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.p999_ms, summary.max_ms];
    let mut row = vec![name.to_owned(), summary.count.to_string()];
    row.extend(quantiles.map(|value| decimals(value, 3)));
    row
}

fn figures(outcome: &Outcome) -> Vec<Vec<String>> {
    let statuses: Vec<String> = outcome.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    let mut rows = vec![
        vec!["statuses".to_owned(), statuses.join(", ")],
        vec!["broken".to_owned(), outcome.broken.to_string()],
        vec!["requests/s".to_owned(), decimals(outcome.requests_per_s(), 1)],
        vec!["body bytes".to_owned(), outcome.body_bytes.to_string()],
        vec!["elapsed s".to_owned(), decimals(outcome.elapsed.as_secs_f64(), 2)],
    ];
    if let Some(consumed) = outcome.consumed {
        rows.push(vec!["CPU µs/request".to_owned(), optional(outcome.cpu_us_per_request(), 1)]);
        rows.push(vec!["cores busy".to_owned(), optional(outcome.cores_busy(), 2)]);
        rows.push(vec!["memory MB, now / peak".to_owned(), memory(consumed)]);
    }
    rows
}

fn memory(consumed: crate::procfs::Consumption) -> String {
    format!("{:.1} / {:.1}", megabytes(consumed.resident_bytes), megabytes(consumed.resident_peak_bytes))
}

/// The same run, for machines.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    pub requests: u64,
    pub statuses: std::collections::BTreeMap<u16, u64>,
    pub broken: u64,
    pub without_done: u64,
    pub first_failure: Option<String>,
    pub requests_per_s: f64,
    pub elapsed_s: f64,
    pub latency: Summary,
    pub first_token: Summary,
    pub gaps: Summary,
    pub events: u64,
    pub body_bytes: u64,
    pub told_wait: Summary,
    pub heeded: u64,
    pub heeded_ok: u64,
    pub cpu_us_per_request: Option<f64>,
    pub cores_busy: Option<f64>,
    pub rss_mb: Option<f64>,
    pub rss_peak_mb: Option<f64>,
}

impl From<&Outcome> for LoadReport {
    fn from(outcome: &Outcome) -> Self {
        Self {
            requests: outcome.answered() + outcome.broken,
            statuses: outcome.statuses.clone(),
            broken: outcome.broken,
            without_done: outcome.without_done,
            first_failure: outcome.first_failure.clone(),
            requests_per_s: outcome.requests_per_s(),
            elapsed_s: outcome.elapsed.as_secs_f64(),
            latency: outcome.latency.summary(),
            first_token: outcome.first_token.summary(),
            gaps: outcome.gaps.summary(),
            events: outcome.events,
            body_bytes: outcome.body_bytes,
            told_wait: outcome.told_wait.summary(),
            heeded: outcome.heeded,
            heeded_ok: outcome.heeded_ok,
            cpu_us_per_request: outcome.cpu_us_per_request(),
            cores_busy: outcome.cores_busy(),
            rss_mb: outcome.consumed.map(|consumed| megabytes(consumed.resident_bytes)),
            rss_peak_mb: outcome.consumed.map(|consumed| megabytes(consumed.resident_peak_bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn fractions_are_rounded_and_whole_numbers_are_not_touched() {
        let report = serde_json::json!({"a": [0.123456789], "b": 12345678901234567_u64, "c": null, "d": -2.0});
        assert_eq!(rounded(report).to_string(), r#"{"a":[0.123457],"b":12345678901234567,"c":null,"d":-2.0}"#);
    }

    #[test]
    fn a_load_report_leaves_out_what_was_not_measured() {
        let mut outcome = Outcome { elapsed: Duration::from_secs(2), ..Outcome::default() };
        outcome.statuses.insert(200, 10);
        outcome.latency.record(Duration::from_millis(3));
        let text = load_table(&outcome);
        assert!(text.contains("requests/s") && text.contains("5.0"), "{text}");
        assert!(!text.contains("first token") && !text.contains("CPU"), "{text}");
        let report = serde_json::to_value(LoadReport::from(&outcome)).unwrap();
        assert_eq!(report["requests"], 10);
        assert!(report["rss_mb"].is_null());
    }
}
