//! What can be measured, by name, and what of it is wanted.

use anyhow::{Context as _, ensure};

use crate::{delivery, latency, processes, syscalls, workload::Slice};

/// Something attached, and a loop that is timed meanwhile.
pub(crate) struct Variant<S> {
    pub(crate) name: &'static str,
    /// `ns` or `us`.
    pub(crate) unit: &'static str,
    /// What is attached.
    pub(crate) state: S,
    pub(crate) slice: Slice,
    /// The variant that this is compared with.
    pub(crate) baseline: Option<&'static str>,
    /// The most that the ratio should be.
    pub(crate) target: Option<f64>,
}

/// The names that were asked for.
pub(crate) struct Selection {
    parts: Vec<String>,
}

// === impl Variant ===

impl<S> Variant<S> {
    /// How many of its unit a nanosecond is.
    pub(crate) fn scale(&self) -> f64 {
        if self.unit == "us" { 1e-3 } else { 1.0 }
    }
}

// === impl Selection ===

impl Selection {
    /// Names that contain one of `parts`; all without any.
    pub(crate) fn new(parts: &[String]) -> anyhow::Result<Self> {
        for part in parts {
            ensure!(
                names().any(|name| name.contains(part.as_str())),
                "nothing has {part:?} in its name; there are:\n  {}",
                names().collect::<Vec<_>>().join("\n  ")
            );
        }
        Ok(Selection {
            parts: parts.to_vec(),
        })
    }

    /// Whether a name was asked for.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|part| name.contains(part.as_str()))
    }

    /// The variants that were asked for, and those that they are compared with.
    pub(crate) fn of<S>(&self, variants: Vec<Variant<S>>) -> Vec<Variant<S>> {
        let baselines: Vec<&str> = variants
            .iter()
            .filter(|variant| self.has(variant.name))
            .filter_map(|variant| variant.baseline)
            .collect();
        variants
            .into_iter()
            .filter(|variant| self.has(variant.name) || baselines.contains(&variant.name))
            .collect()
    }
}

/// Every name, in the order in which they are told.
fn names() -> impl Iterator<Item = &'static str> {
    let syscalls = syscalls::variants().into_iter().map(|variant| variant.name);
    let processes = processes::variants()
        .into_iter()
        .map(|variant| variant.name);
    syscalls
        .chain(processes)
        .chain(latency::names())
        .chain(delivery::names())
}

/// The place of a baseline among its variants.
pub(crate) fn place_of<S>(variants: &[Variant<S>], name: &str) -> anyhow::Result<usize> {
    variants
        .iter()
        .position(|variant| variant.name == name)
        .with_context(|| format!("the baseline {name} is not measured"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for name in names() {
            assert!(seen.insert(name), "{name}");
        }
    }

    #[test]
    fn every_baseline_is_measured() {
        let variants = syscalls::variants();
        for name in variants.iter().filter_map(|variant| variant.baseline) {
            place_of(&variants, name).unwrap();
        }
        let variants = processes::variants();
        for name in variants.iter().filter_map(|variant| variant.baseline) {
            place_of(&variants, name).unwrap();
        }
    }

    #[test]
    fn a_part_of_a_name_selects_it_and_its_baseline() {
        let selection = Selection::new(&["rate-limited".to_owned()]).unwrap();
        let names: Vec<_> = selection
            .of(syscalls::variants())
            .iter()
            .map(|variant| variant.name)
            .collect();
        assert_eq!(names, ["syscall/empty-program", "syscall/rate-limited"]);
        let error = Selection::new(&["nonsense".to_owned()]).err().unwrap();
        assert!(
            error.to_string().contains("syscall/empty-program"),
            "{error}"
        );
    }
}
