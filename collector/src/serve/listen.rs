//! Listeners and their connections: how many, for how long, and what they may ask for at once.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::Router;
use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt as _;

use super::{Collector, Options, http, linger::Lingering};
use crate::{
    attribution,
    caller::{Authenticate, Peer},
    ingest::stopped,
};

/// Most bytes of a request's headers.
const MAX_HEADER_BYTES: u32 = 32 << 10;
/// Bytes an agent may have on the way of one stream, and of one connection, before it hears that they were read.
const WINDOW_BYTES: (u32, u32) = (2 << 20, 4 << 20);
/// Largest frame: a batch comes in few of them.
const FRAME_BYTES: u32 = 64 << 10;
/// Bytes of answers that wait in HTTP/2 for one stream, outside its queue.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// How long a peer has to close a connection that we have ended.
const LINGER: Duration = Duration::from_secs(2);
/// Pause after an accept that failed: out of files, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection's bytes, after its handshake.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What happens on a TCP connection before HTTP: TLS.
#[async_trait]
pub trait Handshake: Send + Sync + fmt::Debug {
    /// Takes a new connection; the caller bounds its time.
    ///
    /// # Errors
    /// The connection is no good and ends.
    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> io::Result<(Box<dyn Io>, Peer)>;
}

/// Where connections come in.
#[derive(Debug)]
pub enum Socket {
    /// Its file's mode decides who may connect.
    Unix(UnixListener),
    /// Plain, or with [`Listener::handshake`].
    Tcp(TcpListener),
}

/// A socket, and who its callers are.
#[derive(Debug)]
pub struct Listener {
    /// Where connections come in.
    pub socket: Socket,
    /// What comes before HTTP, on TCP.
    pub handshake: Option<Arc<dyn Handshake>>,
    /// Finds out who asks.
    pub authenticate: Arc<dyn Authenticate>,
}

enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

/// Serves on all listeners until [`Collector::stop`], and until streams have ended then, or their grace is over.
///
/// # Errors
/// The reflection service cannot be made of this build's descriptors.
pub async fn serve(collector: Arc<Collector>, listeners: Vec<Listener>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(collector.options.max_connections));
    let mut tasks = JoinSet::new();
    tasks.spawn(attribution::follow(
        collector.attribution.clone(),
        collector.log.clone(),
        collector.stop.clone(),
    ));
    for listener in listeners {
        let router = http::router(&collector, listener.authenticate.clone()).await?;
        tasks.spawn(accept(collector.clone(), listener, router, places.clone()));
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn accept(
    collector: Arc<Collector>,
    listener: Listener,
    router: Router,
    places: Arc<Semaphore>,
) {
    let mut stop = collector.stop.clone();
    let mut connections = JoinSet::new();
    let mut crowded = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            () = stopped(&mut stop) => break,
            // Ended ones are forgotten as they end.
            Some(_) = connections.join_next() => continue,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            if !crowded {
                let limit = collector.options.max_connections;
                tracing::warn!(limit, "connections are refused: there are too many");
            }
            crowded = true;
            continue;
        };
        crowded = false;
        let (collector, router) = (collector.clone(), router.clone());
        let handshake = listener.handshake.clone();
        connections.spawn(async move {
            let options = &collector.options;
            match timeout(options.handshake_timeout, accepted.open(handshake)).await {
                Ok(Ok((io, peer))) => connection(&collector, io, peer, router).await,
                Ok(Err(error)) => tracing::debug!(%error, "a connection's handshake failed"),
                Err(_) => tracing::debug!("a connection said nothing in time"),
            }
            drop(place);
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // What is still there after it is dropped, and with it closed.
    let _ = timeout(collector.options.shutdown_grace, all).await;
}

async fn connection(collector: &Collector, io: Box<dyn Io>, peer: Peer, router: Router) {
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.map(axum::body::Body::new)
    });
    let builder = builder(&collector.options);
    let connection = builder.serve_connection(
        TokioIo::new(Lingering::new(io, LINGER)),
        TowerToHyperService::new(service),
    );
    tokio::pin!(connection);
    let mut stop = collector.stop.clone();
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "a connection ended with an error");
    }
}

fn builder(options: &Options) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.handshake_timeout)
        .max_buf_size(MAX_HEADER_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keep_alive)
        .keep_alive_timeout(options.keep_alive)
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES);
    builder
}

// === impl Socket ===

impl Socket {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix(stream))
            }
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, address))
            }
        }
    }
}

// === impl Accepted ===

impl Accepted {
    /// Waits for what comes before HTTP; on plain TCP for the first byte. Who may open a Unix socket may keep it.
    async fn open(self, handshake: Option<Arc<dyn Handshake>>) -> io::Result<(Box<dyn Io>, Peer)> {
        match self {
            Accepted::Unix(stream) => Ok((Box::new(stream), Peer::default())),
            Accepted::Tcp(stream, address) => {
                stream.set_nodelay(true)?;
                if let Some(handshake) = handshake {
                    return handshake.handshake(stream, address).await;
                }
                // Readiness can be a false alarm; a byte that is there is none.
                stream.peek(&mut [0]).await?;
                let peer = Peer {
                    address: Some(address),
                    ..Peer::default()
                };
                Ok((Box::new(stream), peer))
            }
        }
    }
}
