//! The generator, which makes calls and times them: one process for all measurements, pinned.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{executable, statistics::median};

/// One timed loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// A WORK of `ebpf-hello-generator measure`.
    pub(crate) work: &'static str,
    /// Portions that are timed, each on its own.
    pub(crate) batches: u32,
    /// How many in each.
    pub(crate) each: u32,
}

pub(crate) struct Generator {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

// === impl Slice ===

impl Slice {
    /// How many in all.
    pub(crate) fn total(self) -> u64 {
        u64::from(self.batches) * u64::from(self.each)
    }
}

// === impl Generator ===

impl Generator {
    /// Starts it on a CPU of its own, in a cgroup where one is given.
    pub(crate) fn start(cpu: Option<usize>, cgroup: Option<&Path>) -> anyhow::Result<Self> {
        let mut command = Command::new(executable::generator()?);
        command.arg("measure");
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        if let Some(directory) = cgroup {
            command.arg("--cgroup").arg(directory);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the generator")?;
        let orders = child.stdin.take().context("the generator has no stdin")?;
        let answers = child.stdout.take().context("the generator has no stdout")?;
        Ok(Generator {
            child,
            orders,
            answers: BufReader::new(answers),
        })
    }

    /// Nanoseconds of one call: the median of the slice's batches, so that a batch in which another
    /// process had the CPU is no part of it.
    pub(crate) fn time(&mut self, slice: Slice) -> anyhow::Result<f64> {
        let Slice {
            work,
            batches,
            each,
        } = slice;
        writeln!(self.orders, "{work} {batches} {each}").context("the generator takes no order")?;
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .context("the generator does not answer")?;
        ensure!(
            !line.is_empty(),
            "the generator ended: its message is above"
        );
        let taken: Vec<f64> = serde_json::from_str(&line)
            .with_context(|| format!("the generator answered {line:?}"))?;
        let batch = median(&taken).context("the generator timed nothing")?;
        Ok(batch / f64::from(each))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
