//! The gateway from outside, over its sockets: what callers, operators and providers see of it, and whether the books
//! agree with the truth of an upstream that counts for itself.
//!
//! [`world`] runs the gateway inside the test, [`program`] the real binary as a process of its own.

#![expect(clippy::disallowed_methods, reason = "tests make the files they hand over, and fill a disk on purpose")]

mod access;
mod alone;
mod audit;
mod boundary;
mod coalesce;
mod encoder;
mod fallbacks;
mod faults;
mod idempotency;
mod identity;
mod limits;
mod local;
mod money;
mod policy;
mod process;
mod program;
mod receipts;
mod reconcile;
mod refusals;
mod rivals;
mod runs;
mod scripted;
mod wire;
mod workers;
mod world;
