//! Files of secrets: a line each, `SECRET,FIELD,…`, `#` begins a comment.
//!
//! A secret is a token, or its SHA-256 as `sha256:HEX`, so that the file need not hold it; what is kept in memory is
//! only the hash.

use std::{path::Path, time::SystemTime};

use ring::digest;

use super::AccessError;

/// Shortest token: 16 characters can hold 64 bits and more.
const MIN_TOKEN: usize = 16;

/// Longest token; a service account's is about 1,200 bytes.
pub(super) const MAX_TOKEN: usize = 8192;

/// Lines that a file may have.
const MAX_LINES: usize = 10_000;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Hash([u8; digest::SHA256_OUTPUT_LEN]);

/// What a line begins with.
pub(super) enum Secret {
    /// A token, by its hash.
    Token(Hash),
    /// A name in a certificate: `certificate:NAME`. No secret: the certificate's key is.
    Certificate(String),
}

/// A line.
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: usize,
    pub(super) secret: Secret,
    /// What follows, without `expires`.
    pub(super) fields: Vec<String>,
    /// `expires=2026-12-01T00:00:00Z`.
    pub(super) expires: Option<SystemTime>,
}

// === impl Hash ===

impl Hash {
    pub(super) fn of(token: &str) -> Self {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Hash(hash)
    }

    fn parse(hex: &str) -> Option<Self> {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        if hex.len() != 2 * hash.len() || !hex.is_ascii() {
            return None;
        }
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Hash(hash))
    }

    /// Whether they are equal, in a time that does not tell where they differ.
    fn equals(&self, other: &Self) -> bool {
        let differs = self
            .0
            .iter()
            .zip(&other.0)
            .fold(0, |sum, (one, two)| sum | (one ^ two));
        std::hint::black_box(differs) == 0
    }
}

// === impl Line ===

impl Line {
    /// Whether its time is over.
    pub(super) fn has_expired(&self) -> bool {
        self.expires
            .is_some_and(|expires| expires <= SystemTime::now())
    }
}

/// The line of a token. Looks at every line, wherever it is.
pub(super) fn find_token<'a>(lines: &'a [Line], token: &str) -> Option<&'a Line> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let hash = Hash::of(token);
    let mut found = None;
    for line in lines {
        if matches!(&line.secret, Secret::Token(own) if own.equals(&hash)) {
            found = Some(line);
        }
    }
    found
}

/// The lines of a file.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Line>, AccessError> {
    let at = |line: usize, problem: String| AccessError::Line {
        path: path.to_owned(),
        line,
        problem,
    };
    let text = std::str::from_utf8(bytes).map_err(|error| at(1, format!("not UTF-8: {error}")))?;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if lines.len() == MAX_LINES {
            return Err(at(number, format!("more than {MAX_LINES} lines")));
        }
        lines.push(parse_line(line, number).map_err(|problem| at(number, problem))?);
    }
    Ok(lines)
}

fn parse_line(line: &str, number: usize) -> Result<Line, String> {
    let mut parts = line.split(',').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let secret = if let Some(hex) = first.strip_prefix("sha256:") {
        Secret::Token(Hash::parse(hex).ok_or("expected 64 hexadecimal digits after sha256:")?)
    } else if let Some(name) = first.strip_prefix("certificate:") {
        if name.is_empty() {
            return Err("expected a name after certificate:".into());
        }
        Secret::Certificate(name.to_owned())
    } else if (MIN_TOKEN..=MAX_TOKEN).contains(&first.len()) {
        Secret::Token(Hash::of(first))
    } else {
        return Err(format!(
            "a token of {} characters: expected {MIN_TOKEN} to {MAX_TOKEN}",
            first.len()
        ));
    };
    let (mut fields, mut expires) = (Vec::new(), None);
    for part in parts {
        if let Some(time) = part.strip_prefix("expires=") {
            let time: prost_types::Timestamp = time.parse().map_err(|_| {
                format!("{time:?} is no time: expected one such as 2026-12-01T00:00:00Z")
            })?;
            expires = Some(SystemTime::try_from(time).map_err(|error| error.to_string())?);
        } else if !part.is_empty() {
            fields.push(part.to_owned());
        }
    }
    Ok(Line {
        number,
        secret,
        fields,
        expires,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_token_is_found_by_itself_and_by_its_hash() {
        let hash = "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
        for text in [
            format!("# all\n\n{TOKEN},shop,web\n"),
            format!("sha256:{hash},shop , web"),
        ] {
            let lines = parse(text.as_bytes(), Path::new("readers")).unwrap();
            let line = find_token(&lines, TOKEN).unwrap();
            assert_eq!(line.fields, ["shop", "web"]);
            assert!(!line.has_expired());
            assert!(find_token(&lines, "0123456789abcdeg").is_none());
        }
    }

    #[test]
    fn a_broken_line_is_named_without_its_secret() {
        for (line, expected) in [
            ("short,shop", "expected 16 to"),
            ("sha256:abc,shop", "64 hexadecimal digits"),
            ("certificate:,shop", "a name after certificate:"),
            ("0123456789abcdef,expires=tomorrow", "2026-12-01T00:00:00Z"),
        ] {
            let text = format!("# first\n{line}\n");
            let Err(error) = parse(text.as_bytes(), Path::new("readers")) else {
                panic!("{line} was taken");
            };
            let error = error.to_string();
            assert!(
                error.contains("readers, line 2") && error.contains(expected),
                "{error}"
            );
            assert!(
                !error.contains(TOKEN) && !error.contains("short"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_line_expires() {
        let text = format!("{TOKEN},shop,expires=2020-01-01T00:00:00Z");
        let lines = parse(text.as_bytes(), Path::new("readers")).unwrap();
        assert!(lines[0].has_expired());
    }
}
