//! Bills that come in buckets of time: OpenAI's usage of completions and embeddings and its costs, Anthropic's usage
//! report and cost report. Pages one after the other, in one array or in several files; what was grouped finer than by
//! model is added up.
//!
//! Read where the simulator's `export/openai.rs` and `export/anthropic.rs` were read. Neither provider says whether a
//! request is in the bucket of its beginning or of its end, nor by whose clock: what lies near an edge may be in either.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_types::Timestamp;

use super::amount;
use super::bill::{BillError, Format};

/// What is counted, in the order of [`Figures`].
pub const COLUMNS: [&str; 7] =
    ["requests", "input tokens", "cached input", "audio input", "output tokens", "audio output", "cost"];
/// The one column that is money, in picodollars.
pub const COST: usize = 6;
/// A number for each of [`COLUMNS`].
pub type Figures = [i128; COLUMNS.len()];

/// Buckets of one bill: a month of minutes has 44,640.
const BUCKETS_MAX: usize = 500_000;
/// US dollars, and cents, to picodollars.
const USD: i32 = 12;
const CENTS: i32 = 10;

/// One bucket, its sums by model. A bill that is not grouped by model has them under `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub by_model: BTreeMap<Option<String>, Figures>,
}

/// All buckets of one width, by their beginnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    pub buckets: BTreeMap<Timestamp, Bucket>,
    /// Which columns the bill tells, of what is grouped by model and of what is not.
    pub told_by_model: [bool; COLUMNS.len()],
    pub told_in_all: [bool; COLUMNS.len()],
}

/// What was read so far: a series a width, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    pub series: BTreeMap<i64, Series>,
    /// Amounts that were finer than a picodollar.
    pub rounded: u64,
    /// The last page says that there are more.
    pub more: bool,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct BucketSaid<'a> {
    start_time: Option<i64>,
    end_time: Option<i64>,
    #[serde(borrow)]
    starting_at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ending_at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

/// A result of any of the five kinds.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    // OpenAI's usage.
    num_model_requests: Option<u64>,
    input_tokens: Option<u64>,
    input_cached_tokens: Option<u64>,
    input_audio_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_audio_tokens: Option<u64>,
    // Anthropic's usage.
    uncached_input_tokens: Option<u64>,
    #[serde(borrow)]
    cache_creation: Option<&'a RawValue>,
    cache_read_input_tokens: Option<u64>,
    // Costs: an object with a number, or the text of a number.
    #[serde(borrow)]
    amount: Option<&'a RawValue>,
    #[serde(borrow)]
    currency: Option<Cow<'a, str>>,
    #[serde(borrow)]
    line_item: Option<Cow<'a, str>>,
    #[serde(borrow)]
    description: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Amount<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(borrow)]
    currency: Cow<'a, str>,
}

/// What one result adds.
#[derive(Default)]
struct Added {
    model: Option<String>,
    figures: [Option<i128>; COLUMNS.len()],
    rounded: bool,
}

// === impl Bill ===

impl Bill {
    /// Adds a file: a page, pages one after the other, or arrays of them.
    pub fn add(&mut self, text: &[u8], format: Format) -> Result<(), BillError> {
        let documents = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
        let mut number = 0;
        for document in documents {
            let document = document.map_err(|error| BillError::at("the file", format!("not JSON: {error}")))?;
            let pages: Vec<&RawValue> = match document.get().starts_with('[') {
                true => parse(document, &"an array")?,
                false => vec![document],
            };
            for page in pages {
                number += 1;
                self.add_page(page, number, format)?;
            }
        }
        if number == 0 {
            return Err(BillError::at("the file", "it holds no page"));
        }
        Ok(())
    }

