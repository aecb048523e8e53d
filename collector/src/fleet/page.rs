//! Pages of answers, bounded in rows and bytes, that go on after a key rather than at an offset: rows that
//! come or go between two pages move no other.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

use crate::refusal::Invalid;

/// Rows of a page that asks for none in particular.
pub(super) const DEFAULT_ROWS: u32 = 1_000;
/// Most rows of a page.
pub(super) const MAX_ROWS: u32 = 10_000;
/// Most bytes of a page's rows, so that no answer is over 1 MiB.
pub(super) const MAX_BYTES: usize = 960 << 10;
/// Longest page token: the key of a row in base64.
const MAX_TOKEN_BYTES: usize = 4096;

/// What a request says about its page.
#[derive(Clone, Debug)]
pub(super) struct Page {
    rows: usize,
    after: Option<Vec<String>>,
}

// === impl Page ===

impl Page {
    /// Reads `page_size` and `page_token`.
    ///
    /// # Errors
    /// The token is none that was given.
    pub(super) fn new(size: u32, token: &str) -> Result<Self, Invalid> {
        let rows = match size {
            0 => DEFAULT_ROWS,
            size => size.min(MAX_ROWS),
        };
        let after = if token.is_empty() {
            None
        } else {
            Some(key(token).ok_or_else(|| {
                Invalid::new(
                    "page_token",
                    "expected the next_page_token of the page before, or nothing",
                )
            })?)
        };
        Ok(Page {
            rows: rows as usize,
            after,
        })
    }

    /// The page's rows of all that there are, in the order of their keys, and the next page's token.
    pub(super) fn cut<T: Message>(
        &self,
        rows: impl Iterator<Item = (Vec<String>, T)>,
    ) -> (Vec<T>, String) {
        let mut page = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for (key, row) in rows {
            if self.after.as_ref().is_some_and(|after| key <= *after) {
                continue;
            }
            // A key and a length before each row.
            let length = row.encoded_len() + 8;
            if page.len() == self.rows || (bytes + length > MAX_BYTES && !page.is_empty()) {
                return (
                    page,
                    last.map(|key: Vec<String>| token(&key)).unwrap_or_default(),
                );
            }
            bytes += length;
            page.push(row);
            last = Some(key);
        }
        (page, String::new())
    }
}

fn token(key: &[String]) -> String {
    URL_SAFE_NO_PAD.encode(format!("1\0{}", key.join("\0")))
}

fn key(token: &str) -> Option<Vec<String>> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let key = text.strip_prefix("1\0")?;
    Some(key.split('\0').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> impl Iterator<Item = (Vec<String>, String)> {
        (0..count).map(|n| (vec![format!("{n:05}"), "x".into()], format!("row {n}")))
    }

    #[test]
    fn pages_follow_each_other_without_a_row_twice_or_left_out() {
        let mut token = String::new();
        let mut seen = Vec::new();
        loop {
            let (page, next) = Page::new(7, &token).unwrap().cut(rows(20));
            assert!(page.len() <= 7);
            seen.extend(page);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let all: Vec<String> = rows(20).map(|(_, row)| row).collect();
        assert_eq!(seen, all);
        assert_eq!(
            Page::new(u32::MAX, "").unwrap().cut(rows(10_500)).0.len(),
            10_000
        );
        assert_eq!(Page::new(0, "").unwrap().cut(rows(1_500)).0.len(), 1_000);
    }

    #[test]
    fn a_page_is_bounded_in_bytes_but_never_empty() {
        let large = || (0..3).map(|n| (vec![n.to_string()], "x".repeat(700 << 10)));
        let (page, next) = Page::new(0, "").unwrap().cut(large());
        assert_eq!(page.len(), 1);
        assert!(!next.is_empty());
    }

    #[test]
    fn a_token_that_was_not_given_is_refused() {
        for token in ["x", "!!!", "AAAA", &"A".repeat(5000)] {
            assert_eq!(
                Page::new(0, token).unwrap_err().field,
                "page_token",
                "{token:.9}"
            );
        }
    }
}
