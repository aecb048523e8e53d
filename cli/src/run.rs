//! `ebpf-hello run`: this machine, live, without a cluster.
//!
//! Events go to stdout from a thread of their own, everything else to stderr, so that a slow reader
//! holds up events (and makes them count as lost in the kernel) but never signals or the status.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use ebpf_hello_agent::{Counters, Node, NodeOptions};
use ebpf_hello_loader::{Exclusion, Options};
use ebpf_hello_policy::{Arch, DefaultAction, Filter, Subject, Table, builtin, compile};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{interval, sleep},
};

use crate::{
    args::{Default as DefaultArgument, RunArguments, Switch},
    control::Control,
    filters, ledger, printer,
    table::table,
};

/// How often readers of our output that came late are looked for.
const READERS: Duration = Duration::from_secs(1);
/// System calls shown in the counter table.
const TOP: usize = 10;

pub(crate) fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let (policy, names) = policy(arguments)?;
    let options = NodeOptions {
        load: load_options(arguments)?,
        node: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        policy,
        filters: names,
    };
    let (node, events) = Node::start(options).context("cannot start")?;
    let node = Arc::new(node);
    let (printer, stdout_gone) = printer::start(arguments.output, events, node.accounts())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let result = runtime.block_on(watch(arguments, &node, stdout_gone));
    node.drain().context("cannot drain")?;
    if printer.join().is_err() {
        anyhow::bail!("the printer's thread panicked");
    }
    print_ledger(&node, arguments.verbose)?;
    result
}

/// The policy of every process, and its filters' names.
fn policy(arguments: &RunArguments) -> anyhow::Result<(Table, Vec<String>)> {
    let filters = if arguments.filters.is_empty() {
        let default = match arguments.default {
            DefaultArgument::Trace => DefaultAction::Trace,
            DefaultArgument::Count => DefaultAction::Count,
            DefaultArgument::Ignore => DefaultAction::Ignore,
        };
        let filter = Filter::try_from(&builtin(default, Arch::host()))
            .map_err(|problems| anyhow::anyhow!("the built-in filter is invalid: {problems:?}"))?;
        vec![filter]
    } else {
        filters::load(&arguments.filters)?
    };
    let names = filters
        .iter()
        .map(|filter| filter.name().to_string())
        .collect();
    Ok((
        compile(&filters, &Subject::host(), Arch::host()).table,
        names,
    ))
}

fn load_options(arguments: &RunArguments) -> anyhow::Result<Options> {
    let ring_size = u32::try_from(arguments.ring_size.as_u64())
        .with_context(|| format!("--ring-size {} is more than 1GiB", arguments.ring_size))?;
    Ok(Options {
        tables: arguments.tables,
        ring_size,
        ring_shards: arguments.ring_shards.unwrap_or(0),
        process_events: arguments.process_events == Switch::On,
        exclusion: if arguments.include_self {
            Exclusion::Nobody
        } else {
            Exclusion::SelfAndAncestors
        },
        ..Options::default()
    })
}

/// Serves signals, timers and the control socket until it is time to end.
async fn watch(
    arguments: &RunArguments,
    node: &Arc<Node>,
    mut stdout_gone: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let control = Control::bind()?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut user = signal(SignalKind::user_defined1()).context("cannot handle SIGUSR1")?;
    let mut readers = interval(READERS);
    let mut counts = interval(arguments.counts.unwrap_or(Duration::MAX / 4));
    counts.reset();
    let end = sleep(arguments.duration.unwrap_or(Duration::MAX / 4));
    tokio::pin!(end);
    let serve = control.serve(node);
    tokio::pin!(serve);
    tracing::info!(
        pid = std::process::id(),
        "running; Ctrl-C ends, SIGUSR1 prints the ledger"
    );
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            // Whoever read us has seen enough.
            _ = &mut stdout_gone => return Ok(()),
            _ = user.recv() => print_ledger(node, arguments.verbose)?,
            _ = readers.tick() => node.find_readers()?,
            _ = counts.tick(), if arguments.counts.is_some() => print_counters(&node.counters()?),
            () = &mut serve => {}
        }
    }
}

fn print_counters(counters: &Counters) {
    let execs: Vec<_> = counters
        .execs
        .iter()
        .map(|count| [count.uid.to_string(), count.attempts.to_string()])
        .collect();
    let calls: Vec<_> = counters
        .syscalls
        .iter()
        .take(TOP)
        .map(|count| {
            [
                count.name.clone(),
                count.abi.to_owned(),
                count.calls.to_string(),
            ]
        })
        .collect();
    eprint!(
        "\n{}{}\n{}{}",
        table(["UID", "EXECS"], &execs),
        overflow(counters.execs_overflow),
        table(["SYSCALL", "ABI", "CALLS"], &calls),
        overflow(counters.syscalls_overflow),
    );
}

/// What found the counting map full, where anything did.
fn overflow(calls: u64) -> String {
    if calls == 0 {
        String::new()
    } else {
        format!("and {calls} more: the map is full\n")
    }
}

fn print_ledger(node: &Node, verbose: bool) -> anyhow::Result<()> {
    let ledger = node.ledger()?;
    eprintln!("{}", ledger::line(&ledger));
    if verbose {
        eprint!("{}", ledger::handlers(&ledger));
        eprintln!("{}", ledger::sequences(&node.sequences()?));
    }
    Ok(())
}
