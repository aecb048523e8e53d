//! The one validation, shared by `check`, by the agent and by what writes `Accepted` conditions.
//!
//! ```text
//! object or file -> Node -> shape   (the CRD's schema: fields, types, bounds)
//!                        -> object  (kind, version, name)
//!                        -> spec    (selectors, users, binaries)
//!                        -> rules   (names, groups, handlers, limits) -> Filter
//! ```
//!
//! It goes on after a mistake wherever what follows can still be judged, so that all mistakes of
//! a filter are told at once.

mod object;
mod rule;
mod shape;
mod spec;

pub(crate) use self::object::is_of_another_api;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    crd,
    filter::Filter,
    node::Node,
    problem::{Path, Problem, Reason, Severity},
};

/// Namespace of a `SyscallFilter` that names none, as kubectl has it.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Validates a whole object: a filter if there is no error, and every problem, warnings too.
pub(crate) fn document(node: &Node, namespace: &str) -> (Option<Filter>, Vec<Problem>) {
    let mut problems = Vec::new();
    let Some(schema) = object::kind(node, &mut problems).and_then(crd::file_schema) else {
        return (None, problems);
    };
    shape::check(schema, node, &Path::default(), &mut problems);
    problems.iter_mut().for_each(object::name_the_other_kind);
    let filter = object::check(node, namespace, &mut problems);
    if problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
    {
        return (None, problems);
    }
    (filter, problems)
}

/// Validates an object of the API server; warnings are left out.
pub(crate) fn object(object: &impl Serialize) -> Result<Filter, Vec<Problem>> {
    let node = match serde_json::to_value(object) {
        Ok(value) => Node::from(value),
        Err(error) => {
            let message = format!("cannot be written as JSON: {error}");
            return Err(vec![Problem::error(
                Reason::InvalidObject,
                Path::default(),
                message,
            )]);
        }
    };
    let (filter, problems) = document(&node, DEFAULT_NAMESPACE);
    filter.ok_or_else(|| {
        problems
            .into_iter()
            .filter(|problem| problem.severity == Severity::Error)
            .collect()
    })
}

/// A field, if it is there and of the right type; if it is not, the schema check has said so.
fn typed<T: DeserializeOwned>(node: &Node, key: &str) -> Option<T> {
    serde_json::from_value(node.get(key)?.to_json()).ok()
}
