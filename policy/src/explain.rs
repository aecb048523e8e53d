//! What filters amount to for one workload, in words: the second half of `ebpf-hello check`.
//!
//! [`explain`] gives data (for `-o json`), [`Explanation::render`] a page of text from it.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use crate::{
    arch::{Abi, Arch},
    compile::{LossReason, Overridden, merge},
    decode::{Decode, decode},
    filter::Filter,
    handler::{DefaultAction, Handler},
    subject::Subject,
    syscall::{self, Names},
    table::{BinaryPattern, FilterName, RateLimit, Slot, UidRange},
};

/// The outcome of some filters for one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The architecture the numbers are of.
    pub arch: Arch,
    /// The filters that select the workload, in order of precedence.
    pub selected: Vec<FilterName>,
    /// Those that do not.
    pub not_selected: Vec<FilterName>,
    /// What happens to every system call not in `syscalls`.
    pub default: DefaultAction,
    /// Whose default that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_filter: Option<FilterName>,
    /// What happens to the others, by name.
    pub syscalls: Vec<Decision>,
    /// Names that a selected filter gives and this architecture does not have.
    pub absent: Vec<&'static str>,
    /// Defaults that lost to another's.
    pub overridden_defaults: Vec<Overridden>,
}

/// What happens to one system call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The call's name.
    pub syscall: &'static str,
    /// Its 64-bit number, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u16>,
    /// Its 32-bit number, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat_number: Option<u16>,
    /// Who gets it.
    pub handler: Handler,
    /// How its arguments are read, by a handler that reads them (64-bit ABI).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode: Option<Decode>,
    /// The filter that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterName>,
    /// Which rule of it, from 1; left out: its default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u16>,
    /// Bound on events, per container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// One event in so many.
    pub sampling: u32,
    /// The return value is joined.
    pub returns: bool,
    /// What seccomp refuses is reported.
    pub denied: bool,
    /// Only these users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_uids: Vec<UidRange>,
    /// Only these executed files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_binaries: Vec<BinaryPattern>,
    /// Whose wishes lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrode: Vec<Overridden>,
}

/// Explains what `filters` do to `subject` on a node of `arch`: [`crate::compile`], told call by
/// call.
pub fn explain(filters: &[Filter], subject: &Subject, arch: Arch) -> Explanation {
    let (selected, others) = filters.iter().partition(|filter| filter.selects(subject));
    tell(selected, others, arch)
}

/// Explains what `filters` do to a workload that all of them select which ever could: the cluster
/// filters and those of `namespace`, or without one the cluster filters alone.
pub fn explain_overlap(filters: &[Filter], namespace: Option<&str>, arch: Arch) -> Explanation {
    let (selected, others) = filters
        .iter()
        .partition(|filter| filter.is_cluster() || filter.name().namespace() == namespace);
    tell(selected, others, arch)
}

fn tell(mut selected: Vec<&Filter>, mut others: Vec<&Filter>, arch: Arch) -> Explanation {
    let compiled = merge(selected.clone(), arch);
    selected.sort_by_key(|filter| (!filter.is_protected(), filter.rank()));
    others.sort_by_key(|filter| filter.name());

    let mut lost: BTreeMap<Option<&str>, Vec<Overridden>> = BTreeMap::new();
    for loss in compiled.overridden {
        lost.entry(loss.syscall).or_default().push(loss);
    }
    let [native, compat] = Abi::ALL.map(|abi| Names::of(arch, abi));
    let mut decided: BTreeMap<&'static str, &Slot> = BTreeMap::new();
    for abi in Abi::ALL {
        let slots = &compiled.table.half(abi).slots;
        decided.extend(
            slots
                .iter()
                .filter_map(|(number, slot)| Some((syscall::name(arch, abi, *number)?, slot))),
        );
    }
    let default = &compiled.table.native.default;
    // A call whose every wish was refused falls to the default: that, too, is worth a line.
    let fallen = default.as_slot("");
    for name in lost.keys().copied().flatten() {
        if let Some(name) = syscall::known(name) {
            decided.entry(name).or_insert(&fallen);
        }
    }
    let syscalls = decided
        .iter()
        .map(|(name, slot)| Decision {
            syscall: name,
            number: native.number(name),
            compat_number: compat.number(name),
            handler: slot.handler,
            decode: decode(slot.handler, Abi::Native, name),
            filter: slot.filter.clone(),
            rule: (slot.rule > 0).then_some(slot.rule),
            rate_limit: slot.rate_limit,
            sampling: slot.sampling,
            returns: slot.returns,
            denied: slot.denied,
            match_uids: slot.match_uids.clone(),
            match_binaries: slot.match_binaries.clone(),
            overrode: lost.get(&Some(*name)).cloned().unwrap_or_default(),
        })
        .collect();
    let mut absent: Vec<_> = selected
        .iter()
        .flat_map(|filter| &filter.rules)
        .flat_map(|rule| rule.explicit.iter().copied())
        .filter(|name| native.number(name).is_none() && compat.number(name).is_none())
        .collect();
    absent.sort_unstable();
    absent.dedup();
    Explanation {
        arch,
        selected: selected
            .into_iter()
            .map(|filter| filter.name().clone())
            .collect(),
        not_selected: others
            .into_iter()
            .map(|filter| filter.name().clone())
            .collect(),
        default: default.action,
        default_filter: default.filter.clone(),
        syscalls,
        absent,
        overridden_defaults: lost.remove(&None).unwrap_or_default(),
    }
}

