//! `ebpf-hello run`: this machine, live, without a cluster.
//!
//! Events go to stdout from threads of their own, everything else to stderr, so that a slow reader
//! holds up events (and makes them count as lost in the kernel) but never signals, the status or the
//! end: what it has not taken by then counts as lost too.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use anyhow::Context as _;
use ebpf_hello_agent::{Node, NodeOptions, Policy, Redactor, epoch};
use ebpf_hello_loader::Exclusion;
use ebpf_hello_policy::{Arch, DefaultAction, Filter, builtin};
use ebpf_hello_proto::v1::Counters;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{interval, sleep},
};

use crate::{
    args::{Default as DefaultArgument, RunArguments, host_name},
    control::Control,
    filters::{self, Watcher},
    ledger,
    local::Local,
    page, printer, readiness,
    table::table,
};

/// How often late readers of our output and new cgroups are looked for.
const TICK: Duration = Duration::from_secs(1);
/// System calls shown in the counter table.
const TOP: usize = 10;

pub(crate) fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let options = NodeOptions {
        load: arguments.node.load_options(Exclusion::SelfAndAncestors)?,
        node: host_name(),
        epoch: epoch::from_clock(),
        policy: Policy::of(filters(arguments)?),
        redactor: Redactor::new(&arguments.node.redact)?,
        identity: None,
    };
    let (node, events) = Node::start(options).context("cannot start")?;
    let node = Arc::new(node);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let local = Arc::new(runtime.block_on(Local::start(&node, arguments.listen.as_ref()))?);
    let offered = Arc::clone(&local);
    let events = events.inspect(move |batch| offered.offer(batch));
    let (printer, stdout_gone) = printer::start(arguments.output, events, node.accounts())?;
    let result = runtime.block_on(watch(arguments, &node, &local, stdout_gone));
    printer.end();
    node.drain().context("cannot drain")?;
    printer.join()?;
    if let Some(local) = Arc::into_inner(local) {
        runtime.block_on(local.drain())?;
    }
    print_ledger(&node, arguments.verbose)?;
    result
}

/// The filters to start with.
fn filters(arguments: &RunArguments) -> anyhow::Result<Vec<Filter>> {
    if !arguments.filters.is_empty() {
        return filters::load(&arguments.filters);
    }
    let default = match arguments.default {
        DefaultArgument::Trace => DefaultAction::Trace,
        DefaultArgument::Count => DefaultAction::Count,
        DefaultArgument::Ignore => DefaultAction::Ignore,
    };
    let filter = Filter::try_from(&builtin(default, Arch::host()))
        .map_err(|problems| anyhow::anyhow!("the built-in filter is invalid: {problems:?}"))?;
    Ok(vec![filter])
}

/// Serves signals, timers and the control socket until it is time to end.
async fn watch(
    arguments: &RunArguments,
    node: &Arc<Node>,
    local: &Local,
    mut stdout_gone: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let control = Control::bind()?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut user = signal(SignalKind::user_defined1()).context("cannot handle SIGUSR1")?;
    let mut tick = interval(TICK);
    let mut watcher = Watcher::new(&arguments.filters)?;
    let mut counts = interval(arguments.counts.unwrap_or(Duration::MAX / 4));
    counts.reset();
    let end = sleep(arguments.duration.unwrap_or(Duration::MAX / 4));
    tokio::pin!(end);
    let serve = control.serve(node);
    tokio::pin!(serve);
    let canaries = readiness::watch(node);
    tokio::pin!(canaries);
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
            _ = tick.tick() => {
                node.find_readers()?;
                if let Err(error) = node.sweep() {
                    tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "cannot follow the cgroups");
                }
                local.report(node.report(env!("CARGO_PKG_VERSION"))?);
            }
            () = watcher.changed() => filters::reload(&arguments.filters, node),
            _ = counts.tick(), if arguments.counts.is_some() => print_counters(&node.counters()?),
            () = &mut serve => {}
            () = &mut canaries => {}
        }
    }
}

fn print_counters(counters: &Counters) {
    let mut execs: Vec<_> = counters.execs.iter().collect();
    execs.sort_by_key(|row| Reverse(row.count));
    let execs: Vec<_> = execs
        .into_iter()
        .map(|row| [row.uid().to_string(), row.count.to_string()])
        .collect();
    let mut calls: Vec<_> = counters.syscalls.iter().collect();
    calls.sort_by_key(|row| Reverse(row.count));
    let calls: Vec<_> = calls
        .into_iter()
        .take(TOP)
        .map(|row| [row.name.clone(), row.abi().label(), row.count.to_string()])
        .collect();
    let text = format!(
        "\n{}{}\n{}{}",
        table(["UID", "EXECS"], &execs),
        overflow(counters.execs_overflow),
        table(["SYSCALL", "ABI", "CALLS"], &calls),
        overflow(counters.syscalls_overflow),
    );
    page::tell(text.trim_end());
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
    page::tell(&ledger::line(&ledger));
    if verbose {
        let handlers = ledger::handlers(&ledger);
        let sequences = ledger::sequences(&node.sequences()?);
        page::tell(&format!("{handlers}{sequences}"));
    }
    Ok(())
}
