//! The end of a connection: its last bytes reach a peer that is still writing.
//!
//! To close a socket while the peer writes breaks the peer's next write (EPIPE on a Unix socket, RST on TCP, which also
//! throws away what the peer has not read yet). An HTTP/2 client writes all the time, window updates if nothing else,
//! and may then never read the status that says why its stream ended. So the writing half is shut first, and the
//! other one is read until the peer has closed it too (RFC 9112, 9.6; nginx calls it `lingering_close`).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Bytes that are read, and thrown away, at once.
const DISCARD_BYTES: usize = 4096;

/// A connection whose shutdown ends when its peer has closed it too, or has had its time for that.
pub(super) struct Lingering<T> {
    io: T,
    /// How long the peer has to close its side.
    patience: Duration,
    /// Set once the writing half is shut.
    left: Option<Pin<Box<Sleep>>>,
}

impl<T> Lingering<T> {
    pub(super) fn new(io: T, patience: Duration) -> Self {
        Lingering {
            io,
            patience,
            left: None,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lingering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let left = this
            .left
            .get_or_insert_with(|| Box::pin(sleep(this.patience)));
        let mut bytes = [0; DISCARD_BYTES];
        while left.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            // What was to be said is said: that the peer ends in an error is no error of ours.
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
        time::Instant,
    };

    use super::*;

    #[tokio::test]
    async fn a_peer_that_writes_on_still_reads_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Lingering::new(ours, Duration::from_secs(60));
        let closing = tokio::spawn(async move {
            ours.write_all(b"why it ends").await.unwrap();
            ours.shutdown().await.unwrap();
        });
        // More than a socket holds: it is read all the time.
        for _ in 0..1000 {
            theirs.write_all(&[0; 4096]).await.unwrap();
        }
        let mut said = String::new();
        theirs.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "why it ends");
        drop(theirs);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_never_closes_is_left() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let patience = Duration::from_millis(50);
        Lingering::new(ours, patience).shutdown().await.unwrap();
        assert!(start.elapsed() >= patience);
        drop(theirs);
    }
}
