//! Canonical proto3 JSON, one object per line, safe to show on a terminal.

use std::io::{self, Write};

use ebpf_hello_proto::v1::Event;
use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};

use super::escape::is_dangerous;

/// Writes an event and a newline.
pub(crate) fn write(event: &Event, out: &mut impl Write) -> io::Result<()> {
    event
        .serialize(&mut Serializer::with_formatter(&mut *out, Terminal))
        .map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// JSON requires only C0 controls to be escaped; a terminal obeys others too. Any character may be
/// written as `\uXXXX`, so a reader gets the same text.
struct Terminal;

impl Formatter for Terminal {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, character)) = rest
            .char_indices()
            .find(|(_, character)| is_dangerous(*character))
        {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + character.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_proto::v1::{Fork, Process, event::Kind};

    #[test]
    fn every_text_comes_back_and_none_reaches_the_terminal_raw() {
        let comm = "\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\n\"\\x5c\u{e0041}ü";
        let event = Event {
            process: Some(Process {
                comm: comm.into(),
                ..Process::default()
            }),
            kind: Some(Kind::Fork(Fork {
                child_pid: 1,
                ..Fork::default()
            })),
            ..Event::default()
        };
        let mut line = Vec::new();
        write(&event, &mut line).unwrap();
        let text = String::from_utf8(line).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(is_dangerous), "{line}");
        assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event);
    }
}
