//! Connections that were let in, served: for how long, and what they may ask for at once.

use std::{io, sync::Arc};

use axum::Router;
use hyper::{Request, body::Incoming as Body};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::StreamExt as _;
use tower::ServiceExt as _;

use super::{Collector, http};
use crate::{
    access::{Connection, Incoming, Limits},
    caller::Authenticate,
    ingest::stopped,
};

/// Bytes an agent may have on the way of one stream, and of one connection, before it hears that they were read.
const WINDOW_BYTES: (u32, u32) = (2 << 20, 4 << 20);
/// Bytes of answers that wait in HTTP/2 for one stream, outside its queue.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Connections, and who their callers are.
#[derive(Debug)]
pub struct Listener {
    /// Connections as they are let in.
    pub incoming: Incoming,
    /// Finds out who asks.
    pub authenticate: Arc<dyn Authenticate>,
}

/// Serves on all listeners until [`Collector::stop`], and until streams have ended then, or their grace is over.
///
/// # Errors
/// The reflection service cannot be made of this build's descriptors.
pub async fn serve(collector: Arc<Collector>, listeners: Vec<Listener>) -> io::Result<()> {
    let mut tasks = JoinSet::new();
    for listener in listeners {
        let router = http::router(&collector, listener.authenticate.clone()).await?;
        tasks.spawn(accept(collector.clone(), listener.incoming, router));
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn accept(collector: Arc<Collector>, mut incoming: Incoming, router: Router) {
    let mut stop = collector.stop.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            () = stopped(&mut stop) => break,
            // Ended ones are forgotten as they end.
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Some(Ok(io)) => {
                let (collector, router) = (collector.clone(), router.clone());
                connections.spawn(async move { connection(&collector, io, router).await });
            }
            Some(Err(error)) => tracing::debug!(%error, "a connection failed"),
            None => break,
        }
    }
    drop(incoming);
    let all = async { while connections.join_next().await.is_some() {} };
    // What is still there after it is dropped, and with it closed.
    let _ = timeout(collector.options.shutdown_grace, all).await;
}

async fn connection(collector: &Collector, io: Connection, router: Router) {
    let limits = &collector.options.limits;
    let peer = io.peer().clone();
    let service = router.map_request(move |mut request: Request<Body>| {
        request.extensions_mut().insert(peer.clone());
        request.map(axum::body::Body::new)
    });
    let builder = builder(limits);
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let mut stop = collector.stop.clone();
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = stopped(&mut stop) => {}, () = sleep(limits.connection_age) => {} } } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "a connection ended with an error");
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake)
        .max_buf_size(limits.header_bytes as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_timeout)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .max_send_buf_size(SEND_BUFFER_BYTES);
    builder
}
