//! `tollgate`: one program. What it does is said on its command line; see `tollgate --help`.

use std::process::ExitCode;

use clap::Parser;
use tollgate_gateway::command::{self, Cli};

/// Requests allocate many small short-lived pieces on every core, which is what mimalloc is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let _armed = tollgate_store::fault::arm_from_environment();
    command::run(Cli::parse())
}
