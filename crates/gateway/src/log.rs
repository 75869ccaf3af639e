//! The log: to standard error, filtered, as text or JSON. It never holds a prompt, a key or a secret.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::config::RawLog;

pub fn start(log: &RawLog) -> Result<()> {
    let filter =
        EnvFilter::try_new(&log.filter).with_context(|| format!("log.filter: {:?} is not a filter", log.filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = if log.json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| anyhow::anyhow!("the log cannot be started: {error}"))
}
