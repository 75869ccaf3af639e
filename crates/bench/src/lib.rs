//! Everything that looks at Tollgate from outside: the load generator, the side-by-side benchmark and the storm.
//!
//! It knows no other room of the house. It starts programs, talks HTTP to them, and reads `/proc`: so what it measures
//! and proves holds for the binary that ships, not for a build of its own.

pub mod admin;
#[cfg(test)]
mod canned;
pub mod clock;
pub mod disk;
pub mod http;
pub mod latency;
pub mod load;
pub mod nginx;
pub mod process;
pub mod procfs;
pub mod report;
pub mod schedule;
pub mod side_by_side;
pub mod sse;
pub mod stage;
pub mod storm;
