//! Exhaustive models of the money protocol, and its broken variants, which must fail.
//!
//! A model is a small program that says what may happen next, from every state; the checker ([stateright]) follows every
//! choice, to the last state, and looks at each whether the promises hold. So within its bounds a model is not tested but
//! checked completely. The bounds are small (two or three requests, amounts of a few units, a crash or two): mistakes
//! in protocols of this kind need few actors, and show in few steps. What is modelled, what is not, and how to read a
//! counterexample: `docs/decisions/0006-models.md`.
//!
//! This crate knows no crate of ours. It restates the protocol from the design, so that a mistake in the ledger is not
//! copied into its judge. Nothing keeps the two together but the tables below and those who read them: who changes the
//! one, changes the other.
//!
//! [`reserve`], one node:
//!
//! | action | in the code |
//! |---|---|
//! | `Ask` | `Books::reserve`: under one lock `Ledger::check` over all scopes, `apply`, `Log::append`. That a known key joins or replays is the design of `Idempotency-Key`, not built yet |
//! | `GroupCommit` | the journal's write and `fdatasync` of what is in its buffer; who waits for `durable(position)` goes on |
//! | `Send` | `durable(position)` was awaited, `Reservation::dispatched` answered `true`, the request goes to its provider |
//! | `Reply` | the provider: an answer with usage, one that breaks off, an error status |
//! | `Extend` | a larger hold before a dearer fallback: not built yet |
//! | `Settle` | `Reservation::post`, `Reservation::post_bounded`, `Reservation::void` |
//! | `GiveUp` | `Reservation`'s `Drop` and `Books::sweep`: the same records, whoever makes them |
//! | `Answer` | the pipeline lets the end of an answer go when its posting is durable |
//! | `LowerCap` | `Books::set_cap` |
//! | `Crash` | `kill -9`, or a failed fsync, after which the journal takes nothing more; then `Store::open` (replay of what the disk kept, the torn end cleared) and `Books::recover` |
//! | `Age` | `Books::settle_aged` |
//! | `Reconcile` | settling a doubt by the provider's usage record: not built yet |
//!
//! [`lease`], several nodes and an authority: not built yet. The model came first; its actions are the design's words.
//!
//! [stateright]: https://docs.rs/stateright

pub mod check;
pub mod lease;
pub mod report;
pub mod reserve;
pub mod trials;

/// Money in the models: small whole numbers, signed, so that a variant that takes too much goes below zero and is seen.
pub type Amount = i8;
