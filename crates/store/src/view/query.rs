//! Questions to the view: pages of usage events, one event, summaries. Each sees one moment of the view, which lags
//! behind the journal by as much as its writer does ([`Reader::position`] says how far it is).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params, params_from_iter};
use serde::{Deserialize, Serialize};
use tollgate_ledger::record::{Reason, Standing};
use tollgate_ledger::{Amounts, Idempotency, Reserved, Use};
use tollgate_types::directory::Sealed;
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Confidence, EndUserId, KeyId, Month, ProjectId, RequestId, Spender, TenantId, Timestamp, Usage, UtcOffset, Zone,
};

use super::bill::{self, BillParts};
use super::columns::{Bits, Cells, Id, Named, id_bytes};
use super::totals::{self, Part, ViewTotals};
use super::{ViewError, check_version, connect, opening, read_position};

/// Usage events on one page at most, and where the caller names no number.
pub const USAGE_PAGE_MAX: usize = 1_000;
/// Rows of one summary at most; about 50 MB of memory.
pub const SUMMARY_ROWS_MAX: usize = 100_000;
/// Connections that are kept for the next question; each holds up to 2 MB of pages.
const CONNECTIONS_IDLE_MAX: usize = 4;

/// Asks the view, from as many threads as like to. Only reads.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// Which events. What is `None` does not narrow.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    pub tenant: Option<TenantId>,
    pub project: Option<ProjectId>,
    pub key: Option<KeyId>,
    /// Started at this time or later.
    pub from: Option<Timestamp>,
    /// Started before this time.
    pub to: Option<Timestamp>,
    /// Held in this month of its tenant's, whatever zone that was in then.
    pub month: Option<Month>,
    pub state: Option<EventState>,
    /// The page after this event; the previous page's [`Page::next`]. No matter to a summary.
    pub after: Option<RequestId>,
    /// Events on the page: at least 1, at most [`USAGE_PAGE_MAX`], which is also the default. No matter to a summary.
    pub limit: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<RequestId>,
}

/// One request as far as it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEvent {
    pub reserved: Reserved,
    /// When its hold last grew, if it did.
    pub extended_at: Option<Timestamp>,
    pub state: EventState,
    /// How often what it came to was adjusted. `end` says what stands now.
    pub adjustments: u32,
    /// What it came to: of what was posted or voided.
    pub end: Option<EventEnd>,
}

/// One difference that was found after a request had ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    pub at: Timestamp,
    pub reason: Reason,
    pub was: Standing,
    pub now: Standing,
    pub price_version: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    Pending,
    Posted,
    Voided,
    Indeterminate,
}

/// How a request ended. A voided one used nothing and cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventEnd {
    pub ended_at: Timestamp,
    pub usage: Usage,
    pub amounts: Amounts,
    pub overrun: Amounts,
    /// None for a voided request: there is no amount to be sure of.
    pub confidence: Option<Confidence>,
    pub outcome: Outcome,
}

/// What a summary has one row for each of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    Tenant,
    Project,
    Key,
    /// The model at its provider.
    Model,
    /// The day, in UTC, on which the request started.
    Day,
}

/// What the events of a summary's row have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    Tenant(TenantId),
    Project(TenantId, ProjectId),
    Key(TenantId, KeyId),
    Model {
        provider: Arc<str>,
        model: Arc<str>,
    },
    /// Midnight in UTC, at which the day began.
    Day(Timestamp),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    pub group: Group,
    pub totals: ViewTotals,
}

// === impl Reader ===

impl Reader {
    /// Opens a view that is there.
    pub fn open(path: &Path) -> Result<Self, ViewError> {
        let reader = Self { path: path.to_owned(), idle: Mutex::default() };
        reader.ask(|connection| {
            check_version(connection)?;
            read_position(connection).map_err(opening)
        })?;
        Ok(reader)
    }

    /// Sequence number of the last record that the view holds.
    pub fn position(&self) -> Result<u64, ViewError> {
        self.ask(|connection| Ok(read_position(connection)?))
    }

