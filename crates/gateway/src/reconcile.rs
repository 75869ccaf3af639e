//! A provider's bill against the ledger: reading the bill ([`bill`], [`simulator`], [`buckets`], amounts by [`amount`]),
//! taking apart what requests shared ([`shared`]), judging one request ([`verdict`]), comparing buckets ([`compare`]). Pure: files are opened by the command, the ledger
//! is asked and corrected by the control plane.

pub mod amount;
pub mod bill;
pub mod buckets;
pub mod compare;
pub mod shared;
pub mod simulator;
pub mod verdict;
