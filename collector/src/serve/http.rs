//! What is where on the port: gRPC and gRPC-web, health, reflection, and `GET /v1/events`.
//!
//! `/v1/events` is Observe for `curl`: the same selection as query parameters, named as the fields are and
//! repeated for lists, each event a line of JSON, and an empty line where none came for a while.

use std::{
    io,
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    BoxError, Router,
    body::Body,
    extract::{RawQuery, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use ebpf_hello_proto::{
    DESCRIPTOR, Timestamp,
    server::{
        collector_service_server::CollectorServiceServer,
        observer_service_server::ObserverServiceServer,
    },
    v1,
    wire::{self, observe_response::Message},
};
use futures::StreamExt as _;
use prost::Message as _;
use prost_types::FieldMask;
use tonic::{Code, Status, codec::CompressionEncoding, service::Routes};
use tonic_types::StatusExt as _;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::{Collector, observe::Observer};
use crate::{
    caller::{Authenticate, Caller, Peer},
    ingest::MAX_BATCH_BYTES,
    refusal::{self, Invalid},
};

/// Longest query of `/v1/events`.
pub const MAX_QUERY_BYTES: usize = 16 << 10;
/// Largest request of ObserverService: selections are small.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// What a batch's message has besides the batch.
const MESSAGE_BYTES: usize = 1 << 10;
/// Most bytes of a request of nobody: to enrol, which takes a token and a certificate request of 8 KiB each at most, to
/// ask for health or the schema. It is taken in whole before anybody looks at the token, so it has to be small.
const MAX_NOBODYS_BYTES: usize = 32 << 10;

/// Everything on the port, for callers that `authenticate` knows.
pub(super) async fn router(
    collector: &Arc<Collector>,
    authenticate: Arc<dyn Authenticate>,
) -> io::Result<Router> {
    let zstd = CompressionEncoding::Zstd;
    let gzip = CompressionEncoding::Gzip;
    let observer = Observer(collector.clone());
    let ingest = CollectorServiceServer::new(collector.ingest())
        .accept_compressed(zstd)
        .accept_compressed(gzip)
        .max_decoding_message_size(MAX_BATCH_BYTES + MESSAGE_BYTES);
    let serve = ObserverServiceServer::new(observer.clone())
        .send_compressed(zstd)
        .send_compressed(gzip)
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in [
        "",
        "ebpfhello.v1.CollectorService",
        "ebpfhello.v1.ObserverService",
    ] {
        let serving = tonic_health::ServingStatus::Serving;
        health.set_service_status(name, serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // What errors carry: a generic client can show it then.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = Routes::builder();
    routes
        .add_service(ingest)
        .add_service(serve)
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(io::Error::other)?)
        .add_service(reflection().build_v1alpha().map_err(io::Error::other)?);
    let grpc = routes
        .routes()
        .into_axum_router()
        .layer(from_fn_with_state(authenticate.clone(), grpc_caller))
        .layer(tonic_web::GrpcWebLayer::new());
    let lines = Router::new()
        .route("/v1/events", get(events))
        .layer(from_fn_with_state(authenticate, http_caller))
        .with_state(observer);
    let router = grpc.merge(lines);
    Ok(match cors(&collector.options.origins) {
        Some(cors) => router.layer(cors),
        None => router,
    })
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok())
        .collect();
    if origins.is_empty() {
        return None;
    }
    let details = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([http::Method::GET, http::Method::POST])
            .allow_headers(Any)
            .expose_headers(details.map(http::HeaderName::from_static)),
    )
}

/// Says who asks, on gRPC, and lets in no more of the request than they may send.
async fn grpc_caller(
    State(authenticate): State<Arc<dyn Authenticate>>,
    request: Request,
    next: Next,
) -> Response {
    // Probes show no credentials, and learn nothing.
    let request = if request.uri().path().starts_with("/grpc.health.v1.Health/") {
        Ok(request)
    } else {
        with_caller(authenticate.as_ref(), request).await
    };
    match request.and_then(bounded) {
        Ok(request) => next.run(request).await,
        Err(status) => status.into_http(),
    }
}

/// A request with as much of its body as its caller may send. What a service bounds is a message, and that only once
/// it is decompressed, for all its methods alike: only who may publish has use for that much, and for compression.
///
/// # Errors
/// It is compressed, and its caller may not publish. That a body is too large shows as it is read: RESOURCE_EXHAUSTED.
fn bounded(request: Request) -> Result<Request, Status> {
    let nobody = Caller::default();
    let caller = request.extensions().get::<Caller>().unwrap_or(&nobody);
    if caller.publishes.is_some() {
        return Ok(request);
    }
    let mut encodings = request.headers().get_all("grpc-encoding").iter();
    if let Some(other) = encodings.find(|encoding| *encoding != "identity") {
        let what = format!(
            "compressed messages (grpc-encoding: {other:?}) are taken only of nodes that show their certificate: show it, \
             or send them uncompressed"
        );
        return Err(match caller.name {
            None => refusal::unauthenticated(what),
            Some(_) => refusal::denied(what),
        });
    }
    let limit = match caller.name {
        None => MAX_NOBODYS_BYTES,
        Some(_) => MAX_REQUEST_BYTES,
    };
    Ok(request.map(|body| at_most(limit, body)))
}

/// A body that ends with a status where it is longer.
fn at_most(limit: usize, body: Body) -> Body {
    let mut left = limit;
    Body::from_stream(body.into_data_stream().map(move |data| {
        let data = data?;
        left = left.checked_sub(data.len()).ok_or_else(|| {
            refusal::because(
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
                format!(
                    "the request is longer than {limit} bytes, which is the limit for this caller"
                ),
            )
        })?;
        Ok::<_, BoxError>(data)
    }))
}

/// Says who asks, on plain HTTP.
async fn http_caller(
    State(authenticate): State<Arc<dyn Authenticate>>,
    request: Request,
    next: Next,
) -> Response {
    match with_caller(authenticate.as_ref(), request).await {
        Ok(request) => next.run(request).await,
        Err(status) => refused(&status),
    }
}

async fn with_caller(
    authenticate: &dyn Authenticate,
    mut request: Request,
) -> Result<Request, Status> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .cloned()
        .unwrap_or_default();
    let caller = authenticate.authenticate(&peer, request.headers()).await?;
    request.extensions_mut().insert(caller);
    Ok(request)
}

