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

pub(super) fn read(log: &Path) -> Vec<Request> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .map(|event: Value| {
            let text = |pointer: &str| {
                let found = event.pointer(pointer).and_then(Value::as_str);
                found.unwrap_or_default().to_owned()
            };
            Request {
                user: text("/user/username"),
                verb: text("/verb"),
                group: text("/objectRef/apiGroup"),
                resource: text("/objectRef/resource"),
                subresource: text("/objectRef/subresource"),
                namespace: text("/objectRef/namespace"),
                name: text("/objectRef/name"),
                uri: text("/requestURI"),
                code: event
                    .pointer("/responseStatus/code")
                    .and_then(Value::as_u64)
                    .and_then(|code| code.try_into().ok())
                    .unwrap_or_default(),
            }
        })
        .collect()
}
