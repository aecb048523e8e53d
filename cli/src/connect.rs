//! Which server, how to reach it, and what to show it.

use std::{
    env, fs,
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use crate::{
    cluster::{self, ClusterArgs, Minted},
    exit::Unreachable,
};

/// The socket of a standalone instance.
const SOCKET: &str = "/run/ebpf-hello/observer.sock";
/// The server where there is no such socket.
const DEFAULT: &str = "https://localhost:7443";
/// Environment variable that names the server.
const VARIABLE: &str = "EBPF_HELLO_SERVER";
/// Environment variable that names the file of the token.
const TOKEN_VARIABLE: &str = "EBPF_HELLO_TOKEN_FILE";
/// How long a connection may take to come about.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a file of certificates, a key or a token may have.
const MAX_FILE: u64 = 1 << 20;
/// Longest token, in bytes: the server takes no longer one.
const MAX_TOKEN: usize = 8192;
/// What this machine trusts, where its distribution keeps it: Debian, Fedora, Alpine, openSUSE.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// A connection, with the token that every request shows.
pub(crate) type Client = InterceptedService<Channel, Bearer>;

/// Which server to ask.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectArgs {
    /// Server to ask: unix:///PATH, http://LOOPBACK:PORT or https://HOST:PORT. Else EBPF_HELLO_SERVER, else the
    /// socket of this machine's instance where there is one, else https://localhost:7443. A token to show it is read
    /// from the file that EBPF_HELLO_TOKEN_FILE names.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Authorities to trust, PEM: one of them made the server's certificate [default: this machine's].
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Certificate to show the server, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Key of that certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Shows a token.
#[derive(Clone, Debug)]
pub(crate) enum Bearer {
    /// None.
    Nobody,
    /// One that was read from a file.
    Fixed(MetadataValue<Ascii>),
    /// One that is renewed.
    Minted(Arc<Minted>),
}

/// What a server's address says.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    Unix,
    Loopback,
    Tls,
}

// === impl ConnectArgs ===

impl ConnectArgs {
    /// Whether a server was chosen, by flag or variable.
    pub(crate) fn is_explicit(&self) -> bool {
        self.server.is_some()
            || self.cluster.service_account.is_some()
            || env::var_os(VARIABLE).is_some()
    }

    /// How long a stream may last until it has to be opened again, with another token.
    pub(crate) fn renewal(&self) -> Option<Duration> {
        self.cluster
            .service_account
            .as_ref()
            .map(|_| cluster::RENEWAL)
    }

    /// The same with the server chosen for good: whoever reconnects means the one it was connected to, also when
    /// that one's socket is gone.
    pub(crate) fn settled(&self) -> Self {
        ConnectArgs {
            server: Some(self.url()),
            ..self.clone()
        }
    }

    /// The server's address.
    pub(crate) fn url(&self) -> String {
        if self.cluster.service_account.is_some() {
            return self.cluster.url();
        }
        let chosen = self.server.clone().or_else(|| env::var(VARIABLE).ok());
        chosen.unwrap_or_else(|| {
            if Path::new(SOCKET).exists() {
                format!("unix://{SOCKET}")
            } else {
                DEFAULT.to_owned()
            }
        })
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let authorities = match &self.ca {
            Some(path) => read(path).with_context(|| format!("--ca {}", path.display()))?,
            None => SYSTEM_AUTHORITIES
                .iter()
                .find_map(|path| read(Path::new(path)).ok())
                .context("this machine has no list of trusted authorities: give the server's with --ca FILE")?,
        };
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authorities))
            .timeout(TIMEOUT);
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let certificate = read(cert).with_context(|| format!("--cert {}", cert.display()))?;
            let key = read(key).with_context(|| format!("--key {}", key.display()))?;
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Ok(tls)
    }
}

// === impl Bearer ===

impl Bearer {
    /// The token in the file that the variable names. Read for each connection, so that it may change.
    fn from_environment() -> anyhow::Result<Self> {
        let Some(path) = env::var_os(TOKEN_VARIABLE).filter(|path| !path.is_empty()) else {
            return Ok(Bearer::Nobody);
        };
        let path = PathBuf::from(path);
        let read = || -> anyhow::Result<MetadataValue<Ascii>> {
            let text = String::from_utf8(read(&path)?).map_err(|_| anyhow!("it is not UTF-8"))?;
            let token = text.trim();
            if token.is_empty() || token.len() > MAX_TOKEN {
                bail!(
                    "{} bytes: expected a token of 1 to {MAX_TOKEN}",
                    token.len()
                );
            }
            let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
                .parse()
                .map_err(|_| anyhow!("a token is one line of ASCII"))?;
            value.set_sensitive(true);
            Ok(value)
        };
        let token = read().with_context(|| format!("{TOKEN_VARIABLE}={}", path.display()))?;
        Ok(Bearer::Fixed(token))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = match self {
            Bearer::Nobody => return Ok(request),
            Bearer::Fixed(token) => token.clone(),
            Bearer::Minted(minted) => minted.token(),
        };
        request.metadata_mut().insert("authorization", token);
        Ok(request)
    }
}

