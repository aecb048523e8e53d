//! Who knows tokens: a file of them here; a cluster's API server behind the same traits.

use std::{collections::BTreeSet, fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    AccessError, Reload, Source,
    reload::read_bounded,
    secrets::{self, Line, Secret},
};
use crate::caller::{Reader, Reads};

/// Why credentials are not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody knows them.
    Unknown,
    /// They were good.
    Expired,
    /// They are good elsewhere: a token is for whom it names.
    Audience {
        /// Whom it names instead.
        others: String,
        /// The command to get a good one with.
        command: String,
    },
    /// They are somebody's who may not do this: a sentence.
    NotAllowed(String),
    /// Whoever knows could not be asked: a sentence.
    Unavailable(String),
}

/// For which node a bootstrap token is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenNode {
    /// For any: whoever has it may become any node, so it should not live long.
    Any,
    /// For this one.
    Only(String),
}

/// Knows bootstrap tokens.
#[async_trait]
pub trait TokenVerifier: Send + Sync + fmt::Debug {
    /// The node a token is good for.
    ///
    /// # Errors
    /// It is good for none.
    async fn verify(&self, token: &str) -> Result<TokenNode, Refused>;
}

/// What a reader shows.
#[derive(Clone, Copy)]
pub enum ReaderCredential<'a> {
    /// A bearer token.
    Token(&'a str),
    /// The name in its certificate, which has been verified: the common name, else the first alternative one.
    Certificate(&'a str),
}

/// Knows readers.
#[async_trait]
pub trait ReaderVerifier: Send + Sync + fmt::Debug {
    /// Who a reader is (a name for logs) and what it may read: `None` if it is known and may read nothing.
    ///
    /// # Errors
    /// It is unknown.
    async fn verify(
        &self,
        credential: ReaderCredential<'_>,
    ) -> Result<(String, Option<Reads>), Refused>;
}

/// Bootstrap tokens in a file, a line each: `TOKEN[,NODE][,expires=TIME]`; without a node it is good for any.
#[derive(Debug)]
pub struct TokenFile(Arc<Reload<Lines>>);

/// Readers in a file, a line each: `TOKEN,NAMESPACE,…[,expires=TIME]`, or `certificate:NAME,NAMESPACE,…`; `*` is every
/// namespace and what is in no pod.
#[derive(Debug)]
pub struct ReaderFile(Arc<Reload<Lines>>);

/// Several, asked in turn until one knows: a file first, then whoever has to be asked over the network.
#[derive(Debug)]
pub struct FirstThatKnows<V: ?Sized>(pub Vec<Arc<V>>);

/// What the lines of a file are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tokens,
    Readers,
}

struct Lines {
    path: PathBuf,
    kind: Kind,
}

// === impl TokenFile ===

impl TokenFile {
    /// Reads the file, and again when it changes.
    ///
    /// # Errors
    /// It cannot be read, or a line is not one.
    pub async fn open(path: PathBuf, every: Duration) -> Result<Self, AccessError> {
        let source = Lines {
            path,
            kind: Kind::Tokens,
        };
        Ok(TokenFile(Reload::start(source, every).await?))
    }
}

#[async_trait]
impl TokenVerifier for TokenFile {
    async fn verify(&self, token: &str) -> Result<TokenNode, Refused> {
        let lines = self.0.current();
        let line = secrets::find_token(&lines, token).ok_or(Refused::Unknown)?;
        if line.has_expired() {
            return Err(Refused::Expired);
        }
        Ok(line
            .fields
            .first()
            .map_or(TokenNode::Any, |node| TokenNode::Only(node.clone())))
    }
}

// === impl ReaderFile ===

impl ReaderFile {
    /// Reads the file, and again when it changes.
    ///
    /// # Errors
    /// It cannot be read, or a line is not one.
    pub async fn open(path: PathBuf, every: Duration) -> Result<Self, AccessError> {
        let source = Lines {
            path,
            kind: Kind::Readers,
        };
        Ok(ReaderFile(Reload::start(source, every).await?))
    }
}

