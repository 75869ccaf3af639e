//! A tenant's own law: bundles of Rego, loaded, compiled, fingerprinted, asked and tested. Pure: files and time are handed in.
//!
//! - [`bundle`]: what a bundle is made of, and what is refused of it. [`archive`]: the same as OPA's tar.gz. [`signature`]: by whom.
//! - [`reads`]: what a decision can read, found in the syntax tree, and what is refused there (`single`: values that could be two; `absent`: negations of what may be missing); the [`fingerprint`] is of just that.
//! - [`question`]: what a policy is asked. [`law`]: one bundle, compiled. [`layers`]: platform, plan and tenant, each narrowing.
//! - [`obligations`]: what the pipeline must do if it lets the request pass; [`redact`] is one of them. [`trial`]: a bundle's own tests, and their coverage; [`mutate`]: tests of those. [`explain`]: why. [`import`]: somebody else's policies in ours.

mod absent;
pub mod archive;
pub mod bundle;
pub mod explain;
pub mod fingerprint;
pub mod folder;
pub mod import;
pub mod law;
pub mod layers;
pub mod mutate;
pub mod obligations;
pub mod question;
pub mod reads;
pub mod redact;
pub mod schema;
pub mod signature;
mod single;
mod source;
pub mod trial;

pub use bundle::{Bundle, BundleError, File};
pub use fingerprint::Fingerprint;
pub use law::{Law, Undecided, Verdict};
pub use layers::{Decision, Denial, Layer, Layers};
pub use obligations::Obligations;
pub use question::Question;
