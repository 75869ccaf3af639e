//! How far a long command is. Whoever reads the output from a file or a pipe is not told.

use std::io::{IsTerminal, Write};

/// Shows a line on a terminal, in place of the one before.
pub fn show_progress(what: &str) {
    let mut err = std::io::stderr().lock();
    if err.is_terminal() {
        let _ = write!(err, "\r\x1b[K{what}").and_then(|()| err.flush());
    }
}

pub fn end_progress() {
    show_progress("");
}
