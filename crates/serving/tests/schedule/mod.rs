//! The scheduler: against other people's rules on simulated time, and what it promises whatever happens to it.

mod fairness;
mod promises;
mod rules;
mod simulated;
mod work;
