//! A filter's rules: names, groups, handlers, limits.

use std::collections::{BTreeMap, BTreeSet};

use super::typed;
use crate::{
    arch::{Abi, Arch},
    crd::RateLimitSpec,
    decode,
    filter::ValidRule,
    group::{self, GROUPS, Group},
    handler::{EXEC_CALLS, Handler},
    nearest::{nearest, suggest},
    node::{Content, Node},
    problem::{Path, Problem, Reason},
    syscall,
    table::RateLimit,
};

/// Calls the vDSO answers without entering the kernel (`vdso(7)`), on some architecture we know.
const VDSO_CALLS: [&str; 6] = [
    "clock_getres",
    "clock_gettime",
    "clock_gettime64",
    "getcpu",
    "gettimeofday",
    "time",
];

/// How many calls a message lists before it only counts them.
const LISTED: usize = 6;

/// Checks every rule of the list, if there is one.
pub(super) fn check_all(
    rules: Option<&Node>,
    path: &Path,
    problems: &mut Vec<Problem>,
) -> Vec<ValidRule> {
    // Which rule (from 0) has a call, to say so where another names it again.
    let mut owners: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut valid = Vec::new();
    for (index, node) in rules
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let path = path.index(index);
        let Some(written) = Written::of(node) else {
            continue;
        };
        let rule = check(&written, &path, problems);
        warn_taken(&written, &rule, &owners, &path, problems);
        for call in &rule.calls {
            owners.entry(call).or_insert(index);
        }
        valid.push(rule);
    }
    valid
}

/// A rule as far as it is of the right types: what is not, the schema check has told, and the
/// rest can still be judged.
struct Written {
    /// Items that are no strings are empty here, so that positions stay.
    syscalls: Vec<String>,
    except: Vec<String>,
    handler: Option<Handler>,
    rate_limit: Option<RateLimitSpec>,
    sampling: Option<u32>,
    returns: bool,
    denied: bool,
}

// === impl Written ===

impl Written {
    /// `None` if it is no map at all.
    fn of(node: &Node) -> Option<Written> {
        let texts = |key: &str| -> Vec<String> {
            let items = node.get(key).map(Node::items).unwrap_or_default();
            let text = |item: &Node| {
                item.text()
                    .filter(|_| item.tag.is_none())
                    .unwrap_or_default()
                    .to_owned()
            };
            items.iter().map(text).collect()
        };
        matches!(node.content, Content::Map(_)).then(|| Written {
            syscalls: texts("syscalls"),
            except: texts("except"),
            handler: typed(node, "handler"),
            rate_limit: typed(node, "rateLimit"),
            sampling: typed(node, "sampling"),
            returns: typed(node, "returns").unwrap_or_default(),
            denied: typed(node, "denied").unwrap_or_default(),
        })
    }
}

fn check(rule: &Written, path: &Path, problems: &mut Vec<Problem>) -> ValidRule {
    let syscalls = names(&rule.syscalls, &path.key("syscalls"), problems);
    let except = names(&rule.except, &path.key("except"), problems);
    check_except(rule, &syscalls, &except, path, problems);

    let removed: BTreeSet<_> = except.iter().flatten().flat_map(Named::calls).collect();
    let mut calls = BTreeSet::new();
    let mut explicit = BTreeSet::new();
    for (index, named) in syscalls.iter().enumerate() {
        let Some(named) = named else { continue };
        let path = path.key("syscalls").index(index);
        let selected: Vec<_> = match named {
            Named::Call(call) => {
                explicit.insert(*call);
                vec![*call]
            }
            Named::Group(group) => group
                .members()
                .filter(|call| !removed.contains(call))
                .collect(),
        };
        if let Some(handler) = rule.handler {
            check_handler(handler, named, &selected, &path, problems);
            warn_vdso(handler, named, &selected, &path, problems);
        }
        calls.extend(selected);
    }
    if calls.is_empty() && !syscalls.is_empty() && syscalls.iter().all(Option::is_some) {
        let message = "except takes out every call: the rule is left with none";
        problems.push(Problem::error(
            Reason::EmptyRule,
            path.key("except"),
            message,
        ));
    }
    if let Some(handler) = rule.handler {
        check_limits(handler, rule, path, problems);
    }
    ValidRule {
        calls,
        explicit,
        // Without a handler the filter is refused: this is never seen.
        handler: rule.handler.unwrap_or(Handler::Ignore),
        rate_limit: rule
            .rate_limit
            .as_ref()
            .map(|limit| rate_limit(limit, &path.key("rateLimit"), problems)),
        sampling: rule.sampling.unwrap_or(1),
        returns: rule.returns,
        denied: rule.denied,
    }
}