// === impl Explanation ===

impl Explanation {
    /// A page of plain text, ending in a newline.
    pub fn render(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut page);
        page
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let names = |names: &[FilterName]| {
            names
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        if self.selected.is_empty() {
            writeln!(
                out,
                "no filter selects this workload: no system call is observed"
            )?;
        } else {
            writeln!(
                out,
                "selected by {} (in order of precedence)",
                names(&self.selected)
            )?;
        }
        if !self.not_selected.is_empty() {
            writeln!(out, "not selected by {}", names(&self.not_selected))?;
        }
        let width = self
            .syscalls
            .iter()
            .map(|decision| decision.syscall.len())
            .max()
            .unwrap_or_default();
        if !self.syscalls.is_empty() {
            writeln!(out)?;
        }
        for decision in &self.syscalls {
            write!(
                out,
                "{:width$}  {:7}{}",
                decision.syscall,
                decision.handler.as_str(),
                decision.origin()
            )?;
            let limits = decision.limits();
            writeln!(
                out,
                "{}{}",
                if limits.is_empty() { "" } else { "  " },
                limits.join(", ")
            )?;
            for loss in &decision.overrode {
                writeln!(out, "{:width$}    over {}", "", loss.in_words())?;
            }
        }
        let from = self
            .default_filter
            .as_ref()
            .map(|filter| format!("  {filter}, default"))
            .unwrap_or_default();
        let anything = if self.syscalls.is_empty() {
            "every system call"
        } else {
            "every other system call"
        };
        writeln!(out, "\n{anything}  {}{from}", self.default)?;
        for loss in &self.overridden_defaults {
            writeln!(out, "    over {}", loss.in_words())?;
        }
        if !self.absent.is_empty() {
            writeln!(out, "\nnot on {}: {}", self.arch, self.absent.join(", "))?;
        }
        Ok(())
    }
}

// === impl Decision ===

impl Decision {
    fn origin(&self) -> String {
        match (&self.filter, self.rule) {
            (Some(filter), Some(rule)) => format!("  {filter}, rule {rule}"),
            (Some(filter), None) => format!("  {filter}, default"),
            (None, _) => "  no filter".to_owned(),
        }
    }

    fn limits(&self) -> Vec<String> {
        fn list<T: ToString>(what: &str, items: &[T]) -> Option<String> {
            let items: Vec<_> = items.iter().map(ToString::to_string).collect();
            (!items.is_empty()).then(|| format!("only {what} {}", items.join(" ")))
        }
        let rate = self
            .rate_limit
            .map(|limit| format!("{}/s, burst {}", limit.events_per_second, limit.burst));
        [
            rate,
            (self.sampling > 1).then(|| format!("one in {}", self.sampling)),
            self.returns.then(|| "with return value".to_owned()),
            self.denied.then(|| "also when seccomp refuses".to_owned()),
            list("users", &self.match_uids),
            list("files", &self.match_binaries),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

// === impl Overridden ===

impl Overridden {
    /// `shop/cart, rule 2: its priority is lower`
    pub fn in_words(&self) -> String {
        let part = if self.rule == 0 {
            "default".to_owned()
        } else {
            format!("rule {}", self.rule)
        };
        format!(
            "{}, {part}: {}",
            self.filter,
            self.reason.in_words(&self.by)
        )
    }
}

// === impl LossReason ===

impl LossReason {
    fn in_words(self, by: &FilterName) -> String {
        match self {
            LossReason::EarlierRule => "an earlier rule of the same filter has it".to_owned(),
            LossReason::ClusterFilter => format!("{by} is a cluster filter and not overridable"),
            LossReason::Priority => format!("{by} has a higher priority"),
            LossReason::Name => format!("equal priority, and {by} sorts first"),
            LossReason::WouldWeaken => {
                format!(
                    "it would show less than the default of {by}, which is a cluster filter and not overridable"
                )
            }
            LossReason::StrongerDefault => format!("the default of {by} is stronger"),
        }
    }
}
