//! Times loops as told on stdin: the benchmarks' clock. A process of its own that lives from the first
//! measurement to the last, so that all of them have the same memory, CPU and cgroup.

use std::{
    io::{BufRead as _, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    str::FromStr,
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use crate::calls::{Number, enter, open_missing, pin, repeat};

/// The nice value that gets most of a CPU (sched(7)).
const HIGHEST_PRIORITY: i32 = -20;

#[derive(Debug, Args)]
pub(crate) struct MeasureArguments {
    /// Stay on this CPU.
    #[arg(long)]
    cpu: Option<usize>,
    /// Move into this cgroup v2 directory first.
    #[arg(long)]
    cgroup: Option<PathBuf>,
}

/// What is repeated.
#[derive(Clone, Debug)]
enum Work {
    /// A bare system call.
    Call(Number),
    /// `openat` of a file that is not there.
    OpenMissing,
    /// A child that runs this executable and ends.
    ForkExecExit,
    /// Execs of this executable, one after the other in one child.
    Exec,
}

/// One line of stdin: what, how many batches, how many of it in each.
struct Order {
    work: Work,
    batches: u32,
    each: u32,
}

// === impl Work ===

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "open-missing" => Work::OpenMissing,
            "fork-exec-exit" => Work::ForkExecExit,
            "exec" => Work::Exec,
            call => Work::Call(Number::parse(call)?),
        })
    }
}

impl Work {
    fn repeat(&self, count: u32) -> anyhow::Result<()> {
        match self {
            Work::Call(number) => repeat(number.number(), u64::from(count)),
            Work::OpenMissing => open_missing(count),
            Work::ForkExecExit => {
                for _ in 0..count {
                    run(&["exit", "0"])?;
                }
            }
            // To run the first of them is an exec too.
            Work::Exec => run(&["chain", &count.saturating_sub(1).to_string()])?,
        }
        Ok(())
    }
}

// === impl Order ===

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let [work, batches, each] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("{line:?} is not `WORK BATCHES EACH`"));
        };
        let number = |text: &str| {
            text.parse()
                .map_err(|error| format!("{text:?} is no count: {error}"))
        };
        Ok(Order {
            work: work.parse()?,
            batches: number(batches)?,
            each: number(each)?,
        })
    }
}

/// Answers every line of stdin with a line: the nanoseconds that each batch took.
pub(crate) fn measure(arguments: &MeasureArguments) -> anyhow::Result<()> {
    enter(arguments.cgroup.as_deref())?;
    if let Some(cpu) = arguments.cpu {
        pin(cpu)?;
    }
    // Other processes then rarely have this CPU within a batch; without the right to it they may.
    let _ = rustix::process::nice(HIGHEST_PRIORITY);
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read stdin")?;
        let order: Order = line.parse().map_err(anyhow::Error::msg)?;
        let mut taken = Vec::with_capacity(order.batches as usize);
        for _ in 0..order.batches {
            let start = Instant::now();
            order.work.repeat(order.each)?;
            taken.push(start.elapsed().as_nanos() as u64);
        }
        writeln!(out, "{}", json!(taken)).context("cannot write to stdout")?;
    }
    Ok(())
}

/// Execs this executable `left` times, one after the other, in the same process.
pub(crate) fn chain(left: u32) -> anyhow::Result<()> {
    let Some(next) = left.checked_sub(1) else {
        return Ok(());
    };
    let error = Command::new("/proc/self/exe")
        .args(["chain", &next.to_string()])
        .exec();
    Err(error).context("cannot exec this executable again")
}

fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .context("cannot run this executable")?;
    if !status.success() {
        bail!("{arguments:?} ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_work_batches_and_count() {
        let order: Order = "getppid 25 2000".parse().unwrap();
        assert!(matches!(order.work, Work::Call(_)));
        assert_eq!((order.batches, order.each), (25, 2000));
        for (line, mistake) in [
            ("getppid 25", "WORK BATCHES EACH"),
            ("getppid 25 many", "\"many\" is no count"),
            ("nonsense 1 1", "\"nonsense\""),
        ] {
            let error = line.parse::<Order>().err().unwrap();
            assert!(error.contains(mistake), "{error}");
        }
    }
}
