//! What a system call costs its caller, from nothing attached to an event for each.
//!
//! Policies are filters as anyone writes them, given to a [`Node`]: the whole product but its output,
//! which runs on another CPU and is not the caller's time. After each slice the ledger must say that
//! the calls met the fate that the variant is named after.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use ebpf_hello_agent::{Node, NodeOptions, Outcome, Redactor};
use ebpf_hello_loader::{EmptyProgram, Options};
use ebpf_hello_policy::Filter;
use ebpf_hello_proto::v1::Ledger;

use crate::{
    cgroup::Cgroup,
    machine::Place,
    policies::Policy,
    results::Measurement,
    rounds::{self, Plan, Stage},
    suite::{Selection, Variant},
    workload::{Generator, Slice},
};

/// Room for the records of a slice, so that none is lost while the reader gets its turn.
const RING_BYTES: u32 = 64 << 20;
/// How long records may take from the ring to their end.
const DRAIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(1);

const GETPPID: Slice = Slice {
    work: "getppid",
    batches: 25,
    each: 2_000,
};
const OPENAT: Slice = Slice {
    work: "open-missing",
    batches: 25,
    each: 500,
};

/// What is attached to sys_enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Nothing,
    EmptyProgram,
    Policy(Policy),
}

/// What the calls of a slice must have met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No account has them.
    Unseen,
    Counted,
    Suppressed,
    Delivered,
}

struct Syscalls {
    node: Node,
    consumer: Option<JoinHandle<()>>,
    empty: EmptyProgram,
    generator: Generator,
    elsewhere: Cgroup,
    _here: Cgroup,
    before: Ledger,
}

