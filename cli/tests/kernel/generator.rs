//! The generator: a process of its own, no ancestor of `run`, that knows what it made.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use crate::executable;

/// What it says it made.
pub(crate) struct Made(Value);

/// One process that it made.
#[derive(Clone, Debug)]
pub(crate) struct MadeProcess {
    pub(crate) pid: u32,
    /// As wait() saw it; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// How it was told to end, or its number in a burst.
    pub(crate) label: String,
}

/// Runs to its end.
pub(crate) fn generate(arguments: &[&str]) -> Made {
    let mut command = Command::new(executable::generator());
    command.args(arguments).stdin(Stdio::null());
    Made::by(command)
}

/// Runs until this is dropped.
pub(crate) struct Background(Child);

/// Makes calls in the background.
pub(crate) fn generate_in_background(arguments: &[&str]) -> Background {
    let child = Command::new(executable::generator())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Background(child)
}

/// Runs until its stdin ends, then says what it made.
pub(crate) struct Commanded {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Starts a command of the generator that lasts until its stdin ends: `mix`, `obey`.
pub(crate) fn command(arguments: &[&str]) -> Commanded {
    let mut child = Command::new(executable::generator())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Commanded {
        orders: child.stdin.take(),
        answers: BufReader::new(child.stdout.take().unwrap()),
        child,
    }
}

// === impl Commanded ===

impl Commanded {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks `obey` for calls; they are made when this returns.
    pub(crate) fn call(&mut self, call: &str, count: u64) {
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{call} {count}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "\n");
    }

    /// Ends it.
    pub(crate) fn end(mut self) -> Made {
        self.orders = None;
        let mut report = String::new();
        self.answers.read_to_string(&mut report).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        Made(serde_json::from_str(&report).unwrap())
    }
}

impl Drop for Commanded {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// === impl Made ===

impl Made {
    /// What a command makes that ends in the generator.
    pub(crate) fn by(mut command: Command) -> Made {
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", output.status);
        Made(serde_json::from_slice(&output.stdout).unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.number("pid")).unwrap()
    }

    /// A number in its report.
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.0[field]
            .as_u64()
            .unwrap_or_else(|| panic!("no number {field:?} in {}", self.0))
    }

    /// Calls of one name.
    pub(crate) fn of(&self, call: &str) -> u64 {
        self.0["made"][call]
            .as_u64()
            .unwrap_or_else(|| panic!("no {call:?} in {}", self.0))
    }

    /// Anything in its report.
    pub(crate) fn value(&self, field: &str) -> &Value {
        &self.0[field]
    }

    /// When nobody made a call that was due: start and end, nanoseconds of the wall clock.
    pub(crate) fn gaps(&self) -> Vec<(u64, u64)> {
        serde_json::from_value(self.0["gaps"].clone()).unwrap()
    }

    /// Calls in all.
    pub(crate) fn total(&self) -> u64 {
        self.number("total")
    }

    /// A list of ids.
    pub(crate) fn ids(&self, list: &str) -> BTreeSet<u32> {
        let ids = self.0[list].as_array().unwrap();
        ids.iter()
            .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
            .collect()
    }

    pub(crate) fn processes(&self) -> Vec<MadeProcess> {
        let processes = self.0["processes"].as_array().unwrap();
        processes
            .iter()
            .map(|process| {
                let number = |field: &str| {
                    process[field]
                        .as_i64()
                        .map(|number| i32::try_from(number).unwrap())
                };
                MadeProcess {
                    pid: u32::try_from(process["pid"].as_u64().unwrap()).unwrap(),
                    code: number("code"),
                    signal: number("signal"),
                    label: process["ending"]
                        .as_str()
                        .map_or_else(|| process["index"].to_string(), ToOwned::to_owned),
                }
            })
            .collect()
    }
}
