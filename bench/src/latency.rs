//! How soon something shows: the product from the outside, as a process that reads its stdout.
//!
//! Each figure is a percentile of one repetition; the median, minimum and maximum told are those over
//! the repetitions.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;

use crate::{
    executable,
    product::Product,
    results::Measurement,
    statistics::{Summary, percentile},
    suite::Selection,
    workload::{Generator, Slice},
};

/// A call that no program makes: Linux never implemented it.
const CALL: &str = "nfsservctl";
/// Longer than a reader takes to fall asleep after its last record: five rounds of 5 ms.
const IDLE: Duration = Duration::from_millis(60);
/// Calls per second while filters are edited: one every 0.2 ms.
const RATE: &str = "5000";
/// Calls of a burst.
const BURST: u32 = 1_000;

/// How often each is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    repetitions: u32,
    edits: u32,
    firsts: u32,
    bursts: u32,
}

/// A set of samples per repetition, told as two percentiles.
struct Kind {
    /// Names of the median and of the 99th percentile.
    names: [&'static str; 2],
    /// Milliseconds, for each.
    targets: [Option<f64>; 2],
}

const EDIT: Kind = Kind {
    names: [
        "edit/close-to-first-event/p50",
        "edit/close-to-first-event/p99",
    ],
    targets: [Some(50.0), Some(200.0)],
};
const FIRST: Kind = Kind {
    names: ["record/first-to-stdout/p50", "record/first-to-stdout/p99"],
    targets: [Some(5.0), Some(5.0)],
};
const LAST: Kind = Kind {
    names: [
        "record/last-of-burst-to-stdout/p50",
        "record/last-of-burst-to-stdout/p99",
    ],
    targets: [Some(20.0), Some(20.0)],
};

// === impl Extent ===

impl Extent {
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            Extent {
                repetitions: 1,
                edits: 3,
                firsts: 3,
                bursts: 3,
            }
        } else {
            Extent {
                repetitions: 5,
                edits: 100,
                firsts: 100,
                bursts: 50,
            }
        }
    }
}

// === impl Kind ===

impl Kind {
    fn is_wanted(&self, selection: &Selection) -> bool {
        self.names.iter().any(|name| selection.has(name))
    }

    /// One measurement for each percentile.
    fn tell(&self, repetitions: &[Vec<f64>]) -> anyhow::Result<Vec<Measurement>> {
        let tell = |place: usize, percent: f64| -> anyhow::Result<Measurement> {
            let figures: Vec<f64> = repetitions
                .iter()
                .filter_map(|samples| percentile(samples, percent))
                .collect();
            let Summary { median, min, max } =
                Summary::of(&figures).context("there was no repetition")?;
            Ok(Measurement {
                name: self.names[place],
                unit: "ms",
                median,
                min,
                max,
                runs: figures.len(),
                baseline: None,
                ratio: None,
                target: self.targets[place],
            })
        };
        Ok(vec![tell(0, 50.0)?, tell(1, 99.0)?])
    }
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    [EDIT, FIRST, LAST].into_iter().flat_map(|kind| kind.names)
}

pub(crate) fn measure(selection: &Selection, extent: Extent) -> anyhow::Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    if EDIT.is_wanted(selection) {
        measurements.extend(EDIT.tell(&repeat(extent, || edits(extent.edits))?)?);
    }
    if FIRST.is_wanted(selection) {
        measurements.extend(FIRST.tell(&repeat(extent, || records(extent.firsts, 1))?)?);
    }
    if LAST.is_wanted(selection) {
        measurements.extend(LAST.tell(&repeat(extent, || records(extent.bursts, BURST))?)?);
    }
    Ok(measurements)
}

fn repeat(
    extent: Extent,
    samples: impl Fn() -> anyhow::Result<Vec<f64>>,
) -> anyhow::Result<Vec<Vec<f64>>> {
    (0..extent.repetitions).map(|_| samples()).collect()
}

/// From the close() of an edited file to the line of the first event under what it says.
fn edits(count: u32) -> anyhow::Result<Vec<f64>> {
    let directory = tempfile::tempdir().context("cannot make a directory for filters")?;
    let file = directory.path().join("filter.yaml");
    drop(write(&file, 0)?);
    let product = Product::run(directory.path())?;
    let _calls = Calls::start()?;
    let mut generation = product.next()?.generation();
    let mut samples = Vec::new();
    for number in 1..=count {
        // Not in step with the reader's rounds.
        thread::sleep(Duration::from_micros(fastrand::u64(5_000..30_000)));
        generation = product.skip()?.unwrap_or(generation);
        let edited = write(&file, number)?;
        let closing = SystemTime::now();
        drop(edited);
        let first = loop {
            let arrival = product.next()?;
            if arrival.generation() > generation {
                break arrival;
            }
        };
        generation = first.generation();
        samples.push(first.since(closing));
    }
    Ok(samples)
}

/// Writes the filter's file, and leaves it open.
fn write(path: &Path, number: u32) -> anyhow::Result<File> {
    // Every edit means something else, else nothing would be programmed.
    let sampling = 1 + number % 2;
    let text = format!(
        "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: bench}}\n\
         spec:\n  host: true\n  rules:\n  - {{syscalls: [{CALL}], handler: Trace, sampling: {sampling}}}\n"
    );
    let mut file =
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

/// From the record in the kernel to its line, for the last of `burst` calls after a pause.
fn records(count: u32, burst: u32) -> anyhow::Result<Vec<f64>> {
    let directory = tempfile::tempdir().context("cannot make a directory for filters")?;
    drop(write(&directory.path().join("filter.yaml"), 0)?);
    let product = Product::run(directory.path())?;
    let mut generator = Generator::start(None, None)?;
    let mut samples = Vec::new();
    for _ in 0..count {
        thread::sleep(IDLE + Duration::from_micros(fastrand::u64(0..5_000)));
        product.expect_silence()?;
        generator.time(Slice {
            work: CALL,
            batches: 1,
            each: burst,
        })?;
        for _ in 1..burst {
            product.next()?;
        }
        samples.push(product.next()?.delay()?);
    }
    Ok(samples)
}

/// Calls at a steady rate, until this is dropped.
struct Calls(Child);

// === impl Calls ===

impl Calls {
    fn start() -> anyhow::Result<Self> {
        let child = Command::new(executable::generator()?)
            .args(["call", CALL, "1000000000", "--rate", RATE])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the generator")?;
        Ok(Calls(child))
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