    fn add_page(&mut self, page: &RawValue, number: usize, format: Format) -> Result<(), BillError> {
        let Page { data, has_more } = parse(page, &format!("page {number}"))?;
        self.more = has_more;
        for (index, bucket) in (1..).zip(data) {
            let place = format!("page {number}, bucket {index}");
            let said: BucketSaid<'_> = parse(bucket, &place)?;
            let (start, width) = said.time(format).map_err(|problem| BillError::at(&place, problem))?;
            for (index, result) in (1..).zip(&said.results) {
                let place = format!("{place}, result {index}");
                let added = parse::<Entry<'_>>(result, &place)?.read(format);
                self.take(start, width, added.map_err(|problem| BillError::at(place, problem))?);
            }
            // A bucket without results says that there was nothing.
            self.series.entry(width).or_default().buckets.entry(start).or_default();
            if self.series.values().map(|series| series.buckets.len()).sum::<usize>() > BUCKETS_MAX {
                return Err(BillError::at(place, format!("more than {BUCKETS_MAX} buckets: reconcile a shorter span")));
            }
        }
        Ok(())
    }

    fn take(&mut self, start: Timestamp, width: i64, added: Added) {
        self.rounded += u64::from(added.rounded);
        let series = self.series.entry(width).or_default();
        let told = if added.model.is_some() { &mut series.told_by_model } else { &mut series.told_in_all };
        let sums = series.buckets.entry(start).or_default().by_model.entry(added.model).or_default();
        for ((sum, told), figure) in sums.iter_mut().zip(told).zip(added.figures) {
            if let Some(figure) = figure {
                *told = true;
                // 10^38 is more than any number of 64-bit figures or checked amounts in half a million buckets.
                *sum = sum.saturating_add(figure);
            }
        }
    }
}

/// Reads a part of the file, and says of a mistake where it is.
fn parse<'a, T: Deserialize<'a>>(text: &'a RawValue, place: &dyn std::fmt::Display) -> Result<T, BillError> {
    serde_json::from_str(text.get()).map_err(|error| BillError::at(place, error))
}

// === impl BucketSaid ===

impl BucketSaid<'_> {
    /// When it begins, and how long it is.
    fn time(&self, format: Format) -> Result<(Timestamp, i64), String> {
        let (start, end) = match format {
            Format::Anthropic => {
                let read = |text: &Option<Cow<'_, str>>, name: &str| {
                    let at = text.as_ref().and_then(|text| Timestamp::parse_rfc3339(text));
                    at.ok_or_else(|| format!("no time in {name}: is it a bill of Anthropic's?"))
                };
                (read(&self.starting_at, "starting_at")?, read(&self.ending_at, "ending_at")?)
            }
            Format::Openai | Format::Simulator => {
                let read = |seconds: Option<i64>, name: &str| {
                    let micros = seconds.and_then(|seconds| seconds.checked_mul(1_000_000));
                    micros.map(Timestamp).ok_or_else(|| format!("no time in {name}: is it a bill of OpenAI's?"))
                };
                (read(self.start_time, "start_time")?, read(self.end_time, "end_time")?)
            }
        };
        match end.0.checked_sub(start.0) {
            Some(width) if width >= 1_000_000 => Ok((start, width)),
            _ => Err("it ends before it begins".to_owned()),
        }
    }
}

// === impl Entry ===

