//! A spec's selectors, users and binaries; the rules are in a module of their own.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

use super::{object::is_label, rule, typed};
use crate::{
    cgroup::CgroupGlob,
    filter::{Filter, Scope},
    node::Node,
    problem::{Path, Problem, Reason},
    table::{BinaryPattern, FilterName, UidRange},
};

/// Largest user id there is: 4294967295 is the kernel's "no user" (`INVALID_UID`).
const LARGEST_UID: u32 = u32::MAX - 1;

/// Checks a spec. The filter that comes back is whole only if no problem was added, here or by
/// the schema: the caller throws it away otherwise.
pub(super) fn check(
    spec: &Node,
    path: &Path,
    cluster: bool,
    name: FilterName,
    problems: &mut Vec<Problem>,
) -> Option<Filter> {
    let selector = |key: &str, problems: &mut Vec<Problem>| match spec.get(key) {
        Some(node) => label_selector(node, &path.key(key), problems),
        None => Selector::default(),
    };
    let scope = if cluster {
        Scope::Cluster {
            namespaces: selector("namespaceSelector", problems),
            host: typed(spec, "host").unwrap_or_default(),
            overridable: typed(spec, "overridable").unwrap_or_default(),
        }
    } else {
        Scope::Namespace
    };
    let filter = Filter {
        name,
        scope,
        pods: selector("podSelector", problems),
        nodes: selector("nodeSelector", problems),
        containers: texts(spec, path, "containers", problems, container)
            .into_iter()
            .collect(),
        cgroup: cgroup(spec, path, problems),
        match_uids: sorted(texts(spec, path, "matchUids", problems, uid_range)),
        match_binaries: sorted(texts(spec, path, "matchBinaries", problems, binary_pattern)),
        priority: typed(spec, "priority").unwrap_or_default(),
        default: typed(spec, "default").unwrap_or_default(),
        rules: rule::check_all(spec.get("rules"), &path.key("rules"), problems),
    };
    if filter.cgroup.is_some() && !cluster {
        problems.push(
            Problem::error(
                Reason::InvalidSelector,
                path.key("matchCgroup"),
                "matchCgroup is for ClusterSyscallFilter: a SyscallFilter selects pods of its namespace",
            )
            .on_key(),
        );
    }
    Some(filter)
}

/// Two filters that say the same in another order are the same outcome.
fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items.dedup();
    items
}

/// Parses every string of the list `key`; what is no string, the schema check has told.
fn texts<T>(
    spec: &Node,
    path: &Path,
    key: &str,
    problems: &mut Vec<Problem>,
    parse: impl Fn(&str) -> Result<T, (Reason, String)>,
) -> Vec<T> {
    let items = spec.get(key).map(Node::items).unwrap_or_default();
    let mut parsed = Vec::new();
    for (index, item) in items.iter().enumerate() {
        // Empty and over-long strings are the schema's to refuse.
        let Some(text) = item.text().filter(|text| !text.is_empty()) else {
            continue;
        };
        match parse(text) {
            Ok(value) => parsed.push(value),
            Err((reason, message)) => {
                problems.push(Problem::error(reason, path.key(key).index(index), message));
            }
        }
    }
    parsed
}

fn container(text: &str) -> Result<String, (Reason, String)> {
    if is_label(text) || text.len() > 63 {
        return Ok(text.to_owned());
    }
    let message = format!(
        "{text:?} is no container's name: expected a-z, 0-9 and '-', a letter or digit at both ends"
    );
    Err((Reason::InvalidSelector, message))
}

fn uid_range(text: &str) -> Result<UidRange, (Reason, String)> {
    let fail = |why: &str| {
        let message =
            format!("{text:?} {why}: expected \"N\" or \"N-M\", each from 0 to {LARGEST_UID}");
        Err((Reason::InvalidUidRange, message))
    };
    let uid = |text: &str| {
        // `parse` takes a leading '+', the CRD's pattern does not.
        let digits = matches!(text.len(), 1..=10) && text.bytes().all(|c| c.is_ascii_digit());
        digits
            .then(|| text.parse().ok())
            .flatten()
            .filter(|uid| *uid <= LARGEST_UID)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (uid(first), uid(last)) {
        (Some(first), Some(last)) if first <= last => Ok(UidRange { first, last }),
        (Some(_), Some(_)) => fail("goes from the larger to the smaller"),
        _ => fail("is no user id or range of them"),
    }
}

fn binary_pattern(text: &str) -> Result<BinaryPattern, (Reason, String)> {
    let (path, prefix) = text
        .strip_suffix('*')
        .map_or((text, false), |path| (path, true));
    let why = if !path.starts_with('/') {
        "is not an absolute path"
    } else if path.contains('*') {
        "has a * that is not at its end"
    } else if path.len() > 255 {
        "is longer than 255 bytes"
    } else {
        return Ok(BinaryPattern {
            path: path.to_owned(),
            prefix,
        });
    };
    let message = format!(
        "{text:?} {why}: expected a path such as \"/usr/bin/curl\" or a prefix such as \"/usr/bin/*\""
    );
    Err((Reason::InvalidBinaryPattern, message))
}

fn cgroup(spec: &Node, path: &Path, problems: &mut Vec<Problem>) -> Option<CgroupGlob> {
    let text = spec
        .get("matchCgroup")?
        .text()
        .filter(|text| !text.is_empty())?;
    let path = path.key("matchCgroup");
    if !text.starts_with('/') {
        let message = format!(
            "{text:?} can match nothing: a cgroup's path starts with '/', as in \"/system.slice/*\""
        );
        problems.push(Problem::error(Reason::InvalidSelector, path, message));
        return None;
    }
    match CgroupGlob::new(text) {
        Ok(glob) => Some(glob),
        Err(error) => {
            let message = format!(
                "{text:?} is no glob: {} at character {}",
                error.msg,
                error.pos + 1
            );
            problems.push(Problem::error(Reason::InvalidSelector, path, message));
            None
        }
    }
}

fn label_selector(node: &Node, path: &Path, problems: &mut Vec<Problem>) -> Selector {
    let path = path.key("matchExpressions");
    let mut good = true;
    for (index, expression) in node
        .get("matchExpressions")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let operator = expression
            .get("operator")
            .and_then(Node::text)
            .unwrap_or_default();
        let values = expression
            .get("values")
            .map(Node::items)
            .unwrap_or_default();
        let message = match operator {
            "In" | "NotIn" if values.is_empty() => {
                format!("{operator} needs values: expected a list of at least one")
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                format!("{operator} takes no values: leave them out")
            }
            _ => continue,
        };
        good = false;
        problems.push(Problem::error(
            Reason::InvalidSelector,
            path.index(index),
            message,
        ));
    }
    let typed = serde_json::from_value::<LabelSelector>(node.to_json())
        .ok()
        .filter(|_| good);
    typed
        .and_then(|selector| Selector::try_from(selector).ok())
        .unwrap_or_default()
}
