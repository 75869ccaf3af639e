//! Serving works: it reaches the providers and reads what they answer.
//!
//! - [`preset`]: known providers, as a table of data.
//! - [`provider`]: one configured provider.
//! - [`backend`]: the connections of one worker to one provider; an error says whether the work may have been done.
//! - [`top_level`]: finds the top-level members of a JSON object without rebuilding it.
//! - [`answer`]: what a whole answer says of its usage.
//! - [`local`]: the threads of a model that runs here, over one queue.
//! - [`meter`]: how much a stream has answered at least, against what was granted.
//! - [`schedule`]: which jobs a free worker of a local model takes, and which are refused. Pure.
//! - [`concurrency`]: how many requests at a time a provider bears. Pure.
//! - [`sse`]: reads a stream as it passes, line by line.

pub mod answer;
pub mod backend;
pub mod coalesce;
pub mod concurrency;
pub mod local;
pub mod meter;
pub mod preset;
pub mod provider;
pub mod schedule;
pub mod sse;
pub mod top_level;

pub use backend::{Answer, Backend, SendError};
pub use provider::{Provider, Secret, Timeouts};