    /// What a tenant's idempotency key stands for, and how far the view has come: it holds all records that are older.
    pub fn key_use(&self, tenant: &TenantId, key: [u8; 16]) -> Result<(Option<Use>, Timestamp), ViewError> {
        self.ask(|connection| {
            let moment = connection.unchecked_transaction()?;
            let latest = moment.query_row("SELECT latest FROM position", [], |row| row.get(0)).map(Timestamp)?;
            let sql = "SELECT id, idempotency_body, ended_at IS NULL FROM usage_events
                INDEXED BY usage_by_idempotency_key
                WHERE tenant = ?1 AND idempotency_key = ?2 AND state <> 'voided' LIMIT 1";
            let mut statement = moment.prepare_cached(sql)?;
            let read = |row: &Row<'_>| {
                let Id(first) = row.get(0)?;
                Ok(Use { first, body: row.get(1)?, open: row.get(2)? })
            };
            let used = statement.query_row(params![tenant.as_str(), key], read).optional()?;
            Ok((used, latest))
        })
    }

    /// The view's position, and the sums over all events at that position. Reads every event.
    pub fn totals_at(&self) -> Result<(u64, ViewTotals), ViewError> {
        self.ask(|connection| {
            let moment = connection.unchecked_transaction()?;
            Ok((read_position(&moment)?, totals::of_all(&moment)?))
        })
    }

    /// A page of events in the order of their ids, which sort by time to the millisecond.
    ///
    /// Whoever follows [`Page::next`] sees each event once. A request that was given its id before the page was read,
    /// and reached the view after it, may sort before the page's end.
    pub fn usage(&self, filter: &UsageFilter) -> Result<Page<UsageEvent>, ViewError> {
        let limit = filter.limit.unwrap_or(USAGE_PAGE_MAX).clamp(1, USAGE_PAGE_MAX);
        let mut selection = Selection::of(filter);
        if let Some(after) = filter.after {
            selection.narrow("id > ?", id_bytes(after).to_vec());
        }
        let source = selection.source(filter.index());
        // One more than fits, to know whether there is more.
        let sql = format!("SELECT {EVENT_COLUMNS} FROM {source} ORDER BY id LIMIT ?");
        selection.values.push(i64::try_from(limit + 1).expect("a page is short").into());
        let mut items = self.ask(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let events = statement.query_map(params_from_iter(&selection.values), read_event)?;
            Ok(events.collect::<rusqlite::Result<Vec<_>>>()?)
        })?;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|event| event.reserved.id);
        Ok(Page { items, next })
    }

    /// One event, whosever it is: compare `reserved.tenant` before showing it to anybody.
    pub fn event(&self, id: RequestId) -> Result<Option<UsageEvent>, ViewError> {
        let sql = format!("SELECT {EVENT_COLUMNS} FROM usage_events WHERE id = ?1");
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_row(params![id_bytes(id)], read_event).optional()?)
        })
    }

    /// What was found later of one event, in order. The first `adjustments` of them led to what that event says.
    pub fn adjustments_of(&self, id: RequestId) -> Result<Vec<Adjustment>, ViewError> {
        let sql = "SELECT adjusted_at, reason, was_cost, was_charge, was_overrun_cost, was_overrun_charge,
                was_confidence, cost, charge, overrun_cost, overrun_charge, confidence, price_version
             FROM adjustments WHERE id = ?1 ORDER BY sequence";
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map(params![id_bytes(id)], read_adjustment)?;
            Ok(found.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// One row for each group that has events, in the order of the groups.
    pub fn summary(&self, filter: &UsageFilter, group_by: GroupBy) -> Result<Vec<SummaryRow>, ViewError> {
        let selection = Selection::of(filter);
        let index = filter.index().or_else(|| filter.has_time().then_some(Index::Time));
        let sql = totals::select(group_by.columns(), &selection.source(index));
        self.ask(|connection| summed(connection, &sql, &selection.values, group_by))
    }

    /// What a bill for a tenant's month has to say: the requests held in it, and the adjustments made from `from` to
    /// before `to`, which are that month's first and last moment by the tenant's calendar.
    pub fn bill(
        &self,
        tenant: &TenantId,
        month: Month,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BillParts, ViewError> {
        let filter = UsageFilter { tenant: Some(tenant.clone()), month: Some(month), ..UsageFilter::default() };
        let selection = Selection::of(&filter);
        let sql = totals::select(GroupBy::Model.columns(), &selection.source(filter.index()));
        self.ask(|connection| {
            let moment = connection.unchecked_transaction()?;
            let rows = summed(&moment, &sql, &selection.values, GroupBy::Model)?;
            let since = bill::adjusted_since(&moment, tenant, month)?;
            Ok(BillParts {
                lines: bill::as_first_posted(rows, &since),
                adjustments: bill::adjusted_between(&moment, tenant, from, to)?,
            })
        })
    }

    /// Asks over a connection of its own, so that a long summary holds up nobody. After an error the connection is not
    /// used again: whatever was wrong with it goes with it.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&Connection) -> Result<T, ViewError>) -> Result<T, ViewError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?,
        };
        let answer = question(&connection)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS_IDLE_MAX {
            idle.push(connection);
        }
        Ok(answer)
    }
}