pub(crate) fn variants() -> Vec<Variant<State>> {
    let getppid = |name, state, target| Variant {
        name,
        unit: "ns",
        state,
        slice: GETPPID,
        baseline: Some("syscall/empty-program"),
        target,
    };
    let policy = |name, policy, target| getppid(name, State::Policy(policy), target);
    let openat = |name, state, baseline| Variant {
        name,
        unit: "ns",
        state,
        slice: OPENAT,
        baseline,
        target: None,
    };
    vec![
        getppid("syscall/nothing-attached", State::Nothing, None),
        Variant {
            baseline: None,
            ..getppid("syscall/empty-program", State::EmptyProgram, None)
        },
        policy(
            "syscall/unselected/20-filters",
            Policy::OtherCalls,
            Some(1.05),
        ),
        policy(
            "syscall/unselected/20-filters-and-sys-exit",
            Policy::OtherCallsWithReturns,
            None,
        ),
        policy("syscall/selected-elsewhere", Policy::Elsewhere, Some(1.35)),
        policy("syscall/count", Policy::Count, Some(1.5)),
        policy("syscall/rate-limited", Policy::RateLimited, Some(1.6)),
        policy("syscall/trace", Policy::Trace, None),
        openat(
            "syscall/openat/nothing-attached",
            State::Nothing,
            Some("syscall/openat/empty-program"),
        ),
        openat("syscall/openat/empty-program", State::EmptyProgram, None),
        openat(
            "syscall/openat/path",
            State::Policy(Policy::Path),
            Some("syscall/openat/empty-program"),
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
    let mut stage = Syscalls::start(place)?;
    let measured = rounds::measure(&mut stage, &variants, plan);
    stage.end()?;
    place.release()?;
    measured
}

// === impl Syscalls ===

impl Syscalls {
    fn start(place: &Place) -> anyhow::Result<Self> {
        let options = NodeOptions {
            epoch: ebpf_hello_agent::epoch::from_clock(),
            load: Options {
                ring_size: RING_BYTES,
                process_events: false,
                ..Options::default()
            },
            node: "bench".into(),
            policy: ebpf_hello_agent::Policy::default(),
            redactor: Redactor::default(),
            identity: None,
        };
        let (node, events) = Node::start(options).context("cannot start the node")?;
        let accounts = node.accounts();
        let consumer = thread::spawn(move || {
            for item in events.flatten() {
                accounts.settle(item.handler, Outcome::Delivered);
            }
        });
        let here = Cgroup::make("here")?;
        Ok(Syscalls {
            before: node.ledger()?,
            node,
            consumer: Some(consumer),
            empty: EmptyProgram::load()?,
            generator: Generator::start(Some(place.measured()), Some(here.directory()))?,
            elsewhere: Cgroup::make("elsewhere")?,
            _here: here,
        })
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.node.drain().context("cannot drain the node")?;
        if let Some(consumer) = self.consumer.take() {
            ensure!(consumer.join().is_ok(), "the consumer of events panicked");
        }
        Ok(())
    }

    fn filters(&self, policy: Policy) -> anyhow::Result<Vec<Filter>> {
        policy.filters(&self.elsewhere.pattern())
    }

    /// The ledger once everything is delivered.
    fn drained(&self) -> anyhow::Result<Ledger> {
        let deadline = Instant::now() + DRAIN;
        loop {
            let ledger = self.node.ledger()?;
            if ledger.in_flight == 0 {
                return Ok(ledger);
            }
            ensure!(
                Instant::now() < deadline,
                "{} records were not delivered in {DRAIN:?}",
                ledger.in_flight
            );
            thread::sleep(LOOK);
        }
    }
}

impl Stage for Syscalls {
    type State = State;

    fn enter(&mut self, state: &State) -> anyhow::Result<()> {
        match state {
            State::Nothing => {}
            State::EmptyProgram => self.empty.attach()?,
            State::Policy(policy) => {
                self.before = self.drained()?;
                let filters = self.filters(*policy)?;
                self.node.apply(ebpf_hello_agent::Policy::of(filters))?;
            }
        }
        Ok(())
    }

    fn leave(&mut self, state: &State, calls: u64) -> anyhow::Result<()> {
        match state {
            State::Nothing => Ok(()),
            State::EmptyProgram => Ok(self.empty.detach()?),
            State::Policy(policy) => {
                self.node.apply(ebpf_hello_agent::Policy::default())?;
                let after = self.drained()?;
                policy.fate().check(&self.before, &after, calls)
            }
        }
    }

    fn generator(&mut self) -> &mut Generator {
        &mut self.generator
    }
}

// === impl Fate ===

impl Fate {
    /// Other processes may have made such calls too, and a limit lets a few through.
    fn check(self, before: &Ledger, after: &Ledger, calls: u64) -> anyhow::Result<()> {
        let lost = after.lost_total() - before.lost_total();
        ensure!(
            lost == 0,
            "{lost} records were lost: what was timed is no delivery"
        );
        let met = match self {
            Fate::Unseen => {
                let seen = after.seen - before.seen;
                ensure!(
                    seen < calls / 10,
                    "{seen} calls were seen where the policy is for others"
                );
                return Ok(());
            }
            Fate::Counted => after.counted - before.counted,
            Fate::Suppressed => after.suppressed_total() - before.suppressed_total(),
            Fate::Delivered => after.delivered - before.delivered,
        };
        let least = match self {
            // A limit's burst is a good part of a short slice. The median batch is one of those suppressed
            // when most calls are.
            Fate::Suppressed => calls / 2,
            _ => calls - calls / 100,
        };
        ensure!(
            met >= least,
            "{met} of {calls} calls met {self:?}: what was timed is something else"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_met_another_fate_are_told() {
        let before = Ledger::default();
        let after = Ledger {
            seen: 1000,
            counted: 1000,
            ..Ledger::default()
        };
        Fate::Counted.check(&before, &after, 1000).unwrap();
        for (fate, mistake) in [
            (Fate::Delivered, "0 of 1000 calls met Delivered"),
            (Fate::Suppressed, "0 of 1000 calls met Suppressed"),
            (Fate::Unseen, "1000 calls were seen"),
        ] {
            let error = fate.check(&before, &after, 1000).unwrap_err().to_string();
            assert!(error.starts_with(mistake), "{error}");
        }
    }
}
