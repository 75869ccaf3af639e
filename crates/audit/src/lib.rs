//! The audit log: each record of the journal is one entry, each entry a leaf of a Merkle tree. So nobody can take an entry out,
//! change it or slip one in without every later root being another; and whoever kept a signed root can tell.
//!
//! Pure: no IO, no clock. Who writes the files is the store; who shows them, the gateway.
//!
//! - [`entry`]: from a record to a line of JSON. [`kind`]: what lines are called. [`heads`]: what the next line must know.
//! - [`tree`]: hashes, roots, proofs, as RFC 9162 has them. [`note`]: signed checkpoints, as c2sp.org has them.
//! - [`verify`]: a whole log from its files, entry by entry. [`view`]: what one tenant is given, and how it can tell.
//! - [`ocsf`]: an entry as other companies' tools read it.

pub mod entry;
pub mod heads;
pub mod kind;
pub mod note;
pub mod ocsf;
pub mod tree;
pub mod verify;
pub mod view;
