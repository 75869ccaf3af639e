//! The models within small bounds, to their last state, in every test run; and that they can fail.

mod models;
mod program;