/// What an item of `syscalls` or `except` stands for.
enum Named {
    Call(&'static str),
    Group(&'static Group),
}

// === impl Named ===

impl Named {
    fn calls(&self) -> Vec<&'static str> {
        match self {
            Named::Call(call) => vec![*call],
            Named::Group(group) => group.members().collect(),
        }
    }
}

/// One item per string, `None` where it is no name.
fn names(texts: &[String], path: &Path, problems: &mut Vec<Problem>) -> Vec<Option<Named>> {
    let mut parse = |(index, text): (usize, &String)| {
        let problem = match name(text) {
            Ok(named) => return Some(named),
            // Not a string at all, an empty or an endless one: the schema check has said so.
            Err(_) if text.is_empty() || text.len() > 64 => return None,
            Err((reason, message)) => Problem::error(reason, path.index(index), message),
        };
        problems.push(problem);
        None
    };
    texts.iter().enumerate().map(&mut parse).collect()
}

fn name(text: &str) -> Result<Named, (Reason, String)> {
    if text.starts_with('@') {
        let groups = || GROUPS.iter().map(|group| group.name);
        return group::find(text).map(Named::Group).ok_or_else(|| {
            let otherwise = format!(
                ": expected one of {}",
                groups().collect::<Vec<_>>().join(" ")
            );
            (
                Reason::UnknownGroup,
                format!(
                    "unknown group {text:?}{}",
                    suggest(&nearest(text, groups()), &otherwise)
                ),
            )
        });
    }
    if let Some(call) = syscall::known(text) {
        return Ok(Named::Call(call));
    }
    let message = if let Some(rest) = text.strip_prefix('!') {
        format!(
            "{text:?} is no name of a system call: to leave a call out of a group write `except: [{rest}]`"
        )
    } else if text.bytes().all(|c| c.is_ascii_digit()) {
        let named = text
            .parse()
            .ok()
            .and_then(|number| syscall::name(Arch::X86_64, Abi::Native, number));
        let hint = named
            .map(|name| format!(" ({name} on x86_64)"))
            .unwrap_or_default();
        format!(
            "{text:?} is a number{hint}: expected a name, because numbers differ between architectures"
        )
    } else if group::find(&format!("@{text}")).is_some() {
        format!("unknown system call {text:?}: did you mean the group \"@{text}\"?")
    } else {
        // As in `sys_openat` and `__x64_sys_openat`.
        let plain = text.rsplit_once("sys_").map_or(text, |(_, plain)| plain);
        let exact = syscall::known(&plain.to_lowercase()).map(|call| vec![call]);
        let near = exact.unwrap_or_else(|| nearest(plain, syscall::all_names()));
        let otherwise = ": no architecture has it (names are the kernel's, as in `man 2 syscalls`)";
        format!("unknown system call {text:?}{}", suggest(&near, otherwise))
    };
    Err((Reason::UnknownSyscall, message))
}

fn check_except(
    rule: &Written,
    syscalls: &[Option<Named>],
    except: &[Option<Named>],
    path: &Path,
    problems: &mut Vec<Problem>,
) {
    let path = path.key("except");
    let mut fail = |path: Path, message: String| {
        problems.push(Problem::error(Reason::InvalidException, path, message))
    };
    if except.is_empty() {
        return;
    }
    // By what is written, so that a misspelt group is told once, as a misspelt group.
    if !rule.syscalls.iter().any(|text| text.starts_with('@')) {
        return fail(
            path,
            "except takes calls out of a group, and syscalls names none".to_owned(),
        );
    }
    let grouped: BTreeSet<_> = syscalls
        .iter()
        .flatten()
        .filter_map(|named| {
            if let Named::Group(group) = named {
                Some(group.members())
            } else {
                None
            }
        })
        .flatten()
        .collect();
    let all_known = syscalls.iter().all(Option::is_some);
    for (index, named) in except.iter().enumerate() {
        let (Some(named), text) = (named, &rule.except[index]) else {
            continue;
        };
        if rule.syscalls.contains(text) {
            fail(
                path.index(index),
                format!("{text:?} is both in syscalls and in except"),
            );
        } else if all_known && !named.calls().iter().any(|call| grouped.contains(call)) {
            fail(
                path.index(index),
                format!(
                    "{text:?} is in none of the groups that syscalls names: there is nothing to take out"
                ),
            );
        }
    }
}

fn check_handler(
    handler: Handler,
    named: &Named,
    calls: &[&'static str],
    path: &Path,
    problems: &mut Vec<Problem>,
) {
    let bad: Vec<_> = calls
        .iter()
        .copied()
        .filter(|call| !decode::accepts(handler, call))
        .collect();
    // A larger group less everything but the two is @exec, said so that nobody can see it.
    if let (Handler::Exec, Named::Group(group)) = (handler, named)
        && group.name != "@exec"
    {
        let message = format!(
            "Exec cannot handle {}: Exec is valid on execve and execveat, or \"@exec\"",
            group.name
        );
        problems.push(Problem::error(
            Reason::HandlerCannotDecode,
            path.clone(),
            message,
        ));
        return;
    }
    if bad.is_empty() {
        return;
    }
    let only_exec = bad.iter().all(|call| EXEC_CALLS.contains(call));
    let valid = if only_exec {
        "on execve and execveat only Exec, Count and Ignore are valid".to_owned()
    } else {
        match decode::accepted_calls(handler) {
            Some(calls) => format!("{handler} is valid on {}", short_list(&calls)),
            None => format!("{handler} is not valid there"),
        }
    };
    let message = match named {
        Named::Call(call) => format!("{handler} cannot handle {call}: {valid}"),
        Named::Group(group) if only_exec => {
            format!(
                "{handler} cannot handle {} of {}: {valid}; add `except: [{}]`",
                bad.join(" and "),
                group.name,
                bad.join(", ")
            )
        }
        Named::Group(group) => {
            format!(
                "{handler} cannot handle {} of {}: {valid}; name those, or take the others out with except",
                short_list(&bad),
                group.name
            )
        }
    };
    problems.push(Problem::error(
        Reason::HandlerCannotDecode,
        path.clone(),
        message,
    ));
}

fn check_limits(handler: Handler, rule: &Written, path: &Path, problems: &mut Vec<Problem>) {
    let fields = [
        ("rateLimit", rule.rate_limit.is_some()),
        (
            "sampling",
            rule.sampling.is_some_and(|sampling| sampling > 1),
        ),
        ("returns", rule.returns),
        ("denied", rule.denied),
    ];
    for (field, _) in fields.into_iter().filter(|(_, given)| *given) {
        if !handler.makes_events() {
            let message = format!("{handler} makes no events: {field} has nothing to act on");
            problems.push(Problem::error(Reason::InvalidLimit, path.key(field), message).on_key());
        } else if handler == Handler::Exec
            && ["rateLimit", "sampling"].contains(&field)
            && !rule.returns
        {
            let message = format!(
                "{field} acts on failed execs only, and they are reported only with `returns: true`; \
                 successful ones are process events, which no filter limits"
            );
            problems.push(Problem::warning(Reason::NoEffect, path.key(field), message).on_key());
        }
    }
}

fn rate_limit(limit: &RateLimitSpec, path: &Path, problems: &mut Vec<Problem>) -> RateLimit {
    let rate = limit.events_per_second;
    let largest = rate.saturating_mul(10);
    if let Some(burst) = limit.burst.filter(|burst| *burst > largest && rate > 0) {
        let message =
            format!("{burst} is more than ten times eventsPerSecond: expected at most {largest}");
        problems.push(Problem::error(
            Reason::InvalidLimit,
            path.key("burst"),
            message,
        ));
    }
    RateLimit {
        events_per_second: rate,
        burst: limit.burst.unwrap_or(rate / 10).max(1),
    }
}

fn warn_vdso(
    handler: Handler,
    named: &Named,
    calls: &[&'static str],
    path: &Path,
    problems: &mut Vec<Problem>,
) {
    let vdso: Vec<_> = calls
        .iter()
        .copied()
        .filter(|call| VDSO_CALLS.contains(call))
        .collect();
    if vdso.is_empty() || handler == Handler::Ignore {
        return;
    }
    let group = if let Named::Group(group) = named {
        format!(" (of {})", group.name)
    } else {
        String::new()
    };
    let message = format!(
        "{}{group}: programs get these from the vDSO without entering the kernel, so most calls are not seen",
        vdso.join(", ")
    );
    problems.push(Problem::warning(Reason::VdsoCall, path.clone(), message));
}

/// Of two rules the first has the call; where the second names it in so many words, its author
/// probably thinks otherwise.
fn warn_taken(
    written: &Written,
    rule: &ValidRule,
    owners: &BTreeMap<&'static str, usize>,
    path: &Path,
    problems: &mut Vec<Problem>,
) {
    for (index, text) in written.syscalls.iter().enumerate() {
        let Some((call, owner)) = owners.get_key_value(text.as_str()) else {
            continue;
        };
        let message = format!(
            "rule {} has {call} already: put the narrower rule first",
            owner + 1
        );
        problems.push(Problem::warning(
            Reason::NoEffect,
            path.key("syscalls").index(index),
            message,
        ));
    }
    if rule.explicit.is_empty()
        && !rule.calls.is_empty()
        && rule.calls.iter().all(|call| owners.contains_key(call))
    {
        let message = "earlier rules have all of these calls: this one never gets any";
        problems.push(Problem::warning(
            Reason::NoEffect,
            path.key("syscalls"),
            message,
        ));
    }
}

fn short_list(calls: &[&str]) -> String {
    match calls.len().checked_sub(LISTED) {
        None | Some(0) => calls.join(", "),
        Some(more) => format!("{} and {more} more", calls[..LISTED].join(", ")),
    }
}
