//! Secrets in what processes say of themselves: replaced before an event is printed, sent or spooled.
//!
//! Arguments carry passwords, and everybody who reads events would read them. What is known to be one by its
//! name (`--password=…`, `AWS_SECRET_ACCESS_KEY=…`, `Authorization: …`) or by its looks (access keys, tokens, the
//! password in a URL) is replaced by [`REDACTED`], and so is what the operator's own patterns match. It is a
//! guard against accidents, not a proof: a secret that looks like any other word stays.

use std::sync::{Arc, LazyLock};

use ebpf_hello_proto::v1::{Event, Exec, Path, event::Kind};
use regex::{Captures, Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// What stands for a secret.
pub const REDACTED: &str = "[redacted]";
/// The pattern that turns the built-in ones off.
pub const NONE: &str = "none";
/// Patterns an operator can give, at most.
const PATTERNS: usize = 64;
/// Characters of each, at most.
const LENGTH: usize = 1024;
/// Bytes of a compiled pattern, at most: bounds what `(x{1000}){1000}` costs.
const COMPILED: usize = 1 << 20;

/// Names that say that a value is a secret, and value.
const NAMED: &str = r#"(?ix)
    (?P<name> [\w.-]* (?: passw(?:or)?d | passwd | passphrase | secret | token | credentials?
        | api[-_]?key | access[-_]?key | private[-_]?key | auth[-_]?key ) [\w.-]* )
    (?: ["']? \s* [=:] \s* )
    (?P<secret> \[redacted\] | "[^"]*" | '[^']*' | [^\s"'&;,]+ )"#;
/// The same as an option whose value follows, within one string (`sh -c "login --token abc"`).
const FOLLOWED: &str = r#"(?ix)
    (?: ^ | [\s"'] ) --?
    (?P<name> [\w.-]* (?: passw(?:or)?d | passphrase | secret | token | api[-_]?key | access[-_]?key
        | private[-_]?key ) [\w.-]* )
    \s+ (?P<secret> \[redacted\] | "[^"]*" | '[^']*' | [^\s"']+ )"#;
/// Names in [`NAMED`] and [`FOLLOWED`] whose value is where the secret is, not the secret.
const PLACES: [&str; 7] = ["file", "path", "dir", "stdin", "prompt", "url", "name"];
/// An option whose value is the next argument: see [`NAMED`].
const OPTION: &str = r"(?i)^--?[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key)[\w.-]*$";
/// What is a secret by its looks. The group is what is replaced; without one, all of it.
const LOOKS: [&str; 8] = [
    // HTTP headers (RFC 9110), to the end of the argument.
    r"(?i)\b(?:proxy-)?authorization\s*:\s*(?:(?:basic|bearer|digest|negotiate|token)\s+)?([^\s].*)",
    r"(?i)\b(?:set-)?cookie\s*:\s*([^\s].*)",
    r"(?i)\bbearer\s+([\w.~+/=-]{8,})",
    // The userinfo of a URL (RFC 3986), up to the last @ of its authority.
    r"(?i)\b[a-z][a-z0-9+.-]*://[^\s/:@]*:([^\s/]+)@",
    // AWS access key ids, GitHub and Slack tokens.
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|xox[abprs]-[\w-]{10,})",
    // JSON web tokens (RFC 7519).
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
];
/// Programs with options of one letter that take a secret: the option, and whether it can be in the next argument.
const PROGRAMS: [(&[&str], &[&str], bool); 4] = [
    (
        &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mysqlimport",
            "mysqlshow",
            "mysqlcheck",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
        ],
        &["-p"],
        // `mysql -p db` asks for the password and names a database.
        false,
    ),
    (&["sshpass"], &["-p"], true),
    (&["redis-cli", "valkey-cli"], &["-a"], true),
    (&["curl"], &["-u", "-U", "--user", "--proxy-user"], true),
];

static BUILT_IN: LazyLock<BuiltIn> = LazyLock::new(BuiltIn::new);

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedactError {
    /// It is no regular expression, or too large a one.
    #[error("--redact `{pattern}`: {error}; expected a regular expression such as `key-[0-9a-f]+`")]
    Invalid {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        #[source]
        error: Box<regex::Error>,
    },
    /// It matches everywhere.
    #[error(
        "--redact `{0}` matches the empty text; expected a pattern that needs at least one character"
    )]
    Empty(String),
    /// It is too long.
    #[error("--redact: a pattern of {0} characters; expected at most {LENGTH}")]
    Long(usize),
    /// There are too many.
    #[error("--redact: {0} patterns; expected at most {PATTERNS}")]
    Many(usize),
}

/// Replaces secrets in events. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    built_in: bool,
    own: Option<Arc<Own>>,
}

