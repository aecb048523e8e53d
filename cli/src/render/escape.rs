//! Text from processes, made harmless for a terminal.

use std::fmt::Write as _;

/// Whether a terminal might obey a character instead of showing it: controls (C0, DEL, C1), and
/// the formatting characters that reorder or hide text (Unicode's Bidi_Control, the zero-width
/// ones, line and paragraph separators).
pub(crate) fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// An event's text for people: dangerous characters as Rust writes them in a literal; a backslash,
/// which events carry as `\x5c`, as itself.
pub(crate) fn human(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.replace("\\x5c", "\\").chars() {
        if is_dangerous(character) {
            // Writing to a String cannot fail.
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// An argument of a command line, quoted where a shell would need it.
pub(crate) fn argument(text: &str) -> String {
    let shown = human(text);
    shell_words::quote(&shown).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_terminal_escape_survives() {
        let shown = human("\u{1b}[31mred\u{9b}2J\r\n\u{202e}gnp.exe\u{7f}");
        assert!(!shown.chars().any(is_dangerous), "{shown:?}");
        assert_eq!(
            shown,
            "\\u{1b}[31mred\\u{9b}2J\\r\\n\\u{202e}gnp.exe\\u{7f}"
        );
    }

    #[test]
    fn ordinary_text_is_itself() {
        assert_eq!(human("grüße C:\\x5ctemp"), "grüße C:\\temp");
        assert_eq!(argument("a b"), "'a b'");
        assert_eq!(argument(""), "''");
        assert_eq!(argument("-la"), "-la");
    }
}
