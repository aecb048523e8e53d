//! Bytes from processes as text from which they can be had back.

use std::fmt::Write as _;

/// Bytes as UTF-8; what is not is written `\xNN`, and a backslash `\x5c`, so that nothing is lost
/// and nothing is ambiguous.
pub fn lossless(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut parts = chunk.valid().split('\\');
        text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            text.push_str("\\x5c");
            text.push_str(part);
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The part before the first NUL, as [`lossless`].
pub(crate) fn name(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    lossless(&bytes[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inverse, as docs tell consumers to write it.
    fn bytes(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("\\x") {
            bytes.extend_from_slice(&rest.as_bytes()[..at]);
            bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
            rest = &rest[at + 4..];
        }
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).chain(*b"\\x41 \\\\ \xc3\xa9 \xc3").collect();
        assert_eq!(bytes(&lossless(&all)), all);
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(lossless("grüße\n".as_bytes()), "grüße\n");
        assert_eq!(lossless(b"a\\b\xff"), "a\\x5cb\\xff");
        assert_eq!(name(b"bash\0\0junk"), "bash");
    }
}
