//! From a listener to connections that may speak HTTP: within the limits, and after their handshake.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

use super::{
    Connection, Limits, Reload, TlsFiles,
    connection::{Io, Watch},
};
use crate::caller::{Certified, Peer, Recognition};

/// Connections that wait for the HTTP server to take them.
const READY: usize = 64;

/// How long to wait when no connection can be accepted: out of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// What was bound.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Tcp(TcpListener),
    /// A file.
    Unix(UnixListener),
}

/// Whether connections are encrypted. A Unix socket's never are.
#[derive(Clone, Debug)]
pub enum Security {
    /// TLS, as it is at each handshake.
    Tls(Arc<Reload<TlsFiles>>),
    /// As they come.
    Plain,
}

/// Connections as they are let in: a stream for tonic's `serve_with_incoming`. Stops listening when dropped.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<Connection>,
    accepting: AbortHandle,
}

/// What became of connections, over every listener that shares it; also holds their number down.
#[derive(Debug, Default)]
pub struct Tally {
    accepted: AtomicU64,
    refused: AtomicU64,
    refused_address: AtomicU64,
    failed: AtomicU64,
    open: Mutex<Open>,
}

/// A [`Tally`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TallyCounts {
    /// Accepted by the kernel, since the start.
    pub accepted: u64,
    /// Of these, closed at once: too many in all.
    pub refused: u64,
    /// Of these, closed at once: too many of one address.
    pub refused_address: u64,
    /// Of these, ended by their handshake: not TLS, not in time, a certificate that is not good.
    pub failed: u64,
    /// Open now, those in their handshake included.
    pub open: usize,
}

/// Connections that are open. Bounded by the limit of connections.
#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    tally: Arc<Tally>,
    address: Option<IpAddr>,
}

struct Acceptor {
    security: Security,
    limits: Arc<Limits>,
    tally: Arc<Tally>,
    ready: mpsc::Sender<Connection>,
}

// === impl Incoming ===

impl Incoming {
    /// Accepts connections of a listener from now on.
    #[must_use]
    pub fn new(listener: Listener, security: Security, limits: Limits, tally: Arc<Tally>) -> Self {
        let (sender, ready) = mpsc::channel(READY);
        let acceptor = Arc::new(Acceptor {
            security,
            limits: Arc::new(limits),
            tally,
            ready: sender,
        });
        let accepting = tokio::spawn(acceptor.run(listener)).abort_handle();
        Incoming { ready, accepting }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|next| next.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // The handshakes under way end with it.
        self.accepting.abort();
    }
}

// === impl Acceptor ===

impl Acceptor {
    async fn run(self: Arc<Self>, listener: Listener) {
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            let accepted = match &listener {
                Listener::Unix(listener) => {
                    listener.accept().await.map(|(io, _)| (Io::Unix(io), None))
                }
                Listener::Tcp(listener) => listener
                    .accept()
                    .await
                    .map(|(io, from)| (Io::Tcp(io), Some(from))),
            };
            let (io, address) = match accepted {
                Ok(accepted) => accepted,
                // The one connection is gone, the listener is not (accept(2), "Error handling").
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(slot) = self
                .tally
                .admit(address.map(|address| address.ip()), &self.limits)
            else {
                tracing::debug!(?address, "refused a connection: too many are open");
                continue;
            };
            let peer = Peer {
                address,
                ..Peer::default()
            };
            handshakes.spawn(self.clone().greet(io, peer, slot));
        }
    }

    async fn greet(self: Arc<Self>, io: Io, mut peer: Peer, slot: Slot) {
        let slot = Arc::new(slot);
        let connection = match (io, &self.security) {
            (Io::Tcp(io), Security::Tls(tls)) => {
                let handshake = tokio::time::timeout(self.limits.handshake, shake(io, tls));
                let done = handshake.await.unwrap_or_else(|_| {
                    Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the handshake takes too long",
                    ))
                });
                match done {
                    Ok((io, certified)) => {
                        let left = certified.as_ref().map(|(_, expires)| {
                            expires
                                .duration_since(SystemTime::now())
                                .unwrap_or_default()
                        });
                        peer.certificate = certified.map(|(certified, _)| Arc::new(certified));
                        let watch = Watch::new(&self.limits, left);
                        Connection::new(io, peer, Some(watch), slot)
                    }
                    Err(error) => {
                        self.tally.failed.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(%peer, %error, "a handshake failed");
                        return;
                    }
                }
            }
            (io @ Io::Unix(_), _) => {
                peer.recognition = Recognition::known();
                Connection::new(io, peer, None, slot)
            }
            (io, _) => {
                if let Io::Tcp(io) = &io {
                    // Without it small messages only come later.
                    let _ = io.set_nodelay(true);
                }
                let watch = Watch::new(&self.limits, None);
                Connection::new(io, peer, Some(watch), slot)
            }
        };
        // The server is going down when nobody takes it.
        let _ = self.ready.send(connection).await;
    }
}

/// Makes TLS of a connection, and finds out who showed a certificate, and until when it is good.
async fn shake(
    io: TcpStream,
    tls: &Reload<TlsFiles>,
) -> io::Result<(Io, Option<(Certified, SystemTime)>)> {
    io.set_nodelay(true)?;
    let tls = tls.current();
    let io = TlsAcceptor::from(tls.config.clone()).accept(io).await?;
    let certified = match io.get_ref().1.peer_certificates() {
        None => None,
        Some(chain) => Some(tls.certified(chain).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::PermissionDenied,
                "its certificate names neither a node nor a reader",
            )
        })?),
    };
    Ok((Io::Tls(Box::new(io)), certified))
}

// === impl Tally ===

impl Tally {
    /// What became of connections.
    #[must_use]
    pub fn counts(&self) -> TallyCounts {
        TallyCounts {
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            refused_address: self.refused_address.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            open: self.open.lock().unwrap_or_else(PoisonError::into_inner).all,
        }
    }

    fn admit(self: &Arc<Self>, address: Option<IpAddr>, limits: &Limits) -> Option<Slot> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let address = address.map(network);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= limits.connections {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if let Some(address) = address {
            let count = open.by_address.entry(address).or_default();
            if *count >= limits.connections_per_address {
                self.refused_address.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            *count += 1;
        }
        open.all += 1;
        Some(Slot {
            tally: self.clone(),
            address,
        })
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self
            .tally
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        if let Some(address) = self.address
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

/// What counts as one address: of IPv6 the /64, which one machine has all of.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        address @ IpAddr::V4(_) => address,
    }
}
