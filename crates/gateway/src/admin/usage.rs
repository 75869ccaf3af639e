//! `/admin/v1/usage`. Questions go to the view, which is first brought up to what is durable now: who has an answer in
//! hand finds its event here.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use tollgate_client::{List, SummaryBy, SummaryQuery, UsageEvent, UsagePage, UsageQuery, UsageState, UsageSummary};
use tollgate_guard::Act;
use tollgate_store::view::{self, EventState, GroupBy, Reader, SummaryRow, UsageFilter, ViewError};
use tollgate_types::RequestId;

use super::caller::{Caller, Thing};
use super::durable::aside;
use super::extract::{Asked, optional_id, optional_time};
use super::projects::known_tenant;
use super::refused::{Refusals, Refused};
use crate::app::App;
use crate::receipt::{confidence, state_shown};

const PAGE_DEFAULT: usize = 100;
/// How long a question waits for the view; then it is answered with what the view has.
const PATIENCE: Duration = Duration::from_secs(2);

/// List usage events in the order in which they began
#[utoipa::path(get, path = "/admin/v1/usage", operation_id = "list_usage", tag = "usage", params(UsageQuery),
    responses((status = 200, description = "A page", body = UsagePage), Refusals))]
pub async fn list(caller: Caller, Asked(wanted): Asked<UsageQuery>) -> Result<Json<UsagePage>, Refused> {
    let app = caller.may(Act::ListUsage, &Thing::of(wanted.tenant.as_ref())?).await?;
    let after: Option<RequestId> = optional_id("after", wanted.after.as_ref())?;
    let limit = match wanted.limit {
        None => PAGE_DEFAULT,
        Some(limit @ 1..=1000) => limit as usize,
        Some(_) => return Err(Refused::field("limit", "from 1 to 1000")),
    };
    let filter = UsageFilter {
        tenant: known_tenant(&app, wanted.tenant.as_ref())?,
        from: optional_time("from", wanted.from.as_ref())?,
        to: optional_time("to", wanted.to.as_ref())?,
        state: wanted.state.map(state),
        after,
        limit: Some(limit),
        ..UsageFilter::default()
    };
    let page = ask(&app, move |reader| reader.usage(&filter)).await?;
    let next = page.next.map(|id| id.to_string());
    Ok(Json(UsagePage { data: page.items.iter().map(event).collect(), next }))
}

/// Sum up
#[utoipa::path(get, path = "/admin/v1/usage/summary", operation_id = "summarise_usage", tag = "usage", params(SummaryQuery),
    responses((status = 200, description = "A row for each group that has events", body = List<UsageSummary>), Refusals))]
pub async fn summary(caller: Caller, Asked(wanted): Asked<SummaryQuery>) -> Result<Json<List<UsageSummary>>, Refused> {
    let app = caller.may(Act::SummariseUsage, &Thing::of(wanted.tenant.as_ref())?).await?;
    let filter = UsageFilter {
        tenant: known_tenant(&app, wanted.tenant.as_ref())?,
        from: optional_time("from", wanted.from.as_ref())?,
        to: optional_time("to", wanted.to.as_ref())?,
        ..UsageFilter::default()
    };
    let by = group_by(wanted.by.unwrap_or(SummaryBy::Model));
    let rows = ask(&app, move |reader| reader.summary(&filter, by)).await?;
    Ok(Json(List { data: rows.iter().map(summed).collect() }))
}

/// Asks the view, on a thread that may block, once it holds what is durable now.
pub async fn ask<T: Send + 'static>(
    app: &Arc<App>,
    question: impl FnOnce(&Reader) -> Result<T, ViewError> + Send + 'static,
) -> Result<T, Refused> {
    let app = Arc::clone(app);
    Ok(aside(move || app.ask_view(PATIENCE, question)).await??)
}

/// An event as it is on the wire.
pub fn event(event: &view::UsageEvent) -> UsageEvent {
    let (reserved, end) = (&event.reserved, event.end.as_ref());
    let usage = end.map(|end| end.usage).unwrap_or_default();
    let amounts = end.map(|end| end.amounts).unwrap_or_default();
    UsageEvent {
        request_id: reserved.id.to_string(),
        tenant: reserved.spender.tenant.to_string(),
        project: reserved.spender.project.to_string(),
        key: reserved.spender.key.to_string(),
        route: reserved.route.to_string(),
        model: reserved.model.to_string(),
        provider: reserved.provider.to_string(),
        stream: reserved.stream,
        started_at: reserved.at.to_string(),
        ended_at: end.map(|end| end.ended_at.to_string()),
        state: state_shown(event.state),
        confidence: end.and_then(|end| end.confidence).map(confidence),
        input_tokens: usage.input_tokens,
        cached_input_tokens: usage.cached_input_tokens,
        cache_write_tokens: usage.cache_write_tokens,
        audio_input_tokens: usage.audio_input_tokens,
        output_tokens: usage.output_tokens,
        reasoning_tokens: usage.reasoning_tokens,
        audio_output_tokens: usage.audio_output_tokens,
        cpu_us: usage.cpu_us,
        hold_cost_picousd: reserved.hold.cost.0.to_string(),
        cost_picousd: amounts.cost.0.to_string(),
        charge_picousd: amounts.charge.0.to_string(),
        overrun_picousd: end.map(|end| end.overrun.cost.0).unwrap_or_default().to_string(),
        price_version: reserved.price_version.to_string(),
        adjustments: event.adjustments,
        outcome: end.map(|end| end.outcome.name().to_owned()),
    }
}

fn summed(row: &SummaryRow) -> UsageSummary {
    let (counts, tokens) = (&row.totals.requests, &row.totals.tokens);
    let open = counts.pending + counts.indeterminate;
    UsageSummary {
        group: row.group.to_string(),
        requests: counts.posted + counts.voided + open,
        voided: counts.voided,
        open,
        input_tokens: tokens_shown(tokens.input_tokens),
        cached_input_tokens: tokens_shown(tokens.cached_input_tokens),
        cache_write_tokens: tokens_shown(tokens.cache_write_tokens),
        audio_input_tokens: tokens_shown(tokens.audio_input_tokens),
        output_tokens: tokens_shown(tokens.output_tokens),
        reasoning_tokens: tokens_shown(tokens.reasoning_tokens),
        audio_output_tokens: tokens_shown(tokens.audio_output_tokens),
        cpu_us: tokens_shown(tokens.cpu_us),
        cost_picousd: row.totals.posted.cost.0.to_string(),
        bounded_picousd: row.totals.bounded.cost.0.to_string(),
        charge_picousd: row.totals.posted.charge.0.to_string(),
        held_picousd: (row.totals.pending.cost.0 + row.totals.indeterminate.cost.0).to_string(),
        overrun_picousd: row.totals.overrun.cost.0.to_string(),
    }
}

pub fn tokens_shown(tokens: u128) -> u64 {
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

fn state(state: UsageState) -> EventState {
    match state {
        UsageState::Posted => EventState::Posted,
        UsageState::Voided => EventState::Voided,
        UsageState::Pending => EventState::Pending,
        UsageState::Indeterminate => EventState::Indeterminate,
    }
}

fn group_by(by: SummaryBy) -> GroupBy {
    match by {
        SummaryBy::Tenant => GroupBy::Tenant,
        SummaryBy::Project => GroupBy::Project,
        SummaryBy::Key => GroupBy::Key,
        SummaryBy::Model => GroupBy::Model,
        SummaryBy::Day => GroupBy::Day,
    }
}
