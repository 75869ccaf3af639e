//! What outlives the process. Only this room opens databases and writes files.
//!
//! - [`journal`]: the truth: every record, in order, durable.
//! - [`snapshot`]: the state at the end of a sealed segment, so that a start need not read the whole journal.
//! - [`view`]: SQLite, a view of the journal for questions; can be thrown away and made again.
//! - [`vault`]: keys at rest, in one file that is overwritten in place, so that a destroyed key is gone.
//! - [`prepared`]: files that are there whole or not at all. [`fault`]: where tests make all of it fail.
//! - [`audit`]: the audit log: the journal's records as entries of a Merkle log, signed.
//! - [`answers`]: what was answered to requests that may be repeated.
//! - [`store`](mod@store): all of it opened together, recovered after a crash; and [`verify`], which reads it all again.
//!
//! Layout of a store's folder:
//!
//! ```text
//! lock                    held while a process has the store open
//! keys                    the vault
//! journal/0000000001.journal ... , spare
//! snapshots/00000000000000000042.snapshot
//! prices/<when>-<sha256>.toml   price books that were pushed
//! audit/entries-00000000000000000000.jsonl ... , hashes, checkpoints, heads-00000000000000065536.note
//! view.sqlite
//! answers.sqlite          answers to requests with an idempotency key, for a day
//! ```

pub mod answers;
pub mod audit;
pub mod fault;
pub mod journal;
pub mod prepared;
pub mod projector;
pub mod snapshot;
pub mod store;
pub mod vault;
pub mod verify;
pub mod view;

pub use answers::{Answer, Answers};
pub use audit::AuditReader;
pub use journal::{Journal, JournalWriter, Sequence};
pub use store::{Store, StoreError, StoreOptions};
pub use vault::Vault;
