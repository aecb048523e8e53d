//! `ebpf-hello`: the one binary. Commands are modules; this only parses and dispatches.

mod args;
mod check;
mod control;
mod crd;
mod exit;
mod filters;
mod ledger;
mod logging;
mod monitor;
mod printer;
mod readiness;
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
        Command::Run(run) => run::run(run).map(|()| ExitCode::SUCCESS),
        Command::Status(status) => status::status(status).map(|()| ExitCode::SUCCESS),
        Command::Check(check) => check::run(check),
        Command::Crd(crd) => crd::run(crd),
        Command::Canary { .. } => Ok(ExitCode::SUCCESS),
    };
    exit::code(result)
}
