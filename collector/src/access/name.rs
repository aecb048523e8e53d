//! Names of nodes, and how a certificate carries one.

/// How the subject alternative name (a URI) of a node's certificate begins; the node's name follows. A scheme of our
/// own, so that no certificate made for another purpose is mistaken for a node's.
pub const NODE_URI: &str = "ebpf-hello://node/";

/// Longest name of a node, in bytes: that of a Kubernetes object (RFC 1123 subdomain).
const MAX_NODE: usize = 253;

/// A name that no node can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a node: expected 1 to {MAX_NODE} letters, digits, `.`, `-` and `_`, the first and the last a letter or digit"
)]
pub struct NotANode(pub String);

/// Checks that a node can have this name. Capitals and `_` are allowed: hosts outside Kubernetes have them.
///
/// # Errors
/// It cannot; the error quotes at most the first 64 characters.
pub fn check_node(name: &str) -> Result<(), NotANode> {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let good = bytes.len() <= MAX_NODE
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte));
    if good {
        Ok(())
    } else {
        Err(NotANode(name.chars().take(64).collect()))
    }
}

/// The URI that names a node in its certificate.
#[must_use]
pub fn node_uri(name: &str) -> String {
    format!("{NODE_URI}{name}")
}

/// The node that a certificate's URI names.
pub(super) fn node_of_uri(uri: &str) -> Option<&str> {
    uri.strip_prefix(NODE_URI)
        .filter(|name| check_node(name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_the_node_it_was_made_for() {
        assert_eq!(
            node_of_uri(&node_uri("ip-10-0-0-1.ec2")),
            Some("ip-10-0-0-1.ec2")
        );
        assert_eq!(node_of_uri("ebpf-hello://node/a/b"), None);
        assert_eq!(node_of_uri("spiffe://node/a"), None);
        assert_eq!(node_of_uri("ebpf-hello://node/"), None);
    }

    #[test]
    fn names_that_no_node_has_are_refused() {
        for bad in [
            "",
            "-a",
            "a-",
            "a b",
            "a/b",
            "ä",
            "a\0",
            "*",
            &"a".repeat(254),
        ] {
            let refused = check_node(bad).unwrap_err().to_string();
            assert!(refused.contains("expected"), "{refused}");
            assert!(refused.len() < 300, "{refused}");
        }
        for good in ["a", "n1", "Node_1", "a.b-c.d", &"a".repeat(253)] {
            check_node(good).unwrap();
        }
    }
}