/// The operator's patterns.
#[derive(Debug)]
struct Own {
    any: RegexSet,
    each: Vec<Regex>,
}

#[derive(Debug)]
struct BuiltIn {
    any: RegexSet,
    named: Regex,
    followed: Regex,
    option: Regex,
    looks: Vec<Regex>,
}

// === impl Redactor ===

impl Redactor {
    /// The built-in patterns and these. A pattern `none` leaves the built-in ones out. What a pattern matches is
    /// replaced; if it has groups, only what these match.
    ///
    /// # Errors
    /// A pattern that is not a regular expression, too large, or matches the empty text.
    pub fn new(patterns: &[String]) -> Result<Self, RedactError> {
        let own: Vec<_> = patterns.iter().filter(|pattern| *pattern != NONE).collect();
        if own.len() > PATTERNS {
            return Err(RedactError::Many(own.len()));
        }
        let each = own
            .iter()
            .map(|pattern| compile(pattern))
            .collect::<Result<Vec<_>, _>>()?;
        let any = RegexSetBuilder::new(&own)
            .size_limit(COMPILED * PATTERNS)
            .build()
            .map_err(|error| RedactError::Invalid {
                pattern: own
                    .iter()
                    .map(|own| own.as_str())
                    .collect::<Vec<_>>()
                    .join("`, `"),
                error: Box::new(error),
            })?;
        Ok(Redactor {
            built_in: own.len() == patterns.len(),
            own: (!each.is_empty()).then(|| Arc::new(Own { any, each })),
        })
    }

    /// Replaces secrets in the texts of an event that come from a process, and marks it.
    pub fn redact(&self, event: &mut Event) {
        if !self.built_in && self.own.is_none() {
            return;
        }
        match &mut event.kind {
            Some(Kind::Exec(exec)) => {
                let mut redacted = self.exec(exec);
                if let Some(process) = &mut event.process {
                    redacted |= self.text(&mut process.binary);
                }
                exec.redacted |= redacted;
            }
            Some(Kind::Path(Path {
                path,
                new_path,
                redacted,
                ..
            })) => {
                *redacted |= self.text(path);
                *redacted |= self.text(new_path);
            }
            _ => {}
        }
    }

    fn exec(&self, exec: &mut Exec) -> bool {
        let mut redacted = self.text(&mut exec.filename);
        redacted |= self.text(&mut exec.cwd);
        if self.built_in {
            redacted |= redact_options(&exec.filename, &mut exec.argv);
        }
        for argument in &mut exec.argv {
            redacted |= self.text(argument);
        }
        redacted
    }

    /// Replaces secrets in one text; says whether there were any.
    pub fn text(&self, text: &mut String) -> bool {
        let mut redacted = false;
        if self.built_in && BUILT_IN.any.is_match(text) {
            redacted |= BUILT_IN.text(text);
        }
        if let Some(own) = &self.own
            && own.any.is_match(text)
        {
            for pattern in &own.each {
                redacted |= replace(pattern, text);
            }
        }
        redacted
    }
}

fn compile(pattern: &str) -> Result<Regex, RedactError> {
    let length = pattern.chars().count();
    if length > LENGTH {
        return Err(RedactError::Long(length));
    }
    let regex = RegexBuilder::new(pattern)
        .size_limit(COMPILED)
        .build()
        .map_err(|error| RedactError::Invalid {
            pattern: pattern.to_owned(),
            error: Box::new(error),
        })?;
    if regex.is_match("") {
        return Err(RedactError::Empty(pattern.to_owned()));
    }
    Ok(regex)
}

