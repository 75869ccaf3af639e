//! The bill as OpenAI's organization endpoints tell it: usage of completions and of embeddings, and costs.
//!
//! Read in: the API reference's pages "Completions", "Embeddings" and "Costs" of the organization's usage
//! (platform.openai.com/docs/api-reference/usage, in a copy; developers.openai.com/api/reference, admin organization
//! usage methods costs, for `quantity` and `api_key_id`); the fields of a result in openai-client-base 0.16.0
//! (`models/usage_completions_result.rs`: `input_tokens` has all kinds of tokens and the cached ones in it); names like
//! `gpt-4o-2024-08-06, input` of a line item in programs that read them. What a real amount looks like
//! (`0.5617712500000000`, a decimal of many digits) in a report of one. Amounts here are decimals too, exact: read them as text.
//!
//! The simulator has one project, no users and no batches; a bucket that is begun is told whole. What it does not know
//! (`user_ids`, `batch`) it refuses.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Group, Page, Query, Selection, Sums, WIDTHS, Width, decimal, gather, key_id};
use crate::error::ApiError;
use crate::money::Line;
use crate::truth::{Kind, Truth};

const PROJECT: &str = "proj_sim";
const SERVICE_TIER: &str = "default";
const KNOWN: &[&str] =
    &["start_time", "end_time", "bucket_width", "group_by", "limit", "page", "models", "project_ids", "api_key_ids"];
const COST_WIDTHS: [Width; 1] = [Width { name: "1d", seconds: 86_400, limit_default: 7, limit_max: 180 }];
/// Decimals of a US dollar in a picodollar.
const DECIMALS: usize = 12;

#[derive(Serialize)]
struct Answer<R> {
    object: &'static str,
    data: Vec<Bucket<R>>,
    has_more: bool,
    next_page: Option<String>,
}

#[derive(Serialize)]
struct Bucket<R> {
    object: &'static str,
    start_time: u64,
    end_time: u64,
    results: Vec<R>,
}

#[derive(Serialize)]
struct Completions {
    object: &'static str,
    input_tokens: u64,
    input_cached_tokens: u64,
    input_uncached_tokens: u64,
    input_text_tokens: u64,
    input_audio_tokens: u64,
    output_tokens: u64,
    output_text_tokens: u64,
    output_audio_tokens: u64,
    num_model_requests: u64,
    #[serde(flatten)]
    whose: Whose,
    batch: Option<bool>,
    service_tier: Option<&'static str>,
}

#[derive(Serialize)]
struct Embeddings {
    object: &'static str,
    input_tokens: u64,
    num_model_requests: u64,
    #[serde(flatten)]
    whose: Whose,
}

/// Each is there only if the results are grouped by it.
#[derive(Serialize)]
struct Whose {
    project_id: Option<&'static str>,
    user_id: Option<&'static str>,
    api_key_id: Option<String>,
    model: Option<String>,
}

#[derive(Serialize)]
struct Cost {
    object: &'static str,
    amount: Amount,
    line_item: Option<String>,
    project_id: Option<&'static str>,
    api_key_id: Option<String>,
    /// Tokens, if there is one line item.
    quantity: Option<u64>,
}

#[derive(Serialize)]
struct Amount {
    value: Box<RawValue>,
    currency: &'static str,
}

pub fn completions(truth: &Truth, query: Option<&str>, now_s: u64) -> Result<Vec<u8>, ApiError> {
    let by = ["project_id", "api_key_id", "model", "service_tier"];
    usage(truth, query, now_s, Kind::Chat, &by, |asked, group, sums| {
        let tokens = sums.tokens;
        Completions {
            object: "organization.usage.completions.result",
            input_tokens: tokens.prompt,
            input_cached_tokens: tokens.cached,
            input_uncached_tokens: tokens.prompt - tokens.cached,
            input_text_tokens: tokens.prompt - tokens.prompt_audio,
            input_audio_tokens: tokens.prompt_audio,
            output_tokens: tokens.completion,
            output_text_tokens: tokens.completion - tokens.completion_audio,
            output_audio_tokens: tokens.completion_audio,
            num_model_requests: sums.requests,
            whose: Whose::of(asked, group),
            batch: None,
            service_tier: asked.contains(&"service_tier").then_some(SERVICE_TIER),
        }
    })
}

pub fn embeddings(truth: &Truth, query: Option<&str>, now_s: u64) -> Result<Vec<u8>, ApiError> {
    let by = ["project_id", "api_key_id", "model"];
    usage(truth, query, now_s, Kind::Embeddings, &by, |asked, group, sums| Embeddings {
        object: "organization.usage.embeddings.result",
        input_tokens: sums.tokens.prompt,
        num_model_requests: sums.requests,
        whose: Whose::of(asked, group),
    })
}

