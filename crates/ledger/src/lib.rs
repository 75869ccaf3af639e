//! The ledger remembers money: a reservation is *pending*, then *posted* or *voided*, or after a crash *indeterminate*
//! until it is posted. Nothing else moves money.
//!
//! Pure: no IO, no clock, no floats. Time is passed in, and what must outlive the process is handed to a [`Log`].
//!
//! - [`record`]: what the log holds, from which everything here can be made again.
//! - [`account`]: sums over one scope, its windows and their periods. `scopes`: all of them, each at a place of its own.
//! - [`ledger`]: the state machine: guards, then arithmetic, then the commit.
//! - [`idempotency`]: which request a caller's key stands for.
//! - [`books`]: the state machine and its log behind one short lock; reservations that give themselves back.
#![deny(clippy::float_arithmetic)]

pub mod account;
pub mod books;
pub mod idempotency;
pub mod ledger;
pub mod record;
mod scopes;

pub use account::{Amounts, Cap, Sums};
pub use books::{Books, Log, LogUnavailable, MemoryLog, Reservation, Settlement};
pub use idempotency::{Claim, Recollection, Use};
pub use ledger::{Alert, Audit, BudgetState, Ledger, Rejected};
pub use record::{Adjusted, CapSet, Draft, Extended, Idempotency, Posted, Record, Reserved, Voided};
