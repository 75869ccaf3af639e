//! The bill beside the truth: whatever is asked for, and however it is cut and grouped, it adds up.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::money::Prices;

/// 2026-03-01T00:00:00Z.
const DAY: u64 = 1_772_323_200;
/// Long after all of it.
const NOW: u64 = DAY + 40 * 86_400;

/// Work at many moments of two days, of several models, kinds and keys, some of it at the edges of buckets.
fn worked() -> Arc<Truth> {
    let prices = Prices::new(&BTreeMap::new(), 100).expect("the list's own");
    let truth = Arc::new(Truth::open(10_000, None, prices).expect("no file"));
    let models = ["gpt-4o-mini", "gpt-4o-audio-preview", "o4-mini-2025-04-16", "some-other"];
    for number in 0..400_u64 {
        let id = format!("request-{}", number % 350);
        let kind = if number % 5 == 0 { Kind::Embeddings } else { Kind::Chat };
        let model = if kind == Kind::Embeddings { "text-embedding-3-small" } else { models[(number % 4) as usize] };
        let mut ticket = truth.begin(&id, kind, model.into(), (number % 3) as u32).expect("room");
        ticket.work.started_us = DAY * MICROS;
        let heard = if model.contains("audio") { 7 } else { 0 };
        // Some are refusals: no tokens at all.
        if number % 7 != 0 {
            ticket.work.tokens =
                Tokens { prompt: 100 + number, cached: number % 50, prompt_audio: heard, ..Tokens::default() };
            if kind == Kind::Chat {
                ticket.work.tokens.completion = 3 * number + 9;
                ticket.work.tokens.reasoning = number;
                ticket.work.tokens.completion_audio = heard;
            }
        }
        let edge = if number % 2 == 0 { 0 } else { MICROS - 1 };
        ticket.book_at((DAY + number * 421) * MICROS + edge);
    }
    truth
}

type Tell = fn(&Truth, Option<&str>, u64) -> Result<Vec<u8>, ApiError>;

/// All results of all pages, each with its bucket's beginning.
fn tell_all(truth: &Truth, tell: Tell, query: &str) -> Vec<(Value, Value)> {
    let (mut results, mut page) = (Vec::new(), String::new());
    loop {
        let answer = tell(truth, Some(&format!("{query}{page}")), NOW).expect("a good query");
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        for bucket in answer["data"].as_array().expect("a list") {
            let start = bucket.get("start_time").or_else(|| bucket.get("starting_at")).expect("a beginning");
            let here = bucket["results"].as_array().expect("a list");
            results.extend(here.iter().map(|result| (start.clone(), result.clone())));
        }
        assert_eq!(answer["has_more"], answer["next_page"].is_string());
        match answer["next_page"].as_str() {
            None => return results,
            Some(next) => page = format!("&page={next}"),
        }
    }
}

fn sum(results: &[(Value, Value)], field: &str) -> u64 {
    results.iter().map(|(_, result)| result.pointer(field).and_then(Value::as_u64).expect("a number")).sum()
}

/// A decimal as so many of its smallest units.
fn units(text: &str, decimals: usize) -> u128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<decimals$}").parse().expect("digits")
}

