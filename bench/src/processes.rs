//! What following processes costs them: exec alone, and a process's whole life.
//!
//! With process events off the programs still follow processes, which policies and `exec_id` need; they
//! report none. Each setting is a loaded kernel side of its own, attached for its slices.

use std::thread::{self, JoinHandle};

use anyhow::{Context as _, ensure};
use ebpf_hello_loader::{
    CgroupView, Kernel, LoadError, Options, Record, RecordError, Sink, StopHandle,
    abi::{Fate, Handler},
};

use crate::{
    machine::Place,
    results::Measurement,
    rounds::{self, Plan, Stage},
    suite::{Selection, Variant},
    workload::{Generator, Slice},
};

const EXEC: Slice = Slice {
    work: "exec",
    batches: 8,
    each: 10,
};
const LIFE: Slice = Slice {
    work: "fork-exec-exit",
    batches: 20,
    each: 2,
};

/// What follows processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Nothing,
    EventsOff,
    EventsOn,
}

/// Loaded programs and the thread that reads what they send.
struct Loaded {
    kernel: Kernel,
    stop: StopHandle,
    reader: JoinHandle<Result<(), LoadError>>,
    /// Execs seen when the slice began.
    before: u64,
}

/// Takes records; the reader counts them.
struct Discard;

struct Processes {
    off: Loaded,
    on: Loaded,
    generator: Generator,
}

pub(crate) fn variants() -> Vec<Variant<State>> {
    let variant = |name, slice, state, baseline| Variant {
        name,
        unit: "us",
        state,
        slice,
        baseline,
        target: None,
    };
    let (exec, life) = (
        "process/exec/nothing-attached",
        "process/fork-exec-exit/nothing-attached",
    );
    vec![
        variant(exec, EXEC, State::Nothing, None),
        variant(
            "process/exec/events-off",
            EXEC,
            State::EventsOff,
            Some(exec),
        ),
        variant("process/exec/events-on", EXEC, State::EventsOn, Some(exec)),
        variant(life, LIFE, State::Nothing, None),
        variant(
            "process/fork-exec-exit/events-off",
            LIFE,
            State::EventsOff,
            Some(life),
        ),
        variant(
            "process/fork-exec-exit/events-on",
            LIFE,
            State::EventsOn,
            Some(life),
        ),
    ]
}

pub(crate) fn measure(
    selection: &Selection,
    plan: Plan,
    place: &Place,
) -> anyhow::Result<Vec<Measurement>> {
    let variants = selection.of(variants());
    if variants.is_empty() {
        return Ok(Vec::new());
    }
    place.keep_apart()?;
    let mut stage = Processes {
        off: Loaded::load(false)?,
        on: Loaded::load(true)?,
        generator: Generator::start(Some(place.measured()), None)?,
    };
    let measured = rounds::measure(&mut stage, &variants, plan);
    stage.off.end()?;
    stage.on.end()?;
    place.release()?;
    measured
}

// === impl Loaded ===

impl Loaded {
    fn load(process_events: bool) -> anyhow::Result<Self> {
        let (kernel, reader) = Kernel::load(Options {
            process_events,
            ..Options::default()
        })?;
        let stop = reader.stop_handle();
        let reader = thread::spawn(move || reader.run(&mut Discard));
        Ok(Loaded {
            kernel,
            stop,
            reader,
            before: 0,
        })
    }

    /// Execs that were reported so far.
    fn execs(&self) -> anyhow::Result<u64> {
        let ledger = self.kernel.ledger()?;
        let lost = ledger.total(Fate::LostRingFull);
        ensure!(lost == 0, "{lost} process records were lost");
        Ok(ledger.get(Handler::ProcessExec, Fate::Seen)
            - ledger.get(Handler::ProcessExec, Fate::SelfExcluded))
    }

    fn attach(&mut self) -> anyhow::Result<()> {
        self.before = self.execs()?;
        Ok(self.kernel.attach_standing()?)
    }

    /// Detaches, and returns how many execs were reported since it was attached.
    fn detach(&mut self) -> anyhow::Result<u64> {
        self.kernel.detach()?;
        Ok(self.execs()? - self.before)
    }

    fn end(self) -> anyhow::Result<()> {
        self.stop.stop().context("cannot stop the reader")?;
        match self.reader.join() {
            Ok(read) => Ok(read?),
            Err(_) => anyhow::bail!("the reader panicked"),
        }
    }
}

// === impl Discard ===

impl Sink for Discard {
    fn cgroup(&mut self, _: CgroupView<'_>) {}

    fn record(&mut self, record: Record<'_>) {
        std::hint::black_box(&record);
    }

    fn malformed(&mut self, error: RecordError) {
        eprintln!("ebpf-hello-bench: a ring buffer held what is no record: {error}");
    }

    fn flush(&mut self) {}
}

impl Stage for Processes {
    type State = State;

    fn enter(&mut self, state: &State) -> anyhow::Result<()> {
        match state {
            State::Nothing => Ok(()),
            State::EventsOff => self.off.attach(),
            State::EventsOn => self.on.attach(),
        }
    }

    fn leave(&mut self, state: &State, calls: u64) -> anyhow::Result<()> {
        match state {
            State::Nothing => {}
            State::EventsOff => {
                let reported = self.off.detach()?;
                ensure!(
                    reported == 0,
                    "{reported} execs were reported with events off"
                );
            }
            State::EventsOn => {
                let reported = self.on.detach()?;
                ensure!(
                    reported >= calls,
                    "{reported} of {calls} execs were reported"
                );
            }
        }
        Ok(())
    }

    fn generator(&mut self) -> &mut Generator {
        &mut self.generator
    }
}
