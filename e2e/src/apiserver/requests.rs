//! What the API server was asked, as its audit log has it.

use std::{fs, path::Path};

use serde_json::Value;

/// A request that was answered. A watch is one request, when it ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Who asked, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `patch` and so on.
    pub verb: String,
    /// Group of the API; empty for the core.
    pub group: String,
    /// Resource, in the plural; empty for what is none.
    pub resource: String,
    /// Subresource; empty where there is none.
    pub subresource: String,
    /// Namespace; empty where there is none.
    pub namespace: String,
    /// Name of the object; empty where there is none.
    pub name: String,
    /// The whole request, with selectors.
    pub uri: String,
    /// HTTP status of the answer.
    pub code: u16,
}

/// Whether somebody may do something, as a SubjectAccessReview was answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Review {
    /// Whom it is about, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// `get`, `list` and so on.
    pub verb: String,
    /// Group of the API; empty for the core.
    pub group: String,
    /// Resource, in the plural.
    pub resource: String,
    /// Subresource; empty where there is none.
    pub subresource: String,
    /// Namespace; empty for all of them.
    pub namespace: String,
    /// The answer.
    pub is_allowed: bool,
}

/// The requests in a log.
pub(super) fn read(log: &Path) -> Vec<Request> {
    let events = events(log);
    events
        .map(|event| Request {
            user: text(&event, "/user/username"),
            verb: text(&event, "/verb"),
            group: text(&event, "/objectRef/apiGroup"),
            resource: text(&event, "/objectRef/resource"),
            subresource: text(&event, "/objectRef/subresource"),
            namespace: text(&event, "/objectRef/namespace"),
            name: text(&event, "/objectRef/name"),
            uri: text(&event, "/requestURI"),
            code: event
                .pointer("/responseStatus/code")
                .and_then(Value::as_u64)
                .and_then(|code| code.try_into().ok())
                .unwrap_or_default(),
        })
        .collect()
}

/// Those of them that asked whether somebody may do something.
pub(super) fn reviews(log: &Path) -> Vec<Review> {
    let events = events(log);
    events
        .filter(|event| text(event, "/objectRef/resource") == "subjectaccessreviews")
        .map(|event| {
            let of = |field: &str| {
                let pointer = format!("/requestObject/spec/resourceAttributes/{field}");
                text(&event, &pointer)
            };
            Review {
                user: text(&event, "/requestObject/spec/user"),
                verb: of("verb"),
                group: of("group"),
                resource: of("resource"),
                subresource: of("subresource"),
                namespace: of("namespace"),
                is_allowed: event.pointer("/responseObject/status/allowed")
                    == Some(&Value::Bool(true)),
            }
        })
        .collect()
}

fn events(log: &Path) -> impl Iterator<Item = Value> + use<> {
    let log = fs::read_to_string(log).unwrap_or_default();
    // The last line may not be whole.
    let events: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    events.into_iter()
}

fn text(event: &Value, pointer: &str) -> String {
    let found = event.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}