/// The amounts as they stand in the answer's text, which a JSON reader would round.
fn usd_amounts(truth: &Truth, query: &str) -> u128 {
    let text = String::from_utf8(openai::costs(truth, Some(query), NOW).expect("good")).expect("text");
    text.split(r#""value":"#).skip(1).map(|rest| units(rest.split(',').next().expect("a number"), 12)).sum()
}

#[test]
fn the_lines_are_all_attempts_and_their_costs_are_the_truths() {
    let truth = worked();
    let lines_in = |query: &str| -> Vec<Value> {
        let span = span(Some(query)).expect("good");
        let text: Vec<u8> = (0..truth.shards()).flat_map(|shard| lines_of(&truth, shard, &span)).collect();
        let lines = String::from_utf8(text).expect("text");
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let lines = lines_in("");
    assert_eq!(lines.len(), 400);
    let cost = |lines: &[Value]| -> u128 {
        lines.iter().map(|line| line["cost_picousd"].as_str().expect("text").parse::<u128>().expect("digits")).sum()
    };
    assert_eq!(cost(&lines), truth.totals().cost_picousd);
    let (early, late) = (lines_in(&format!("to={}", DAY + 421 * 10)), lines_in(&format!("from={}", DAY + 421 * 10)));
    assert_eq!((early.len(), late.len()), (10, 390));
    assert_eq!(cost(&early) + cost(&late), truth.totals().cost_picousd);
    let one = lines.iter().find(|line| line["request_id"] == "request-1" && line["attempt"] == 1).expect("there");
    assert_eq!(
        *one,
        json!({"request_id": "request-1", "attempt": 1, "model": "gpt-4o-audio-preview", "kind": "chat",
            "api_key_id": "key_sim00000001", "started_at": "2026-03-01T00:00:00.000000Z",
            "ended_at": "2026-03-01T00:07:01.999999Z", "prompt_tokens": 101, "cached_tokens": 1,
            "prompt_audio_tokens": 7, "completion_tokens": 12, "reasoning_tokens": 1, "completion_audio_tokens": 7,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
            "cost_picousd": (94 * 2_500_000 + 7 * 40_000_000 + 5 * 10_000_000 + 7 * 80_000_000).to_string(),
            "complete": false, "fault": null})
    );
}

#[test]
fn openais_usage_adds_up_to_the_truth_however_it_is_cut() {
    let truth = worked();
    let totals = truth.totals().totals;
    let billed = (0..400).filter(|number| number % 7 != 0).count() as u64;
    for width in ["bucket_width=1m&limit=1440", "bucket_width=1h&limit=5", "bucket_width=1d", "limit=1"] {
        for group in
            ["", "&group_by=model", "&group_by[]=model&group_by[]=api_key_id", "&group_by=project_id,service_tier"]
        {
            let query = format!("start_time={}&end_time={}&{width}{group}", DAY + 5, DAY + 2 * 86_400 - 7);
            let chats = tell_all(&truth, openai::completions, &query);
            let embeddings = tell_all(&truth, openai::embeddings, &query.replace(",service_tier", ""));
            let requests = sum(&chats, "/num_model_requests") + sum(&embeddings, "/num_model_requests");
            assert_eq!(requests, billed, "{query}");
            assert_eq!(
                sum(&chats, "/input_tokens") + sum(&embeddings, "/input_tokens"),
                totals.prompt_tokens,
                "{query}"
            );
            assert_eq!(sum(&chats, "/output_tokens"), totals.completion_tokens);
            assert_eq!(sum(&chats, "/input_audio_tokens"), totals.prompt_audio_tokens);
            assert_eq!(sum(&chats, "/output_audio_tokens"), totals.completion_audio_tokens);
        }
    }
}

#[test]
fn openais_results_are_grouped_and_filtered_as_asked() {
    let truth = worked();
    let query = |more: &str| format!("start_time={DAY}&end_time={}&{more}", DAY + 86_400);
    let of = |more: &str| tell_all(&truth, openai::completions, &query(more));
    let (plain, by_model) = (of(""), of("group_by=model"));
    assert_eq!((plain.len(), by_model.len()), (1, 4));
    assert!(plain.iter().all(|(_, result)| result["model"].is_null() && result["api_key_id"].is_null()));
    let names: Vec<_> = by_model.iter().map(|(_, result)| result["model"].clone()).collect();
    assert_eq!(names, ["gpt-4o-audio-preview", "gpt-4o-mini", "o4-mini-2025-04-16", "some-other"]);
    let one = of("models=gpt-4o-mini&group_by%5B%5D=model");
    assert_eq!(one, [by_model[1].clone()]);
    let by_key = of("group_by=api_key_id");
    assert_eq!(of("api_key_ids=key_sim00000002&group_by=api_key_id"), [by_key[2].clone()]);
    assert_eq!(of("project_ids=proj_other"), []);
    assert_eq!(of("project_ids=proj_sim"), plain);
    assert_eq!(by_model[0].0, DAY);
}

#[test]
fn openais_costs_are_the_truths_to_the_picodollar() {
    let truth = worked();
    let all = truth.totals().cost_picousd;
    for group in ["", "&group_by=line_item", "&group_by=api_key_id", "&group_by[]=line_item&group_by[]=api_key_id"] {
        assert_eq!(usd_amounts(&truth, &format!("start_time={DAY}&limit=180{group}")), all, "{group}");
    }
    let lines = tell_all(&truth, openai::costs, &format!("start_time={DAY}&end_time={}&group_by=line_item", DAY + 1));
    let items: Vec<_> = lines.iter().filter_map(|(_, result)| result["line_item"].as_str()).collect();
    assert_eq!(
        items,
        [
            "gpt-4o-audio-preview, input",
            "gpt-4o-audio-preview, cached input",
            "gpt-4o-audio-preview, audio input",
            "gpt-4o-audio-preview, output",
            "gpt-4o-audio-preview, audio output",
            "gpt-4o-mini, input",
            "gpt-4o-mini, cached input",
            "gpt-4o-mini, output",
            "o4-mini-2025-04-16, input",
            "o4-mini-2025-04-16, cached input",
            "o4-mini-2025-04-16, output",
            "some-other, input",
            "some-other, cached input",
            "some-other, output",
            "text-embedding-3-small, input",
            "text-embedding-3-small, cached input",
        ]
    );
    assert!(lines.iter().all(|(_, result)| result["quantity"].is_u64() && result["amount"]["currency"] == "usd"));
}

#[test]
fn anthropics_reports_add_up_to_the_truth() {
    let truth = worked();
    let totals = truth.totals();
    for more in
        ["", "&group_by[]=model", "&bucket_width=1h&limit=168&group_by[]=api_key_id", "&bucket_width=1m&limit=700"]
    {
        let query = format!("starting_at=2026-03-01T07:00:00%2B07:00&ending_at=2026-03-03T00:00:00Z{more}");
        let results = tell_all(&truth, anthropic::messages, &query);
        let input = sum(&results, "/uncached_input_tokens") + sum(&results, "/cache_read_input_tokens");
        assert_eq!(input, totals.totals.prompt_tokens, "{query}");
        assert_eq!(sum(&results, "/output_tokens"), totals.totals.completion_tokens);
        assert_eq!(sum(&results, "/cache_creation/ephemeral_5m_input_tokens"), 0);
        assert_eq!(sum(&results, "/server_tool_use/web_search_requests"), 0);
    }
    for more in ["", "&group_by[]=description", "&limit=1&group_by[]=workspace_id"] {
        let query = format!("starting_at=2026-03-01T00:00:00Z&ending_at=2026-03-04T12:00:00Z{more}");
        let results = tell_all(&truth, anthropic::cost_report, &query);
        let cents = results.iter().map(|(_, result)| units(result["amount"].as_str().expect("text"), 10));
        assert_eq!(cents.sum::<u128>(), totals.cost_picousd, "{query}");
        assert!(results.iter().all(|(_, result)| result["description"].is_null() != more.contains("description")));
        assert_eq!(results[0].0, "2026-03-01T00:00:00Z");
    }
}

#[test]
fn a_page_has_the_buckets_it_should_and_knows_the_next() {
    let day = WIDTHS[0];
    let page = |start, end, limit, cursor| {
        let page = Page::new(start, end, day, limit, cursor);
        (page.starts().map(|start| start / day.seconds).collect::<Vec<_>>(), page.next.map(|next| next / day.seconds))
    };
    let days = |days: u64| days * day.seconds;
    assert_eq!(page(days(3) + 1, days(5), 7, None), (vec![3, 4], None));
    assert_eq!(page(days(3), days(9), 2, None), (vec![3, 4], Some(5)));
    assert_eq!(page(days(3), days(9), 2, Some(days(7))), (vec![7, 8], None));
    assert_eq!(page(days(3), days(3), 2, None), (vec![], None));
    assert_eq!(page(days(3), days(1), 2, None), (vec![], None));
}

#[test]
fn amounts_keep_all_their_digits() {
    for (amount, expected) in [
        (0, "0"),
        (1, "0.000000000001"),
        (1_000_000_000_000, "1"),
        (1_650_000, "0.00000165"),
        (12_300_000_000_000, "12.3"),
    ] {
        assert_eq!(decimal(amount, 12), expected);
    }
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let truth = worked();
    let checks: [(Tell, &str); 14] = [
        (openai::completions, ""),
        (openai::completions, "start_time=yesterday"),
        (openai::completions, "start_time=1772323200000"),
        (openai::completions, "start_time=1&bucket_width=1w"),
        (openai::completions, "start_time=1&limit=32"),
        (openai::completions, "start_time=1&limit=0"),
        (openai::completions, "start_time=1&group_by=user_id"),
        (openai::completions, "start_time=1&batch=true"),
        (openai::completions, "start_time=1&page=other"),
        (openai::costs, "start_time=1&bucket_width=1h"),
        (openai::costs, "start_time=1&limit=181"),
        (anthropic::messages, "starting_at=2026-03-01"),
        (anthropic::messages, "starting_at=2026-03-01T00:00:00Z&group_by[]=context_window"),
        (anthropic::cost_report, "starting_at=1969-03-01T00:00:00Z"),
    ];
    for (tell, query) in checks {
        let error = tell(&truth, Some(query), NOW).map(|_| ()).expect_err(query);
        assert_eq!(error.status.as_u16(), 400, "{query}");
    }
    assert!(span(Some("since=1")).is_err() && span(Some("from=x")).is_err());
}
