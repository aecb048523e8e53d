//! `-o dict`: a field per line, a blank line after each event.
//!
//! The fields are those of the event's JSON, by their paths, so that both name a field alike; their
//! text is made for a terminal.

use std::io::{self, Write};

use ebpf_hello_proto::v1::Event;
use serde_json::Value;

use super::{escape::human, words};

/// What a person looks for first; the kind's own fields follow, then the rest.
const FIRST: [&str; 4] = ["time", "node", "pod", "process"];
const LAST: [&str; 5] = ["policy", "cgroupId", "cpu", "sequence", "epoch"];

/// Writes an event as a paragraph.
pub(super) fn write(event: &Event, out: &mut impl Write) -> io::Result<()> {
    let Value::Object(mut fields) = serde_json::to_value(event)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut pick = |names: &[&'static str]| -> Vec<(String, Value)> {
        names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), fields.remove(*name)?)))
            .collect()
    };
    let (first, last) = (pick(&FIRST), pick(&LAST));
    writeln!(out, "what: {}", words::what(event, true))?;
    for (name, value) in first.into_iter().chain(fields).chain(last) {
        field(&human(&name), &value, out)?;
    }
    out.write_all(b"\n")
}

fn field(path: &str, value: &Value, out: &mut impl Write) -> io::Result<()> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .try_for_each(|(name, value)| field(&format!("{path}.{}", human(name)), value, out)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| field(&format!("{path}[{index}]"), value, out)),
        Value::String(text) => writeln!(out, "{path}: {}", human(text)),
        value => writeln!(out, "{path}: {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_proto::v1::{Exec, Process, event::Kind};

    #[test]
    fn an_event_is_a_paragraph_of_its_fields() {
        let event = Event {
            node: "n1".into(),
            cpu: Some(0),
            process: Some(Process {
                pid: 7,
                comm: "\u{1b}[2J".into(),
                ..Process::default()
            }),
            kind: Some(Kind::Exec(Exec {
                filename: "/bin/ls".into(),
                argv: vec!["ls".into(), "a\nb".into()],
                ..Exec::default()
            })),
            ..Event::default()
        };
        let mut out = Vec::new();
        write(&event, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "what: exec /bin/ls 'a\\nb'\nnode: n1\nprocess.comm: \\u{1b}[2J\nprocess.pid: 7\n\
             exec.argv[0]: ls\nexec.argv[1]: a\\nb\nexec.filename: /bin/ls\ncpu: 0\n\n"
        );
    }
}
