//! Requests per minute, tokens per minute and parallel requests, in memory, in every scope that a request falls under:
//! platform, plan, tenant, project, key and end user.
//!
//! `cell.rs` one rate, the arithmetic · `limiter.rs` one scope · `entry.rs` one request through all its scopes ·
//! `registry.rs` the scopes that exist · `end_users.rs` those that come and go. What the limits are is set elsewhere; how a
//! refusal looks on the wire is the gateway's.
//!
//! `now` must come from a clock that is never set back ([`tollgate_types::Clock::steady`]): what is used up is a time
//! ahead of now. A caller whose now is a little behind another's is judged the more strictly for it.

mod atomic;
mod cell;
mod end_users;
mod entry;
mod limiter;
mod registry;
#[cfg(test)]
mod tests;

pub use cell::{Allowance, Cell, Refused};
pub use end_users::{END_USERS_MAX, EndUsers};
pub use entry::{Entry, RateState, SCOPES_MAX, Scopes};
pub use limiter::{Kind, Limiter};
pub use registry::{Registry, limiter};
