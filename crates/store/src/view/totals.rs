//! Sums over usage events: of all of them, or of a group of them. Exact for every `u64`.

use rusqlite::Connection;
use tollgate_ledger::Audit;
use tollgate_ledger::account::Columns;
use tollgate_types::{Basis, Confidence, PicoSum};

use super::columns::{Cells, Named, sum_sql};
use super::query::EventState;

/// Where the money of a set of usage events stands.
///
/// Over all events it says what the ledger's [`Audit`] says, from the other side: see [`ViewTotals::drift_from`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewTotals {
    pub requests: StateCounts,
    /// Tokens of posted requests.
    pub tokens: TokenSums,
    /// Everything that was ever held: posted + released + pending + indeterminate.
    pub held: Columns,
    pub posted: Columns,
    /// The part of `posted` that is an upper bound, not a measurement.
    pub bounded: Columns,
    /// Held and given back: all of what was voided, the rest of what was posted.
    pub released: Columns,
    pub overrun: Columns,
    pub pending: Columns,
    pub indeterminate: Columns,
}

/// How many requests stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    pub pending: u64,
    pub posted: u64,
    pub voided: u64,
    pub indeterminate: u64,
}

/// [`Usage`](tollgate_types::Usage), summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenSums {
    pub input_tokens: u128,
    pub cached_input_tokens: u128,
    /// Of those requests whose provider said so.
    pub cache_write_tokens: u128,
    pub audio_input_tokens: u128,
    pub output_tokens: u128,
    pub reasoning_tokens: u128,
    pub audio_output_tokens: u128,
    /// CPU time of local runtimes, in microseconds.
    pub cpu_us: u128,
}

/// Sums over events that share their state and confidence: what one row of [`select`] says.
pub(super) struct Part {
    state: EventState,
    confidence: Option<Confidence>,
    requests: u64,
    tokens: TokenSums,
    hold: Columns,
    amounts: Columns,
    overrun: Columns,
}

// === impl ViewTotals ===

impl ViewTotals {
    /// Sum of the absolute differences to what the ledger holds, in picodollars. Zero if they agree.
    pub fn drift_from(&self, audit: &Audit) -> PicoSum {
        PicoSum(self.differences_from(audit).iter().map(|(_, _, difference)| difference.0.abs()).sum())
    }

    /// Every sum of money that is not what the ledger holds: its name, which column, and how much more the view has.
    pub fn differences_from(&self, audit: &Audit) -> Vec<(&'static str, Basis, PicoSum)> {
        let totals = &audit.totals;
        let pairs = [
            ("held", self.held, totals.held),
            ("posted", self.posted, totals.posted),
            ("bounded", self.bounded, totals.bounded),
            ("released", self.released, totals.released),
            ("overrun", self.overrun, totals.overrun),
            ("pending", self.pending, audit.pending),
            ("indeterminate", self.indeterminate, audit.indeterminate),
        ];
        let both = pairs.into_iter().flat_map(|(name, viewed, kept)| {
            [Basis::Cost, Basis::Charge].map(|basis| (name, basis, PicoSum(viewed.of(basis).0 - kept.of(basis).0)))
        });
        both.filter(|(_, _, difference)| *difference != PicoSum::ZERO).collect()
    }

    pub(super) fn add(&mut self, part: &Part) {
        let into = |columns: &mut Columns, from: Columns| {
            columns.cost.0 += from.cost.0;
            columns.charge.0 += from.charge.0;
        };
        into(&mut self.held, part.hold);
        into(&mut self.overrun, part.overrun);
        self.tokens.add(part.tokens);
        match part.state {
            EventState::Pending => {
                self.requests.pending += part.requests;
                into(&mut self.pending, part.hold);
            }
            EventState::Indeterminate => {
                self.requests.indeterminate += part.requests;
                into(&mut self.indeterminate, part.hold);
            }
            EventState::Voided => {
                self.requests.voided += part.requests;
                into(&mut self.released, part.hold);
            }
            EventState::Posted => {
                self.requests.posted += part.requests;
                into(&mut self.posted, part.amounts);
                // A posting is at most its hold in each column: the difference of sums is the sum of differences.
                into(&mut self.released, less(part.hold, part.amounts));
                if part.confidence == Some(Confidence::Bounded) {
                    into(&mut self.bounded, part.amounts);
                }
            }
        }
    }
}

pub(super) fn less(a: Columns, b: Columns) -> Columns {
    Columns { cost: PicoSum(a.cost.0 - b.cost.0), charge: PicoSum(a.charge.0 - b.charge.0) }
}

// === impl StateCounts ===

impl StateCounts {
    pub fn total(&self) -> u64 {
        self.pending + self.posted + self.voided + self.indeterminate
    }
}

// === impl TokenSums ===

impl TokenSums {
    fn add(&mut self, other: Self) {
        self.input_tokens += other.input_tokens;
        self.cached_input_tokens += other.cached_input_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.audio_input_tokens += other.audio_input_tokens;
        self.output_tokens += other.output_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.audio_output_tokens += other.audio_output_tokens;
        self.cpu_us += other.cpu_us;
    }
}

// === SQL ===

/// Every column that is summed, in the order in which [`Part::read`] reads them.
const SUMMED: [&str; 14] = [
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "audio_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_output_tokens",
    "cpu_us",
    "hold_cost",
    "hold_charge",
    "cost",
    "charge",
    "overrun_cost",
    "overrun_charge",
];

/// SQL for the [`Part`]s of each group that `group` (column expressions, or nothing) tells apart. The columns of the
/// group come first in each row, and the rows of a group one after the other.
pub(super) fn select(group: &str, source: &str) -> String {
    let sums = SUMMED.map(sum_sql).join(", ");
    let comma = if group.is_empty() { "" } else { ", " };
    format!(
        "SELECT {group}{comma}state, confidence, COUNT(*), {sums} FROM {source} \
         GROUP BY {group}{comma}state, confidence ORDER BY {group}{comma}state, confidence"
    )
}

pub(super) fn of_all(connection: &Connection) -> rusqlite::Result<ViewTotals> {
    let mut statement = connection.prepare_cached(&select("", "usage_events"))?;
    let mut rows = statement.query([])?;
    let mut totals = ViewTotals::default();
    while let Some(row) = rows.next()? {
        totals.add(&Part::read(&mut Cells::of(row))?);
    }
    Ok(totals)
}

// === impl Part ===

impl Part {
    pub fn read(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Self> {
        let state = cells.named()?;
        let confidence = cells.take::<Option<Named<Confidence>>>()?.map(|Named(confidence)| confidence);
        let requests = cells.count()?;
        let mut tokens = || cells.sum().map(i128::cast_unsigned);
        let tokens = TokenSums {
            input_tokens: tokens()?,
            cached_input_tokens: tokens()?,
            cache_write_tokens: tokens()?,
            audio_input_tokens: tokens()?,
            output_tokens: tokens()?,
            reasoning_tokens: tokens()?,
            audio_output_tokens: tokens()?,
            cpu_us: tokens()?,
        };
        let (hold, amounts, overrun) = (cells.columns()?, cells.columns()?, cells.columns()?);
        Ok(Self { state, confidence, requests, tokens, hold, amounts, overrun })
    }
}