/// Options whose value is a whole argument: the rest of this one, or the next.
fn redact_options(filename: &str, arguments: &mut [String]) -> bool {
    let mut redacted = false;
    let mut hide = |argument: &mut String, from: usize| {
        if argument.len() > from && &argument[from..] != REDACTED {
            argument.replace_range(from.., REDACTED);
            redacted = true;
        }
    };
    let program = filename.rsplit('/').next().unwrap_or_default();
    let short = PROGRAMS
        .iter()
        .find(|(programs, ..)| programs.contains(&program));
    for index in 1..arguments.len() {
        let (this, rest) = arguments.split_at_mut(index + 1);
        let this = &mut this[index];
        if let Some((_, options, separate)) = short {
            for option in *options {
                if this == option && *separate {
                    rest.first_mut().into_iter().for_each(|next| hide(next, 0));
                } else if !option.starts_with("--") && this.starts_with(option) {
                    hide(this, option.len());
                }
            }
        }
        // `--password=two words` is one secret; anywhere else a space ends it.
        let (name, has_value) = match this.find('=') {
            Some(at) => (this[..at].to_owned(), Some(at + 1)),
            None => (this.clone(), None),
        };
        if BUILT_IN.option.is_match(&name) && !is_place(&name) {
            match has_value {
                Some(from) => hide(this, from),
                None => rest.first_mut().into_iter().for_each(|next| hide(next, 0)),
            }
        }
    }
    redacted
}

/// Whether a name is of the place of a secret: `--password-file`, `TOKEN_PATH`.
fn is_place(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PLACES.iter().any(|place| name.ends_with(place))
}

/// Replaces what a pattern matches: its groups, or all of it when it has none.
fn replace(pattern: &Regex, text: &mut String) -> bool {
    replace_if(pattern, text, |_| true)
}

fn replace_if(pattern: &Regex, text: &mut String, is_secret: impl Fn(&Captures) -> bool) -> bool {
    let named = pattern.capture_names().flatten().count() > 0;
    let mut ranges = Vec::new();
    for captures in pattern.captures_iter(text).filter(|found| is_secret(found)) {
        let groups = captures.iter().zip(pattern.capture_names()).skip(1);
        let before = ranges.len();
        for (group, name) in groups {
            if (!named || name != Some("name"))
                && let Some(group) = group
            {
                ranges.push(group.range());
            }
        }
        if before == ranges.len()
            && let Some(all) = captures.get(0)
        {
            ranges.push(all.range());
        }
    }
    ranges.retain(|range| !range.is_empty() && text.get(range.clone()) != Some(REDACTED));
    // From the end, so that what is before stays where it is; a group within a group is gone with it.
    ranges.sort_by_key(|range| std::cmp::Reverse((range.start, range.end)));
    let mut redacted = false;
    let mut start = usize::MAX;
    for range in ranges {
        if range.end <= start {
            start = range.start;
            text.replace_range(range, REDACTED);
            redacted = true;
        }
    }
    redacted
}

// === impl BuiltIn ===

