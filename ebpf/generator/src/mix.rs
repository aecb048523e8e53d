//! Several calls, each at a rate of its own, until stdin ends: what a policy is edited under.

use std::{
    io::Read as _,
    path::PathBuf,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::calls::{Number, allowed_cpus, enter, pin, repeat};

/// The portion of a second in which the rates are kept.
const PORTION: Duration = Duration::from_millis(1);
const PORTIONS_PER_SECOND: u64 = 1000;
/// Without a call for longer, a rate was not kept: nanoseconds.
const GAP: u64 = 5_000_000;

#[derive(Debug, clap::Args)]
pub(crate) struct MixArguments {
    /// Calls by name or number, and how many a second: `getppid=100000`.
    #[arg(required = true)]
    rates: Vec<Rate>,
    /// Threads that share the rates.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Keep each thread on one CPU, in turn.
    #[arg(long)]
    pin: bool,
    /// Move into this cgroup v2 directory first.
    #[arg(long)]
    cgroup: Option<PathBuf>,
}

/// One call, and how many a second.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    number: Number,
    per_second: u64,
}

/// Nanoseconds of the wall clock, start and end.
type Span = (u64, u64);

/// What one thread did.
struct Done {
    /// By rate.
    made: Vec<u64>,
    lived: Span,
    gaps: Vec<Span>,
}

// === impl Rate ===

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, rate) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not CALL=RATE"))?;
        Ok(Rate {
            number: Number::parse(number)?,
            per_second: rate
                .parse()
                .map_err(|error| format!("the rate {rate:?}: {error}"))?,
        })
    }
}

/// Makes the calls. The report tells when nobody made any: `gaps`, pairs of wall-clock nanoseconds.
pub(crate) fn mix(arguments: &MixArguments) -> anyhow::Result<Value> {
    enter(arguments.cgroup.as_deref())?;
    let cpus = allowed_cpus()?;
    let stop = AtomicBool::new(false);
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.threads as usize)
            .map(|index| {
                let (stop, cpu) = (&stop, cpus[index % cpus.len()]);
                scope.spawn(move || -> anyhow::Result<Done> {
                    if arguments.pin {
                        pin(cpu)?;
                    }
                    Ok(keep(&arguments.rates, u64::from(arguments.threads), stop))
                })
            })
            .collect();
        // An error is an end too.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut done = Vec::new();
    for result in results {
        match result {
            Ok(result) => done.push(result?),
            Err(_) => bail!("a thread panicked"),
        }
    }
    report(&arguments.rates, &done)
}

fn keep(rates: &[Rate], threads: u64, stop: &AtomicBool) -> Done {
    let mut made = vec![0; rates.len()];
    let mut gaps = Vec::new();
    let start = wall();
    let mut last = start;
    let mut next = Instant::now();
    let mut portion = 0;
    while !stop.load(Ordering::Relaxed) {
        portion += 1;
        let before = wall();
        for (rate, made) in rates.iter().zip(&mut made) {
            let due = rate.per_second * portion / (PORTIONS_PER_SECOND * threads);
            repeat(rate.number.number(), due - *made);
            *made = due;
        }
        let after = wall();
        gaps.extend(
            [(last, before), (before, after)]
                .iter()
                .filter(|gap| is_long(gap)),
        );
        last = after;
        next += PORTION;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Done {
        made,
        lived: (start, last),
        gaps,
    }
}

fn report(rates: &[Rate], done: &[Done]) -> anyhow::Result<Value> {
    let first = done.first().context("no thread ran")?;
    let start = done.iter().map(|done| done.lived.0).min();
    let end = done.iter().map(|done| done.lived.1).max();
    let (start, end) = (start.unwrap_or(first.lived.0), end.unwrap_or(first.lived.1));
    // Where one thread paused and another did not, calls were made.
    let gaps = done
        .iter()
        .map(|done| {
            let (from, to) = done.lived;
            [&[(start, from)], done.gaps.as_slice(), &[(to, end)]].concat()
        })
        .reduce(|ours, theirs| both(&ours, &theirs))
        .unwrap_or_default();
    let total = |index: usize| done.iter().map(|done| done.made[index]).sum::<u64>();
    let made: serde_json::Map<_, _> = rates
        .iter()
        .enumerate()
        .map(|(index, rate)| (rate.number.text().to_owned(), json!(total(index))))
        .collect();
    Ok(json!({
        "pid": std::process::id(),
        "made": made,
        "total": (0..rates.len()).map(total).sum::<u64>(),
        "start": start,
        "end": end,
        "gaps": gaps,
    }))
}

/// What lies in both lists, where it is long enough.
fn both(ours: &[Span], theirs: &[Span]) -> Vec<Span> {
    let pairs = ours
        .iter()
        .flat_map(|our| theirs.iter().map(move |their| (our, their)));
    pairs
        .map(|(our, their)| (our.0.max(their.0), our.1.min(their.1)))
        .filter(is_long)
        .collect()
}

fn is_long(gap: &Span) -> bool {
    gap.1.saturating_sub(gap.0) > GAP
}

fn wall() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    // A clock that stands before 1970 shows 1970.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_where_every_thread_paused() {
        let (long, short) = (2 * GAP, GAP / 2);
        let ours = [(0, long), (10 * GAP, 12 * GAP)];
        let theirs = [(short, 3 * GAP), (11 * GAP + short, 20 * GAP)];
        assert_eq!(both(&ours, &theirs), [(short, long)]);
    }

    #[test]
    fn a_rate_has_a_call_and_a_number() {
        assert_eq!("getppid=5".parse::<Rate>().unwrap().per_second, 5);
        for wrong in ["getppid", "getppid=", "getppid=x", "nonsense=5"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
