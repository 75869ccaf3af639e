//! The SQLite projection of the journal: usage events, who exists, caps and price books, for questions that may take
//! their time. During a request it is asked for nothing but idempotency keys that memory has forgotten. And nothing here
//! is the truth: a view that is damaged, or of another version, is thrown away and made again from the journal's first
//! record.
//!
//! - this file: opening, and [`View::apply`], which writes records in the order of the journal.
//! - [`query`]: the questions ([`Reader`]). - [`bill`]: what a month's bill is made of. - [`ended`]: what ended in which bucket
//!   of time. - [`totals`]: sums that are exact for every `u64`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params};
use tollgate_ledger::{Adjusted, CapSet, Extended, Posted, Record, Reserved, Voided};
use tollgate_types::directory::{ApiKey, Change, Limits, Plan, Project, Sealed, Tariff, Tenant, TightBudget};
use tollgate_types::{RequestId, Scope};

pub mod bill;
pub(crate) mod columns;
pub mod ended;
pub mod query;
#[cfg(test)]
mod tests;
pub mod totals;

pub use bill::{BillAdjustment, BillLine, BillParts};
pub use query::{Adjustment, EventEnd, EventState, Group, GroupBy, Page, Reader, SummaryRow, UsageEvent, UsageFilter};
pub use totals::{StateCounts, TokenSums, ViewTotals};

use columns::{Bits, id_bytes};

/// Raise it with every change of `schema.sql`. There are no migrations: a view of another version is made again.
const SCHEMA_VERSION: i64 = 4;
/// Says of a file that it is a view of ours: "tgvw".
const APPLICATION_ID: i64 = 0x7467_7677;
const SCHEMA: &str = include_str!("view/schema.sql");

/// How long to wait for another connection's lock. Readers hold none in WAL mode, so only another writer's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The write-ahead log is cut back to this after a long reader let it grow.
const WAL_BYTES_MAX: i64 = 64 << 20;
/// So many pages gather in the write-ahead log before they go to the database. With many tenants each event touches a page
/// of the index by tenant that the one before did not; a page that was touched again meanwhile is written once.
const WAL_PAGES_CHECKPOINTED: i64 = 8_192;
/// Of the writer's pages. SQLite takes it as it needs it; a batch that does not fit is written twice.
const CACHE_KIB: i64 = 24 << 10;
/// More than there are different statements, so that each is prepared once.
const STATEMENTS_CACHED: usize = 64;

/// The view, and the one connection that writes to it.
#[derive(Debug)]
pub struct View {
    connection: Connection,
    position: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The file is damaged, of another version, or not a view at all: make it anew ([`View::create_anew`]) and apply
    /// the journal from its first record.
    #[error("the view must be made again from the journal: {0}")]
    Rebuild(String),
    /// Records are missing before this one. Nothing of the batch was applied.
    #[error("the view ends at record {position} and record {found} does not follow it")]
    Gap { position: u64, found: u64 },
    /// The record ends what is not open, or begins what is there. Nothing of the batch was applied. The ledger refuses
    /// such records, so this is not the view of that journal, or the journal is wrong: making the view again tells.
    #[error("record {sequence} contradicts what the view holds of {id}")]
    Contradiction { sequence: u64, id: RequestId },
    #[error("the summary has more than {0} rows; narrow it by tenant or time")]
    TooManyGroups(usize),
    /// Disk full, locked, no permission and the like: what is there stays usable.
    #[error("the view's database: {0}")]
    Database(rusqlite::Error),
    #[error("the old view cannot be removed: {0}")]
    Remove(io::Error),
}

// === impl View ===

impl View {
    /// Opens the view, or makes an empty one where there is none.
    pub fn open(path: &Path) -> Result<Self, ViewError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = connect(path, flags)?;
        if is_empty(&connection).map_err(opening)? {
            make_tables(&mut connection, SCHEMA, APPLICATION_ID, SCHEMA_VERSION)?;
        }
        check_version(&connection)?;
        // A power cut may lose the newest transactions, never their order: they are read from the journal again.
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX)?;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES_CHECKPOINTED)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let position = read_position(&connection).map_err(opening)?;
        Ok(Self { connection, position })
    }

    /// Throws away whatever is at `path` and makes an empty view there. Connections that are still open to the old one
    /// go on seeing the old one.
    pub fn create_anew(path: &Path) -> Result<Self, ViewError> {
        remove(path).map_err(ViewError::Remove)?;
        Self::open(path)
    }

    /// Sequence number of the last record that was applied; 0 if none was.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Applies records in one transaction: all of them or, on an error, none. Their sequence numbers ascend without a
    /// gap; what the view has already is skipped.
    pub fn apply(&mut self, records: &[(u64, Record)]) -> Result<(), ViewError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let position = write(&transaction, records)?;
        transaction.commit()?;
        self.position = position;
        Ok(())
    }

    /// Sums over all usage events, for comparison with the ledger's audit. Reads every event: not for the hot path.
    pub fn totals(&self) -> Result<ViewTotals, ViewError> {
        Ok(totals::of_all(&self.connection)?)
    }
}