fn summed(
    connection: &Connection,
    sql: &str,
    values: &[Value],
    group_by: GroupBy,
) -> Result<Vec<SummaryRow>, ViewError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut parts = statement.query(params_from_iter(values))?;
    let mut rows = Vec::<SummaryRow>::new();
    while let Some(row) = parts.next()? {
        let cells = &mut Cells::of(row);
        let (group, part) = (group_by.read(cells)?, Part::read(cells)?);
        let row = match rows.pop_if(|row| row.group == group) {
            Some(same) => same,
            None if rows.len() == SUMMARY_ROWS_MAX => return Err(ViewError::TooManyGroups(SUMMARY_ROWS_MAX)),
            None => SummaryRow { group, totals: ViewTotals::default() },
        };
        rows.push(row.with(&part));
    }
    Ok(rows)
}

// === impl UsageFilter ===

/// Named in the query, so that no statistics are needed to find the way.
#[derive(Clone, Copy)]
enum Index {
    Open,
    Tenant,
    Time,
}

impl UsageFilter {
    /// The index that leads to the events in the order of their ids; `None` for the table itself.
    fn index(&self) -> Option<Index> {
        match self.state {
            Some(EventState::Pending | EventState::Indeterminate) => Some(Index::Open),
            _ => self.tenant.is_some().then_some(Index::Tenant),
        }
    }

    fn has_time(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }
}

/// By the tenant's own calendar: as if its local time were UTC.
pub(super) const LOCAL_FROM: &str = "started_at + utc_offset * 1000000 >= ?";
pub(super) const LOCAL_TO: &str = "started_at + utc_offset * 1000000 < ?";

/// A `WHERE` and its values, in the order of its question marks.
#[derive(Default)]
struct Selection {
    conditions: Vec<&'static str>,
    values: Vec<Value>,
}

impl Selection {
    fn of(filter: &UsageFilter) -> Self {
        let UsageFilter { tenant, project, key, from, to, month, state, after: _, limit: _ } = filter;
        let mut selection = Self::default();
        if let Some(tenant) = tenant {
            selection.narrow("tenant = ?", tenant.as_str().to_owned());
        }
        if let Some(project) = project {
            selection.narrow("project = ?", project.as_str().to_owned());
        }
        if let Some(key) = key {
            selection.narrow("key = ?", key.as_str().to_owned());
        }
        if let Some(from) = from {
            selection.narrow("started_at >= ?", from.0);
        }
        if let Some(to) = to {
            selection.narrow("started_at < ?", to.0);
        }
        if let Some(month) = month {
            selection.narrow(LOCAL_FROM, month.starts_at(&Zone::UTC).0);
            selection.narrow(LOCAL_TO, month.next().starts_at(&Zone::UTC).0);
        }
        selection.conditions.extend(state.map(EventState::condition));
        selection
    }

    fn narrow(&mut self, condition: &'static str, value: impl Into<Value>) {
        self.conditions.push(condition);
        self.values.push(value.into());
    }

    /// What follows on `FROM`.
    fn source(&self, index: Option<Index>) -> String {
        let index = match index {
            Some(Index::Open) => " INDEXED BY usage_open",
            Some(Index::Tenant) => " INDEXED BY usage_by_tenant",
            Some(Index::Time) => " INDEXED BY usage_by_time",
            None => "",
        };
        let narrowed = if self.conditions.is_empty() { "" } else { " WHERE " };
        format!("usage_events{index}{narrowed}{}", self.conditions.join(" AND "))
    }
}

// === impl UsageEvent ===

/// In the order in which [`read_event`] reads them.
const EVENT_COLUMNS: &str = "id, plan, tenant, project, key, end_user, utc_offset, route, provider, model, stream, \
    price_version, idempotency_key, idempotency_body, attribution, policy, started_at, deadline, hold_cost, hold_charge, \
    extended_at, state, adjusted, ended_at, input_tokens, cached_input_tokens, cache_write_tokens, audio_input_tokens, output_tokens, \
    reasoning_tokens, audio_output_tokens, cpu_us, cost, charge, overrun_cost, overrun_charge, confidence, outcome";

fn read_event(row: &Row<'_>) -> rusqlite::Result<UsageEvent> {
    let cells = &mut Cells::of(row);
    Ok(UsageEvent {
        reserved: read_reserved(cells)?,
        extended_at: cells.take::<Option<i64>>()?.map(Timestamp),
        state: cells.named()?,
        adjustments: cells.take()?,
        end: read_end(cells)?,
    })
}

