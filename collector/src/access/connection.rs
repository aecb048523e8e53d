//! A connection that was let in: bytes, and when it has to end.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{Limits, acceptor::Slot};
use crate::caller::Peer;

/// A connection, for a server of tonic or hyper. Reads fail once it has been quiet, unknown or certified for too long.
pub struct Connection {
    io: Io,
    peer: Peer,
    watch: Option<Watch>,
    _slot: Arc<Slot>,
}

/// What carries the bytes.
pub(super) enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// When to end it.
pub(super) struct Watch {
    /// Looks again then. Moved on when it fires, not at every byte.
    timer: Pin<Box<Sleep>>,
    idle: Duration,
    last: Instant,
    /// Until then it must be known who it is.
    recognition: Instant,
    /// The certificate's end.
    expires: Option<Instant>,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(io: Io, peer: Peer, watch: Option<Watch>, slot: Arc<Slot>) -> Self {
        Connection {
            io,
            peer,
            watch,
            _slot: slot,
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    fn note(&mut self, moved: bool) {
        if moved && let Some(watch) = &mut self.watch {
            watch.last = Instant::now();
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(watch) = &mut this.watch
            && let Poll::Ready(error) = watch.poll(cx, this.peer.recognition.is_known())
        {
            tracing::debug!(peer = %this.peer, %error, "ended a connection");
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let result = match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buffer),
        };
        this.note(buffer.filled().len() > before);
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Unix(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        };
        self.note(matches!(result, Poll::Ready(Ok(1..))));
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, slices),
        };
        self.note(matches!(result, Poll::Ready(Ok(1..))));
        result
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

// === impl Watch ===

impl Watch {
    /// Watches from now on. `certified`: for how long its certificate is valid.
    pub(super) fn new(limits: &Limits, certified: Option<Duration>) -> Self {
        let now = Instant::now();
        let recognition = now + limits.recognition;
        Watch {
            timer: Box::pin(tokio::time::sleep_until(recognition.min(now + limits.idle))),
            idle: limits.idle,
            last: now,
            recognition,
            expires: certified.map(|left| now + left),
        }
    }

    /// Why it has to end, once it has to.
    fn poll(&mut self, cx: &mut Context<'_>, known: bool) -> Poll<io::Error> {
        let ended = |why: &str| Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why));
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let quiet = self.last + self.idle;
            if self.expires.is_some_and(|expires| expires <= now) {
                return ended("its certificate has expired");
            }
            if quiet <= now {
                return ended("it was quiet for too long");
            }
            if !known && self.recognition <= now {
                return ended("it did not say who it is");
            }
            let mut next = quiet;
            if !known {
                next = next.min(self.recognition);
            }
            next = self.expires.map_or(next, |expires| next.min(expires));
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }
}
