//! `ebpf-hello crd`: the custom resource definitions, printed for `kubectl apply -f -`, or applied.

mod apply;

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ebpf_hello_policy::crd::crds_yaml;

use crate::args::duration;

/// `crd`'s command line.
#[derive(Debug, Args)]
pub(crate) struct CrdArgs {
    #[command(subcommand)]
    command: Option<CrdCommand>,
}

/// What to do instead of printing.
#[derive(Debug, Subcommand)]
enum CrdCommand {
    /// Apply them to a cluster, whatever version it has, and wait until its API server serves them.
    Apply(ApplyArgs),
}

#[derive(Debug, Args)]
struct ApplyArgs {
    /// How to reach the API server [default: as kubectl does, else as the pod's ServiceAccount].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How long to wait until they are served.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

/// Prints both definitions as one YAML stream, or applies them.
pub(crate) fn run(arguments: &CrdArgs) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        None => std::io::stdout()
            .write_all(crds_yaml().as_bytes())
            .context("cannot write to stdout")?,
        Some(CrdCommand::Apply(apply)) => crate::client::runtime()?
            .block_on(apply::apply(apply.kubeconfig.as_deref(), apply.timeout))?,
    }
    Ok(ExitCode::SUCCESS)
}
