//! A server's no, in the words of the command line.
//!
//! The server answers with google.rpc.Status: BadRequest names the field, ErrorInfo carries a reason.
//! People typed flags: the field is named by its flag, and a mistake in a CEL expression is shown
//! where it is.

use std::{error::Error, fmt::Write as _};

use ebpf_hello_proto::v1::Selection;
use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt as _};

use crate::{exit::Unreachable, render::human};

/// Flags of request fields, by the last part of a field's path.
const FLAGS: [(&str, &str); 17] = [
    ("nodes", "--node"),
    ("namespaces", "--namespace"),
    ("pods", "--pod"),
    ("label_selector", "--selector"),
    ("containers", "--container"),
    ("syscalls", "--syscall"),
    ("types", "--type"),
    ("comms", "--comm"),
    ("binaries", "--binary"),
    ("uids", "--uid"),
    ("pids", "--pid"),
    ("cel", "--cel"),
    ("since", "--since"),
    ("until", "--until"),
    ("last", "--last"),
    ("resume_token", "--resume"),
    ("paths", "--mask"),
];

/// Whether the same request may succeed a moment later.
pub(crate) fn is_transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Aborted
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
    )
}

/// The error to show for a status, in answer to this selection.
pub(crate) fn explain(status: &Status, selection: &Selection) -> anyhow::Error {
    let error = anyhow::anyhow!(text(status, selection));
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => error.context(Unreachable),
        // No answer at all, this side made the status up: what listens there speaks something else, or the connection
        // broke.
        Code::Unknown | Code::Internal | Code::Cancelled if status.source().is_some() => {
            error.context(Unreachable)
        }
        _ => error,
    }
}

/// One line for notices.
pub(crate) fn brief(status: &Status) -> String {
    let mut words = format!("{}: {}", name(status.code()), human(status.message()));
    let mut cause = status.source();
    while let Some(error) = cause {
        let text = human(&error.to_string());
        if !words.contains(&text) {
            // Writing to a String cannot fail.
            let _ = write!(words, ": {text}");
        }
        cause = error.source();
    }
    words
}

fn text(status: &Status, selection: &Selection) -> String {
    // Details that cannot be decoded must not hide the message.
    let details = status.check_error_details().unwrap_or_default();
    let violations = details
        .bad_request()
        .map(|request| request.field_violations.as_slice())
        .unwrap_or_default();
    // The message is often the first violation over again.
    let said = |violation: &FieldViolation| status.message().ends_with(&violation.description);
    let mut text = if violations.iter().any(said) {
        format!("the server refused: {}", name(status.code()))
    } else {
        format!("the server refused: {}", brief(status))
    };
    if let Some(info) = details.error_info() {
        let _ = write!(text, " (reason {})", human(&info.reason));
    }
    for violation in violations {
        let _ = write!(
            text,
            "\n  {}: {}",
            field(&violation.field),
            human(&violation.description)
        );
        if !violation.reason.is_empty() {
            let _ = write!(text, " ({})", human(&violation.reason));
        }
        if let Some(caret) = caret(violation, selection) {
            let _ = write!(text, "\n{caret}");
        }
    }
    for link in details
        .help()
        .map(|help| help.links.as_slice())
        .unwrap_or_default()
    {
        let _ = write!(
            text,
            "\n  {}: {}",
            human(&link.description),
            human(&link.url)
        );
    }
    text
}

/// The flag a field was filled from, with the field.
fn field(path: &str) -> String {
    let path = human(path);
    let last = path.rsplit('.').next().unwrap_or(&path);
    let last = last.split('[').next().unwrap_or(last);
    match FLAGS.iter().find(|(field, _)| *field == last) {
        Some((_, flag)) => format!("{flag} ({path})"),
        None => path,
    }
}

/// The line of the expression with the mistake, and a caret under it.
fn caret(violation: &FieldViolation, selection: &Selection) -> Option<String> {
    let expression = match violation.field.rsplit('.').next()? {
        "cel" => &selection.cel,
        "label_selector" => &selection.label_selector,
        _ => return None,
    };
    let (line, column) = position(&violation.description)?;
    let source = expression.lines().nth(line.checked_sub(1)?)?;
    if column > source.chars().count() + 1 {
        return None;
    }
    let before: String = source.chars().take(column.checked_sub(1)?).collect();
    // Escaped as it is shown, so that the caret stands under the right character.
    let indent = human(&before).chars().count();
    Some(format!("    {}\n    {:indent$}^", human(source), ""))
}

/// `LINE:COLUMN`, or `column COLUMN` of the only line; both from 1.
fn position(description: &str) -> Option<(usize, usize)> {
    let number = |text: &str| -> Option<usize> {
        let end = text.find(|c: char| !c.is_ascii_digit());
        text[..end.unwrap_or(text.len())].parse().ok()
    };
    let pair = description.match_indices(':').find_map(|(colon, _)| {
        let before = &description[..colon];
        let digits = before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        Some((
            number(&before[digits..])?,
            number(&description[colon + 1..])?,
        ))
    });
    pair.or_else(|| {
        let (_, column) = description.split_once("column ")?;
        Some((1, number(column)?))
    })
}

/// The code as the protocol's documents write it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn refused(field: &str, description: &str, expression: &str) -> String {
        let selection = Selection {
            cel: expression.to_owned(),
            label_selector: expression.to_owned(),
            ..Selection::default()
        };
        let mut details = ErrorDetails::with_bad_request_violation(field, description);
        details.set_error_info("INVALID_SELECTION", "ebpf-hello.dev", []);
        let status = Status::with_error_details(Code::InvalidArgument, "bad selection", details);
        format!("{:#}", explain(&status, &selection))
    }

    #[test]
    fn a_field_is_named_by_its_flag_with_the_reason() {
        let text = refused("selection.label_selector", "expected a value after `=`", "");
        assert_eq!(
            text,
            "the server refused: INVALID_ARGUMENT: bad selection (reason INVALID_SELECTION)\n  \
             --selector (selection.label_selector): expected a value after `=`"
        );
        assert!(refused("selection.uids[2]", "x", "").contains("--uid (selection.uids[2])"));
        assert!(refused("mask.paths[0]", "x", "").contains("--mask (mask.paths[0])"));
        // What the message says already is not said twice.
        assert_eq!(
            refused("last", "bad selection", ""),
            "the server refused: INVALID_ARGUMENT (reason INVALID_SELECTION)\n  --last (last): bad selection"
        );
    }

    #[test]
    fn a_mistake_in_an_expression_is_shown_where_it_is() {
        let cel = "event.pid >\n  event.nosuch";
        for description in ["2:9: no such field", "ERROR: <input>:2:9: no such field"] {
            let text = refused("selection.cel", description, cel);
            assert!(
                text.ends_with("\n      event.nosuch\n            ^"),
                "{text}"
            );
        }
        let text = refused(
            "selection.label_selector",
            "column 5: expected ','",
            "app cart",
        );
        assert!(text.ends_with("\n    app cart\n        ^"), "{text}");
        // A position that is not in the expression shows no caret, and does not panic.
        for description in [
            "9:1: x",
            "1:99: x",
            "0:0: x",
            "no position",
            "a:b",
            "é:1",
            ":1:",
        ] {
            let text = refused("selection.cel", description, cel);
            assert!(!text.contains('^'), "{text}");
        }
    }

    #[test]
    fn a_servers_text_never_reaches_the_terminal_raw() {
        let text = refused("selection.cel", "1:1: \u{1b}[2J", "\u{1b}]0;x");
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }
}