#[async_trait]
impl ReaderVerifier for ReaderFile {
    async fn verify(
        &self,
        credential: ReaderCredential<'_>,
    ) -> Result<(String, Option<Reads>), Refused> {
        let lines = self.0.current();
        let (line, name) = match credential {
            ReaderCredential::Token(token) => {
                let line = secrets::find_token(&lines, token).ok_or(Refused::Unknown)?;
                (line, format!("the reader of line {}", line.number))
            }
            ReaderCredential::Certificate(name) => {
                let line = lines
                    .iter()
                    .find(|line| matches!(&line.secret, Secret::Certificate(own) if own == name))
                    .ok_or(Refused::Unknown)?;
                (line, format!("reader {name:?}"))
            }
        };
        if line.has_expired() {
            return Err(Refused::Expired);
        }
        Ok((name, reader(line).map(Reads::Always)))
    }
}

fn reader(line: &Line) -> Option<Reader> {
    if line.fields.iter().any(|field| field == "*") {
        return Some(Reader::All);
    }
    let namespaces: BTreeSet<String> = line.fields.iter().cloned().collect();
    (!namespaces.is_empty()).then(|| Reader::Namespaces(Arc::new(namespaces)))
}

// === impl FirstThatKnows ===

#[async_trait]
impl ReaderVerifier for FirstThatKnows<dyn ReaderVerifier> {
    async fn verify(
        &self,
        credential: ReaderCredential<'_>,
    ) -> Result<(String, Option<Reads>), Refused> {
        let mut refused = Refused::Unknown;
        for one in &self.0 {
            match one.verify(credential).await {
                Err(Refused::Unknown) => {}
                Err(other) => refused = other,
                known => return known,
            }
        }
        Err(refused)
    }
}

#[async_trait]
impl TokenVerifier for FirstThatKnows<dyn TokenVerifier> {
    async fn verify(&self, token: &str) -> Result<TokenNode, Refused> {
        let mut refused = Refused::Unknown;
        for one in &self.0 {
            match one.verify(token).await {
                Err(Refused::Unknown) => {}
                Err(other) => refused = other,
                known => return known,
            }
        }
        Err(refused)
    }
}

// === impl Lines ===

#[async_trait]
impl Source for Lines {
    type Raw = Vec<u8>;
    type Value = Vec<Line>;

    fn what(&self) -> String {
        self.path.display().to_string()
    }

    async fn read(&self) -> Result<Vec<u8>, AccessError> {
        read_bounded(&self.path).await
    }

    fn build(&self, raw: &Vec<u8>) -> Result<Vec<Line>, AccessError> {
        let lines = secrets::parse(raw, &self.path)?;
        for line in &lines {
            self.check(line).map_err(|problem| AccessError::Line {
                path: self.path.clone(),
                line: line.number,
                problem,
            })?;
        }
        Ok(lines)
    }
}

impl Lines {
    fn check(&self, line: &Line) -> Result<(), String> {
        match self.kind {
            Kind::Tokens => match line.fields.as_slice() {
                _ if matches!(line.secret, Secret::Certificate(_)) => Err(
                    "a bootstrap token is no certificate: expected TOKEN[,NODE][,expires=TIME]"
                        .into(),
                ),
                [] => Ok(()),
                [node] => super::check_node(node).map_err(|error| error.to_string()),
                more => Err(format!("{} nodes: expected one at most", more.len())),
            },
            // A label of DNS (RFC 1123): what a namespace's name is.
            Kind::Readers => match line
                .fields
                .iter()
                .find(|field| *field != "*" && !is_namespace(field))
            {
                Some(field) => Err(format!(
                    "{field:?} is no namespace: expected `*` or lower-case letters, digits and `-`"
                )),
                None => Ok(()),
            },
        }
    }
}

/// Whether a namespace can have this name.
pub(super) fn is_namespace(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
