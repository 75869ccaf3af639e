//! The ledger remembers money: a reservation is *pending*, then *posted* or *voided*, or after a crash *indeterminate*
//! until it is posted. Nothing else moves money.
//!
//! Pure: no IO, no clock, no floats. Time is passed in, and what must outlive the process is handed to a [`Log`].
//!
//! - [`record`]: what the log holds, from which everything here can be made again.
//! - [`account`]: sums over one scope and window.
//! - [`ledger`]: the state machine: guards, then arithmetic, then the commit.
//! - [`books`]: the state machine and its log behind one short lock; reservations that give themselves back.
#![deny(clippy::float_arithmetic)]

pub mod account;
pub mod books;
pub mod ledger;
pub mod record;

pub use account::{Amounts, Sums};
pub use books::{Books, Log, LogUnavailable, MemoryLog, Reservation, Settlement};
pub use ledger::{Audit, BudgetState, Ledger, Rejected};
pub use record::{CapSet, Draft, Posted, Record, Reserved, Voided};
