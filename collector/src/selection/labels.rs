//! Label selectors as kubectl's `-l` reads them: `app=cart,tier in (web,api),!canary`.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/labels.Parse`, with `>` and `<` too. As there, a label that
//! is not set satisfies `!=` and `notin`.

use std::collections::{BTreeMap, BTreeSet};

/// Requirements, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// A piece of a selector, and the column it starts in, from 1.
type Token<'t> = (usize, &'t str);

// === impl LabelSelector ===

impl LabelSelector {
    /// Reads a selector; an empty one selects everything.
    ///
    /// # Errors
    /// A sentence that says in which column what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = tokens(text).into_iter().peekable();
        let mut requirements = Vec::new();
        if tokens.peek().is_none() {
            return Ok(LabelSelector(requirements));
        }
        loop {
            requirements.push(requirement(&mut tokens)?);
            match tokens.next() {
                None => return Ok(LabelSelector(requirements)),
                Some((_, ",")) => {}
                Some((column, other)) => {
                    return Err(format!("column {column}: expected ',', found {other:?}"));
                }
            }
        }
    }

    /// Whether these labels satisfy it.
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => !value.is_some_and(|value| values.contains(value)),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::Greater(bound) => number(value).is_some_and(|value| value > *bound),
                Test::Less(bound) => number(value).is_some_and(|value| value < *bound),
            }
        })
    }
}

fn number(value: Option<&String>) -> Option<i64> {
    value.and_then(|value| value.parse().ok())
}

/// Splits at blanks and operators: `,` `(` `)` `!` `!=` `=` `==` `<` `>`.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if first.is_whitespace() => {
                rest = &rest[first.len_utf8()..];
                continue;
            }
            '!' | '=' if rest[1..].starts_with('=') => 2,
            ',' | '(' | ')' | '!' | '=' | '<' | '>' => 1,
            _ => rest
                .find(|c: char| c.is_whitespace() || ",()!=<>".contains(c))
                .unwrap_or(rest.len()),
        };
        tokens.push((text.len() - rest.len() + 1, &rest[..length]));
        rest = &rest[length..];
    }
    tokens
}

fn is_operator(token: &str) -> bool {
    matches!(token, "," | "(" | ")" | "!" | "!=" | "=" | "==" | "<" | ">")
}

fn requirement<'t>(
    tokens: &mut std::iter::Peekable<impl Iterator<Item = Token<'t>>>,
) -> Result<Requirement, String> {
    let (column, mut token) = tokens.next().ok_or("expected a label's key at the end")?;
    let absent = token == "!";
    if absent {
        (_, token) = tokens
            .next()
            .ok_or("expected a label's key after '!' at the end")?;
    }
    let key = key(token).map_err(|error| format!("column {column}: {error}"))?;
    if absent {
        return Ok(Requirement {
            key,
            test: Test::Absent,
        });
    }
    let test = match tokens.peek() {
        None | Some((_, ",")) => Test::Exists,
        Some(_) => {
            // Peeked.
            let (column, operator) = tokens.next().unwrap_or_default();
            match operator {
                "=" | "==" => Test::In(BTreeSet::from([single(tokens)?])),
                "!=" => Test::NotIn(BTreeSet::from([single(tokens)?])),
                ">" => Test::Greater(bound(tokens, operator)?),
                "<" => Test::Less(bound(tokens, operator)?),
                "in" => Test::In(set(tokens)?),
                "notin" => Test::NotIn(set(tokens)?),
                other => {
                    return Err(format!(
                        "column {column}: expected =, ==, !=, in, notin, <, > or ',', found {other:?}"
                    ));
                }
            }
        }
    };
    Ok(Requirement { key, test })
}

/// The value after an operator; none at all is the empty one.
fn single<'t>(
    tokens: &mut std::iter::Peekable<impl Iterator<Item = Token<'t>>>,
) -> Result<String, String> {
    match tokens.peek() {
        None | Some((_, ",")) => Ok(String::new()),
        Some(_) => {
            let (column, token) = tokens.next().unwrap_or_default();
            value(column, token)
        }
    }
}

