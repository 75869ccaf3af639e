//! What was booked, told as providers tell it: line by line in the simulator's own words (here), and in buckets of time
//! as OpenAI (`openai`) and Anthropic (`anthropic`) report usage and cost to an organization. All add up to the truth:
//! each attempt is in the bucket of the moment it was booked, and one that is still in flight is in none.

pub mod anthropic;
pub mod openai;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::error::ApiError;
use crate::faults::Fault;
use crate::money::Tokens;
use crate::truth::{self, Attempt, Kind, TokenTotals, Truth};

const MICROS: u64 = 1_000_000;
/// The end of the year 9999: no time behind it is one.
const SECONDS_MAX: u64 = 253_402_300_799;

/// The parameters of a request. Lists come as `name=a&name=b`, `name[]=a&name[]=b` or `name=a,b`.
#[derive(Debug)]
struct Query<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

/// How long a bucket is, and how many go on a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Width {
    name: &'static str,
    seconds: u64,
    limit_default: u64,
    limit_max: u64,
}

/// The buckets of one answer, by their beginnings in seconds since 1970, and where the next answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    buckets: Range<u64>,
    width: u64,
    next: Option<u64>,
}

/// What is counted, and what is counted apart.
#[derive(Debug, Default)]
struct Selection<'q> {
    kind: Option<Kind>,
    /// All, if empty; so are keys.
    models: Vec<&'q str>,
    keys: Vec<&'q str>,
    by_model: bool,
    by_key: bool,
}

/// What is counted together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    model: Option<Arc<str>>,
    key: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    /// Attempts that were billed anything: a refusal is no request to a model.
    requests: u64,
    tokens: Tokens,
    cost_picousd: u128,
}

/// Both providers have the same three.
const WIDTHS: [Width; 3] = [
    Width { name: "1d", seconds: 86_400, limit_default: 7, limit_max: 31 },
    Width { name: "1h", seconds: 3_600, limit_default: 24, limit_max: 168 },
    Width { name: "1m", seconds: 60, limit_default: 60, limit_max: 1_440 },
];

/// The time asked for by `?from=&to=` (seconds since 1970, `to` excluded) in microseconds.
pub fn span(query: Option<&str>) -> Result<Range<u64>, ApiError> {
    let query = Query::read(query, &["from", "to"])?;
    let from = query.seconds("from")?.unwrap_or(0);
    let to = query.seconds("to")?.unwrap_or(SECONDS_MAX);
    Ok(from * MICROS..to * MICROS)
}

/// One shard's attempts that were booked in `span`, as lines of JSON: one an attempt, also where nothing was billed.
pub fn lines_of(truth: &Truth, shard: usize, span: &Range<u64>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        request_id: &'a str,
        /// From 1: a request that is sent again has several.
        attempt: usize,
        model: &'a str,
        kind: Kind,
        api_key_id: String,
        #[serde(serialize_with = "rfc3339")]
        started_at: u64,
        #[serde(serialize_with = "rfc3339")]
        ended_at: u64,
        #[serde(flatten)]
        tokens: TokenTotals,
        #[serde(serialize_with = "truth::decimal")]
        cost_picousd: u128,
        complete: bool,
        fault: Option<Fault>,
    }
    let mut lines = Vec::new();
    truth.each_booked(shard, span, |request_id, attempt, work| {
        let mut tokens = TokenTotals::default();
        tokens.add(work.tokens);
        let line = Line {
            request_id,
            attempt,
            model: &work.model,
            kind: work.kind,
            api_key_id: key_id(work.key),
            started_at: work.started_us,
            ended_at: work.ended_us,
            tokens,
            cost_picousd: work.cost_picousd,
            complete: work.complete,
            fault: work.fault,
        };
        serde_json::to_writer(&mut lines, &line).expect("an attempt is JSON, and a Vec takes it");
        lines.push(b'\n');
    });
    lines
}

/// RFC 3339 in UTC with six decimals of a second, so that texts have the order of their times.
fn rfc3339<S: Serializer>(micros: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:.6}", timestamp(*micros)))
}

fn timestamp(micros: u64) -> Timestamp {
    i64::try_from(micros).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok()).unwrap_or(Timestamp::MAX)
}

/// The name of a key on the bill.
fn key_id(key: u32) -> String {
    format!("key_sim{key:08x}")
}

/// A whole number of the smallest units as a decimal with at most so many `decimals`, exactly.
fn decimal(amount: u128, decimals: usize) -> String {
    let digits = format!("{amount:0>width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => [whole, ".", fraction].concat(),
    }
}

/// All that was booked in the buckets of `page`.
fn gather(truth: &Truth, page: &Page, selection: &Selection<'_>) -> BTreeMap<(u64, Group), Sums> {
    let span = page.buckets.start * MICROS..page.buckets.end * MICROS;
    let mut found: BTreeMap<(u64, Group), Sums> = BTreeMap::new();
    for shard in 0..truth.shards() {
        truth.each_booked(shard, &span, |_, _, work| {
            if selection.takes(work) {
                let ended = work.ended_us / MICROS;
                let group = selection.group(work);
                found.entry((ended - ended % page.width, group)).or_default().add(work);
            }
        });
    }
    found
}

// === impl Query ===

