//! Who is at the other end of a request, and what that lets them do.
//!
//! Every request carries a [`Caller`] and its connection's [`Peer`] as extensions; the services look nowhere
//! else. Who fills them in: [`Authenticate`], once per request.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::refusal;

/// Whose events a caller may read. Holds for every RPC, not only for Observe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Everything: all namespaces, and what is in no pod.
    All,
    /// What belongs to pods of these namespaces; of losses that may be others', only that there were some.
    Namespaces(Arc<BTreeSet<String>>),
}

/// What a known caller may read.
#[derive(Clone, Debug)]
pub enum Reads {
    /// Said once and for all: by a line of a file, or by the mode of a Unix socket.
    Always(Reader),
    /// Asked at each request, and again while a stream lasts.
    Asked(Arc<dyn Authorize>),
}

/// Decides what one reader may read, each time anew.
#[async_trait]
pub trait Authorize: Send + Sync + fmt::Debug {
    /// What it may read of these namespaces; of none: everything, what is in no pod included.
    ///
    /// # Errors
    /// PERMISSION_DENIED where one of them is not allowed, UNAUTHENTICATED where it is nobody any more, UNAVAILABLE
    /// where whoever decides cannot be asked.
    async fn authorize(&self, namespaces: &[String]) -> Result<Grant, Status>;
}

/// What may be read, and for how long that was said.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What.
    pub reader: Reader,
    /// When it has to be asked for again; `None`: it lasts as long as the connection.
    pub until: Option<Instant>,
}

/// The right that a stream was opened with, looked at while it lasts.
#[derive(Debug)]
pub(crate) struct Right {
    reads: Reads,
    namespaces: Vec<String>,
    grant: Grant,
}

/// For which nodes a caller may publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// For any: over a Unix socket, or where the operator turned authentication off.
    Any,
    /// For this one: its certificate names it.
    Node(String),
}

/// Who asks. The default is nobody: may do nothing but ask for health and enrol.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// How to call it in logs; `None` when it gave no credentials.
    pub name: Option<String>,
    /// What it may read; `None`: nothing.
    pub reads: Option<Reads>,
    /// What it may publish; `None`: nothing.
    pub publishes: Option<Publisher>,
}

/// What is known of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    /// Whom the certificate it showed names; `None` when it showed none.
    pub certificate: Option<Arc<Certified>>,
    /// Whether one of its requests said who it is.
    pub recognition: Recognition,
}

/// Whom a verified certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certified {
    /// A node, by the collector's own authority.
    Node(String),
    /// A reader, by an authority of the operator's.
    Reader(String),
}

/// Whether a connection is somebody's: one of its requests was authenticated. Shared by all who hold its peer; a
/// connection that stays nobody's is ended.
#[derive(Clone, Debug, Default)]
pub struct Recognition(Arc<AtomicBool>);

/// Finds out who asks.
#[async_trait]
pub trait Authenticate: Send + Sync + fmt::Debug {
    /// The caller of a request: nobody (the default) if it shows no credentials at all.
    ///
    /// # Errors
    /// It shows credentials that are not good: the status to refuse the request with.
    async fn authenticate(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Status>;
}

/// Everybody may do everything: for Unix sockets, whose file mode decides, and for loopback.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trusted;

#[async_trait]
impl Authenticate for Trusted {
    async fn authenticate(&self, peer: &Peer, _: &HeaderMap) -> Result<Caller, Status> {
        // Else its connection would be taken for nobody's, and ended.
        peer.recognition.recognise();
        Ok(Caller::trusted())
    }
}

// === impl Reader ===

impl Reader {
    /// Whether it may see what belongs to this namespace; `None` for what is in no pod.
    #[must_use]
    pub fn sees(&self, namespace: Option<&str>) -> bool {
        match (self, namespace) {
            (Reader::All, _) => true,
            (Reader::Namespaces(namespaces), Some(namespace)) => namespaces.contains(namespace),
            (Reader::Namespaces(_), None) => false,
        }
    }

    /// Whether it may see all that another may.
    fn covers(&self, other: &Reader) -> bool {
        match (self, other) {
            (Reader::All, _) => true,
            (Reader::Namespaces(_), Reader::All) => false,
            (Reader::Namespaces(own), Reader::Namespaces(others)) => own.is_superset(others),
        }
    }
}

// === impl Reads ===

impl From<Reader> for Reads {
    fn from(reader: Reader) -> Self {
        Reads::Always(reader)
    }
}

impl Reads {
    async fn grant(&self, namespaces: &[String]) -> Result<Grant, Status> {
        match self {
            Reads::Always(reader) => Ok(Grant {
                reader: reader.clone(),
                until: None,
            }),
            Reads::Asked(authorize) => authorize.authorize(namespaces).await,
        }
    }
}

// === impl Right ===

impl Right {
    /// What may be read with it.
    pub(crate) fn reader(&self) -> &Reader {
        &self.grant.reader
    }

    /// Returns when it no longer holds, with the reason. Cancel safe.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            match self.grant.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
            match self.reads.grant(&self.namespaces).await {
                Ok(now) if now.reader.covers(&self.grant.reader) => self.grant.until = now.until,
                // Allowed less than before, and perhaps still what was asked for: that is found out by asking again.
                Ok(_) => {
                    return refusal::because(
                        Code::Aborted,
                        "RIGHTS_CHANGED",
                        "what you may read has changed: ask again",
                    );
                }
                Err(status) => return status,
            }
        }
    }
}

// === impl Publisher ===

