//! From a selection as it was asked to a [`Selector`], or everything that is wrong with it.

use std::{collections::BTreeSet, ops::RangeInclusive};

use ebpf_hello_policy::{group, syscall};
use ebpf_hello_proto::{Timestamp, v1};
use glob::Pattern;

use super::{Selector, expression::Expression, labels::LabelSelector, nanos};
use crate::{caller::Reader, refusal::Invalid, schema};

/// Most values of one list.
pub const MAX_VALUES: usize = 256;
/// Longest text of a list.
pub const MAX_TEXT_BYTES: usize = 1024;
/// Longest label selector.
pub const MAX_LABEL_SELECTOR_CHARACTERS: usize = 1024;

/// Collects what is wrong.
#[derive(Default)]
struct Problems(Vec<Invalid>);

// === impl Selector ===

impl Selector {
    /// Compiles a selection for a reader, of events in [`since`, `until`). Blocks for milliseconds if it has a
    /// CEL expression.
    ///
    /// # Errors
    /// Every field that is not as the protocol says.
    pub fn compile(
        selection: &v1::Selection,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        reader: Reader,
    ) -> Result<Selector, Vec<Invalid>> {
        let mut problems = Problems::default();
        let selector = Selector {
            reader,
            since: problems.time("since", since),
            until: problems.time("until", until),
            nodes: problems.patterns("nodes", &selection.nodes),
            namespaces: problems.names("namespaces", &selection.namespaces),
            pods: problems.patterns("pods", &selection.pods),
            labels: problems.labels(&selection.label_selector),
            containers: problems.names("containers", &selection.containers),
            syscalls: problems.syscalls(&selection.syscalls),
            kinds: problems.kinds(&selection.types),
            comms: problems.patterns("comms", &selection.comms),
            binaries: problems.patterns("binaries", &selection.binaries),
            uids: problems.uids(&selection.uids),
            pids: problems
                .list("pids", &selection.pids)
                .iter()
                .copied()
                .collect(),
            expression: problems.expression(&selection.cel),
        };
        if problems.0.is_empty() {
            Ok(selector)
        } else {
            Err(problems.0)
        }
    }
}

// === impl Problems ===

impl Problems {
    fn add(&mut self, field: impl AsRef<str>, description: impl Into<String>) {
        self.0.push(Invalid::new(
            format!("selection.{}", field.as_ref()),
            description,
        ));
    }

    fn time(&mut self, field: &str, time: Option<Timestamp>) -> Option<i128> {
        let time = time?;
        if !(0..1_000_000_000).contains(&time.nanos) {
            self.0.push(Invalid::new(
                field,
                format!("{} nanoseconds: expected 0 to 999999999", time.nanos),
            ));
        }
        Some(nanos(time))
    }

    fn list<'v, T>(&mut self, field: &str, values: &'v [T]) -> &'v [T] {
        if values.len() <= MAX_VALUES {
            return values;
        }
        self.add(
            field,
            format!("{} values: expected at most {MAX_VALUES}", values.len()),
        );
        &[]
    }

    fn texts<'v>(&mut self, field: &str, values: &'v [String]) -> Vec<(String, &'v str)> {
        let mut texts = Vec::new();
        for (index, value) in self.list(field, values).iter().enumerate() {
            let field = format!("{field}[{index}]");
            if value.is_empty() {
                self.add(field, "empty: expected a name");
            } else if value.len() > MAX_TEXT_BYTES {
                let length = value.len();
                self.add(
                    field,
                    format!("{length} bytes: expected at most {MAX_TEXT_BYTES}"),
                );
            } else {
                texts.push((field, value.as_str()));
            }
        }
        texts
    }

    fn names(&mut self, field: &str, values: &[String]) -> BTreeSet<String> {
        self.texts(field, values)
            .into_iter()
            .map(|(_, name)| name.to_owned())
            .collect()
    }

    fn patterns(&mut self, field: &str, values: &[String]) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for (field, text) in self.texts(field, values) {
            match Pattern::new(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => self.add(
                    field,
                    format!(
                        "{text:?} is no glob, at character {}: {}",
                        error.pos + 1,
                        error.msg
                    ),
                ),
            }
        }
        patterns
    }

    fn labels(&mut self, text: &str) -> Option<LabelSelector> {
        let length = text.chars().count();
        if length > MAX_LABEL_SELECTOR_CHARACTERS {
            self.add(
                "label_selector",
                format!("{length} characters: expected at most {MAX_LABEL_SELECTOR_CHARACTERS}"),
            );
            return None;
        }
        match LabelSelector::parse(text) {
            Ok(_) if text.trim().is_empty() => None,
            Ok(selector) => Some(selector),
            Err(error) => {
                self.add("label_selector", error);
                None
            }
        }
    }

    fn syscalls(&mut self, values: &[String]) -> BTreeSet<Vec<u8>> {
        let mut names = BTreeSet::new();
        for (field, name) in self.texts("syscalls", values) {
            if let Some(group) = group::find(name) {
                names.extend(group.members().map(|name| name.as_bytes().to_vec()));
            } else if let Some(name) = syscall::known(name) {
                names.insert(name.as_bytes().to_vec());
            } else {
                let groups: Vec<&str> = group::GROUPS.iter().map(|group| group.name).collect();
                self.add(
                    field,
                    format!(
                        "no system call {name:?}: expected a name such as openat, or one of {}",
                        groups.join(", ")
                    ),
                );
            }
        }
        names
    }

    fn kinds(&mut self, values: &[String]) -> u32 {
        let mut bits = 0;
        for (field, name) in self.texts("types", values) {
            match schema::kinds().find(|kind| kind.name() == name) {
                Some(kind) => bits |= 1 << kind.number(),
                None => {
                    let names: Vec<String> =
                        schema::kinds().map(|kind| kind.name().to_owned()).collect();
                    self.add(
                        field,
                        format!("no type {name:?}: expected one of {}", names.join(", ")),
                    );
                }
            }
        }
        bits
    }

    fn uids(&mut self, values: &[String]) -> Vec<RangeInclusive<u32>> {
        let mut ranges = Vec::new();
        for (field, text) in self.texts("uids", values) {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            match (first.parse::<u32>(), last.parse::<u32>()) {
                (Ok(first), Ok(last)) if first <= last => ranges.push(first..=last),
                _ => self.add(
                    field,
                    format!("{text:?}: expected a user id, or a range such as 1000-1999"),
                ),
            }
        }
        ranges
    }

    fn expression(&mut self, text: &str) -> Option<Expression> {
        if text.is_empty() {
            return None;
        }
        Expression::compile(text)
            .map_err(|error| self.add("cel", error))
            .ok()
    }
}