/// Writes what follows on the view's position, and gives back the new one.
fn write(transaction: &Transaction<'_>, records: &[(u64, Record)]) -> Result<u64, ViewError> {
    let before = read_position(transaction)?;
    let (mut position, mut latest) = (before, 0);
    for (sequence, record) in records {
        if *sequence <= position {
            continue;
        }
        if *sequence != position + 1 {
            return Err(ViewError::Gap { position, found: *sequence });
        }
        Writing { transaction, sequence: *sequence }.record(record)?;
        position = *sequence;
        latest = record.at().map_or(latest, |at| at.0.max(latest));
    }
    if position != before {
        let sql = "UPDATE position SET sequence = ?1, latest = MAX(latest, ?2)";
        transaction.execute(sql, params![Bits(position), latest])?;
    }
    Ok(position)
}

/// One record on its way into the tables.
struct Writing<'a> {
    transaction: &'a Transaction<'a>,
    sequence: u64,
}

// === impl Writing ===

impl Writing<'_> {
    fn record(&self, record: &Record) -> Result<(), ViewError> {
        match record {
            Record::Reserved(reserved) => self.event(reserved.id, self.reserved(reserved)),
            Record::Posted(posted) => self.event(posted.id, self.posted(posted)),
            Record::Voided(voided) => self.event(voided.id, self.voided(voided)),
            Record::Indeterminate { id, .. } => self.event(*id, self.indeterminate(*id)),
            Record::CapSet(cap) => Ok(self.cap(cap)?),
            Record::Directory(change) => Ok(self.change(change)?),
            Record::Extended(extended) => self.event(extended.id, self.extended(extended)),
            Record::Adjusted(adjusted) => {
                self.event(adjusted.id, self.adjusted(adjusted))?;
                Ok(self.adjustment(adjusted)?)
            }
            // The audit log has them.
            Record::Audited(_) => Ok(()),
            Record::PricesSet { version, sha256, at } => {
                let sql = "INSERT INTO price_books (sequence, set_at, version, sha256) VALUES (?1, ?2, ?3, ?4)";
                self.execute(sql, params![Bits(self.sequence), at.0, version, sha256])?;
                Ok(())
            }
        }
    }

    /// A usage event's record must change exactly one event, else it is not the record of this view's next moment.
    fn event(&self, id: RequestId, changed: rusqlite::Result<usize>) -> Result<(), ViewError> {
        let contradiction = ViewError::Contradiction { sequence: self.sequence, id };
        match changed {
            Ok(1) => Ok(()),
            Ok(_) => Err(contradiction),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Err(contradiction),
            Err(error) => Err(error.into()),
        }
    }

    fn reserved(&self, reserved: &Reserved) -> rusqlite::Result<usize> {
        let Reserved { id, at, deadline, spender, offset, hold, .. } = reserved;
        let Reserved { route, provider, model, stream, price_version, idempotency, attribution, policy, .. } = reserved;
        self.execute(
            "INSERT INTO usage_events (id, plan, tenant, project, key, end_user, utc_offset, route, provider, model,
                stream, price_version, idempotency_key, idempotency_body, attribution, policy, started_at, deadline,
                hold_cost, hold_charge, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
                'pending')",
            params![
                id_bytes(*id),
                spender.plan.as_str(),
                spender.tenant.as_str(),
                spender.project.as_str(),
                spender.key.as_str(),
                spender.end_user.as_ref().map(|user| user.0),
                offset.0,
                route,
                provider,
                model,
                stream,
                price_version,
                idempotency.as_ref().map(|idempotency| idempotency.key),
                idempotency.as_ref().map(|idempotency| idempotency.body),
                ciphertext(attribution),
                policy,
                at.0,
                deadline.0,
                Bits(hold.cost.0),
                Bits(hold.charge.0),
            ],
        )
    }

    fn extended(&self, extended: &Extended) -> rusqlite::Result<usize> {
        let Extended { id, at, hold, provider, model, price_version } = extended;
        self.execute(
            "UPDATE usage_events SET hold_cost = ?2, hold_charge = ?3, provider = ?4, model = ?5, price_version = ?6,
                extended_at = ?7
             WHERE id = ?1 AND state = 'pending'",
            params![id_bytes(*id), Bits(hold.cost.0), Bits(hold.charge.0), provider, model, price_version, at.0],
        )
    }

    /// Only where what the entry says was is what is: else it was made from another view of things. What was voided, and
    /// billed all the same, is posted by it: at nothing, with the bill as overrun.
    fn adjusted(&self, adjusted: &Adjusted) -> rusqlite::Result<usize> {
        let Adjusted { id, was, now, usage, price_version, .. } = adjusted;
        self.execute(
            "UPDATE usage_events SET state = 'posted', input_tokens = ?2, cached_input_tokens = ?3,
                cache_write_tokens = ?4, audio_input_tokens = ?5, output_tokens = ?6, reasoning_tokens = ?7,
                audio_output_tokens = ?8, cpu_us = ?9, cost = ?10, charge = ?11, overrun_cost = ?12, overrun_charge = ?13,
                confidence = ?14, price_version = ?15, adjusted = adjusted + 1
             WHERE id = ?1 AND state IN ('posted', 'voided') AND cost = ?16 AND charge = ?17
                AND overrun_cost = ?18 AND overrun_charge = ?19 AND COALESCE(confidence, 'measured') = ?20",
            params![
                id_bytes(*id),
                Bits(usage.input_tokens),
                Bits(usage.cached_input_tokens),
                usage.cache_write_tokens.map(Bits),
                Bits(usage.audio_input_tokens),
                Bits(usage.output_tokens),
                Bits(usage.reasoning_tokens),
                Bits(usage.audio_output_tokens),
                Bits(usage.cpu_us),
                Bits(now.amounts.cost.0),
                Bits(now.amounts.charge.0),
                Bits(now.overrun.cost.0),
                Bits(now.overrun.charge.0),
                now.confidence.name(),
                price_version,
                Bits(was.amounts.cost.0),
                Bits(was.amounts.charge.0),
                Bits(was.overrun.cost.0),
                Bits(was.overrun.charge.0),
                was.confidence.name(),
            ],
        )
    }

    fn adjustment(&self, adjusted: &Adjusted) -> rusqlite::Result<()> {
        let Adjusted { id, at, spender, was, now, price_version, reason, .. } = adjusted;
        self.execute(
            "INSERT INTO adjustments (sequence, id, tenant, adjusted_at, reason, was_cost, was_charge, was_overrun_cost,
                was_overrun_charge, was_confidence, cost, charge, overrun_cost, overrun_charge, confidence, price_version)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            params![
                Bits(self.sequence),
                id_bytes(*id),
                spender.tenant.as_str(),
                at.0,
                reason.name(),
                Bits(was.amounts.cost.0),
                Bits(was.amounts.charge.0),
                Bits(was.overrun.cost.0),
                Bits(was.overrun.charge.0),
                was.confidence.name(),
                Bits(now.amounts.cost.0),
                Bits(now.amounts.charge.0),
                Bits(now.overrun.cost.0),
                Bits(now.overrun.charge.0),
                now.confidence.name(),
                price_version,
            ],
        )?;
        Ok(())
    }

    fn posted(&self, posted: &Posted) -> rusqlite::Result<usize> {
        let Posted { id, at, usage, amounts, overrun, confidence, outcome } = posted;
        self.execute(
            "UPDATE usage_events SET state = 'posted', ended_at = ?2, input_tokens = ?3, cached_input_tokens = ?4,
                cache_write_tokens = ?5, audio_input_tokens = ?6, output_tokens = ?7, reasoning_tokens = ?8,
                audio_output_tokens = ?9, cpu_us = ?10, cost = ?11, charge = ?12, overrun_cost = ?13, overrun_charge = ?14,
                confidence = ?15, outcome = ?16
             WHERE id = ?1 AND state IN ('pending', 'indeterminate')",
            params![
                id_bytes(*id),
                at.0,
                Bits(usage.input_tokens),
                Bits(usage.cached_input_tokens),
                usage.cache_write_tokens.map(Bits),
                Bits(usage.audio_input_tokens),
                Bits(usage.output_tokens),
                Bits(usage.reasoning_tokens),
                Bits(usage.audio_output_tokens),
                Bits(usage.cpu_us),
                Bits(amounts.cost.0),
                Bits(amounts.charge.0),
                Bits(overrun.cost.0),
                Bits(overrun.charge.0),
                confidence.name(),
                outcome.name(),
            ],
        )
    }

    fn voided(&self, voided: &Voided) -> rusqlite::Result<usize> {
        let Voided { id, at, outcome } = voided;
        self.execute(
            "UPDATE usage_events SET state = 'voided', ended_at = ?2, input_tokens = 0, cached_input_tokens = 0,
                cache_write_tokens = NULL, audio_input_tokens = 0, output_tokens = 0, reasoning_tokens = 0,
                audio_output_tokens = 0, cpu_us = 0, cost = 0, charge = 0, overrun_cost = 0, overrun_charge = 0,
                outcome = ?3
             WHERE id = ?1 AND state = 'pending'",
            params![id_bytes(*id), at.0, outcome.name()],
        )
    }

    fn indeterminate(&self, id: RequestId) -> rusqlite::Result<usize> {
        let sql = "UPDATE usage_events SET state = 'indeterminate' WHERE id = ?1 AND state = 'pending'";
        self.execute(sql, params![id_bytes(id)])
    }

    fn cap(&self, set: &CapSet) -> rusqlite::Result<()> {
        let CapSet { scope, window, basis, cap, alerts, at } = set;
        let alerts: Vec<String> = alerts.iter().map(|threshold| threshold.0.to_string()).collect();
        let [kind, tenant, part] = scope_columns(scope);
        self.execute(
            "INSERT INTO caps (sequence, set_at, scope, tenant, part, window, basis, cap_picousd, alerts_picousd)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                Bits(self.sequence),
                at.0,
                kind,
                tenant,
                part,
                window.name(),
                basis.name(),
                cap.map(|cap| cap.0.to_string()),
                alerts.join(" "),
            ],
        )?;
        Ok(())
    }

    /// As [`Directory::apply`](tollgate_types::directory::Directory::apply): the later one counts, but for revocations.
    fn change(&self, change: &Change) -> rusqlite::Result<()> {
        match change {
            Change::PlanSet(plan) => self.plan(plan)?,
            Change::TenantCreated(Tenant { id, plan, created_at, label, zone, tariff }) => {
                let sql = "INSERT OR REPLACE INTO tenants (id, plan, created_at, label, zone, tariff)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                let (label, tariff) = (ciphertext(label), tariff.as_deref().map(json));
                self.execute(sql, params![id.as_str(), plan.as_str(), created_at.0, label, zone.name(), tariff])?
            }
            Change::TenantChanged { id, plan, zone, tariff } => {
                let sql = "UPDATE tenants SET plan = ?2, zone = ?3, tariff = ?4 WHERE id = ?1";
                self.execute(sql, params![id.as_str(), plan.as_str(), zone.name(), tariff.as_deref().map(json)])?
            }
            Change::LimitsSet { scope, limits } => self.limits(scope, *limits)?,
            // The directory has them all in memory: nobody asks for them here.
            Change::PolicySet { .. }
            | Change::ServiceKeyCreated(_)
            | Change::ServiceKeyRevoked { .. }
            | Change::ApprovalAsked(_)
            | Change::ApprovalDecided { .. }
            | Change::ApprovalUsed { .. }
            | Change::OversightSet(_)
            | Change::ShareSet { .. } => 0,
            Change::ProjectCreated(Project { tenant, id, created_at, label }) => {
                let sql = "INSERT OR REPLACE INTO projects (tenant, id, created_at, label) VALUES (?1, ?2, ?3, ?4)";
                self.execute(sql, params![tenant.as_str(), id.as_str(), created_at.0, ciphertext(label)])?
            }
            Change::KeyCreated(key) => self.key(key)?,
            Change::KeyRevoked { id, at } => {
                let sql = "UPDATE keys SET revoked_at = COALESCE(revoked_at, ?2) WHERE id = ?1";
                self.execute(sql, params![id.as_str(), at.0])?
            }
        };
        Ok(())
    }

    fn plan(&self, plan: &Plan) -> rusqlite::Result<usize> {
        let Plan { id, tariff, tight_budget, key_limits, unpriced_hold, unbounded_hold } = plan;
        let tight_budget = match tight_budget {
            TightBudget::Refuse => "refuse",
            TightBudget::Clamp => "clamp",
        };
        self.execute(
            "INSERT OR REPLACE INTO plans (id, tariff, tight_budget, requests_per_minute, tokens_per_minute,
                parallel_requests, unpriced_hold, unbounded_hold)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                id.as_str(),
                json(tariff),
                tight_budget,
                key_limits.requests_per_minute,
                key_limits.tokens_per_minute.map(Bits),
                key_limits.parallel_requests,
                unpriced_hold.map(|hold| Bits(hold.0)),
                unbounded_hold.map(|hold| Bits(hold.0)),
            ],
        )
    }

    fn limits(&self, scope: &Scope, limits: Limits) -> rusqlite::Result<usize> {
        let [kind, tenant, part] = scope_columns(scope);
        self.execute(
            "INSERT OR REPLACE INTO limits (scope, tenant, part, requests_per_minute, tokens_per_minute,
                parallel_requests)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                kind,
                tenant,
                part,
                limits.requests_per_minute,
                limits.tokens_per_minute.map(Bits),
                limits.parallel_requests,
            ],
        )
    }

    /// All of a key but its digest, which nobody needs to query.
    fn key(&self, key: &ApiKey) -> rusqlite::Result<usize> {
        let ApiKey { id, tenant, project, digest: _, created_at, expires_at, revoked_at, .. } = key;
        let ApiKey { scopes, limits, label, .. } = key;
        self.execute(
            "INSERT OR REPLACE INTO keys (id, tenant, project, created_at, expires_at, revoked_at, scopes,
                requests_per_minute, tokens_per_minute, parallel_requests, label)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                id.as_str(),
                tenant.as_str(),
                project.as_str(),
                created_at.0,
                expires_at.map(|at| at.0),
                revoked_at.map(|at| at.0),
                scopes.names().join(" "),
                limits.requests_per_minute,
                limits.tokens_per_minute.map(Bits),
                limits.parallel_requests,
                ciphertext(label),
            ],
        )
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.transaction.prepare_cached(sql)?.execute(values)
    }
}

