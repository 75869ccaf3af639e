//! The atomics that limiters count with, named in one place: `tests/interleavings.rs` compiles the files beside this one
//! a second time, over atomics that a scheduler interleaves.

pub use std::sync::atomic::{AtomicU32, Ordering};

/// Two machine words at once: `cmpxchg16b` on x86-64, `casp` or `ldxp`/`stxp` on AArch64.
pub use portable_atomic::AtomicU128;
