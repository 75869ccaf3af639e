//! The bill as Anthropic's Admin API tells it: the report on usage of messages, and the cost report.
//!
//! Read in: platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages (parameters, limits by width),
//! platform.claude.com/docs/en/api/admin/cost_report/retrieve and docs.anthropic.com/en/api/admin-api/usage-cost/get-cost-report
//! (the example, and "amount in lowest currency units as a decimal string: 123.45 in USD is $1.23").
//!
//! The simulator speaks no Messages: this is all its work, chat and embeddings, in that shape, so that it adds up. It writes
//! to no cache, has the default workspace (`null`) only, and refuses what it does not know. Its errors stay OpenAI's.

use serde::Serialize;

use super::{Group, MICROS, Page, Query, Selection, Sums, WIDTHS, Width, decimal, gather, key_id, timestamp};
use crate::error::ApiError;
use crate::money::Line;
use crate::truth::Truth;

const SERVICE_TIER: &str = "standard";
const COST_WIDTHS: [Width; 1] = [WIDTHS[0]];
/// Decimals of a cent in a picodollar.
const DECIMALS: usize = 10;

#[derive(Serialize)]
struct Answer<R> {
    data: Vec<Bucket<R>>,
    has_more: bool,
    next_page: Option<String>,
}

#[derive(Serialize)]
struct Bucket<R> {
    starting_at: String,
    ending_at: String,
    results: Vec<R>,
}

#[derive(Serialize)]
struct Messages {
    uncached_input_tokens: u64,
    cache_creation: CacheCreation,
    cache_read_input_tokens: u64,
    output_tokens: u64,
    server_tool_use: ServerToolUse,
    api_key_id: Option<String>,
    workspace_id: Option<&'static str>,
    model: Option<String>,
    service_tier: Option<&'static str>,
    context_window: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct CacheCreation {
    ephemeral_1h_input_tokens: u64,
    ephemeral_5m_input_tokens: u64,
}

#[derive(Default, Serialize)]
struct ServerToolUse {
    web_search_requests: u64,
}

#[derive(Serialize)]
struct Cost {
    currency: &'static str,
    amount: String,
    workspace_id: Option<&'static str>,
    description: Option<String>,
    cost_type: Option<&'static str>,
    context_window: Option<&'static str>,
    model: Option<String>,
    service_tier: Option<&'static str>,
    token_type: Option<&'static str>,
}

pub fn messages(truth: &Truth, query: Option<&str>, now_s: u64) -> Result<Vec<u8>, ApiError> {
    let known = ["starting_at", "ending_at", "bucket_width", "group_by", "limit", "page", "models", "api_key_ids"];
    let query = Query::read(query, &known)?;
    let page = page(&query, &WIDTHS, now_s)?;
    let asked = query.group_by(&["api_key_id", "workspace_id", "model", "service_tier"])?;
    let selection = Selection {
        kind: None,
        models: query.all("models"),
        keys: query.all("api_key_ids"),
        by_model: asked.contains(&"model"),
        by_key: asked.contains(&"api_key_id"),
    };
    let result = |group: &Group, sums: &Sums| Messages {
        uncached_input_tokens: sums.tokens.prompt - sums.tokens.cached,
        cache_creation: CacheCreation::default(),
        cache_read_input_tokens: sums.tokens.cached,
        output_tokens: sums.tokens.completion,
        server_tool_use: ServerToolUse::default(),
        api_key_id: group.key.map(key_id),
        workspace_id: None,
        model: group.model.as_deref().map(str::to_owned),
        service_tier: asked.contains(&"service_tier").then_some(SERVICE_TIER),
        context_window: None,
    };
    Ok(answer(truth, &page, &selection, |group, sums| vec![result(group, sums)]))
}

pub fn cost_report(truth: &Truth, query: Option<&str>, now_s: u64) -> Result<Vec<u8>, ApiError> {
    let query = Query::read(query, &["starting_at", "ending_at", "bucket_width", "group_by", "limit", "page"])?;
    let page = page(&query, &COST_WIDTHS, now_s)?;
    let asked = query.group_by(&["workspace_id", "description"])?;
    let selection = Selection { by_model: asked.contains(&"description"), ..Selection::default() };
    Ok(answer(truth, &page, &selection, |group, sums| match &group.model {
        None => vec![Cost::of(sums.cost_picousd)],
        Some(model) => {
            let lines = truth.prices().of(model).lines(sums.tokens);
            lines.map(|(line, tokens, price)| Cost::of(u128::from(tokens) * price).described(model, line)).collect()
        }
    }))
}

fn answer<R: Serialize>(
    truth: &Truth,
    page: &Page,
    selection: &Selection<'_>,
    results: impl Fn(&Group, &Sums) -> Vec<R>,
) -> Vec<u8> {
    let found = gather(truth, page, selection);
    let bucket = |start: u64| Bucket {
        starting_at: timestamp(start * MICROS).to_string(),
        ending_at: timestamp((start + page.width) * MICROS).to_string(),
        results: found
            .range((start, Group::default())..(start + page.width, Group::default()))
            .flat_map(|((_, group), sums)| results(group, sums))
            .collect(),
    };
    let answer = Answer {
        data: page.starts().map(bucket).collect(),
        has_more: page.next.is_some(),
        next_page: page.next_page(),
    };
    serde_json::to_vec(&answer).expect("numbers and strings are JSON")
}

/// From the bucket of `starting_at` to the last that is over at `ending_at`, or the one of now.
fn page(query: &Query<'_>, widths: &[Width], now_s: u64) -> Result<Page, ApiError> {
    let width = query.width(widths)?;
    let start = query.instant("starting_at")?.ok_or_else(|| ApiError::missing("starting_at"))?;
    let end = match query.instant("ending_at")? {
        Some(end) => end - end % width.seconds,
        None => (now_s + 1).next_multiple_of(width.seconds),
    };
    Ok(Page::new(start, end, width, query.limit(width)?, query.cursor()?))
}

// === impl Cost ===

impl Cost {
    fn of(cost_picousd: u128) -> Self {
        Self {
            currency: "USD",
            amount: decimal(cost_picousd, DECIMALS),
            workspace_id: None,
            description: None,
            cost_type: None,
            context_window: None,
            model: None,
            service_tier: None,
            token_type: None,
        }
    }

    fn described(self, model: &str, line: Line) -> Self {
        let (name, token_type) = match line {
            Line::Input => ("Input Tokens", "uncached_input_tokens"),
            Line::CachedInput => ("Input Tokens, Cache Read", "cache_read_input_tokens"),
            Line::AudioInput => ("Audio Input Tokens", "uncached_input_tokens"),
            Line::Output => ("Output Tokens", "output_tokens"),
            Line::AudioOutput => ("Audio Output Tokens", "output_tokens"),
        };
        Self {
            description: Some(format!("{model} Usage - {name}")),
            cost_type: Some("tokens"),
            model: Some(model.to_owned()),
            service_tier: Some(SERVICE_TIER),
            token_type: Some(token_type),
            ..self
        }
    }
}