pub fn costs(truth: &Truth, query: Option<&str>, now_s: u64) -> Result<Vec<u8>, ApiError> {
    let known: Vec<&str> = KNOWN.iter().copied().filter(|name| *name != "models").collect();
    let query = Query::read(query, &known)?;
    let page = page(&query, &COST_WIDTHS, now_s)?;
    let asked = query.group_by(&["project_id", "api_key_id", "line_item"])?;
    let by_line = asked.contains(&"line_item");
    let selection = Selection { by_model: by_line, ..selection(&query, None, &asked) };
    let cost = |group: &Group, item: Option<String>, quantity, cost_picousd| Cost {
        object: "organization.costs.result",
        amount: Amount { value: number(cost_picousd), currency: "usd" },
        line_item: item,
        project_id: asked.contains(&"project_id").then_some(PROJECT),
        api_key_id: group.key.map(key_id),
        quantity,
    };
    answer(truth, &page, &selection, &query, |group, sums| match &group.model {
        None => vec![cost(group, None, None, sums.cost_picousd)],
        Some(model) => {
            let lines = truth.prices().of(model).lines(sums.tokens);
            let item = |line| Some(format!("{model}, {}", line_name(line)));
            lines
                .map(|(line, tokens, price)| cost(group, item(line), Some(tokens), u128::from(tokens) * price))
                .collect()
        }
    })
}

fn usage<R: Serialize>(
    truth: &Truth,
    query: Option<&str>,
    now_s: u64,
    kind: Kind,
    by: &[&str],
    result: impl Fn(&[&str], &Group, &Sums) -> R,
) -> Result<Vec<u8>, ApiError> {
    let query = Query::read(query, KNOWN)?;
    let page = page(&query, &WIDTHS, now_s)?;
    let asked = query.group_by(by)?;
    let selection = selection(&query, Some(kind), &asked);
    answer(truth, &page, &selection, &query, |group, sums| vec![result(&asked, group, sums)])
}

fn answer<R: Serialize>(
    truth: &Truth,
    page: &Page,
    selection: &Selection<'_>,
    query: &Query<'_>,
    results: impl Fn(&Group, &Sums) -> Vec<R>,
) -> Result<Vec<u8>, ApiError> {
    let projects = query.all("project_ids");
    let ours = projects.is_empty() || projects.contains(&PROJECT);
    let found = if ours { gather(truth, page, selection) } else { Default::default() };
    let bucket = |start: u64| Bucket {
        object: "bucket",
        start_time: start,
        end_time: start + page.width,
        results: found
            .range((start, Group::default())..(start + page.width, Group::default()))
            .flat_map(|((_, group), sums)| results(group, sums))
            .collect(),
    };
    let answer = Answer {
        object: "page",
        data: page.starts().map(bucket).collect(),
        has_more: page.next.is_some(),
        next_page: page.next_page(),
    };
    Ok(serde_json::to_vec(&answer).expect("numbers and strings are JSON"))
}

/// From the bucket of `start_time` to that before `end_time`, or the one of now.
fn page(query: &Query<'_>, widths: &[Width], now_s: u64) -> Result<Page, ApiError> {
    let width = query.width(widths)?;
    let start = query.seconds("start_time")?.ok_or_else(|| ApiError::missing("start_time"))?;
    let end = query.seconds("end_time")?.unwrap_or(now_s + 1).next_multiple_of(width.seconds);
    Ok(Page::new(start, end, width, query.limit(width)?, query.cursor()?))
}

fn selection<'q>(query: &'q Query<'_>, kind: Option<Kind>, asked: &[&str]) -> Selection<'q> {
    Selection {
        kind,
        models: query.all("models"),
        keys: query.all("api_key_ids"),
        by_model: asked.contains(&"model"),
        by_key: asked.contains(&"api_key_id"),
    }
}

/// US dollars as a JSON number with all its digits.
fn number(cost_picousd: u128) -> Box<RawValue> {
    RawValue::from_string(decimal(cost_picousd, DECIMALS)).expect("digits and a point are a JSON number")
}

fn line_name(line: Line) -> &'static str {
    match line {
        Line::Input => "input",
        Line::CachedInput => "cached input",
        Line::AudioInput => "audio input",
        Line::Output => "output",
        Line::AudioOutput => "audio output",
    }
}

// === impl Whose ===

impl Whose {
    fn of(asked: &[&str], group: &Group) -> Self {
        Self {
            project_id: asked.contains(&"project_id").then_some(PROJECT),
            user_id: None,
            api_key_id: group.key.map(key_id),
            model: group.model.as_deref().map(str::to_owned),
        }
    }
}
