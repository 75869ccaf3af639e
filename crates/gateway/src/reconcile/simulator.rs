//! The simulator's bill: a line of JSON an attempt. Attempts of one request add up, wherever in the file they stand.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use serde::Deserialize;
use tollgate_types::{PicoUsd, RequestId, Usage};

use super::bill::BillError;

/// About 600 MB of memory. A longer bill comes in several files, cut by time.
pub const REQUESTS_MAX: usize = 4_000_000;
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Attempts of one request that can be told apart.
const ATTEMPTS_MAX: u32 = 128;

#[derive(Clone, Debug, Default)]
pub struct Bill {
    pub requests: BTreeMap<RequestId, Billed>,
    pub attempts: u64,
    /// Calls that several requests shared, by the ids of all.
    pub shared: BTreeMap<Vec<RequestId>, Billed>,
    shared_ids: usize,
    /// Attempts whose ids are none of Tollgate's: somebody asked the provider around it.
    pub foreign: Foreign,
}

/// One request, all its attempts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    pub usage: Usage,
    pub cost: PicoUsd,
    /// A bit for each attempt that was read.
    attempts: u128,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    pub attempts: u64,
    pub cost_picousd: u128,
    pub example: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    attempt: u32,
    prompt_tokens: u64,
    cached_tokens: u64,
    prompt_audio_tokens: u64,
    completion_tokens: u64,
    reasoning_tokens: u64,
    completion_audio_tokens: u64,
    #[serde(borrow)]
    cost_picousd: Cow<'a, str>,
}

// === impl Bill ===

impl Bill {
    /// Reads line by line; `progress` hears how many there were, now and then.
    pub fn add(&mut self, mut input: impl BufRead, mut progress: impl FnMut(u64)) -> Result<(), BillError> {
        let mut text = Vec::new();
        for number in 1_u64.. {
            text.clear();
            let place = || format!("line {number}");
            let read = (&mut input).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut text);
            if read.map_err(|error| BillError::at(place(), error))? == 0 {
                break;
            }
            if text.len() as u64 > LINE_BYTES_MAX {
                return Err(BillError::at(place(), format!("longer than {LINE_BYTES_MAX} bytes")));
            }
            if !text.trim_ascii().is_empty() {
                let line = serde_json::from_slice(&text);
                let line =
                    line.map_err(|error| BillError::at(place(), format!("no attempt of the simulator's: {error}")))?;
                self.take(&line).map_err(|problem| BillError::at(place(), problem))?;
            }
            if number % 100_000 == 0 {
                progress(number);
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &Line<'_>) -> Result<(), String> {
        let cost: u64 = line.cost_picousd.parse().map_err(|_| "cost_picousd is no whole number of picodollars")?;
        self.attempts += 1;
        if let Some(ids) = shared_ids(&line.request_id) {
            self.shared_ids += ids.len();
            if self.shared_ids > REQUESTS_MAX {
                return Err(format!("more than {REQUESTS_MAX} requests that share calls: reconcile a shorter span"));
            }
            return self.shared.entry(ids).or_default().add(line, cost);
        }
        let Ok(id) = line.request_id.parse::<RequestId>() else {
            self.foreign.attempts += 1;
            self.foreign.cost_picousd += u128::from(cost);
            self.foreign.example.get_or_insert_with(|| line.request_id.chars().take(64).collect());
            return Ok(());
        };
        if self.requests.len() == REQUESTS_MAX && !self.requests.contains_key(&id) {
            return Err(format!("more than {REQUESTS_MAX} requests: reconcile a shorter span"));
        }
        self.requests.entry(id).or_default().add(line, cost)
    }

    /// Adds a request's part of a call that it shared.
    pub fn add_part(&mut self, id: RequestId, usage: &Usage, cost: PicoUsd) -> Result<(), BillError> {
        let billed = self.requests.entry(id).or_default();
        billed.sum(usage, cost).map_err(|problem| BillError::at(id, problem))
    }
}

/// The ids of several requests of ours, joined by commas.
fn shared_ids(text: &str) -> Option<Vec<RequestId>> {
    if !text.contains(',') {
        return None;
    }
    text.split(',').map(|id| id.parse().ok()).collect()
}

// === impl Billed ===

impl Billed {
    fn add(&mut self, line: &Line<'_>, cost: u64) -> Result<(), String> {
        if !(1..=ATTEMPTS_MAX).contains(&line.attempt) {
            return Err(format!("attempt {} is not 1 to {ATTEMPTS_MAX}", line.attempt));
        }
        let bit = 1 << (line.attempt - 1);
        if self.attempts & bit != 0 {
            return Err(format!(
                "attempt {} of {} was there before: is the file in it twice?",
                line.attempt, line.request_id
            ));
        }
        self.attempts |= bit;
        let usage = Usage {
            input_tokens: line.prompt_tokens,
            cached_input_tokens: line.cached_tokens,
            audio_input_tokens: line.prompt_audio_tokens,
            output_tokens: line.completion_tokens,
            reasoning_tokens: line.reasoning_tokens,
            audio_output_tokens: line.completion_audio_tokens,
            ..Usage::default()
        };
        self.sum(&usage, PicoUsd(cost))
    }

