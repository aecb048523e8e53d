//! `ebpf-hello crd`: prints the custom resource definitions, for `kubectl apply -f -`.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use ebpf_hello_policy::crd::crds_yaml;

/// `crd`'s command line: nothing to choose.
#[derive(Debug, Args)]
pub(crate) struct CrdArgs {}

/// Prints both definitions as one YAML stream.
pub(crate) fn run(_: &CrdArgs) -> anyhow::Result<ExitCode> {
    std::io::stdout()
        .write_all(crds_yaml().as_bytes())
        .context("cannot write to stdout")?;
    Ok(ExitCode::SUCCESS)
}