/// Kind, tenant and part of a scope, as they stand in the tables.
fn scope_columns(scope: &Scope) -> [String; 3] {
    let tenant = scope.tenant().map(ToString::to_string).unwrap_or_default();
    let part = match scope {
        Scope::Platform | Scope::Tenant(_) | Scope::EachEndUser(_) => String::new(),
        Scope::Plan(plan) | Scope::EachTenant(plan) => plan.to_string(),
        Scope::Project(_, project) => project.to_string(),
        Scope::Key(_, key) => key.to_string(),
        Scope::EndUser(_, user) => user.to_string(),
    };
    [scope.kind().to_owned(), tenant, part]
}

fn json(tariff: &Tariff) -> String {
    serde_json::to_string(tariff).expect("a tariff is plain data")
}

fn ciphertext(sealed: &Option<Sealed>) -> Option<&[u8]> {
    sealed.as_ref().map(|sealed| &*sealed.0)
}

// === opening ===

/// A connection that has not looked into the file yet.
fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, ViewError> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    Ok(connection)
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok((version, tables) == (0, 0))
}

/// All or nothing, the version too: a crash leaves an empty file or a whole one.
pub(crate) fn make_tables(
    connection: &mut Connection,
    schema: &str,
    application_id: i64,
    version: i64,
) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(schema)?;
    transaction.pragma_update(None, "application_id", application_id)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

