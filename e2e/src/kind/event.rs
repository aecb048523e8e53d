//! One line of `observe -o json`.

use serde_json::Value;

/// An event, as its reader sees it.
#[derive(Clone, Debug)]
pub struct Event(pub(super) Value);

// === impl Event ===

impl Event {
    /// A field by its JSON pointer without the first slash (`pod/container/name`), as text; empty if it
    /// is not there.
    pub fn text(&self, path: &str) -> &str {
        self.field(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// A field as it is.
    pub fn field(&self, path: &str) -> Option<&Value> {
        self.0.pointer(&format!("/{path}"))
    }

    /// What kind it is: `exec`, `path`, …
    pub fn is(&self, kind: &str) -> bool {
        self.0.get(kind).is_some()
    }

    /// The arguments of an exec.
    pub fn argv(&self) -> Vec<&str> {
        self.field("exec/argv")
            .and_then(Value::as_array)
            .map(|arguments| arguments.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }

    /// Whether an argument of this exec contains the text.
    pub fn mentions(&self, text: &str) -> bool {
        self.argv().iter().any(|argument| argument.contains(text))
    }

    /// The whole line.
    pub fn line(&self) -> String {
        self.0.to_string()
    }
}
