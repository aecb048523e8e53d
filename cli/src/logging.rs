//! Logs: structured, to stderr, never between events.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::args::LogFormat;

/// Environment variable with the level, in tracing's directive syntax.
const LEVEL: &str = "EBPF_HELLO_LOG";
/// What the libraries of the stores say in the course of their work is of no use to who runs us; what those of the API
/// server say, who watches it says better.
const DEFAULT: &str =
    "info,async_nats=warn,fjall=warn,lsm_tree=warn,kube_client=off,kube_runtime=off";

pub(crate) fn start(format: LogFormat) {
    let (filter, problem) = match std::env::var(LEVEL) {
        Err(_) => (EnvFilter::new(DEFAULT), None),
        Ok(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(DEFAULT), Some(error)),
        },
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        // They would be told on stderr, which is what failed: that panics.
        .log_internal_errors(false)
        .with_ansi(colour);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json()).init(),
    }
    if let Some(error) = problem {
        tracing::warn!(%error, "{LEVEL} is not a log filter, expected for example debug or info,ebpf_hello=trace; using info");
    }
}
