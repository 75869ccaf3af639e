//! The gateway speaks: HTTP, the control API, metrics, configuration, the command line. It introduces the rooms to each
//! other and decides nothing itself.
//!
//! - [`http`]: the wire: routes, headers, bodies, and the one file that turns a refusal into an answer.
//! - [`pipeline`]: **the** request, one function from top to bottom; `attempts`: who is asked, and who next; [`stream`]: its
//!   way back when it is a stream.
//! - [`runtimes`]: models that run here, loaded and warm; `local`: a request to one of them.
//! - [`receipt`]: requests stated, signed, and verified.
//! - [`idempotent`]: requests that may be repeated and are charged once; [`twins`]: those of them that are under way.
//! - [`admin`]: the control plane, `/admin/v1`; [`access`]: who speaks to it; [`audit`]: what is noted of it.
//! - `coalesce`: small requests for embeddings, sent as one. [`workers`]: work handed to other processes.
//! - [`reconcile`]: a provider's bill against the ledger.
//! - [`app`]: what every request can reach; [`serve`]: workers, signals, an orderly end.
//! - [`laws`], [`decisions`]: policy bundles, and what they said lately.
//! - `digest`, [`alerts`], [`config`], [`command`], [`log`], [`metrics`], [`questions`].

pub mod access;
pub mod admin;
pub mod alerts;
pub mod app;
mod attempts;
pub mod audit;
mod coalesce;
pub mod command;
pub mod config;
pub mod decisions;
mod digest;
pub mod gate;
pub mod http;
pub mod idempotent;
pub mod laws;
pub mod local;
pub mod log;
pub mod metrics;
pub mod pipeline;
pub mod questions;
pub mod receipt;
pub mod reconcile;
pub mod runtimes;
pub mod serve;
pub mod stream;
pub mod twins;
pub mod workers;
