//! `tollgate`: one program. What it does is said on its command line; see `tollgate --help`.

use std::process::ExitCode;

use clap::Parser;
use tollgate_gateway::command::{self, Cli};

fn main() -> ExitCode {
    let _armed = tollgate_store::fault::arm_from_environment();
    command::run(Cli::parse())
}
