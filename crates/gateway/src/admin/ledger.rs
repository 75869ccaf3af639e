//! `/admin/v1/ledger`.

use axum::Json;
use tollgate_client::LedgerState;
use tollgate_guard::Act;
use tollgate_ledger::Audit;
use tollgate_types::{PicoSum, Timestamp};

use super::caller::{Caller, Thing};
use super::durable::aside;
use super::refused::{Refusals, Refused};

/// Add everything up again and compare
#[utoipa::path(get, path = "/admin/v1/ledger", operation_id = "show_ledger", tag = "ledger",
    responses((status = 200, description = "Drift is `0`, or something is wrong", body = LedgerState), Refusals))]
pub async fn show(caller: Caller) -> Result<Json<LedgerState>, Refused> {
    let app = caller.may(Act::ShowLedger, &Thing::Platform).await?;
    // It walks over every scope there is.
    let state = aside(move || shown(&app.books.audit(), app.clock().now())).await?;
    Ok(Json(state))
}

fn shown(audit: &Audit, now: Timestamp) -> LedgerState {
    let text = |amount: PicoSum| amount.0.to_string();
    let overdue = audit.oldest_pending_deadline.map(|deadline| now.since(deadline)).unwrap_or_default();
    LedgerState {
        drift_picousd: text(audit.drift),
        requests: audit.totals.requests,
        reservations_pending: audit.reservations_pending as u64,
        oldest_pending_overdue_ms: u64::try_from(overdue.as_millis()).unwrap_or(u64::MAX),
        indeterminate: audit.reservations_indeterminate as u64,
        held_picousd: text(audit.totals.held.cost),
        posted_picousd: text(audit.totals.posted.cost),
        posted_charge_picousd: text(audit.totals.posted.charge),
        bounded_picousd: text(audit.totals.bounded.cost),
        released_picousd: text(audit.totals.released.cost),
        pending_picousd: text(audit.pending.cost),
        indeterminate_picousd: text(audit.indeterminate.cost),
        overrun_picousd: text(audit.totals.overrun.cost),
        least_left_picousd: audit.worst_left.map(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overdue_is_what_lies_behind_the_deadline() {
        let audit = Audit { oldest_pending_deadline: Some(Timestamp(5_000_000)), ..Audit::default() };
        assert_eq!(shown(&audit, Timestamp(5_250_000)).oldest_pending_overdue_ms, 250);
        assert_eq!(shown(&audit, Timestamp(4_000_000)).oldest_pending_overdue_ms, 0);
        assert_eq!(shown(&Audit::default(), Timestamp(1)).drift_picousd, "0");
    }
}
