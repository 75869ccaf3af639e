//! `/admin/v1/usage/bill`: what a tenant owes for a month. Lines say what was posted in it and stay as they are; what is
//! found out later stands as an adjustment on the bill of the month in which it was found.

use axum::Json;
use tollgate_client::{Bill, BillAdjustment, BillLine, BillQuery};
use tollgate_guard::Act;
use tollgate_ledger::account::Columns;
use tollgate_store::view::{self, BillParts};
use tollgate_types::directory::{Tariff, Tenant};
use tollgate_types::{Month, TenantId, Timestamp};

use super::caller::{Caller, Thing};
use super::extract::{Asked, id};
use super::refused::{Refusals, Refused};
use super::usage::{ask, tokens_shown};

/// Show what a tenant owes for a month
#[utoipa::path(get, path = "/admin/v1/usage/bill", operation_id = "show_bill", tag = "usage", params(BillQuery),
    responses((status = 200, description = "The bill as it stands now", body = Bill), Refusals))]
pub async fn show(caller: Caller, Asked(wanted): Asked<BillQuery>) -> Result<Json<Bill>, Refused> {
    let tenant: TenantId = id("tenant", &wanted.tenant)?;
    let app = caller.may(Act::ShowBill, &Thing::Tenant(tenant.clone())).await?;
    let month: Month = id("month", &wanted.month)?;
    let (tenant, tariff) = app.books.with_directory(|directory| {
        let tenant = directory.tenant(&tenant)?;
        let tariff = directory.tariff_of(tenant).cloned().unwrap_or_default();
        Ok::<_, Refused>((tenant.clone(), tariff))
    })?;
    let span = (month.starts_at(&tenant.zone), month.next().starts_at(&tenant.zone));
    let of = tenant.id.clone();
    let parts = ask(&app, move |reader| reader.bill(&of, month, span.0, span.1)).await?;
    Ok(Json(bill(&tenant, &tariff, month, span, &parts, app.clock().now())))
}

fn bill(
    tenant: &Tenant,
    tariff: &Tariff,
    month: Month,
    (from, to): (Timestamp, Timestamp),
    parts: &BillParts,
    now: Timestamp,
) -> Bill {
    let sum = |columns: &mut dyn Iterator<Item = Columns>| {
        columns.fold((0, 0), |(cost, charge), columns| (cost + columns.cost.0, charge + columns.charge.0))
    };
    let usage: (i128, i128) = sum(&mut parts.lines.iter().map(|line| line.posted));
    let adjusted: (i128, i128) = sum(&mut parts.adjustments.iter().map(|made| made.difference));
    let own = parts.adjustments.iter().filter(|made| made.month == month);
    let adjusted_own: (i128, i128) = sum(&mut own.map(|made| made.difference));
    let (cost, charge) = (usage.0 + adjusted_own.0, usage.1 + adjusted_own.1);
    let minimum = i128::from(tariff.monthly_minimum.0);
    // Nothing is owed for a month that has not begun, or that was over before the tenant came.
    let top_up = if from <= now && tenant.created_at < to { (minimum - charge).max(0) } else { 0 };
    let included = i128::from(tariff.included.0);
    let open = parts.lines.iter().map(|line| line.totals.requests.pending + line.totals.requests.indeterminate).sum();
    Bill {
        tenant: tenant.id.to_string(),
        month: month.to_string(),
        time_zone: tenant.zone.to_string(),
        from: from.to_string(),
        to: to.to_string(),
        complete: to <= now && open == 0,
        lines: parts.lines.iter().filter(|line| line.totals.requests.posted > 0).map(line).collect(),
        adjustments: parts.adjustments.iter().map(adjustment).collect(),
        open_requests: open,
        cost_picousd: cost.to_string(),
        included_picousd: included.to_string(),
        included_used_picousd: included.min(cost).max(0).to_string(),
        usage_picousd: usage.1.to_string(),
        adjustments_picousd: adjusted.1.to_string(),
        monthly_minimum_picousd: minimum.to_string(),
        minimum_top_up_picousd: top_up.to_string(),
        total_picousd: (usage.1 + adjusted.1 + top_up).to_string(),
    }
}

fn line(line: &view::BillLine) -> BillLine {
    let tokens = &line.totals.tokens;
    BillLine {
        model: line.group.to_string(),
        requests: line.totals.requests.posted,
        input_tokens: tokens_shown(tokens.input_tokens),
        cached_input_tokens: tokens_shown(tokens.cached_input_tokens),
        cache_write_tokens: tokens_shown(tokens.cache_write_tokens),
        audio_input_tokens: tokens_shown(tokens.audio_input_tokens),
        output_tokens: tokens_shown(tokens.output_tokens),
        reasoning_tokens: tokens_shown(tokens.reasoning_tokens),
        audio_output_tokens: tokens_shown(tokens.audio_output_tokens),
        cpu_us: tokens_shown(tokens.cpu_us),
        cost_picousd: line.posted.cost.0.to_string(),
        charge_picousd: line.posted.charge.0.to_string(),
    }
}

fn adjustment(made: &view::BillAdjustment) -> BillAdjustment {
    BillAdjustment {
        month: made.month.to_string(),
        reason: made.reason.clone(),
        model: format!("{}/{}", made.provider, made.model),
        entries: made.count,
        cost_picousd: made.difference.cost.0.to_string(),
        charge_picousd: made.difference.charge.0.to_string(),
    }
}
