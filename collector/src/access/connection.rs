//! A connection that was let in: bytes, and when it has to end.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;

use super::{Limits, door::Share};
use crate::caller::Peer;

/// A connection's bytes. Reads fail once it has been quiet, unknown or certified for too long.
pub(super) struct Connection {
    stream: Stream,
    peer: Peer,
    watch: Watch,
    _share: Share,
}

/// What carries the bytes.
pub(super) enum Stream {
    Plain(TcpStream),
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
    /// Then it ends in any case, and why.
    ends: (Instant, &'static str),
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(stream: Stream, peer: Peer, watch: Watch, share: Share) -> Self {
        Connection {
            stream,
            peer,
            watch,
            _share: share,
        }
    }

    fn note(&mut self, moved: bool) {
        if moved {
            self.watch.last = Instant::now();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(error) = this.watch.poll(cx, this.peer.recognition.is_known()) {
            tracing::debug!(peer = %this.peer, %error, "ended a connection");
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let result = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
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
        let result = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.note(matches!(result, Poll::Ready(Ok(1..))));
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.note(matches!(result, Poll::Ready(Ok(1..))));
        result
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
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
        // Not all that came together go together.
        let age = limits.age.mul_f64(0.9 + spread() / 10.0);
        let ends = match certified {
            Some(left) if left < age => (now + left, "its certificate has expired"),
            _ => (now + age, "it is old: whoever may come, comes again"),
        };
        let first = recognition.min(now + limits.idle).min(ends.0);
        Watch {
            timer: Box::pin(tokio::time::sleep_until(first)),
            idle: limits.idle,
            last: now,
            recognition,
            ends,
        }
    }

    /// Why it has to end, once it has to.
    fn poll(&mut self, cx: &mut Context<'_>, known: bool) -> Poll<io::Error> {
        let ended = |why: &str| Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why));
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let quiet = self.last + self.idle;
            if self.ends.0 <= now {
                return ended(self.ends.1);
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
            next = next.min(self.ends.0);
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }
}

/// 0 to 1, not for secrets.
fn spread() -> f64 {
    let random = RandomState::new().hash_one(0_u8);
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
