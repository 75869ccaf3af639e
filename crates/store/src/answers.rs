//! Answers to requests that bore an idempotency key, kept for a day so that a repeated request gets the same one.
//!
//! In a database of their own, sealed under their tenant's data key: whoever erases the tenant erases them. Not part of
//! the books: it may be deleted while the gateway is stopped, or thrown away when it is damaged. Then a repeated request
//! is told that the first was charged; it is never charged again.
//!
//! One thread writes, as many answers in one durable transaction as are waiting. Callers block: they are to be on a
//! thread that may.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use tollgate_types::directory::Sealed;
use tollgate_types::{Clock, RequestId, TenantId, Timestamp};

use crate::vault::{Vault, VaultError};
use crate::view::{columns, make_tables, remove};

/// How long an answer is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Largest body that is kept, in bytes.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// All answers together, in bytes; beyond it the oldest are dropped before their time.
pub const BYTES_MAX: u64 = 1 << 30;
/// Answers that wait to be written; who comes later waits for a place.
const QUEUE_MAX: usize = 64;
/// No further answer goes into a transaction of this many bytes.
const BATCH_BYTES: usize = 16 << 20;
/// How often old answers are dropped while no new ones come.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The write-ahead log is cut back to this.
const WAL_BYTES_MAX: i64 = 32 << 20;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Raise it with every change of the table: answers of another version are thrown away.
const SCHEMA_VERSION: i64 = 1;
/// Says of a file that it holds answers of ours: "tgan".
const APPLICATION_ID: i64 = 0x7467_616e;
const SCHEMA: &str = "
    CREATE TABLE answers (
        tenant TEXT NOT NULL,
        key BLOB NOT NULL,
        request BLOB NOT NULL,
        kept_at INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (tenant, key)
    ) STRICT;
    CREATE INDEX answers_by_age ON answers (kept_at);";

/// What was answered, as it is to be given again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub request: RequestId,
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// Keeps and finds answers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Answers {
    reading: Arc<Mutex<Connection>>,
    queue: SyncSender<Message>,
    vault: Arc<Vault>,
    clock: Clock,
}

#[derive(Debug)]
pub struct AnswersThread {
    queue: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum AnswersError {
    #[error("an answer of {0} bytes is larger than the {BODY_BYTES_MAX} that are kept")]
    TooLarge(usize),
    #[error("the kept answers: {0}")]
    Database(Arc<rusqlite::Error>),
    #[error("the kept answers cannot be made anew: {0}")]
    Remove(#[from] std::io::Error),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("a kept answer cannot be read: {0}")]
    Decode(#[from] postcard::Error),
    #[error("answers are not kept any more: the store is being closed")]
    Closed,
}

#[derive(Debug)]
enum Message {
    Keep(Keep),
    Stop,
}

/// A sealed answer on its way to the disk.
#[derive(Debug)]
struct Keep {
    tenant: TenantId,
    key: [u8; 16],
    request: RequestId,
    sealed: Sealed,
    done: SyncSender<Result<(), AnswersError>>,
}

/// What the thread holds for itself.
struct Writing {
    connection: Connection,
    queue: Receiver<Message>,
    clock: Clock,
    bytes_max: u64,
    /// Bytes of all answers. `None` until they were added up.
    bytes: Option<u64>,
}

// === impl Answers ===

impl Answers {
    /// Opens the answers, or begins anew where they are unusable, and starts the thread.
    pub fn start(path: &Path, vault: Arc<Vault>, clock: Clock) -> Result<(Self, AnswersThread), AnswersError> {
        Self::start_bounded(path, vault, clock, BYTES_MAX)
    }

    fn start_bounded(
        path: &Path,
        vault: Arc<Vault>,
        clock: Clock,
        bytes_max: u64,
    ) -> Result<(Self, AnswersThread), AnswersError> {
        let connection = match open(path) {
            Err(error) if is_unusable(&error) => {
                tracing::warn!(%error, path = %path.display(), "the kept answers are unusable and are thrown away");
                remove(path)?;
                open(path)?
            }
            opened => opened?,
        };
        let reading = Arc::new(Mutex::new(connect(path)?));
        let (queue, messages) = sync_channel(QUEUE_MAX);
        let writing = Writing { connection, queue: messages, clock: clock.clone(), bytes_max, bytes: None };
        let thread = thread::Builder::new().name("answers".into()).spawn(move || writing.run())?;
        let thread = AnswersThread { queue: queue.clone(), thread: Some(thread) };
        Ok((Self { reading, queue, vault, clock }, thread))
    }

    /// Keeps an answer. Once this returns it is durable.
    pub fn keep(&self, tenant: &TenantId, key: [u8; 16], answer: &Answer) -> Result<(), AnswersError> {
        if answer.body.len() > BODY_BYTES_MAX {
            return Err(AnswersError::TooLarge(answer.body.len()));
        }
        let sealed = self.vault.seal(tenant, &purpose(answer.request), &postcard::to_stdvec(answer)?)?;
        let (done, outcome) = sync_channel(1);
        let keep = Keep { tenant: tenant.clone(), key, request: answer.request, sealed, done };
        self.queue.send(Message::Keep(keep)).map_err(|_| AnswersError::Closed)?;
        outcome.recv().map_err(|_| AnswersError::Closed)?
    }

    /// The answer to the request that the key stands for, if it is kept.
    pub fn find(&self, tenant: &TenantId, key: [u8; 16], request: RequestId) -> Result<Option<Answer>, AnswersError> {
        let Some(sealed) = self.sealed(tenant, key, request)? else { return Ok(None) };
        let plain = self.vault.open_sealed(tenant, &purpose(request), &sealed)?;
        Ok(Some(postcard::from_bytes(&plain)?))
    }

    fn sealed(&self, tenant: &TenantId, key: [u8; 16], request: RequestId) -> Result<Option<Sealed>, AnswersError> {
        let sql = "SELECT sealed FROM answers WHERE tenant = ?1 AND key = ?2 AND request = ?3 AND kept_at > ?4";
        let kept_after = self.clock.now().minus(KEPT_FOR);
        let connection = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare_cached(sql)?;
        let found = statement
            .query_row(params![tenant.as_str(), key, columns::id_bytes(request), kept_after.0], |row| row.get(0))
            .optional()?;
        Ok(found.map(|bytes: Vec<u8>| Sealed(bytes.into())))
    }
}

/// Ties the ciphertext to its request, so that one answer cannot stand for another.
fn purpose(request: RequestId) -> String {
    format!("answer to {request}")
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = connect(path)?;
    let pragma = |connection: &Connection, name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 = connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (tables, pragma(&connection, "application_id")?) == (0, 0) {
        make_tables(&mut connection, SCHEMA, APPLICATION_ID, SCHEMA_VERSION)?;
    }
    if (pragma(&connection, "application_id")?, pragma(&connection, "user_version")?)
        != (APPLICATION_ID, SCHEMA_VERSION)
    {
        return Err(rusqlite::Error::InvalidQuery);
    }
    // An answer that somebody received is found again, whatever happens to the machine.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX)?;
    Ok(connection)
}

/// Whether the file is damaged, of another version, or something else altogether.
fn is_unusable(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::InvalidQuery | rusqlite::Error::InvalidColumnType(..))
        || matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
        )
}

// === impl AnswersThread ===

impl AnswersThread {
    /// Writes what waits, and ends the thread.
    pub fn stop(mut self) {
        self.stop_thread();
    }

