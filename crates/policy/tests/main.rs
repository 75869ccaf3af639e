//! Bundles from outside: what they decide, what they cost at worst, and what their fingerprint notices.

mod closed;
mod conformance;
mod decide;
mod explain;
mod fingerprint;
mod folder;
mod hostile;
mod import;
mod question;
mod shipped;
mod world;
