//! Work handed to other processes over HTTP, and the processes that do it. A gateway authenticates, judges, holds and bills; a
//! worker has the models, and knows nothing of keys, policies or money. Between them goes: which route, whose share, which
//! texts, by when; and back: numbers, and the CPU time they took.
//!
//! `wire.rs` is what goes between them, `fleet.rs` the gateway's side, `server.rs` the worker's.

pub mod fleet;
pub mod server;
pub mod wire;