impl BuiltIn {
    #[allow(
        clippy::unwrap_used,
        reason = "constants, which a test compiles as well"
    )]
    fn new() -> Self {
        let all = [NAMED, FOLLOWED].into_iter().chain(LOOKS);
        BuiltIn {
            any: RegexSet::new(all).unwrap(),
            named: Regex::new(NAMED).unwrap(),
            followed: Regex::new(FOLLOWED).unwrap(),
            option: Regex::new(OPTION).unwrap(),
            looks: LOOKS.map(|looks| Regex::new(looks).unwrap()).into(),
        }
    }

    fn text(&self, text: &mut String) -> bool {
        let mut redacted = false;
        // By their looks first: an Authorization header has more than one word.
        for looks in &self.looks {
            redacted |= replace(looks, text);
        }
        for named in [&self.named, &self.followed] {
            redacted |= replace_if(named, text, |found| {
                let name = found.name("name").map_or("", |name| name.as_str());
                !is_place(name)
            });
        }
        redacted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(filename: &str, argv: &[&str]) -> Event {
        Event {
            kind: Some(Kind::Exec(Exec {
                filename: filename.into(),
                argv: argv.iter().map(ToString::to_string).collect(),
                ..Exec::default()
            })),
            ..Event::default()
        }
    }

    /// argv after redaction, and whether it is marked.
    fn redacted(redactor: &Redactor, filename: &str, argv: &[&str]) -> (Vec<String>, bool) {
        let mut event = exec(filename, argv);
        redactor.redact(&mut event);
        match event.kind {
            Some(Kind::Exec(exec)) => (exec.argv, exec.redacted),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn secrets_are_replaced_and_nothing_else() {
        let cases: &[(&[&str], &[&str])] = &[
            (
                &["login", "--password=hunter2"],
                &["login", "--password=[redacted]"],
            ),
            (
                &["login", "--password=two words"],
                &["login", "--password=[redacted]"],
            ),
            (
                &["login", "--password", "hunter2", "-v"],
                &["login", "--password", "[redacted]", "-v"],
            ),
            (
                &["login", "-password", "x"],
                &["login", "-password", "[redacted]"],
            ),
            (
                &["login", "--db-passwd=x"],
                &["login", "--db-passwd=[redacted]"],
            ),
            (&["gh", "--token", "abc"], &["gh", "--token", "[redacted]"]),
            (
                &["x", "--api-key=abc", "--apikey", "d"],
                &["x", "--api-key=[redacted]", "--apikey", "[redacted]"],
            ),
            (
                &["x", "--client-secret=s"],
                &["x", "--client-secret=[redacted]"],
            ),
            (
                &["env", "AWS_SECRET_ACCESS_KEY=abc/def", "ls"],
                &["env", "AWS_SECRET_ACCESS_KEY=[redacted]", "ls"],
            ),
            (
                &["env", "PGPASSWORD=x", "psql"],
                &["env", "PGPASSWORD=[redacted]", "psql"],
            ),
            (
                &["sh", "-c", "DB_PASSWORD='a b' run --token abc | cat"],
                &[
                    "sh",
                    "-c",
                    "DB_PASSWORD=[redacted] run --token [redacted] | cat",
                ],
            ),
            (
                &["curl", "-d", r#"{"user":"bob","password":"x"}"#],
                &["curl", "-d", r#"{"user":"bob","password":[redacted]}"#],
            ),
            (
                &["curl", "-d", "user=bob&password=x&go=1"],
                &["curl", "-d", "user=bob&password=[redacted]&go=1"],
            ),
            (
                &["curl", "-H", "Authorization: Bearer abc.def"],
                &["curl", "-H", "Authorization: Bearer [redacted]"],
            ),
            (
                &["curl", "-H", "authorization: Basic dXNlcg=="],
                &["curl", "-H", "authorization: Basic [redacted]"],
            ),
            (
                &["curl", "-H", "X-Api-Key: abc"],
                &["curl", "-H", "X-Api-Key: [redacted]"],
            ),
            (
                &["curl", "-H", "Cookie: a=1; b=2"],
                &["curl", "-H", "Cookie: [redacted]"],
            ),
            (&["aws", "AKIAIOSFODNN7EXAMPLE"], &["aws", "[redacted]"]),
            (
                &["git", "clone", "https://bob:p@ss@example.org/x:y@z"],
                &["git", "clone", "https://bob:[redacted]@example.org/x:y@z"],
            ),
            (
                &["psql", "postgres://:secret@db/x"],
                &["psql", "postgres://:[redacted]@db/x"],
            ),
            (
                &["x", "ghp_0123456789abcdefghijABCDEFGHIJ"],
                &["x", "[redacted]"],
            ),
            (
                &["x", "eyJhbGciOiJI.eyJzdWIiOiIx.abc_-123"],
                &["x", "[redacted]"],
            ),
            (
                &["x", "-----BEGIN RSA PRIVATE KEY-----\nabc\n"],
                &["x", "[redacted]"],
            ),
        ];
        let redactor = Redactor::new(&[]).unwrap();
        for (argv, expected) in cases {
            let (has, marked) = redacted(&redactor, "/bin/x", argv);
            assert_eq!(
                (has.as_slice(), marked),
                (expected.map_owned().as_slice(), true),
                "{argv:?}"
            );
            let (again, _) = redacted(
                &redactor,
                "/bin/x",
                &has.iter().map(String::as_str).collect::<Vec<_>>(),
            );
            assert_eq!(again, has, "redacting twice changes something");
        }
        for argv in [
            &[
                "ls",
                "-la",
                "/var/run/secrets/kubernetes.io/serviceaccount/token",
            ][..],
            &["docker", "login", "--password-stdin", "--username", "bob"],
            &["x", "--token-file=/run/token", "--password-file", "/run/p"],
            &["ssh", "-p", "22", "bob@example.org"],
            &["git", "clone", "https://example.org:8443/a@b"],
            &["psql", "postgres://bob@db/x"],
            &["echo", "passwords", "are", "bad"],
            &["passwd", "bob"],
            &["mkdir", "-p", "a/b"],
            &["", "--"],
            &[],
        ] {
            let (has, marked) = redacted(&redactor, "/bin/x", argv);
            assert_eq!((has, marked), (argv.map_owned(), false));
        }
    }

    trait MapOwned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl MapOwned for [&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(ToString::to_string).collect()
        }
    }

    #[test]
    fn one_letter_options_are_known_by_their_program() {
        let redactor = Redactor::new(&[]).unwrap();
        for (program, argv, expected) in [
            (
                "/usr/bin/mysql",
                &["mysql", "-psecret", "shop"][..],
                &["mysql", "-p[redacted]", "shop"][..],
            ),
            (
                "/usr/bin/mysql",
                &["mysql", "-p", "shop"],
                &["mysql", "-p", "shop"],
            ),
            (
                "sshpass",
                &["sshpass", "-p", "x", "ssh"],
                &["sshpass", "-p", "[redacted]", "ssh"],
            ),
            (
                "curl",
                &["curl", "-u", "bob:x"],
                &["curl", "-u", "[redacted]"],
            ),
            (
                "redis-cli",
                &["redis-cli", "-a", "x", "PING"],
                &["redis-cli", "-a", "[redacted]", "PING"],
            ),
        ] {
            assert_eq!(redacted(&redactor, program, argv).0, expected.map_owned());
        }
    }

    #[test]
    fn own_patterns_come_on_top_and_apply_to_paths() {
        let patterns = ["customer-[0-9]+".to_owned(), "id=([a-f]+)-x".to_owned()];
        let redactor = Redactor::new(&patterns).unwrap();
        let (argv, marked) = redacted(
            &redactor,
            "/srv/customer-12/run",
            &["run", "id=abc-x", "--token=t"],
        );
        assert_eq!(
            (argv, marked),
            (
                ["run", "id=[redacted]-x", "--token=[redacted]"].map_owned(),
                true
            )
        );
        let mut event = Event {
            kind: Some(Kind::Path(Path {
                path: "/srv/customer-7/data".into(),
                ..Path::default()
            })),
            ..Event::default()
        };
        redactor.redact(&mut event);
        let Some(Kind::Path(path)) = event.kind else {
            panic!()
        };
        assert_eq!(
            (path.path.as_str(), path.redacted),
            ("/srv/[redacted]/data", true)
        );
    }

    #[test]
    fn none_leaves_only_the_own_patterns() {
        let redactor = Redactor::new(&["none".into(), "abc".into()]).unwrap();
        let (argv, marked) = redacted(&redactor, "x", &["x", "--token=abcd"]);
        assert_eq!(
            (argv, marked),
            (["x", "--token=[redacted]d"].map_owned(), true)
        );
        let off = Redactor::new(&["none".into()]).unwrap();
        assert_eq!(
            redacted(&off, "x", &["x", "--token=abcd"]),
            (["x", "--token=abcd"].map_owned(), false)
        );
    }

    #[test]
    fn a_bad_pattern_is_named() {
        for (pattern, says) in [
            ("a(", "unclosed group"),
            ("x*", "matches the empty text"),
            ("(?:x{1000}){1000}", "size limit"),
        ] {
            let error = Redactor::new(&[pattern.into()]).unwrap_err().to_string();
            assert!(error.contains(pattern) && error.contains(says), "{error}");
        }
        let long = "x".repeat(LENGTH + 1);
        assert!(
            Redactor::new(&[long])
                .unwrap_err()
                .to_string()
                .contains("1025 characters")
        );
        let many = vec!["x".to_owned(); PATTERNS + 1];
        assert!(
            Redactor::new(&many)
                .unwrap_err()
                .to_string()
                .contains("65 patterns")
        );
    }
}
