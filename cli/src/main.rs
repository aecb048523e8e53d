//! `ebpf-hello`: the one binary. Commands are modules; this only parses and dispatches.

mod access;
mod agent;
mod apiserver;
mod args;
mod arrival;
mod check;
mod client;
mod cluster;
mod collector;
mod connect;
mod control;
mod counts;
mod crd;
mod exit;
mod filters;
mod fleet;
mod ledger;
mod local;
mod logging;
mod manual;
mod monitor;
mod observe;
mod page;
mod pods;
mod printer;
mod readiness;
mod render;
mod run;
mod socket;
mod status;
mod table;
mod top;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start(arguments.log_format);
    let result = match &arguments.command {
        Command::Run(run) => run::run(run).map(|()| ExitCode::SUCCESS),
        Command::Agent(agent) => agent::run(agent).map(|()| ExitCode::SUCCESS),
        Command::Collector(collector) => collector::run(collector).map(|()| ExitCode::SUCCESS),
        Command::Observe(observe) => observe::run(observe).map(|()| ExitCode::SUCCESS),
        Command::Top(top) => top::run(top).map(|()| ExitCode::SUCCESS),
        Command::Counts(counts) => counts::run(counts).map(|()| ExitCode::SUCCESS),
        Command::Status(status) => status::status(status).map(|()| ExitCode::SUCCESS),
        Command::Check(check) => check::run(check),
        Command::Crd(crd) => crd::run(crd),
        Command::Arrival(arrival) => arrival::run(arrival).map(|()| ExitCode::SUCCESS),
        Command::Canary { .. } => Ok(ExitCode::SUCCESS),
        Command::Completions(completions) => {
            manual::completions(completions).map(|()| ExitCode::SUCCESS)
        }
        Command::Man(man) => manual::man(man).map(|()| ExitCode::SUCCESS),
    };
    exit::code(result)
}
