//! Buckets of a bill against the ledger's. Single requests cannot be told here: only that a bucket's sums are what they
//! ought to be, or how far they are off.
//!
//! What ended within the slack of an edge may be in either bucket: so a bucket of the bill is as it ought to be if it lies
//! between the ledger's without all that is near its edges, and the ledger's with all that is near them on both sides.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_client::{Confidence, LedgerBucket};
use tollgate_types::Timestamp;

use super::buckets::{COLUMNS, COST, Figures, Series};

/// One model of one bucket, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub start: Timestamp,
    /// `None`: the bill is not grouped by model.
    pub model: Option<String>,
    pub lines: Vec<Line>,
    /// The bill never speaks of this model.
    pub is_absent: bool,
}

/// One column of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub column: &'static str,
    pub bill: i128,
    pub ledger: i128,
    /// Of it, only what was measured.
    pub measured: i128,
    /// How far the bill lies outside of what the slack explains; 0: it is as it ought to be.
    pub off: i128,
}

/// How much may be off, as a part of what the bill says: in millionths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerance(pub u64);

/// What the ledger has of one model, by the parts of a bucket: head, middle, tail.
#[derive(Clone, Copy, Default)]
struct Parts {
    all: [Figures; 3],
    measured: Figures,
}

/// Compares a series with what the ledger has of its buckets, which are `width` long.
pub fn compare(series: &Series, ledger: &[LedgerBucket], width: i64) -> Result<Vec<Row>, String> {
    let mut kept: BTreeMap<(Timestamp, Option<String>), Parts> = BTreeMap::new();
    for bucket in ledger {
        let start = Timestamp::parse_rfc3339(&bucket.start).ok_or("the gateway's bucket has no time")?;
        let figures = figures_of(bucket)?;
        for model in [None, Some(undated(&bucket.model).to_owned())] {
            kept.entry((start, model)).or_default().add(bucket, &figures);
        }
    }
    let mut rows = Vec::new();
    let spoken_of = spoken_of(series);
    for (told, in_all) in [(&series.told_in_all, true), (&series.told_by_model, false)] {
        if *told == [false; COLUMNS.len()] && !(in_all && is_silent(series)) {
            continue;
        }
        // Of a bill that has nothing at all, everything is compared.
        let told = if is_silent(series) { &[true; COLUMNS.len()] } else { told };
        for (start, bucket) in &series.buckets {
            let bill = folded(&bucket.by_model, in_all);
            let held = kept.range((*start, None)..(Timestamp(start.0 + 1), None)).map(|(key, _)| key);
            let held = held.filter(|(_, model)| model.is_none() == in_all);
            let models: BTreeSet<&Option<String>> = bill.keys().chain(held.map(|(_, model)| model)).collect();
            for model in models {
                let parts = |at: i64| kept.get(&(Timestamp(at), model.clone())).copied().unwrap_or_default();
                let around = [parts(start.0 - width), parts(start.0), parts(start.0 + width)];
                let bill = bill.get(model).copied().unwrap_or_default();
                rows.push(Row {
                    start: *start,
                    model: model.clone(),
                    lines: lines(told, &bill, &around),
                    is_absent: model.as_ref().is_some_and(|model| !spoken_of.contains(model)),
                });
            }
        }
    }
    rows.sort_by(|a, b| (a.start, &a.model).cmp(&(b.start, &b.model)));
    Ok(rows)
}

fn is_silent(series: &Series) -> bool {
    series.buckets.values().all(|bucket| bucket.by_model.is_empty())
}

/// Every model that the bill names anywhere.
fn spoken_of(series: &Series) -> BTreeSet<String> {
    let names = series.buckets.values().flat_map(|bucket| bucket.by_model.keys().flatten());
    names.map(|name| undated(name).to_owned()).collect()
}

/// The sums of dated names under the names that are asked for, of what is grouped by model or of what is not.
fn folded(by_model: &BTreeMap<Option<String>, Figures>, in_all: bool) -> BTreeMap<Option<String>, Figures> {
    let mut folded: BTreeMap<Option<String>, Figures> = BTreeMap::new();
    for (model, figures) in by_model.iter().filter(|(model, _)| model.is_none() == in_all) {
        let name = model.as_deref().map(|model| undated(model).to_owned());
        add(folded.entry(name).or_default(), figures);
    }
    folded
}

fn lines(told: &[bool; COLUMNS.len()], bill: &Figures, around: &[Parts; 3]) -> Vec<Line> {
    let [before, here, after] = around;
    let line = |column: usize| {
        let [head, middle, tail] = here.all.map(|part| part[column]);
        let (ledger, bill) = (head + middle + tail, bill[column]);
        let (least, most) = (middle, ledger + before.all[2][column] + after.all[0][column]);
        let off = (bill - most).max(0) - (least - bill).max(0);
        Line { column: COLUMNS[column], bill, ledger, measured: here.measured[column], off }
    };
    (0..COLUMNS.len()).filter(|column| told[*column]).map(line).collect()
}