async fn events(
    State(observer): State<Observer>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let caller = request
        .extensions()
        .get::<Caller>()
        .cloned()
        .unwrap_or_default();
    let stream = async {
        caller.reads()?;
        let asked = read_query(query.as_deref().unwrap_or_default())?;
        observer.stream(&caller, asked).await
    };
    let stream = match stream.await {
        Ok(stream) => stream,
        Err(status) => return refused(&status),
    };
    // A connection that carries nothing is taken for dead. What only says that the answer is complete is left out, so
    // that an answer that comes at once has nothing but events.
    let quiet = observer.0.options.heartbeat / 2;
    let mut spoke = Instant::now();
    // A stream that fails ends the connection: the reader sees that it is cut, not complete.
    let lines = stream.map(move |message| {
        let mut lines = lines(message.map_err(io::Error::other)?)?;
        if lines.is_empty() && spoke.elapsed() >= quiet {
            lines = Bytes::from_static(b"\n");
        }
        if !lines.is_empty() {
            spoke = Instant::now();
        }
        Ok::<_, io::Error>(lines)
    });
    let mut response = Body::from_stream(lines).into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A message's events, a line each; nothing for other messages.
fn lines(message: wire::ObserveResponse) -> io::Result<Bytes> {
    let Some(Message::Events(list)) = message.message else {
        return Ok(Bytes::new());
    };
    let list = v1::EventList::decode(list).map_err(io::Error::other)?;
    let mut lines = Vec::new();
    for event in &list.events {
        serde_json::to_writer(&mut lines, event)?;
        lines.push(b'\n');
    }
    Ok(lines.into())
}

/// What the query asks.
fn read_query(query: &str) -> Result<v1::ObserveRequest, Status> {
    if query.len() > MAX_QUERY_BYTES {
        let what = format!("{} bytes: expected at most {MAX_QUERY_BYTES}", query.len());
        return Err(Invalid::new("query", what).into());
    }
    let mut request = v1::ObserveRequest::default();
    let mut selection = v1::Selection::default();
    let mut problems = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let value = value.into_owned();
        let wrong = |what: &str| Invalid::new(name.as_ref(), format!("{value:?}: expected {what}"));
        let known = match name.as_ref() {
            "nodes" => add(&mut selection.nodes, value),
            "namespaces" => add(&mut selection.namespaces, value),
            "pods" => add(&mut selection.pods, value),
            "label_selector" => put(&mut selection.label_selector, value),
            "containers" => add(&mut selection.containers, value),
            "syscalls" => add(&mut selection.syscalls, value),
            "types" => add(&mut selection.types, value),
            "comms" => add(&mut selection.comms, value),
            "binaries" => add(&mut selection.binaries, value),
            "uids" => add(&mut selection.uids, value),
            "pids" => match value.parse() {
                Ok(pid) => add(&mut selection.pids, pid),
                Err(_) => Err(wrong("a process id")),
            },
            "cel" => put(&mut selection.cel, value),
            "mask" => {
                let paths = value.split(',').map(|path| path.trim().to_owned());
                let mask = request.mask.get_or_insert_with(FieldMask::default);
                mask.paths.extend(paths);
                Ok(())
            }
            "follow" => {
                let follow = match value.as_str() {
                    "" | "true" | "1" => Some(true),
                    "false" | "0" => Some(false),
                    _ => None,
                };
                set(&mut request.follow, follow, || wrong("true or false"))
            }
            "since" | "until" => {
                let time = read_time(&value);
                let at = if name == "since" {
                    &mut request.since
                } else {
                    &mut request.until
                };
                set(at, time.map(Some), || {
                    wrong("a time such as 2026-11-22T10:00:00Z, or how long ago, such as 10m")
                })
            }
            "last" => set(&mut request.last, value.parse().ok(), || wrong("a number")),
            "resume_token" => put(&mut request.resume_token, value),
            _ => Err(Invalid::new(
                name.as_ref(),
                "no such parameter: expected a field of Selection, or mask, follow, since, until, last, resume_token",
            )),
        };
        problems.extend(known.err());
    }
    if !problems.is_empty() {
        return Err(refusal::invalid(&problems));
    }
    request.selection = Some(selection);
    Ok(request)
}

fn add<T>(list: &mut Vec<T>, value: T) -> Result<(), Invalid> {
    list.push(value);
    Ok(())
}

fn put<T>(field: &mut T, value: T) -> Result<(), Invalid> {
    *field = value;
    Ok(())
}

fn set<T>(field: &mut T, value: Option<T>, wrong: impl FnOnce() -> Invalid) -> Result<(), Invalid> {
    *field = value.ok_or_else(wrong)?;
    Ok(())
}

fn read_time(text: &str) -> Option<Timestamp> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now().checked_sub(ago).map(Into::into);
    }
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

/// A refusal as plain HTTP tells it.
fn refused(status: &Status) -> Response {
    let code = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let details = status.get_error_details();
    let fields: Vec<serde_json::Value> = details
        .bad_request()
        .iter()
        .flat_map(|bad| &bad.field_violations)
        .map(|one| serde_json::json!({"field": one.field, "description": one.description}))
        .collect();
    let reason = details.error_info().map(|info| info.reason.clone());
    let body = serde_json::json!({
        "error": {
            "code": code.as_u16(),
            "reason": reason,
            "message": status.message(),
            "fieldViolations": fields,
        }
    });
    let mut response = (code, format!("{body}\n")).into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
