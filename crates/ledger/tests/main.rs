//! The ledger, tested from outside: by tables, by threads, by random interleavings, and against its rivals' failures.

mod books;
mod corners;
mod double_entry;
mod growing;
mod idempotency;
mod oracle;
mod properties;
mod rivals;
mod table;
mod world;