/// `gpt-4o-2024-08-06` and `claude-sonnet-4-20250514` under the names that routes give them: a bill tells the version.
pub fn undated(model: &str) -> &str {
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_date = |text: &str| match text.split('-').collect::<Vec<_>>()[..] {
        [day] => digits(day, 8),
        [year, month, day] => digits(year, 4) && digits(month, 2) && digits(day, 2),
        _ => false,
    };
    let cut = [11, 9].into_iter().filter_map(|length| model.split_at_checked(model.len().checked_sub(length)?));
    cut.filter_map(|(name, date)| Some((name, date.strip_prefix('-')?)))
        .find(|(name, date)| !name.is_empty() && is_date(date))
        .map_or(model, |(name, _)| name)
}

fn figures_of(bucket: &LedgerBucket) -> Result<Figures, String> {
    let cost = bucket.cost_picousd.parse().map_err(|_| "the gateway's bucket has no cost")?;
    let counts = [
        bucket.requests,
        bucket.input_tokens,
        bucket.cached_input_tokens,
        bucket.audio_input_tokens,
        bucket.output_tokens,
        bucket.audio_output_tokens,
    ];
    let mut figures = [0; COLUMNS.len()];
    for (figure, count) in figures.iter_mut().zip(counts) {
        *figure = i128::from(count);
    }
    figures[COST] = cost;
    Ok(figures)
}

fn add(sums: &mut Figures, more: &Figures) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

// === impl Parts ===

impl Parts {
    fn add(&mut self, bucket: &LedgerBucket, figures: &Figures) {
        add(&mut self.all[bucket.part as usize], figures);
        if bucket.confidence == Confidence::Measured {
            add(&mut self.measured, figures);
        }
    }
}

// === impl Row, Line, Tolerance ===

impl Row {
    /// Whether anything of it is off by more than is tolerated.
    pub fn is_off(&self, tolerance: Tolerance) -> bool {
        self.lines.iter().any(|line| line.is_off(tolerance))
    }
}

impl Line {
    pub fn is_off(&self, Tolerance(tolerated): Tolerance) -> bool {
        // In u128, with saturation: what is too large for it is off by anybody's measure.
        let off = self.off.unsigned_abs().saturating_mul(u128::from(Tolerance::WHOLE));
        off > self.bill.unsigned_abs().saturating_mul(u128::from(tolerated))
    }

    /// The difference as a part of what the bill says, for people: `+0.02 %`, rounded towards zero.
    pub fn percent(&self) -> String {
        let difference = self.ledger - self.bill;
        let sign = if difference < 0 { "-" } else { "+" };
        let hundredths = difference.unsigned_abs().saturating_mul(10_000).checked_div(self.bill.unsigned_abs());
        hundredths.map_or_else(|| "-".to_owned(), |of| format!("{sign}{}.{:02} %", of / 100, of % 100))
    }
}

impl Tolerance {
    const WHOLE: u64 = 100 * 1_000_000;
}

#[cfg(test)]
mod tests {
    use tollgate_client::BucketPart;

    use super::super::buckets::Bucket;
    use super::*;

    const WIDTH: i64 = 60_000_000;