    fn stop_thread(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // Nobody listening means that the thread has ended already.
        let _ = self.queue.send(Message::Stop);
        if thread.join().is_err() {
            tracing::error!("the thread that keeps answers panicked");
        }
    }
}

impl Drop for AnswersThread {
    fn drop(&mut self) {
        self.stop_thread();
    }
}

// === impl Writing ===

impl Writing {
    fn run(mut self) {
        loop {
            let mut batch = Vec::new();
            let mut stop = match self.queue.recv_timeout(SWEEP_EVERY) {
                Ok(Message::Keep(keep)) => {
                    batch.push(keep);
                    false
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => true,
                Err(RecvTimeoutError::Timeout) => false,
            };
            let mut bytes = 0;
            while !stop && !batch.is_empty() && bytes < BATCH_BYTES {
                match self.queue.try_recv() {
                    Ok(Message::Keep(keep)) => {
                        bytes += keep.sealed.0.len();
                        batch.push(keep);
                    }
                    Ok(Message::Stop) => stop = true,
                    Err(_) => break,
                }
            }
            if !stop || !batch.is_empty() {
                self.write_and_tell(batch);
            }
            if stop {
                return;
            }
        }
    }

    fn write_and_tell(&mut self, batch: Vec<Keep>) {
        let outcome = self.write(&batch).map_err(Arc::new);
        if let Err(error) = &outcome {
            tracing::error!(%error, "answers cannot be kept; who repeats their requests is told that they were charged");
            self.bytes = None;
        }
        for keep in batch {
            // A caller that does not wait any more has nothing to be told.
            let _ = keep.done.send(outcome.clone().map_err(AnswersError::Database));
        }
    }

    /// One durable transaction: drops what is too old, makes room, and writes.
    fn write(&mut self, batch: &[Keep]) -> rusqlite::Result<()> {
        let now = self.clock.now();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut bytes = match self.bytes {
            Some(bytes) => bytes,
            None => sum(&transaction, "SELECT LENGTH(sealed) FROM answers", [])?,
        };
        let too_old = "DELETE FROM answers WHERE kept_at <= ?1 RETURNING LENGTH(sealed)";
        bytes = bytes.saturating_sub(sum(&transaction, too_old, [now.minus(KEPT_FOR).0])?);
        for keep in batch {
            bytes = bytes.saturating_add(put(&transaction, keep, now)?);
        }
        while bytes > self.bytes_max {
            let oldest =
                "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers ORDER BY kept_at, rowid LIMIT 16)
                RETURNING LENGTH(sealed)";
            let dropped = sum(&transaction, oldest, [])?;
            if dropped == 0 {
                break;
            }
            bytes = bytes.saturating_sub(dropped);
        }
        transaction.commit()?;
        self.bytes = Some(bytes);
        Ok(())
    }
}

/// Writes one answer, and says how many bytes there are more of it.
fn put(transaction: &Transaction<'_>, keep: &Keep, now: Timestamp) -> rusqlite::Result<u64> {
    let Keep { tenant, key, request, sealed, .. } = keep;
    let sql = "INSERT INTO answers (tenant, key, request, kept_at, sealed) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (tenant, key) DO NOTHING";
    let values = params![tenant.as_str(), key, columns::id_bytes(*request), now.0, &*sealed.0];
    let written = transaction.prepare_cached(sql)?.execute(values)?;
    Ok(if written == 0 { 0 } else { sealed.0.len() as u64 })
}

fn sum(transaction: &Transaction<'_>, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<u64> {
    let mut statement = transaction.prepare_cached(sql)?;
    let mut sum = 0_u64;
    for bytes in statement.query_map(values, |row| row.get::<_, i64>(0))? {
        sum = sum.saturating_add(u64::try_from(bytes?).unwrap_or(0));
    }
    Ok(sum)
}

// === impl AnswersError ===

impl From<rusqlite::Error> for AnswersError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

#[cfg(test)]
mod tests;
