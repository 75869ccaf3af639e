//! Models that run here, on the CPU: text to tokens, to vectors, to labels.
//!
//! Pure work on what it is handed: no threads of its own, no clock, no queue (those are `serving`'s). Files are read where a
//! model or a head is loaded, and written by whoever asked for their bytes.

pub mod bounded;
pub mod classifier;
pub mod encoder;
pub mod head;
pub mod template;
