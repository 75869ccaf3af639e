//! HTTP, and nothing but: what came over the wire, what goes back. Only this crate knows the HTTP server.

pub mod body;
pub mod headers;
pub mod local;
pub mod refusal;
pub mod routes;
pub mod wire;