fn check_version(connection: &Connection) -> Result<(), ViewError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(opening);
    match (pragma("application_id")?, pragma("user_version")?) {
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
        (APPLICATION_ID, version) => {
            Err(ViewError::Rebuild(format!("its schema has version {version}, this program's has {SCHEMA_VERSION}")))
        }
        _ => Err(ViewError::Rebuild("the file is some other database".to_owned())),
    }
}

fn read_position(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT sequence FROM position", [], |row| row.get(0)).map(|Bits(position)| position)
}

/// The database goes first: SQLite deletes a log that it finds beside no database, but would replay one that does not
/// belong to the database beside it.
#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

// === impl ViewError ===

impl From<rusqlite::Error> for ViewError {
    /// What cannot be read as what it should be was not written by us, or was damaged since.
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as Sql;
        let damaged =
            matches!(
                error,
                Sql::FromSqlConversionFailure(..)
                    | Sql::IntegralValueOutOfRange(..)
                    | Sql::InvalidColumnType(..)
                    | Sql::Utf8Error(..)
                    | Sql::QueryReturnedNoRows
            ) || matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
        if damaged { Self::Rebuild(error.to_string()) } else { Self::Database(error) }
    }
}

/// An error while opening. Here "no such table" and its like say that the file is not what it claims to be.
fn opening(error: rusqlite::Error) -> ViewError {
    match error.sqlite_error_code() {
        Some(ErrorCode::Unknown) => ViewError::Rebuild(error.to_string()),
        _ => error.into(),
    }
}
