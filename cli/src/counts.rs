//! `ebpf-hello counts`: what was counted in the kernel instead of reported.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use ebpf_hello_agent::GONE;
use ebpf_hello_policy::group;
use ebpf_hello_proto::v1::{Abi, CountersRow, GetCountersResponse};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    client::{Ending, observer, pages, runtime, selection::PlaceArgs},
    connect::ConnectArgs,
    page,
    render::human,
    table::table,
};

/// `counts`' command line.
#[derive(Debug, Args)]
pub(crate) struct CountsArgs {
    /// Show them again and again, this often, with what was added each second.
    #[arg(long, value_name = "DURATION", value_parser = crate::args::duration)]
    watch: Option<Duration>,
    /// How they are printed.
    #[arg(short, long, value_enum, default_value_t = CountsOutput::Text)]
    output: CountsOutput,
    /// Only of this system call, or a group such as @file.
    #[arg(long = "syscall", value_name = "NAME", value_delimiter = ',', value_parser = syscall)]
    syscalls: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How counters are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CountsOutput {
    /// Tables for people.
    Text,
    /// One JSON object per reading: a GetCountersResponse with all rows.
    Json,
}

/// What one counter counts: the agent's run, the place and the thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    node: String,
    epoch: u64,
    pod: String,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    Execs(Option<u32>),
    Calls(Option<u32>, i32),
}

/// The counters of one reading, to take differences from.
struct Reading {
    at: Instant,
    counts: HashMap<Key, u64>,
}

pub(crate) fn run(arguments: &CountsArgs) -> anyhow::Result<()> {
    runtime()?
        .block_on(counts(arguments))
        .with_context(|| arguments.connect.url())
}

async fn counts(arguments: &CountsArgs) -> anyhow::Result<()> {
    let mut ending = Ending::new()?;
    let mut client = observer(&arguments.connect).await?;
    let selection = arguments.place.selection();
    let mut before = None;
    let mut tick = interval(arguments.watch.unwrap_or(Duration::MAX / 4));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ending.wait() => return Ok(()),
            _ = tick.tick() => {}
        }
        let mut rows = tokio::select! {
            () = ending.wait() => return Ok(()),
            rows = pages::counters(&mut client, &selection) => rows?,
        };
        if !arguments.syscalls.is_empty() {
            keep(&mut rows, &arguments.syscalls);
        }
        let reading = Reading::new(&rows);
        let text = match arguments.output {
            CountsOutput::Json => json(rows)?,
            CountsOutput::Text => text(&rows, arguments.watch.is_some(), before.as_ref(), &reading),
        };
        if !page::print(text.as_bytes())? || arguments.watch.is_none() {
            return Ok(());
        }
        before = Some(reading);
        // A slow answer is not followed by a quick one: the rate between them would be none.
        tick.reset();
    }
}

/// A system call or a group, checked here because the server is not asked for it.
fn syscall(text: &str) -> Result<String, String> {
    let known = match text.strip_prefix('@') {
        Some(_) => group::find(text).is_some(),
        None => ebpf_hello_policy::syscall::known(text).is_some(),
    };
    if known {
        Ok(text.to_owned())
    } else {
        Err("expected the kernel's name of a system call, or a group such as @file".to_owned())
    }
}

/// Keeps the system calls that are named or in a group that is.
fn keep(rows: &mut Vec<CountersRow>, syscalls: &[String]) {
    let wanted = |name: &str| {
        syscalls.iter().any(|wanted| {
            wanted == name
                || group::find(wanted)
                    .is_some_and(|group| group.members().any(|member| member == name))
        })
    };
    for row in rows.iter_mut() {
        if let Some(counters) = &mut row.counters {
            counters.execs.clear();
            counters.execs_overflow = 0;
            counters.syscalls.retain(|count| wanted(&count.name));
        }
    }
    rows.retain(|row| {
        row.counters
            .as_ref()
            .is_some_and(|counters| !counters.syscalls.is_empty())
    });
}

fn json(rows: Vec<CountersRow>) -> anyhow::Result<String> {
    let all = GetCountersResponse {
        rows,
        ..GetCountersResponse::default()
    };
    let text = serde_json::to_string(&all).context("the counters cannot be written as JSON")?;
    Ok(text + "\n")
}

/// The tables; with `rates`, what was added each second since the reading before.
fn text(rows: &[CountersRow], rates: bool, before: Option<&Reading>, now: &Reading) -> String {
    let rate = |key: &Key, count: u64| {
        if rates {
            rate(before, now, key, count)
        } else {
            String::new()
        }
    };
    let mut execs = Vec::new();
    let mut calls = Vec::new();
    let (mut execs_overflow, mut calls_overflow) = (0u64, 0u64);
    for row in rows {
        let Some(counters) = &row.counters else {
            continue;
        };
        execs_overflow = execs_overflow.saturating_add(counters.execs_overflow);
        calls_overflow = calls_overflow.saturating_add(counters.syscalls_overflow);
        let (node, pod) = (human(&row.node), pod(row));
        for count in &counters.execs {
            execs.push([
                node.clone(),
                pod.clone(),
                count
                    .uid
                    .map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
                count.count.to_string(),
                rate(&Key::new(row, What::Execs(count.uid)), count.count),
            ]);
        }
        for count in &counters.syscalls {
            let name = match (count.name.as_str(), count.number) {
                ("", Some(number)) => number.to_string(),
                (name, _) => human(name),
            };
            calls.push([
                node.clone(),
                pod.clone(),
                name,
                abi(count.abi()),
                count.count.to_string(),
                rate(
                    &Key::new(row, What::Calls(count.number, count.abi)),
                    count.count,
                ),
            ]);
        }
    }
    let per_second = if rates { "PER SECOND" } else { "" };
    // The largest first, within their place.
    calls.sort_by_cached_key(|[node, pod, _, _, count, _]| {
        let count = count.parse::<u64>().unwrap_or_default();
        (node.clone(), pod.clone(), std::cmp::Reverse(count))
    });
    format!(
        "{}{}\n{}{}{}",
        table(["NODE", "POD", "UID", "EXECS", per_second], &execs),
        overflow(execs_overflow),
        table(
            ["NODE", "POD", "SYSCALL", "ABI", "CALLS", per_second],
            &calls
        ),
        overflow(calls_overflow),
        if rates { "\n" } else { "" },
    )
}

