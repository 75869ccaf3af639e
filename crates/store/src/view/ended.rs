//! What ended when: posted requests, summed by buckets of time, for comparison with a provider's bill, which comes in
//! buckets too. What ended close to an edge is summed apart, for nobody's clock is the provider's.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::params;
use tollgate_types::{Confidence, PicoSum, Timestamp};

use super::ViewError;
use super::columns::{Cells, Named, sum_sql};
use super::query::{Reader, SUMMARY_ROWS_MAX};

/// No request that ended in a bucket began longer before it. What a crash left in doubt is posted after
/// `indeterminate_hours`, which may be days.
const LASTED_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

/// Buckets of `width`, the first beginning at `from`, the last ending at `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    pub from: Timestamp,
    pub to: Timestamp,
    pub width: Duration,
    /// What ended so close to an edge is summed apart. Less than half of the width.
    pub slack: Duration,
}

/// Requests that ended in one part of one bucket, at one provider, with one model and one confidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub start: Timestamp,
    pub part: Part,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub confidence: Confidence,
    /// That used anything.
    pub requests: u64,
    pub input_tokens: u128,
    pub cached_input_tokens: u128,
    pub audio_input_tokens: u128,
    pub output_tokens: u128,
    pub audio_output_tokens: u128,
    /// With what was beyond the holds.
    pub cost: PicoSum,
}

/// Where in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Head,
    Middle,
    Tail,
}

/// In the order in which they are read.
const SUMMED: [&str; 7] = [
    "input_tokens",
    "cached_input_tokens",
    "audio_input_tokens",
    "output_tokens",
    "audio_output_tokens",
    "cost",
    "overrun_cost",
];

// === impl Reader ===

impl Reader {
    /// What ended in `buckets`, and, where there is slack, in the one before the first and in the one after the last.
    pub fn ended(&self, buckets: &Buckets) -> Result<Vec<Ended>, ViewError> {
        let sums = SUMMED.map(sum_sql).join(", ");
        // One bucket before the first, so that what ended is counted from zero.
        let sql = format!(
            "SELECT (ended_at - ?1) / ?2 AS bucket,
                CASE WHEN (ended_at - ?1) % ?2 < ?3 THEN 0 WHEN (ended_at - ?1) % ?2 >= ?2 - ?3 THEN 2 ELSE 1 END AS part,
                provider, model, confidence,
                SUM(cost <> 0 OR overrun_cost <> 0 OR input_tokens <> 0 OR output_tokens <> 0), {sums}
             FROM usage_events INDEXED BY usage_by_time
             WHERE state = 'posted' AND ended_at >= ?1 AND ended_at < ?4 AND started_at >= ?5 AND started_at < ?4
             GROUP BY bucket, part, provider, model, confidence
             ORDER BY bucket, part, provider, model, confidence"
        );
        let width = i64::try_from(buckets.width.as_micros()).unwrap_or(i64::MAX);
        let slack = i64::try_from(buckets.slack.as_micros()).unwrap_or(i64::MAX);
        let base = buckets.from.minus(buckets.width);
        let end = if buckets.slack.is_zero() { buckets.to } else { buckets.to.plus(buckets.width) };
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![base.0, width, slack, end.0, base.minus(LASTED_MAX).0])?;
            let mut ended = Vec::new();
            while let Some(row) = rows.next()? {
                if ended.len() == SUMMARY_ROWS_MAX {
                    return Err(ViewError::TooManyGroups(SUMMARY_ROWS_MAX));
                }
                ended.push(read(&mut Cells::of(row), base, width)?);
            }
            ended.retain(|row: &Ended| !buckets.slack.is_zero() || row.start >= buckets.from);
            Ok(ended)
        })
    }
}

/// The cells are read in the order of the fields.
fn read(cells: &mut Cells<'_, '_>, base: Timestamp, width: i64) -> rusqlite::Result<Ended> {
    let bucket: i64 = cells.take()?;
    let part = match cells.take::<i64>()? {
        0 => Part::Head,
        1 => Part::Middle,
        _ => Part::Tail,
    };
    let (provider, model) = (cells.take()?, cells.take()?);
    let Named(confidence) = cells.take()?;
    let requests = cells.count()?;
    let mut tokens = || cells.sum().map(i128::cast_unsigned);
    Ok(Ended {
        start: Timestamp(base.0 + bucket * width),
        part,
        provider,
        model,
        confidence,
        requests,
        input_tokens: tokens()?,
        cached_input_tokens: tokens()?,
        audio_input_tokens: tokens()?,
        output_tokens: tokens()?,
        audio_output_tokens: tokens()?,
        cost: PicoSum(cells.sum()? + cells.sum()?),
    })
}
