//! What makes an object one of ours: kind, version, a name it can have.

use super::spec;
use crate::{
    crd::{GROUP, VERSION},
    filter::Filter,
    nearest::{nearest, suggest},
    node::Node,
    problem::{Path, Problem, Reason},
    table::FilterName,
};

const KINDS: [&str; 2] = ["SyscallFilter", "ClusterSyscallFilter"];

/// Whether it names both another group of the API and a kind that is none of ours, nor a slip of one.
pub(crate) fn is_of_another_api(node: &Node) -> bool {
    let text = |key| node.get(key).and_then(Node::text);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return false;
    };
    let group = version.split_once('/').map_or("", |(group, _)| group);
    group != GROUP && nearest(kind, KINDS).is_empty()
}

/// The object's kind, if it is one of ours.
pub(super) fn kind<'n>(node: &'n Node, problems: &mut Vec<Problem>) -> Option<&'n str> {
    let root = Path::default();
    let mut fail = |path: Path, message: String| {
        problems.push(Problem::error(Reason::InvalidObject, path, message));
    };
    let expected = "expected a filter: a map with apiVersion, kind, metadata and spec";
    if node.entries().is_empty() {
        fail(root, expected.to_owned());
        return None;
    }
    if let Some(version) = node.get("apiVersion")
        && version.text() != Some(&format!("{GROUP}/{VERSION}"))
    {
        let found = version
            .text()
            .map_or_else(|| "not a string".to_owned(), |text| format!("{text:?}"));
        fail(
            root.key("apiVersion"),
            format!("{found}: expected \"{GROUP}/{VERSION}\""),
        );
    }
    let Some(kind) = node.get("kind") else {
        fail(root, format!("field \"kind\" is missing: {expected}"));
        return None;
    };
    let text = kind.text().unwrap_or_default();
    if !KINDS.contains(&text) {
        let otherwise = ": expected SyscallFilter or ClusterSyscallFilter";
        fail(
            root.key("kind"),
            format!(
                "unknown kind {text:?}{}",
                suggest(&nearest(text, KINDS), otherwise)
            ),
        );
        return None;
    }
    Some(text)
}

/// Checks metadata and spec, and makes the filter if enough of it is good.
pub(super) fn check(node: &Node, namespace: &str, problems: &mut Vec<Problem>) -> Option<Filter> {
    let cluster = node.get("kind").and_then(Node::text) == Some("ClusterSyscallFilter");
    let path = Path::default().key("metadata");
    let metadata = node.get("metadata");
    let text = |key: &str| {
        metadata
            .and_then(|metadata| metadata.get(key))
            .and_then(Node::text)
    };

    let name = text("name");
    match name {
        Some(name) if is_subdomain(name) => {}
        Some(name) => problems.push(Problem::error(
            Reason::InvalidObject,
            path.key("name"),
            format!("{name:?} is no name of an object: expected at most 253 of a-z, 0-9, '-' and '.', a letter or digit at both ends"),
        )),
        None if metadata.is_some_and(|m| !m.entries().is_empty() && m.get("name").is_none()) => {
            problems.push(Problem::error(Reason::InvalidObject, path.clone(), "field \"name\" is missing"));
        }
        // Metadata itself is missing or of the wrong type: already said.
        None => {}
    }
    let given = text("namespace").filter(|namespace| !namespace.is_empty());
    if let Some(given) = given {
        if cluster {
            problems.push(Problem::error(
                Reason::InvalidObject,
                path.key("namespace"),
                "a ClusterSyscallFilter has no namespace: leave it out, or use a SyscallFilter",
            ));
        } else if !is_label(given) {
            problems.push(Problem::error(
                Reason::InvalidObject,
                path.key("namespace"),
                format!("{given:?} is no name of a namespace: expected at most 63 of a-z, 0-9 and '-', a letter or digit at both ends"),
            ));
        }
    }

    let filter_name = match (name, cluster) {
        (name, true) => FilterName::cluster(name.unwrap_or_default()),
        (name, false) => {
            FilterName::namespaced(given.unwrap_or(namespace), name.unwrap_or_default())
        }
    };
    spec::check(
        node.get("spec")?,
        &Path::default().key("spec"),
        cluster,
        filter_name,
        problems,
    )
}

/// A field of a `ClusterSyscallFilter` in a `SyscallFilter` is unknown there, but no riddle.
pub(super) fn name_the_other_kind(problem: &mut Problem) {
    let path = problem.path.to_string();
    let field = path.strip_prefix("spec.").unwrap_or_default();
    if ["host", "namespaceSelector", "overridable"].contains(&field)
        && problem.message.starts_with("unknown field")
    {
        problem.message = format!(
            "only a ClusterSyscallFilter has the field {field:?}: a SyscallFilter acts on pods of its own namespace"
        );
    }
}

/// An RFC 1123 label: what a container or a namespace can be called.
pub(super) fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    matches!(bytes.len(), 1..=63)
        && bytes.iter().all(|c| inner(*c) || *c == b'-')
        && bytes.first().is_some_and(|c| inner(*c))
        && bytes.last().is_some_and(|c| inner(*c))
}

/// An RFC 1123 subdomain: what an object can be called.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}
