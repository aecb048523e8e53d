//! The generator: a process of its own, no ancestor of `run`, that knows what it made.

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
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