fn bound<'t>(
    tokens: &mut std::iter::Peekable<impl Iterator<Item = Token<'t>>>,
    operator: &str,
) -> Result<i64, String> {
    let (column, token) = tokens
        .next()
        .ok_or_else(|| format!("expected an integer after {operator} at the end"))?;
    token
        .parse()
        .map_err(|_| format!("column {column}: expected an integer, found {token:?}"))
}

fn set<'t>(
    tokens: &mut std::iter::Peekable<impl Iterator<Item = Token<'t>>>,
) -> Result<BTreeSet<String>, String> {
    let end = || "expected ')' at the end".to_owned();
    match tokens.next() {
        Some((_, "(")) => {}
        Some((column, other)) => {
            return Err(format!("column {column}: expected '(', found {other:?}"));
        }
        None => return Err("expected '(' at the end".into()),
    }
    let mut values = BTreeSet::new();
    loop {
        match tokens.peek().copied().ok_or_else(end)? {
            (_, "," | ")") => values.insert(String::new()),
            (column, token) => {
                tokens.next();
                values.insert(value(column, token)?)
            }
        };
        match tokens.next().ok_or_else(end)? {
            (_, ",") => {}
            (_, ")") => return Ok(values),
            (column, other) => {
                return Err(format!(
                    "column {column}: expected ',' or ')', found {other:?}"
                ));
            }
        }
    }
}

fn key(token: &str) -> Result<String, String> {
    let (prefix, name) = match token.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, token),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = !is_operator(token)
        && (1..=63).contains(&name.len())
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && prefix.is_none_or(|prefix| {
            (1..=253).contains(&prefix.len())
                && prefix
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        });
    if good {
        Ok(token.to_owned())
    } else {
        Err(format!(
            "{token:?} is no label key: expected letters, digits, '-', '_' and '.', such as app.kubernetes.io/name"
        ))
    }
}

fn value(column: usize, token: &str) -> Result<String, String> {
    let good = !is_operator(token)
        && token.len() <= 63
        && token
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && token.starts_with(|c: char| c.is_ascii_alphanumeric())
        && token.ends_with(|c: char| c.is_ascii_alphanumeric());
    if good {
        Ok(token.to_owned())
    } else {
        Err(format!(
            "column {column}: {token:?} is no label value: expected at most 63 letters, digits, '-', '_' and '.'"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> BTreeMap<String, String> {
        [
            ("app", "cart"),
            ("tier", "web"),
            ("size", "7"),
            ("app.kubernetes.io/name", "cart"),
            ("empty", ""),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn selects_what_kubectl_selects() {
        for (selector, expected) in [
            ("", true),
            ("app=cart", true),
            ("app==cart", true),
            ("app = cart , tier = web", true),
            ("app=cart,tier=api", false),
            ("app!=cart", false),
            ("absent!=cart", true),
            ("tier in (web,api)", true),
            ("tier in (api)", false),
            ("tier notin (api, db)", true),
            ("absent notin (a)", true),
            ("app", true),
            ("!app", false),
            ("! canary", true),
            ("app.kubernetes.io/name=cart", true),
            ("empty=", true),
            ("empty in (,x)", true),
            ("size>6", true),
            ("size > 7", false),
            ("size<8,size>6", true),
            ("app<8", false),
            ("in in (in)", false),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&labels()), expected, "{selector}");
        }
    }

    #[test]
    fn says_where_it_does_not_understand() {
        for (selector, expected) in [
            ("app=cart,", "key at the end"),
            ("=cart", "column 1"),
            ("app in cart", "column 8: expected '('"),
            ("app in (cart", "expected ')' at the end"),
            ("app cart", "column 5: expected =, ==, !=, in"),
            ("app=ca rt", "column 8: expected ','"),
            ("a_/b c=d", "label key"),
            ("app>many", "column 5: expected an integer"),
            ("app=é", "no label value"),
            ("app in (a b)", "column 11: expected ',' or ')'"),
            ("!", "after '!'"),
        ] {
            let error = LabelSelector::parse(selector).unwrap_err();
            assert!(error.contains(expected), "{selector}: {error}");
        }
    }
}
