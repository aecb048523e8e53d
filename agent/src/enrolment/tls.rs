//! TLS to the collector: version 1.3 only, as the collector's.

use std::{io, sync::Arc, time::Duration};

use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{EnrolmentError, EnrolmentOptions, kept::Kept};

/// Shows what is kept, and trusts what the collector named as well as `more`.
pub(super) fn config(
    kept: Option<&Kept>,
    more: Vec<CertificateDer<'static>>,
    options: &EnrolmentOptions,
) -> Result<Arc<ClientConfig>, EnrolmentError> {
    let wrong = |what: String, error: &rustls::Error| EnrolmentError::Invalid {
        what,
        problem: error.to_string(),
    };
    let mut roots = RootCertStore::empty();
    let own = kept.map_or(&[][..], Kept::authorities);
    for authority in own.iter().cloned().chain(more) {
        roots
            .add(authority)
            .map_err(|error| wrong("a trusted authority".into(), &error))?;
    }
    if roots.is_empty() {
        return Err(EnrolmentError::Invalid {
            what: format!("collector {}", options.collector),
            problem: "no authority is trusted: give the one its certificate is from with --ca"
                .into(),
        });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong("TLS".into(), &error))?
        .with_root_certificates(roots);
    let mut config = match kept {
        Some(kept) => builder
            .with_client_auth_cert(kept.chain(), kept.key())
            .map_err(|error| wrong("this node's certificate".into(), &error))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name, or address, that the collector's certificate has to be for.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())
}

/// How long a server that shows nothing may still refuse the certificate that it was shown.
const REFUSAL: Duration = Duration::from_millis(500);

/// Connects. With a certificate it waits a moment for a refusal: in TLS 1.3 the server looks at it only after the
/// handshake has ended here, and would otherwise refuse it in the middle of the first request, as a broken connection.
///
/// # Errors
/// The connection fails, or the server refuses it: see [`refuses_us`].
pub(super) async fn connect(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    host: &str,
    port: u16,
) -> io::Result<BufReader<TlsStream<TcpStream>>> {
    let io = TcpStream::connect((host, port)).await?;
    io.set_nodelay(true)?;
    let shows = config.client_auth_cert_resolver.has_certs();
    let stream = TlsConnector::from(config).connect(name, io).await?;
    let mut stream = BufReader::new(stream);
    if shows && let Ok(answer) = timeout(REFUSAL, stream.fill_buf()).await {
        answer?;
    }
    Ok(stream)
}

/// Whether an error says that the server does not take our certificate.
pub(super) fn refuses_us(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let tls = inner
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .or_else(|| error.downcast_ref());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return matches!(
                alert,
                AlertDescription::UnknownCA
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::DecryptError
                    | AlertDescription::AccessDenied
            );
        }
        cause = error.source();
    }
    false
}