impl Publisher {
    /// Whether it may publish for this node.
    #[must_use]
    pub fn is_for(&self, node: &str) -> bool {
        match self {
            Publisher::Any => true,
            Publisher::Node(own) => own == node,
        }
    }
}

// === impl Peer ===

/// Its address, and whom it showed a certificate of.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => f.write_str("unix")?,
            Some(address) => write!(f, "{address}")?,
        }
        match self.certificate.as_deref() {
            None => Ok(()),
            Some(Certified::Node(node)) => write!(f, " (node {node})"),
            Some(Certified::Reader(reader)) => write!(f, " (reader {reader:?})"),
        }
    }
}

// === impl Recognition ===

impl Recognition {
    /// Of a connection that need not say who it is.
    #[must_use]
    pub fn known() -> Self {
        Recognition(Arc::new(AtomicBool::new(true)))
    }

    /// Notes that it said who it is.
    pub fn recognise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has said who it is.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for Recognition {
    fn eq(&self, other: &Self) -> bool {
        self.is_known() == other.is_known()
    }
}

impl Eq for Recognition {}

// === impl Caller ===

impl Caller {
    /// May do everything.
    #[must_use]
    pub fn trusted() -> Self {
        Caller {
            name: Some("local".into()),
            reads: Some(Reader::All.into()),
            publishes: Some(Publisher::Any),
        }
    }

    /// What it may read of these namespaces; of none: everything.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it is nobody, PERMISSION_DENIED if it may not, UNAVAILABLE if that cannot be found out.
    pub async fn reader(&self, namespaces: &[String]) -> Result<Reader, Status> {
        Ok(self.reads()?.grant(namespaces).await?.reader)
    }

    /// The same for a stream, which may lose it again.
    pub(crate) async fn right(&self, namespaces: &[String]) -> Result<Right, Status> {
        let reads = self.reads()?;
        Ok(Right {
            grant: reads.grant(namespaces).await?,
            reads: reads.clone(),
            namespaces: namespaces.to_vec(),
        })
    }

    /// Whether it may read anything.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it is nobody, PERMISSION_DENIED if it may read nothing.
    pub(crate) fn reads(&self) -> Result<&Reads, Status> {
        self.reads
            .as_ref()
            .ok_or_else(|| self.refuse("read events"))
    }

    /// What it may publish.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it is nobody, PERMISSION_DENIED if it may publish nothing.
    pub fn publisher(&self) -> Result<&Publisher, Status> {
        self.publishes
            .as_ref()
            .ok_or_else(|| self.refuse("publish events"))
    }

    fn refuse(&self, what: &str) -> Status {
        match &self.name {
            None => refusal::unauthenticated(format!(
                "to {what}, show a token (authorization: Bearer …) or a client certificate"
            )),
            Some(name) => refusal::denied(format!("{name} may not {what}")),
        }
    }
}

/// The caller of a request: nobody if nothing said who it is.
pub(crate) fn of<T>(request: &tonic::Request<T>) -> Caller {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_of_namespaces_sees_their_pods_and_no_host() {
        let reader = Reader::Namespaces(Arc::new(BTreeSet::from(["shop".to_owned()])));
        assert!(reader.sees(Some("shop")));
        assert!(!reader.sees(Some("bank")));
        assert!(!reader.sees(None));
        assert!(Reader::All.sees(None));
    }

    /// How long an answer is good.
    const GOOD: std::time::Duration = std::time::Duration::from_millis(50);

    /// Answers with what it is told to.
    #[derive(Debug)]
    struct Told(std::sync::Mutex<Vec<Result<Reader, Status>>>);

    #[async_trait]
    impl Authorize for Told {
        async fn authorize(&self, _: &[String]) -> Result<Grant, Status> {
            let reader = self.0.lock().unwrap().remove(0)?;
            let until = Some(Instant::now() + GOOD);
            Ok(Grant { reader, until })
        }
    }

    fn only(namespace: &str) -> Reader {
        Reader::Namespaces(Arc::new(BTreeSet::from([namespace.to_owned()])))
    }

    async fn end(answers: Vec<Result<Reader, Status>>) -> (Status, std::time::Duration) {
        let asked = Reads::Asked(Arc::new(Told(answers.into())));
        let caller = Caller {
            reads: Some(asked),
            ..Caller::default()
        };
        let start = Instant::now();
        let mut right = caller.right(&[]).await.unwrap();
        (right.ended().await, start.elapsed())
    }

    #[tokio::test]
    async fn a_right_lasts_while_whoever_decides_says_so() {
        let denied = || Err(refusal::denied("no more"));
        let (status, lasted) = end(vec![
            Ok(only("shop")),
            Ok(only("shop")),
            Ok(Reader::All),
            denied(),
        ])
        .await;
        assert_eq!(status.message(), "no more");
        assert!(lasted >= GOOD * 3, "{lasted:?}");
        let (status, _) = end(vec![Ok(Reader::All), Ok(only("shop"))]).await;
        assert_eq!(status.code(), Code::Aborted);
    }

    #[tokio::test]
    async fn nobody_is_asked_to_show_credentials_and_a_node_may_not_read() {
        let nobody = Caller::default();
        assert_eq!(
            nobody.reader(&[]).await.unwrap_err().code(),
            tonic::Code::Unauthenticated
        );
        let node = Caller {
            name: Some("node n1".into()),
            publishes: Some(Publisher::Node("n1".into())),
            reads: None,
        };
        let refused = node.reader(&[]).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(refused.message().contains("node n1"), "{refused}");
        assert!(node.publisher().unwrap().is_for("n1"));
        assert!(!node.publisher().unwrap().is_for("n2"));
    }
}
