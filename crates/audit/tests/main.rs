//! The audit log without files: lines, trees beside somebody else's, notes, and views.

mod books;
mod lines;
mod notes;
mod rivals;
mod views;
