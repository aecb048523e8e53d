//! The port for machines that watch: `/metrics`, `/healthz`, `/readyz`.
//!
//! `/healthz` fails only if a restart would help. `/readyz` names what is missing, a line each; everything that is
//! wrong without keeping the work from being done (an invalid filter, a collector that is away) is a metric or a
//! condition, not unreadiness.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use ebpf_hello_collector::access::bind_tcp;
use prometheus_client::{encoding::text::encode, registry::Registry};

/// What is asked by whoever watches.
pub(crate) trait Health: Send + Sync + 'static {
    /// What only a restart can mend. Empty when healthy.
    fn ailments(&self) -> Vec<String>;
    /// What is not there yet. Empty when ready.
    fn lacks(&self) -> Vec<String>;
}

struct Monitor {
    registry: Registry,
    health: Arc<dyn Health>,
}

/// Serves until it is dropped.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn serve(
    address: SocketAddr,
    registry: Registry,
    health: Arc<dyn Health>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let listener = bind_tcp(address)
        .await
        .with_context(|| format!("cannot listen on --metrics-addr {address}"))?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(Monitor { registry, health }));
    Ok(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%address, %error, "metrics are no longer served");
        }
    })
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> impl IntoResponse {
    // The scrape asks the kernel for its maps: not on a thread that others wait for.
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &monitor.registry).map(|()| text)
    })
    .await;
    match text {
        Ok(Ok(text)) => (
            StatusCode::OK,
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        ),
        failed => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("the metrics cannot be written: {failed:?}\n"),
        ),
    }
}

async fn healthz(State(monitor): State<Arc<Monitor>>) -> impl IntoResponse {
    answer(&monitor.health.ailments())
}

async fn readyz(State(monitor): State<Arc<Monitor>>) -> impl IntoResponse {
    answer(&monitor.health.lacks())
}

fn answer(problems: &[String]) -> (StatusCode, String) {
    if problems.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}\n", problems.join("\n")),
        )
    }
}