/// `NAMESPACE/POD`; a dash for what is in none.
fn pod(row: &CountersRow) -> String {
    if row.pod.is_empty() {
        "-".to_owned()
    } else if row.pod == GONE {
        // Of no namespace.
        GONE.to_owned()
    } else {
        format!("{}/{}", human(&row.namespace), human(&row.pod))
    }
}

fn abi(abi: Abi) -> String {
    let name = abi.as_str_name();
    let name = name.strip_prefix("ABI_").unwrap_or(name);
    name.to_ascii_lowercase()
}

/// What found the kernel's table full, where anything did.
fn overflow(count: u64) -> String {
    if count == 0 {
        String::new()
    } else {
        format!("and {count} more: the kernel's table was full\n")
    }
}

fn rate(before: Option<&Reading>, now: &Reading, key: &Key, count: u64) -> String {
    // What came into the row of pods that are gone was added long before, in others.
    let Some(before) = before.filter(|_| key.pod != GONE) else {
        return "-".to_owned();
    };
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    // A counter that was not there before began at zero.
    let added = count.saturating_sub(before.counts.get(key).copied().unwrap_or_default());
    if seconds > 0.0 {
        format!("{:.1}", added as f64 / seconds)
    } else {
        "-".to_owned()
    }
}

// === impl Key ===

impl Key {
    fn new(row: &CountersRow, what: What) -> Self {
        Key {
            node: row.node.clone(),
            epoch: row.epoch,
            pod: pod(row),
            what,
        }
    }
}

// === impl Reading ===

impl Reading {
    fn new(rows: &[CountersRow]) -> Self {
        let mut counts = HashMap::new();
        for row in rows {
            let Some(counters) = &row.counters else {
                continue;
            };
            for count in &counters.execs {
                counts.insert(Key::new(row, What::Execs(count.uid)), count.count);
            }
            for count in &counters.syscalls {
                let what = What::Calls(count.number, count.abi);
                counts.insert(Key::new(row, what), count.count);
            }
        }
        Reading {
            at: Instant::now(),
            counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_proto::v1::{Counters, ExecCount, SyscallCount};

    fn row(epoch: u64, execs: u64, reads: u64) -> CountersRow {
        CountersRow {
            node: "n1".into(),
            namespace: "shop".into(),
            pod: "cart-0".into(),
            epoch,
            counters: Some(Counters {
                execs: vec![ExecCount {
                    uid: Some(0),
                    count: execs,
                }],
                syscalls: vec![SyscallCount {
                    name: "read".into(),
                    number: Some(0),
                    abi: Abi::X8664.into(),
                    count: reads,
                }],
                syscalls_overflow: 7,
                ..Counters::default()
            }),
            ..CountersRow::default()
        }
    }

    #[test]
    fn counters_are_two_tables_and_what_did_not_fit() {
        let rows = [row(1, 5, 100)];
        assert_eq!(
            text(&rows, false, None, &Reading::new(&rows)),
            "NODE  POD          UID  EXECS\n\
             n1    shop/cart-0    0      5\n\
             \n\
             NODE  POD          SYSCALL  ABI     CALLS\n\
             n1    shop/cart-0  read     x86_64    100\n\
             and 7 more: the kernel's table was full\n"
        );
    }

    #[test]
    fn a_rate_is_what_was_added_by_the_same_run() {
        let first = [row(1, 5, 100)];
        let before = Reading::new(&first);
        let rate_of = |rows: &[CountersRow]| {
            let mut now = Reading::new(rows);
            now.at = before.at + Duration::from_secs(2);
            let count = rows[0].counters.as_ref().unwrap().syscalls[0].count;
            let key = Key::new(&rows[0], What::Calls(Some(0), Abi::X8664.into()));
            rate(Some(&before), &now, &key, count)
        };
        assert_eq!(rate_of(&[row(1, 5, 130)]), "15.0");
        // Another run began at zero.
        assert_eq!(rate_of(&[row(2, 5, 30)]), "15.0");
        let gone = CountersRow {
            namespace: String::new(),
            pod: GONE.into(),
            ..row(1, 5, 1_000_000)
        };
        assert_eq!(rate_of(&[gone]), "-");
    }

    #[test]
    fn calls_are_kept_by_name_and_group() {
        assert!(syscall("read").is_ok() && syscall("@file").is_ok());
        assert!(syscall("reed").is_err() && syscall("@nosuch").is_err());
        let mut rows = vec![row(1, 5, 100)];
        keep(&mut rows, &["read".into()]);
        assert_eq!(rows.len(), 1);
        keep(&mut rows, &["@timer".into()]);
        assert!(rows.is_empty());
    }
}
