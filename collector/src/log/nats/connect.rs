//! To the server, and to the stream.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectOptions, Event, ServerAddr, ToServerAddrs,
    jetstream::{
        self, ErrorCode,
        context::GetStreamErrorKind,
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream},
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use tokio::sync::Notify;

use super::{NatsOptions, STREAM, SUBJECTS, failed};
use crate::{
    ingest::MAX_BATCH_BYTES,
    log::{LogError, memory::random_id},
    token::TokenKey,
};

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Time between attempts to connect again, at most.
const RECONNECT: Duration = Duration::from_secs(1);
/// How far back the server knows message ids: longer than a collector waits for an answer.
const DUPLICATES: Duration = Duration::from_secs(120);
/// Where the stream carries what all collectors share.
const ID: &str = "ebpf-hello-id";
const TOKEN_KEY: &str = "ebpf-hello-token-key";

/// A connection.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    /// Told when there is a connection again.
    pub(super) connected: Arc<Notify>,
}

/// The stream, and what it says about the log.
pub(super) struct Opened {
    pub(super) id: String,
    pub(super) token_key: TokenKey,
    pub(super) stream: Stream<()>,
    pub(super) end: u64,
}

/// Connects.
pub(super) async fn connect(options: &NatsOptions) -> Result<Connection, LogError> {
    let servers = addresses(&options.url)?;
    // Never the user and password that may stand in the URL.
    let names: Vec<_> = servers
        .iter()
        .map(|s| format!("{}:{}", s.host(), s.port()))
        .collect();
    let connecting = format!("connecting to {}", names.join(", "));
    let connected = Arc::new(Notify::new());
    let told = connected.clone();
    let mut connect = ConnectOptions::new()
        .name("ebpf-hello collector")
        .connection_timeout(ANSWER)
        .request_timeout(Some(ANSWER))
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            RECONNECT.min(Duration::from_millis(50 * attempts as u64))
        })
        .event_callback(move |event| {
            match &event {
                Event::Connected => told.notify_one(),
                event => tracing::warn!("NATS: {event}"),
            }
            async {}
        });
    // The client itself does not read them out of the URL.
    if let Some((user, password)) = servers.iter().find_map(login) {
        connect = match password {
            Some(password) => connect.user_and_password(user, password),
            None => connect.token(user),
        };
    }
    if let Some(file) = &options.credentials {
        let doing = format!("reading the credentials in {}", file.display());
        let credentials = connect.credentials_file(file).await;
        connect = credentials.map_err(|error| failed(&doing, error))?;
    }
    if let Some(file) = &options.authorities {
        connect = connect.add_root_certificates(readable(file)?);
    }
    if let Some((certificate, key)) = &options.certificate {
        connect = connect.add_client_certificate(readable(certificate)?, readable(key)?);
    }
    let client = connect.connect(servers).await;
    let client = client.map_err(|error| failed(&connecting, chain(&error)))?;
    let max_payload = client.server_info().max_payload;
    if max_payload < MAX_BATCH_BYTES {
        tracing::warn!(
            "the NATS server takes messages of {max_payload} bytes: a batch that is larger, compressed, cannot be \
             stored; set its max_payload to {MAX_BATCH_BYTES}"
        );
    }
    let mut context = jetstream::new(client.clone());
    context.set_timeout(ANSWER);
    Ok(Connection {
        client,
        context,
        connected,
    })
}

fn addresses(url: &str) -> Result<Vec<ServerAddr>, LogError> {
    let mut servers = Vec::new();
    for url in url.split(',') {
        // The URL may hold a password: an error says only what is wrong with it.
        let parsed = url.trim().to_server_addrs();
        let parsed = parsed.map_err(|error| failed("the server's URL", error))?;
        servers.extend(parsed);
    }
    Ok(servers)
}

/// User and password of a URL; a token has no password.
fn login(server: &ServerAddr) -> Option<(String, Option<String>)> {
    let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = server.username()?;
    Some((decode(user), server.password().map(decode)))
}

/// A file that can be opened: the client itself says only that something was not found.
fn readable(file: &std::path::Path) -> Result<std::path::PathBuf, LogError> {
    std::fs::File::open(file)
        .map_err(|error| failed(&format!("reading {}", file.display()), error))?;
    Ok(file.to_owned())
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Finds the stream or makes it, with our limits.
pub(super) async fn open_stream(
    context: &jetstream::Context,
    options: &NatsOptions,
) -> Result<Opened, LogError> {
    let opening = format!("opening the stream {STREAM}");
    let config = match find(context).await? {
        Some(config) => config,
        None => match context.create_stream(new_config(options)).await {
            Ok(stream) => stream.cached_info().config.clone(),
            // Another collector was first.
            Err(error) => find(context)
                .await?
                .ok_or_else(|| failed(&opening, chain(&error)))?,
        },
    };
    let (Some(id), Some(key)) = (config.metadata.get(ID), config.metadata.get(TOKEN_KEY)) else {
        return Err(failed(
            &opening,
            format!(
                "it was not made by a collector: it has no {ID}. Remove it, or use another account"
            ),
        ));
    };
    let token_key = STANDARD
        .decode(key)
        .ok()
        .and_then(|key| <[u8; 32]>::try_from(key).ok());
    let token_key = token_key.ok_or_else(|| {
        failed(
            &opening,
            format!("its {TOKEN_KEY} is not 32 bytes in base64"),
        )
    })?;
    let (id, wanted) = (id.clone(), limits(options));
    if (config.max_bytes, config.max_age) != wanted {
        let (max_bytes, max_age) = wanted;
        let duplicate_window = config.duplicate_window.min(max_age);
        let changed = Config {
            max_bytes,
            max_age,
            duplicate_window,
            ..config
        };
        let updated = context.update_stream(changed).await;
        updated.map_err(|error| failed("setting the stream's limits", chain(&error)))?;
    }
    let stream = context.get_stream_no_info(STREAM).await;
    let stream = stream.map_err(|error| failed(&opening, chain(&error)))?;
    let info = stream.get_info().await;
    let info = info.map_err(|error| failed(&opening, chain(&error)))?;
    Ok(Opened {
        id,
        token_key: token_key.into(),
        stream,
        end: info.state.last_sequence + 1,
    })
}

async fn find(context: &jetstream::Context) -> Result<Option<Config>, LogError> {
    match context.get_stream(STREAM).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(failed(
                &format!("looking for the stream {STREAM}"),
                chain(&error),
            )),
        },
    }
}

/// Bytes and age, as the stream has them; 0 would mean without limit.
fn limits(options: &NatsOptions) -> (i64, Duration) {
    (
        i64::try_from(options.max_bytes).unwrap_or(i64::MAX).max(1),
        options.max_age.max(Duration::from_millis(100)),
    )
}

fn new_config(options: &NatsOptions) -> Config {
    let (max_bytes, max_age) = limits(options);
    Config {
        name: STREAM.into(),
        description: Some("Events of the nodes, by ebpf-hello collectors".into()),
        subjects: vec![format!("{SUBJECTS}*")],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        num_replicas: options.replicas.max(1),
        max_bytes,
        max_age,
        duplicate_window: DUPLICATES.min(max_age),
        allow_direct: true,
        metadata: [
            (ID.to_owned(), random_id()),
            (
                TOKEN_KEY.to_owned(),
                STANDARD.encode(TokenKey::random().as_bytes()),
            ),
        ]
        .into(),
        ..Config::default()
    }
}