    fn sum(&mut self, more: &Usage, cost: PicoUsd) -> Result<(), String> {
        let Usage {
            input_tokens,
            cached_input_tokens,
            cache_write_tokens: _,
            cpu_us: _,
            audio_input_tokens,
            output_tokens,
            reasoning_tokens,
            audio_output_tokens,
        } = &mut self.usage;
        let sums = [
            (input_tokens, more.input_tokens),
            (cached_input_tokens, more.cached_input_tokens),
            (audio_input_tokens, more.audio_input_tokens),
            (output_tokens, more.output_tokens),
            (reasoning_tokens, more.reasoning_tokens),
            (audio_output_tokens, more.audio_output_tokens),
            (&mut self.cost.0, cost.0),
        ];
        for (sum, more) in sums {
            *sum = sum.checked_add(more).ok_or("its attempts together are more than 64 bits hold")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "req_00000000000000000000000000000001";

    fn line(id: &str, attempt: u32, tokens: u64, cost: &str) -> String {
        format!(
            r#"{{"request_id":"{id}","attempt":{attempt},"model":"gpt-4o-mini","kind":"chat","api_key_id":"key_sim1",
            "started_at":"2026-03-01T00:00:00.000000Z","ended_at":"2026-03-01T00:07:01.999999Z","prompt_tokens":{tokens},
            "cached_tokens":1,"prompt_audio_tokens":2,"completion_tokens":3,"reasoning_tokens":1,
            "completion_audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0,
            "cost_picousd":"{cost}","complete":false,"fault":null}}"#
        )
        .replace('\n', "")
    }

    fn read(lines: &[String]) -> Result<Bill, BillError> {
        let mut bill = Bill::default();
        bill.add(lines.join("\n").as_bytes(), |_| ()).map(|()| bill)
    }

    #[test]
    fn attempts_of_a_request_add_up_wherever_they_stand() {
        let other = "req_00000000000000000000000000000002";
        let bill = read(&[line(ONE, 2, 10, "7"), line(other, 1, 1, "1"), String::new(), line(ONE, 1, 5, "30")]);
        let bill = bill.expect("good lines");
        assert_eq!((bill.attempts, bill.requests.len()), (3, 2));
        let one = bill.requests[&RequestId(1)];
        assert_eq!((one.cost, one.usage.input_tokens, one.usage.cached_input_tokens), (PicoUsd(37), 15, 2));
        assert_eq!((one.usage.audio_input_tokens, one.usage.output_tokens, one.usage.reasoning_tokens), (4, 6, 2));
    }

    #[test]
    fn a_line_of_several_requests_is_kept_apart_and_their_parts_add_up_with_their_own() {
        let other = "req_00000000000000000000000000000002";
        let both = format!("{ONE},{other}");
        let mut bill =
            read(&[line(&both, 1, 10, "7"), line(ONE, 1, 5, "30"), line("a,b", 1, 1, "1")]).expect("good lines");
        assert_eq!((bill.shared.len(), bill.foreign.attempts), (1, 1));
        let billed = bill.shared[&vec![RequestId(1), RequestId(2)]];
        assert_eq!((billed.usage.input_tokens, billed.cost), (10, PicoUsd(7)));
        let twice = read(&[line(&both, 1, 10, "7"), line(&both, 1, 10, "7")]).expect_err("the file is in it twice");
        assert!(twice.problem.contains("was there before"), "{twice}");
        bill.add_part(RequestId(1), &Usage { input_tokens: 4, ..Usage::default() }, PicoUsd(3)).expect("small");
        let one = bill.requests[&RequestId(1)];
        assert_eq!((one.usage.input_tokens, one.cost), (9, PicoUsd(33)));
    }

    #[test]
    fn ids_that_are_none_of_ours_are_counted_apart() {
        let bill = read(&[line("someone-else", 1, 10, "7"), line("", 1, 1, "2")]).expect("good lines");
        let foreign = Foreign { attempts: 2, cost_picousd: 9, example: Some("someone-else".into()) };
        assert_eq!((bill.requests.len(), bill.foreign), (0, foreign));
    }

    #[test]
    fn a_bad_line_is_told_by_its_number() {
        let good = line(ONE, 1, 1, "1");
        let check = |bad: String, said: &str| {
            let error = read(&[good.clone(), bad.clone()]).expect_err(&bad);
            assert!(error.to_string().starts_with("line 2: ") && error.problem.contains(said), "{error}");
        };
        check(good.clone(), "was there before");
        check(line(ONE, 0, 1, "1"), "is not 1 to 128");
        check(line(ONE, 129, 1, "1"), "is not 1 to 128");
        check(line(ONE, 2, 1, "1.5"), "picodollars");
        check(line(ONE, 2, 1, "-1"), "picodollars");
        check(line(ONE, 2, 1, "99999999999999999999"), "picodollars");
        check(line(ONE, 2, u64::MAX, "1"), "64 bits");
        check("{}".into(), "request_id");
        check("[1".into(), "no attempt");
        check(format!("\"{}\"", "x".repeat(70_000)), "longer than");
    }
}
