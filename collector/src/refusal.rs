//! How requests are refused: a google.rpc.Status whose details a program can read.
//!
//! `BadRequest` names the field and says what was expected; `ErrorInfo` carries a reason in
//! UPPER_SNAKE_CASE under the domain [`DOMAIN`].

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "ebpf-hello.dev";

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field's path in the request, such as `selection.pods[0]`.
    pub field: String,
    /// What is wrong, and what was expected.
    pub description: String,
}

// === impl Invalid ===

impl Invalid {
    /// A field and what is wrong with it.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Invalid {
            field: field.into(),
            description: description.into(),
        }
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        self::invalid(&[invalid])
    }
}

/// INVALID_ARGUMENT over several fields.
#[must_use]
pub fn invalid(fields: &[Invalid]) -> Status {
    let message = fields
        .iter()
        .map(|one| format!("{}: {}", one.field, one.description))
        .collect::<Vec<_>>()
        .join("; ");
    let violations: Vec<FieldViolation> = fields
        .iter()
        .map(|one| FieldViolation::new(&one.field, &one.description))
        .collect();
    let mut details = ErrorDetails::with_bad_request(violations);
    details.set_error_info("INVALID_FIELD", DOMAIN, HashMap::new());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A refusal with a reason in UPPER_SNAKE_CASE.
pub fn because(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(
        code,
        message,
        ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()),
    )
}

/// The same refusal for a stream that had begun, with the token to go on with in its `ErrorInfo`, if there is one.
pub(crate) fn resumable(status: &Status, token: &str) -> Status {
    if token.is_empty() {
        return status.clone();
    }
    let mut details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    let metadata = HashMap::from([("resume_token".to_owned(), token.to_owned())]);
    details.set_error_info(reason.unwrap_or_else(|| "ENDED".into()), DOMAIN, metadata);
    Status::with_error_details(status.code(), status.message(), details)
}

/// PERMISSION_DENIED: known, but not allowed.
pub fn denied(message: impl Into<String>) -> Status {
    because(Code::PermissionDenied, "NOT_ALLOWED", message)
}

/// UNAUTHENTICATED: nobody, or with credentials that are not good.
pub fn unauthenticated(message: impl Into<String>) -> Status {
    because(Code::Unauthenticated, "NO_CREDENTIALS", message)
}