impl Entry<'_> {
    fn read(&self, format: Format) -> Result<Added, String> {
        if let Some(amount) = self.amount {
            return self.cost(amount);
        }
        let mut added = Added { model: self.model.as_deref().map(str::to_owned), ..Added::default() };
        let whole = |number: Option<u64>| number.map(i128::from);
        added.figures = match format {
            Format::Anthropic => {
                let read = self.cache_read_input_tokens.ok_or("no cache_read_input_tokens")?;
                let uncached = self.uncached_input_tokens.ok_or("no uncached_input_tokens")?;
                let input = i128::from(uncached) + i128::from(read) + self.written()?;
                [None, Some(input), Some(read.into()), None, whole(self.output_tokens), None, None]
            }
            Format::Openai | Format::Simulator => {
                let input = self.input_tokens.ok_or("neither input_tokens nor an amount: only usage of completions and of embeddings, and costs, can be compared")?;
                [
                    whole(self.num_model_requests),
                    Some(input.into()),
                    whole(self.input_cached_tokens),
                    whole(self.input_audio_tokens),
                    whole(self.output_tokens),
                    whole(self.output_audio_tokens),
                    None,
                ]
            }
        };
        Ok(added)
    }

    /// What was written to the cache, for however long: one number for each length there is.
    fn written(&self) -> Result<i128, String> {
        let Some(written) = self.cache_creation else { return Ok(0) };
        let by_length: BTreeMap<Cow<'_, str>, u64> =
            serde_json::from_str(written.get()).map_err(|error| format!("cache_creation: {error}"))?;
        Ok(by_length.values().copied().map(i128::from).sum())
    }

    fn cost(&self, amount: &RawValue) -> Result<Added, String> {
        let text = amount.get();
        let (number, currency, places) = match text.starts_with('{') {
            true => {
                let Amount { value, currency } =
                    serde_json::from_str(text).map_err(|error| format!("amount: {error}"))?;
                (Cow::from(value.get().trim_matches('"')), currency, USD)
            }
            false => {
                let cents = serde_json::from_str(text).map_err(|error| format!("amount: {error}"))?;
                (cents, self.currency.clone().unwrap_or("USD".into()), CENTS)
            }
        };
        if !currency.eq_ignore_ascii_case("usd") {
            return Err(format!("an amount in {currency:?}: only US dollars can be compared"));
        }
        let read = amount::decimal(&number, places).ok_or_else(|| format!("{number:?} is no amount of money"))?;
        let mut figures = [None; COLUMNS.len()];
        figures[COST] = Some(read.units);
        Ok(Added { model: self.model_of_cost(), figures, rounded: read.rounded })
    }

    /// `gpt-4o-2024-08-06, input` is of that model; what is grouped and of no model stands under its own name.
    fn model_of_cost(&self) -> Option<String> {
        let item = self.line_item.as_deref().or(self.description.as_deref());
        let named = self.model.as_deref().or_else(|| item?.rsplit_once(", ").map(|(model, _)| model));
        named.or(item).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 1_730_419_200;

    fn openai(results: &str) -> String {
        let end = DAY + 86_400;
        format!(
            r#"{{"object":"page","data":[{{"object":"bucket","start_time":{DAY},"end_time":{end},"results":[{results}]}}],
            "has_more":false,"next_page":null}}"#
        )
    }

    fn anthropic(results: &str) -> String {
        format!(
            r#"{{"data":[{{"starting_at":"2024-11-01T00:00:00Z","ending_at":"2024-11-02T00:00:00Z","results":[{results}]}}],
            "has_more":true,"next_page":"p"}}"#
        )
    }

    fn read(text: &str, format: Format) -> Result<Bill, BillError> {
        let mut bill = Bill::default();
        bill.add(text.as_bytes(), format).map(|()| bill)
    }

    /// The sums of the one bucket of a bill of days.
    fn sums(bill: &Bill) -> Vec<(Option<&str>, Figures)> {
        let bucket = &bill.series[&86_400_000_000].buckets[&Timestamp(DAY * 1_000_000)];
        bucket.by_model.iter().map(|(model, figures)| (model.as_deref(), *figures)).collect()
    }

    const COMPLETIONS: &str = r#"{"object":"organization.usage.completions.result","input_tokens":1000,"output_tokens":500,
        "input_cached_tokens":800,"input_audio_tokens":0,"output_audio_tokens":7,"num_model_requests":5,"project_id":null,
        "user_id":null,"api_key_id":null,"model":"gpt-4o","batch":null}"#;

    #[test]
    fn openais_usage_and_costs_are_added_up_by_model() {
        let costs = r#"{"object":"organization.costs.result","amount":{"value":0.5617712500000000,"currency":"usd"},
            "line_item":"gpt-4o, cached input","project_id":null},
            {"object":"organization.costs.result","amount":{"value":1e-7,"currency":"usd"},"line_item":"gpt-4o, input"},
            {"amount":{"value":"2","currency":"USD"},"line_item":"web search"}"#;
        let embeddings = r#"{"input_tokens":3,"num_model_requests":1,"model":"text-embedding-3-small"}"#;
        let text = openai(&[COMPLETIONS, COMPLETIONS, embeddings, costs].join(","));
        let bill = read(&text, Format::Openai).expect("good");
        let expected = [
            (Some("gpt-4o"), [10, 2_000, 1_600, 0, 1_000, 14, 561_771_350_000]),
            (Some("text-embedding-3-small"), [1, 3, 0, 0, 0, 0, 0]),
            (Some("web search"), [0, 0, 0, 0, 0, 0, 2_000_000_000_000]),
        ];
        assert_eq!(sums(&bill), expected);
        assert_eq!((bill.rounded, bill.more), (0, false));
        assert_eq!(bill.series[&86_400_000_000].told_by_model, [true; 7]);
    }

    #[test]
    fn anthropics_input_is_the_sum_of_its_three_parts_and_its_amounts_are_cents() {
        let usage = r#"{"uncached_input_tokens":1500,"cache_creation":{"ephemeral_1h_input_tokens":1000,
            "ephemeral_5m_input_tokens":500},"cache_read_input_tokens":200,"output_tokens":500,
            "server_tool_use":{"web_search_requests":10},"api_key_id":null,"workspace_id":null,"model":null}"#;
        let cost = r#"{"currency":"USD","amount":"123.45","workspace_id":null,"description":null,"model":null}"#;
        let bill = read(&anthropic(&[usage, cost].join(",")), Format::Anthropic).expect("good");
        assert_eq!(sums(&bill), [(None, [0, 3_200, 200, 0, 500, 0, 1_234_500_000_000])]);
        assert_eq!(bill.series[&86_400_000_000].told_in_all, [false, true, true, false, true, false, true]);
        assert!(bill.more);
    }

    #[test]
    fn pages_may_follow_one_another_or_stand_in_an_array_and_empty_buckets_count() {
        let page = openai(COMPLETIONS);
        for text in [format!("{page}\n{page}"), format!("[{page},{page}]"), format!("[{page}][{page}]")] {
            assert_eq!(sums(&read(&text, Format::Openai).expect("good"))[0].1[0], 10, "{text}");
        }
        assert_eq!(sums(&read(&openai(""), Format::Openai).expect("good")), []);
    }

    #[test]
    fn what_is_finer_than_a_picodollar_is_rounded_and_counted() {
        let text = openai(r#"{"amount":{"value":0.060000000000000005,"currency":"usd"},"line_item":null}"#);
        let bill = read(&text, Format::Openai).expect("good");
        assert_eq!((sums(&bill)[0].1[COST], bill.rounded), (60_000_000_000, 1));
    }

    #[test]
    fn a_mistake_is_told_by_its_place() {
        let check = |text: String, format: Format, said: &str| {
            let error = read(&text, format).expect_err(&text).to_string();
            assert!(error.contains(said), "{error} does not say {said}");
        };
        check(String::new(), Format::Openai, "no page");
        check("{".into(), Format::Openai, "not JSON");
        check("{}".into(), Format::Openai, "page 1: missing field `data`");
        check(r#"{"data":[{"results":[]}]}"#.into(), Format::Openai, "page 1, bucket 1: no time in start_time");
        check(openai(""), Format::Anthropic, "no time in starting_at");
        check(openai("{}"), Format::Openai, "page 1, bucket 1, result 1: neither input_tokens nor an amount");
        check(openai(r#"{"input_tokens":-1}"#), Format::Openai, "result 1: invalid value");
        check(openai(r#"{"input_tokens":1.5}"#), Format::Openai, "result 1: invalid type");
        check(openai(r#"{"amount":{"value":1,"currency":"eur"}}"#), Format::Openai, "only US dollars");
        check(openai(r#"{"amount":{"value":"a lot","currency":"usd"}}"#), Format::Openai, "no amount of money");
        check(anthropic(r#"{"amount":12.5,"currency":"USD"}"#), Format::Anthropic, "amount: invalid type");
        check(anthropic("{}"), Format::Anthropic, "no cache_read_input_tokens");
        let backwards = format!(r#"{{"data":[{{"start_time":{DAY},"end_time":{DAY},"results":[]}}]}}"#);
        check(backwards, Format::Openai, "ends before it begins");
        check(
            format!(r#"{{"data":[{{"start_time":{},"end_time":1,"results":[]}}]}}"#, i64::MAX),
            Format::Openai,
            "no time",
        );
    }
}
