//! What a connection passes on its way in: its address's share, its TLS handshake, a watch on how long it may stay.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{
    Connection, Limits, Reload, TlsFiles,
    connection::{Stream, Watch},
};
use crate::{
    caller::{Certified, Peer},
    serve::{Handshake, Io},
};

/// What comes before HTTP on a TCP port.
#[derive(Debug)]
pub struct Door {
    tls: Option<Arc<Reload<TlsFiles>>>,
    limits: Limits,
    tally: Arc<Tally>,
}

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorCounts {
    /// Came, since the start.
    pub came: u64,
    /// Of these, closed at once: too many of their address.
    pub crowded: u64,
    /// Of these, ended by their handshake: not TLS, a certificate that is not good.
    pub failed: u64,
    /// Open now, those in their handshake included.
    pub open: usize,
}

#[derive(Debug, Default)]
struct Tally {
    came: AtomicU64,
    crowded: AtomicU64,
    failed: AtomicU64,
    /// Open connections by address: as many entries as connections, whose number the server bounds.
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address; forgotten when dropped.
#[derive(Debug)]
pub(super) struct Share {
    tally: Arc<Tally>,
    address: IpAddr,
}

// === impl Door ===

impl Door {
    /// With TLS as it is at each handshake; without `tls`, plain.
    #[must_use]
    pub fn new(tls: Option<Arc<Reload<TlsFiles>>>, limits: Limits) -> Self {
        Door {
            tls,
            limits,
            tally: Arc::default(),
        }
    }

    /// What became of connections.
    #[must_use]
    pub fn counts(&self) -> DoorCounts {
        let open = self
            .tally
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        DoorCounts {
            came: self.tally.came.load(Ordering::Relaxed),
            crowded: self.tally.crowded.load(Ordering::Relaxed),
            failed: self.tally.failed.load(Ordering::Relaxed),
            open: open.values().sum(),
        }
    }
}

#[async_trait]
impl Handshake for Door {
    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> io::Result<(Box<dyn Io>, Peer)> {
        let share = self
            .tally
            .admit(address.ip(), self.limits.connections_per_address)?;
        let mut peer = Peer {
            address: Some(address),
            ..Peer::default()
        };
        let Some(tls) = &self.tls else {
            let watch = Watch::new(&self.limits, None);
            let connection = Connection::new(Stream::Plain(stream), peer.clone(), watch, share);
            return Ok((Box::new(connection), peer));
        };
        let (stream, certified) = shake(stream, tls).await.inspect_err(|error| {
            self.tally.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, %error, "a handshake failed");
        })?;
        let left = certified.as_ref().map(|(_, expires)| {
            expires
                .duration_since(SystemTime::now())
                .unwrap_or_default()
        });
        peer.certificate = certified.map(|(certified, _)| Arc::new(certified));
        let watch = Watch::new(&self.limits, left);
        let connection = Connection::new(stream, peer.clone(), watch, share);
        Ok((Box::new(connection), peer))
    }
}

/// Makes TLS of a connection, and finds out who showed a certificate, and until when it is good.
async fn shake(
    stream: TcpStream,
    tls: &Reload<TlsFiles>,
) -> io::Result<(Stream, Option<(Certified, SystemTime)>)> {
    let tls = tls.current();
    let stream = TlsAcceptor::from(tls.config.clone()).accept(stream).await?;
    let certified = match stream.get_ref().1.peer_certificates() {
        None => None,
        Some(chain) => Some(tls.certified(chain).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::PermissionDenied,
                "its certificate names neither a node nor a reader",
            )
        })?),
    };
    Ok((Stream::Tls(Box::new(stream)), certified))
}

// === impl Tally ===

impl Tally {
    fn admit(self: &Arc<Self>, address: IpAddr, limit: usize) -> io::Result<Share> {
        self.came.fetch_add(1, Ordering::Relaxed);
        let address = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= limit {
            self.crowded.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("{address} has {limit} connections already"),
            ));
        }
        *count += 1;
        Ok(Share {
            tally: self.clone(),
            address,
        })
    }
}

// === impl Share ===

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self
            .tally
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
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