/// The cells are read in the order of the fields.
fn read_reserved(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Reserved> {
    Ok(Reserved {
        id: cells.take().map(|Id(id)| id)?,
        spender: Spender {
            plan: cells.parsed()?,
            tenant: cells.parsed()?,
            project: cells.parsed()?,
            key: cells.parsed()?,
            end_user: cells.take::<Option<[u8; 16]>>()?.map(EndUserId),
        },
        offset: cells.take().map(UtcOffset)?,
        route: cells.take()?,
        provider: cells.take()?,
        model: cells.take()?,
        stream: cells.take()?,
        price_version: cells.take()?,
        idempotency: read_idempotency(cells)?,
        attribution: cells.take::<Option<Arc<[u8]>>>()?.map(Sealed),
        policy: cells.take()?,
        at: cells.take().map(Timestamp)?,
        deadline: cells.take().map(Timestamp)?,
        hold: cells.amounts()?,
    })
}

fn read_idempotency(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Option<Idempotency>> {
    let (key, body) = (cells.take::<Option<[u8; 16]>>()?, cells.take::<Option<[u8; 16]>>()?);
    Ok(key.zip(body).map(|(key, body)| Idempotency { key, body }))
}

/// The cells are read in the order of the fields.
fn read_end(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Option<EventEnd>> {
    let Some(ended_at) = cells.take::<Option<i64>>()? else { return Ok(None) };
    Ok(Some(EventEnd {
        ended_at: Timestamp(ended_at),
        usage: Usage {
            input_tokens: cells.count()?,
            cached_input_tokens: cells.count()?,
            cache_write_tokens: cells.take::<Option<Bits>>()?.map(|Bits(tokens)| tokens),
            audio_input_tokens: cells.count()?,
            output_tokens: cells.count()?,
            reasoning_tokens: cells.count()?,
            audio_output_tokens: cells.count()?,
            cpu_us: cells.count()?,
        },
        amounts: cells.amounts()?,
        overrun: cells.amounts()?,
        confidence: cells.take::<Option<Named<Confidence>>>()?.map(|Named(confidence)| confidence),
        outcome: cells.named()?,
    }))
}

/// The cells are read in the order of the fields.
fn read_adjustment(row: &Row<'_>) -> rusqlite::Result<Adjustment> {
    let cells = &mut Cells::of(row);
    Ok(Adjustment {
        at: cells.take().map(Timestamp)?,
        reason: cells.named()?,
        was: read_standing(cells)?,
        now: read_standing(cells)?,
        price_version: cells.take()?,
    })
}

fn read_standing(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Standing> {
    Ok(Standing { amounts: cells.amounts()?, overrun: cells.amounts()?, confidence: cells.named()? })
}

// === impl EventState ===

impl EventState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Posted => "posted",
            Self::Voided => "voided",
            Self::Indeterminate => "indeterminate",
        }
    }

    /// With the words of the index `usage_open` for the states that it holds.
    fn condition(self) -> &'static str {
        match self {
            Self::Pending => "ended_at IS NULL AND state = 'pending'",
            Self::Posted => "state = 'posted'",
            Self::Voided => "state = 'voided'",
            Self::Indeterminate => "ended_at IS NULL AND state = 'indeterminate'",
        }
    }
}

// === impl GroupBy, Group, SummaryRow ===

impl GroupBy {
    /// The columns that tell the groups apart, in the order in which [`GroupBy::read`] reads them.
    fn columns(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Project => "tenant, project",
            Self::Key => "tenant, key",
            Self::Model => "provider, model",
            // SQLite's remainder bears the sign of the dividend; this one is never negative.
            Self::Day => "(started_at - (started_at % 86400000000 + 86400000000) % 86400000000)",
        }
    }

    fn read(self, cells: &mut Cells<'_, '_>) -> rusqlite::Result<Group> {
        Ok(match self {
            Self::Tenant => Group::Tenant(cells.parsed()?),
            Self::Project => Group::Project(cells.parsed()?, cells.parsed()?),
            Self::Key => Group::Key(cells.parsed()?, cells.parsed()?),
            Self::Model => Group::Model { provider: cells.take()?, model: cells.take()? },
            Self::Day => Group::Day(Timestamp(cells.take()?)),
        })
    }
}

/// For a column of a table: `demo`, `demo/main`, `demo/k1`, `openai/gpt-4o-mini`, `2026-12-31`.
impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "{tenant}"),
            Self::Project(tenant, project) => write!(f, "{tenant}/{project}"),
            Self::Key(tenant, key) => write!(f, "{tenant}/{key}"),
            Self::Model { provider, model } => write!(f, "{provider}/{model}"),
            Self::Day(midnight) => {
                let shown = midnight.to_string();
                f.write_str(shown.split('T').next().unwrap_or(&shown))
            }
        }
    }
}

impl SummaryRow {
    fn with(mut self, part: &Part) -> Self {
        self.totals.add(part);
        self
    }
}