    type Models<'a> = &'a [(Option<&'a str>, Figures)];

    fn series(buckets: &[(i64, Models<'_>)]) -> Series {
        let mut series = Series::default();
        for (start, models) in buckets {
            let mut bucket = Bucket::default();
            for (model, figures) in *models {
                bucket.by_model.insert(model.map(str::to_owned), *figures);
                let told = if model.is_some() { &mut series.told_by_model } else { &mut series.told_in_all };
                *told = [true; COLUMNS.len()];
            }
            series.buckets.insert(Timestamp(start * WIDTH), bucket);
        }
        series
    }

    fn ended(start: i64, part: BucketPart, model: &str, confidence: Confidence, count: u64) -> LedgerBucket {
        LedgerBucket {
            start: Timestamp(start * WIDTH).to_string(),
            part,
            provider: "p".into(),
            model: model.into(),
            confidence,
            requests: count,
            input_tokens: count * 10,
            cached_input_tokens: 0,
            audio_input_tokens: 0,
            output_tokens: count,
            audio_output_tokens: 0,
            cost_picousd: (count * 100).to_string(),
        }
    }

    fn figures(count: i128) -> Figures {
        [count, count * 10, 0, 0, count, 0, count * 100]
    }

    /// Start in widths, model, how far the requests are off, and whether the row is off at all.
    fn compared(series: &Series, ledger: &[LedgerBucket]) -> Vec<(i64, Option<String>, i128, bool)> {
        let rows = compare(series, ledger, WIDTH).expect("times");
        let shown =
            |row: &Row| (row.start.0 / WIDTH, row.model.clone(), row.lines[0].off, row.is_off(Tolerance::default()));
        rows.iter().map(shown).collect()
    }

    use BucketPart::{Head, Middle, Tail};
    use Confidence::{Bounded, Measured};

    #[test]
    fn sums_that_are_the_same_are_not_off_by_model_and_in_all() {
        let ledger =
            [ended(1, Middle, "a", Measured, 3), ended(1, Middle, "b", Bounded, 4), ended(2, Middle, "a", Measured, 1)];
        let by_model = series(&[
            (1, &[(Some("a-2024-08-06"), figures(3)), (Some("b"), figures(4))]),
            (2, &[(Some("a"), figures(1))]),
        ]);
        assert!(compared(&by_model, &ledger).iter().all(|row| !row.3));
        assert_eq!(compared(&by_model, &ledger).len(), 3);
        let in_all = series(&[(1, &[(None, figures(7))]), (2, &[(None, figures(1))])]);
        assert_eq!(compared(&in_all, &ledger), [(1, None, 0, false), (2, None, 0, false)]);
        let rows = compare(&in_all, &ledger, WIDTH).expect("times");
        assert_eq!((rows[0].lines[0].ledger, rows[0].lines[0].measured), (7, 3), "the bounded part is told apart");
    }

    #[test]
    fn what_is_too_much_or_too_little_is_off_by_the_difference() {
        let ledger = [ended(1, Middle, "a", Measured, 3)];
        assert_eq!(compared(&series(&[(1, &[(None, figures(5))])]), &ledger), [(1, None, 2, true)]);
        assert_eq!(compared(&series(&[(1, &[(None, figures(1))])]), &ledger), [(1, None, -2, true)]);
        assert_eq!(
            compared(&series(&[(1, &[])]), &ledger),
            [(1, None, -3, true)],
            "an empty bucket says that there was nothing"
        );
    }

    #[test]
    fn what_ended_near_an_edge_may_be_in_either_bucket() {
        let ledger = [
            ended(0, Tail, "a", Measured, 1),
            ended(1, Head, "a", Measured, 2),
            ended(1, Middle, "a", Measured, 10),
            ended(1, Tail, "a", Measured, 4),
            ended(2, Head, "a", Measured, 8),
        ];
        for (bill, off) in [(9, -1), (10, 0), (16, 0), (25, 0), (26, 1)] {
            let rows = compared(&series(&[(1, &[(None, figures(bill))])]), &ledger);
            assert_eq!(rows, [(1, None, off, off != 0)], "{bill}");
        }
    }

    #[test]
    fn a_model_that_the_bill_never_names_is_told_apart() {
        let ledger = [ended(1, Middle, "a", Measured, 3), ended(1, Middle, "other", Measured, 4)];
        let rows = compare(&series(&[(1, &[(Some("a"), figures(3))])]), &ledger, WIDTH).expect("times");
        let absent: Vec<_> = rows.iter().map(|row| (row.model.as_deref(), row.is_absent)).collect();
        assert_eq!(absent, [(Some("a"), false), (Some("other"), true)]);
    }

    #[test]
    fn a_tolerance_is_a_part_of_what_the_bill_says() {
        let line = Line { column: "cost", bill: 1_000, ledger: 1_010, measured: 0, off: -10 };
        assert!(line.is_off(Tolerance(0)) && line.is_off(Tolerance(999_999)));
        assert!(!line.is_off(Tolerance(1_000_000)), "one percent");
        assert_eq!(line.percent(), "+1.00 %");
        assert_eq!(Line { bill: 3, ledger: 2, ..line }.percent(), "-33.33 %");
        assert_eq!(Line { bill: 0, ..line }.percent(), "-");
    }

    #[test]
    fn a_version_s_date_is_no_part_of_the_name_that_is_asked_for() {
        let check = |name: &str, expected: &str| assert_eq!(undated(name), expected);
        check("gpt-4o-mini-2024-07-18", "gpt-4o-mini");
        check("claude-sonnet-4-20250514", "claude-sonnet-4");
        check("gpt-4o", "gpt-4o");
        check("gpt-4-0613", "gpt-4-0613");
        check("2024-07-18", "2024-07-18");
        check("é-20250514", "é");
        check("ééééé", "ééééé");
        check("", "");
    }
}