/// Connects.
///
/// # Errors
///
/// [`Unreachable`] with the server's address, why, and what to do; else what is wrong with a flag or a file.
pub(crate) async fn connect(arguments: &ConnectArgs) -> anyhow::Result<Client> {
    if let Some(account) = &arguments.cluster.service_account {
        let (channel, token) = arguments.cluster.connect(account).await?;
        return Ok(InterceptedService::new(
            channel,
            Bearer::Minted(Arc::new(token)),
        ));
    }
    let url = arguments.url();
    let address = address(&url).with_context(|| {
        format!("--server {url}: expected unix:///PATH, http://LOOPBACK:PORT or https://HOST:PORT")
    })?;
    let mut endpoint = Endpoint::from_shared(url.clone())
        .with_context(|| format!("--server {url}"))?
        .connect_timeout(TIMEOUT);
    if address == Address::Tls {
        endpoint = endpoint
            .tls_config(arguments.tls()?)
            .context("--ca, --cert and --key: expected certificates and a key as PEM")?;
    } else if arguments.cert.is_some() {
        bail!("--cert: {url} has no TLS to show it in: expected an https:// server");
    }
    // A Unix socket's server does not ask, and has no business with a token.
    let bearer = match address {
        Address::Unix => Bearer::Nobody,
        _ => Bearer::from_environment()?,
    };
    let channel = endpoint.connect().await.map_err(|error| {
        let advice = advice(&address, &error);
        anyhow::Error::from(error)
            .context(format!("cannot connect to {url}{advice}"))
            .context(Unreachable)
    })?;
    Ok(InterceptedService::new(channel, bearer))
}

/// What kind of address it is.
fn address(url: &str) -> anyhow::Result<Address> {
    if let Some(path) = url.strip_prefix("unix://") {
        if !path.starts_with('/') || path.len() == 1 {
            bail!("a socket's path is absolute, as in unix://{SOCKET}");
        }
        return Ok(Address::Unix);
    }
    let uri: Uri = url.parse().map_err(|error| anyhow!("{error}"))?;
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        bail!("it has no host");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        bail!("nothing may follow the port");
    }
    match uri.scheme_str() {
        Some("https") => Ok(Address::Tls),
        Some("http") if is_loopback(host) => Ok(Address::Loopback),
        Some("http") => bail!(
            "{host} is another machine, and events and tokens do not go there without TLS: use https://"
        ),
        _ => bail!("unknown scheme"),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// What to do about the commonest reasons.
fn advice(address: &Address, error: &tonic::transport::Error) -> &'static str {
    let mut causes = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        causes.push_str(&error.to_string());
        cause = error.source();
    }
    let says = |word: &str| causes.contains(word);
    match address {
        Address::Unix if says("Permission denied") => ": it is for its owner only: use sudo",
        Address::Unix => ": is `ebpf-hello run`, `agent` or `collector` running here?",
        _ if says("UnknownIssuer") => {
            ": its certificate is of an authority that is not trusted here: give the collector's ca.crt with --ca"
        }
        _ if says("not valid for name") => {
            ": its certificate is for other names: use one of them in --server"
        }
        _ if says("certificate expired") || says("not valid yet") => {
            ": its certificate is not valid now: check this machine's clock, then the collector"
        }
        Address::Tls if says("InvalidContentType") || says("corrupt message") => {
            ": it does not speak TLS: is it http:// on loopback?"
        }
        _ if says("refused") => {
            ": nothing listens there: is the collector running? --server or EBPF_HELLO_SERVER names another one"
        }
        _ => "",
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {MAX_FILE} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_bad_ones_explained() {
        for (url, expected) in [
            ("unix:///run/a.sock", Address::Unix),
            ("http://localhost:1", Address::Loopback),
            ("http://127.0.0.1:1", Address::Loopback),
            ("http://[::1]:1", Address::Loopback),
            ("https://a.b:7443", Address::Tls),
            ("https://[::1]:7443/", Address::Tls),
        ] {
            assert_eq!(address(url).unwrap(), expected, "{url}");
        }
        for (url, expected) in [
            ("unix://a", "absolute"),
            ("http://a.b:1", "use https://"),
            ("http://10.0.0.1:1", "use https://"),
            ("https://a/b", "nothing may follow"),
            ("ftp://a", "unknown scheme"),
            ("a:1", "unknown scheme"),
            ("https://", ""),
            ("", ""),
        ] {
            let error = format!("{:#}", address(url).unwrap_err());
            assert!(error.contains(expected), "{url}: {error}");
        }
    }
}
