//! `ebpf-hello`: the one binary. Commands are modules; this only parses and dispatches.

mod args;
mod control;
mod exit;
mod filters;
mod ledger;
mod logging;
mod printer;
mod render;
mod run;
mod status;
mod table;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start(arguments.log_format);
    let result = match &arguments.command {
        Command::Run(run) => run::run(run),
        Command::Status(status) => status::status(status),
    };
    exit::code(result)
}
