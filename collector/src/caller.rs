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
use tonic::Status;

use crate::refusal;

/// Whose events a caller may read. Holds for every RPC, not only for Observe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Everything: all namespaces, and what is in no pod.
    All,
    /// What belongs to pods of these namespaces; besides, told losses, which belong to nobody.
    Namespaces(Arc<BTreeSet<String>>),
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// How to call it in logs; `None` when it gave no credentials.
    pub name: Option<String>,
    /// What it may read; `None`: nothing.
    pub reads: Option<Reader>,
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
            reads: Some(Reader::All),
            publishes: Some(Publisher::Any),
        }
    }

    /// What it may read.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it is nobody, PERMISSION_DENIED if it may read nothing.
    pub fn reader(&self) -> Result<&Reader, Status> {
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

    #[test]
    fn nobody_is_asked_to_show_credentials_and_a_node_may_not_read() {
        let nobody = Caller::default();
        assert_eq!(
            nobody.reader().unwrap_err().code(),
            tonic::Code::Unauthenticated
        );
        let node = Caller {
            name: Some("node n1".into()),
            publishes: Some(Publisher::Node("n1".into())),
            reads: None,
        };
        let refused = node.reader().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(refused.message().contains("node n1"), "{refused}");
        assert!(node.publisher().unwrap().is_for("n1"));
        assert!(!node.publisher().unwrap().is_for("n2"));
    }
}