impl<'q> Query<'q> {
    /// Names that are none of `known` are refused: a filter that is not heeded would be a lie.
    fn read(text: Option<&'q str>, known: &[&str]) -> Result<Self, ApiError> {
        let strip = |name: Cow<'q, str>| match name.strip_suffix("[]") {
            Some(name) => Cow::Owned(name.to_owned()),
            None => name,
        };
        let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        let pairs: Vec<_> = pairs.map(|(name, value)| (strip(name), value)).collect();
        match pairs.iter().find(|(name, _)| !known.contains(&&**name)) {
            None => Ok(Self(pairs)),
            Some((name, _)) => {
                let message =
                    format!("The simulator knows no parameter '{name}' here. It knows: {}.", known.join(", "));
                Err(ApiError::invalid(message, None))
            }
        }
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let values = self.0.iter().filter(|(found, _)| found == name);
        values.flat_map(|(_, value)| value.split(',')).filter(|value| !value.is_empty()).collect()
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, ApiError> {
        let wrong = |_| ApiError::invalid(format!("'{name}' is no whole number."), Some(name));
        self.one(name).map(|text| text.parse().map_err(wrong)).transpose()
    }

    fn seconds(&self, name: &'static str) -> Result<Option<u64>, ApiError> {
        match self.number(name)? {
            Some(seconds) if seconds > SECONDS_MAX => {
                Err(ApiError::invalid(format!("'{name}' is not in seconds since 1970."), Some(name)))
            }
            seconds => Ok(seconds),
        }
    }

    fn instant(&self, name: &'static str) -> Result<Option<u64>, ApiError> {
        let wrong = || ApiError::invalid(format!("'{name}' is no RFC 3339 timestamp since 1970."), Some(name));
        let read = |text: &str| text.parse::<Timestamp>().ok().and_then(|at| u64::try_from(at.as_second()).ok());
        self.one(name).map(|text| read(text).ok_or_else(wrong)).transpose()
    }

    fn width(&self, widths: &[Width]) -> Result<Width, ApiError> {
        let name = self.one("bucket_width").unwrap_or("1d");
        widths.iter().find(|width| width.name == name).copied().ok_or_else(|| {
            let message = format!("Invalid value: '{name}' is not supported for 'bucket_width'.");
            ApiError::invalid(message, Some("bucket_width")).with_code("invalid_value")
        })
    }

    fn limit(&self, width: Width) -> Result<u64, ApiError> {
        let limit = self.number("limit")?.unwrap_or(width.limit_default);
        if (1..=width.limit_max).contains(&limit) {
            return Ok(limit);
        }
        let message = format!("Invalid 'limit': {limit} is not 1 to {}.", width.limit_max);
        Err(ApiError::invalid(message, Some("limit")))
    }

    /// Where the page begins, if it is not the first.
    fn cursor(&self) -> Result<Option<u64>, ApiError> {
        let wrong = || ApiError::invalid("'page' is none that the simulator gave.", Some("page"));
        let read = |page: &str| page.strip_prefix(CURSOR)?.parse().ok().filter(|at| *at <= SECONDS_MAX);
        self.one("page").map(|page| read(page).ok_or_else(wrong)).transpose()
    }

    /// What to group by, all of which must be among `known`.
    fn group_by(&self, known: &[&str]) -> Result<Vec<&str>, ApiError> {
        let asked = self.all("group_by");
        match asked.iter().find(|name| !known.contains(name)) {
            None => Ok(asked),
            Some(name) => {
                let message = format!("The simulator does not group by '{name}', but by: {}.", known.join(", "));
                Err(ApiError::invalid(message, Some("group_by")))
            }
        }
    }
}

// === impl Page ===

const CURSOR: &str = "page_sim";

impl Page {
    /// The buckets from the one `start` is in up to `end`, a bucket's edge, as far as `limit` and `cursor` go.
    fn new(start: u64, end: u64, width: Width, limit: u64, cursor: Option<u64>) -> Self {
        let floor = |at: u64| at - at % width.seconds;
        let first = floor(cursor.unwrap_or(start));
        let until = end.min(first + limit * width.seconds);
        Self { buckets: first..until, width: width.seconds, next: (until < end).then_some(until) }
    }

    fn starts(&self) -> impl Iterator<Item = u64> {
        let width = usize::try_from(self.width).expect("a day has few seconds");
        self.buckets.clone().step_by(width)
    }

    fn next_page(&self) -> Option<String> {
        self.next.map(|next| format!("{CURSOR}{next}"))
    }
}

// === impl Selection ===

impl Selection<'_> {
    fn takes(&self, work: &Attempt) -> bool {
        self.kind.is_none_or(|kind| kind == work.kind)
            && (self.models.is_empty() || self.models.contains(&&*work.model))
            && (self.keys.is_empty() || self.keys.contains(&&*key_id(work.key)))
            && work.tokens != Tokens::default()
    }

    fn group(&self, work: &Attempt) -> Group {
        Group { model: self.by_model.then(|| Arc::clone(&work.model)), key: self.by_key.then_some(work.key) }
    }
}

// === impl Sums ===

impl Sums {
    fn add(&mut self, work: &Attempt) {
        self.requests += 1;
        self.tokens.add(work.tokens);
        self.cost_picousd += work.cost_picousd;
    }
}

#[cfg(test)]
mod tests;
