//! What a month's bill is made of: what its requests came to when they were posted, and the adjustments that were made in
//! it, of whatever month. So a bill that was sent stays true: what is found out later stands on a later one.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, params};
use tollgate_ledger::account::Columns;
use tollgate_types::{Month, TenantId, Timestamp, Zone};

use super::columns::{Cells, sum_sql};
use super::query::{Group, LOCAL_FROM, LOCAL_TO, SummaryRow};
use super::totals::{ViewTotals, less};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BillParts {
    /// One for each model at its provider, in the order of their names.
    pub lines: Vec<BillLine>,
    /// In the order of months, then reasons, then models.
    pub adjustments: Vec<BillAdjustment>,
}

/// The requests of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillLine {
    pub group: Group,
    /// How they stand now.
    pub totals: ViewTotals,
    /// What they came to when they were posted, before any adjustment.
    pub posted: Columns,
}

/// Adjustments for one reason of the requests of one month and model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillAdjustment {
    /// Of the requests.
    pub month: Month,
    pub reason: String,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub count: u64,
    /// By how much more, or less where it is negative.
    pub difference: Columns,
}

/// All adjustments there are of a month's requests, by model.
pub(super) fn adjusted_since(
    connection: &Connection,
    tenant: &TenantId,
    month: Month,
) -> rusqlite::Result<HashMap<Group, Columns>> {
    let sql = format!(
        "SELECT event.provider, event.model, {} \
         FROM adjustments AS entry JOIN usage_events AS event ON event.id = entry.id \
         WHERE entry.tenant = ? AND event.{LOCAL_FROM} AND event.{LOCAL_TO} GROUP BY 1, 2",
        differences()
    );
    let (first, end) = (month.starts_at(&Zone::UTC).0, month.next().starts_at(&Zone::UTC).0);
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![tenant.as_str(), first, end], |row| {
        let cells = &mut Cells::of(row);
        Ok((Group::Model { provider: cells.take()?, model: cells.take()? }, difference(cells)?))
    })?;
    rows.collect()
}

/// Takes the adjustments off again.
pub(super) fn as_first_posted(rows: Vec<SummaryRow>, since: &HashMap<Group, Columns>) -> Vec<BillLine> {
    let line = |SummaryRow { group, totals }| {
        let since = since.get(&group).copied().unwrap_or_default();
        let posted = less(totals.posted, since);
        BillLine { group, totals, posted }
    };
    rows.into_iter().map(line).collect()
}

/// The adjustments made from `from` to before `to`, of requests of any month.
pub(super) fn adjusted_between(
    connection: &Connection,
    tenant: &TenantId,
    from: Timestamp,
    to: Timestamp,
) -> rusqlite::Result<Vec<BillAdjustment>> {
    let sql = format!(
        "SELECT strftime('%Y-%m', (event.started_at + event.utc_offset * 1000000) / 1000000, 'unixepoch'), entry.reason, \
            event.provider, event.model, COUNT(*), {} \
         FROM adjustments AS entry INDEXED BY adjustments_by_tenant JOIN usage_events AS event ON event.id = entry.id \
         WHERE entry.tenant = ? AND entry.adjusted_at >= ? AND entry.adjusted_at < ? \
         GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
        differences()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![tenant.as_str(), from.0, to.0], |row| {
        let cells = &mut Cells::of(row);
        Ok(BillAdjustment {
            month: cells.parsed()?,
            reason: cells.take()?,
            provider: cells.take()?,
            model: cells.take()?,
            count: cells.count()?,
            difference: difference(cells)?,
        })
    })?;
    rows.collect()
}

fn differences() -> String {
    ["entry.cost", "entry.charge", "entry.was_cost", "entry.was_charge"].map(sum_sql).join(", ")
}

/// The cells of [`differences`]: what is, less what was.
fn difference(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Columns> {
    let (now, was) = (cells.columns()?, cells.columns()?);
    Ok(less(now, was))
}
