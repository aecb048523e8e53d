//! The command line.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ebpf_hello_loader::{Exclusion, Options};

/// Live kernel events: what is running, in which pod, at what cost.
#[derive(Debug, Parser)]
#[command(name = "ebpf-hello", version, about, disable_help_subcommand = true)]
#[command(
    after_help = "Exit status: 0 done, 1 failed or invalid input, 2 wrong usage, 3 no privilege,\n\
                        4 the kernel lacks something, 5 a program was rejected, 6 the server cannot be reached."
)]
pub(crate) struct Arguments {
    /// How logs are written, always to stderr. Their level: EBPF_HELLO_LOG, default info.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Observe this machine: load, attach, print live events until Ctrl-C.
    Run(RunArguments),
    /// Observe this machine and publish to a collector: what the DaemonSet runs.
    Agent(crate::agent::AgentArguments),
    /// Take what agents publish, keep it, and serve it to people and programs.
    Collector(Box<crate::collector::CollectorArguments>),
    /// Show events from a server: a collector, or this machine's instance.
    Observe(Box<crate::observe::ObserveArgs>),
    /// Show live who makes which calls, and how often.
    Top(Box<crate::top::TopArgs>),
    /// Show what was counted instead of reported.
    Counts(crate::counts::CountsArgs),
    /// Show this machine's instance, or every node a server knows.
    Status(StatusArguments),
    /// Validate filters and explain what they do. Needs no root and no cluster.
    Check(crate::check::CheckArgs),
    /// Print the custom resource definitions, or apply them to a cluster.
    Crd(crate::crd::CrdArgs),
    /// Execute a program, and wait for its event: what `helm test` runs.
    #[command(hide = true)]
    Arrival(Box<crate::arrival::ArrivalArgs>),
    /// End at once: to be seen executing (readiness.rs).
    #[command(hide = true)]
    Canary {
        /// What tells this canary from others.
        nonce: String,
    },
    /// Print the completions of a shell.
    Completions(crate::manual::CompletionsArgs),
    /// Print the manual page of a command.
    Man(crate::manual::ManArgs),
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object per line.
    Json,
}

/// How events are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Time, pid, uid, name, and what happened in words.
    Compact,
    /// More columns: node, parent, thread, cgroup, policy, arguments.
    Wide,
    /// One JSON object per line: the event's canonical proto3 JSON.
    Json,
    /// A field per line, a blank line between events.
    Dict,
}

/// What happens to a system call that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Default {
    /// An event with number and arguments.
    Trace,
    /// Counted, no event.
    Count,
    /// Nothing.
    Ignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// How events are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Compact)]
    pub(crate) output: Output,
    /// Files or folders with ClusterSyscallFilters, in place of the built-in policy.
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "default")]
    pub(crate) filters: Vec<PathBuf>,
    /// What the built-in policy does with calls it does not name.
    #[arg(long, value_enum, default_value_t = Default::Count)]
    pub(crate) default: Default,
    /// Print exec counters per user and the top system calls to stderr, this often.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) counts: Option<Duration>,
    /// End after this time.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    #[command(flatten)]
    pub(crate) node: NodeArguments,
    /// Unix socket to serve observers on [default: unix:///run/ebpf-hello/observer.sock].
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<ebpf_hello_collector::access::Listen>,
    /// Show the ledger of each handler at the end.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// How a node is observed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArguments {
    /// Report exec, fork and exit of every process.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub(crate) process_events: Switch,
    /// Report also what this program, its ancestors and the readers of its output do.
    #[arg(long)]
    pub(crate) include_self: bool,
    /// Tail-call tables to make room for, 1 to 4096.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) tables: u32,
    /// Size of each ring buffer, a power of two from one page to 1GiB.
    #[arg(long, value_name = "SIZE", default_value = "4MiB")]
    pub(crate) ring_size: ByteSize,
    /// Ring buffers to spread CPUs over: 1, 2, 4 or 8 [default: by the number of CPUs].
    #[arg(long, value_name = "N")]
    pub(crate) ring_shards: Option<u32>,
    /// Replace what this regular expression matches in arguments and paths by "[redacted]" (of one with groups:
    /// what these match), besides passwords, tokens and keys that are known as such. `none` leaves those alone.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) redact: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Which instance, where several run on this machine: its process id.
    #[arg(long, value_name = "PID", conflicts_with = "server")]
    pub(crate) instance: Option<u32>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    pub(crate) output: StatusOutput,
    /// Print nothing; exit status 0 only if the instance, or the server, is well. For container probes.
    #[arg(long, conflicts_with = "output")]
    pub(crate) probe: bool,
    #[command(flatten)]
    pub(crate) connect: crate::connect::ConnectArgs,
}

/// How status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusOutput {
    /// Tables for people.
    Text,
    /// One JSON object.
    Json,
}

/// The machine's name, where no other is given.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

// === impl NodeArguments ===

impl NodeArguments {
    /// How to load the programs. `--include-self` overrides the exclusion.
    pub(crate) fn load_options(&self, exclusion: Exclusion) -> anyhow::Result<Options> {
        let ring_size = u32::try_from(self.ring_size.as_u64())
            .with_context(|| format!("--ring-size {} is more than 1GiB", self.ring_size))?;
        Ok(Options {
            tables: self.tables,
            ring_size,
            ring_shards: self.ring_shards.unwrap_or(0),
            process_events: self.process_events == Switch::On,
            exclusion: if self.include_self {
                Exclusion::Nobody
            } else {
                exclusion
            },
            ..Options::default()
        })
    }
}

/// A time such as `10s`, `500ms` or `1m30s`, greater than zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; expected a time such as 10s or 500ms"))?;
    if duration.is_zero() {
        return Err("must be greater than zero".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_duration_has_a_unit_and_is_not_zero() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("10").is_err());
        assert!(duration("0s").unwrap_err().contains("greater than zero"));
    }
}
