//! A port as an operator describes it: address, certificates, who may come.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{
    AccessError, Credentials, Directory, Door, Enrollment, EnrollmentOptions, KeepAuthority,
    Limits, Listen, ReaderFile, ReaderVerifier, Reload, ServerCertificate, TlsFiles, TokenFile,
    TokenVerifier, check_plain,
};
use crate::{
    caller::{Authenticate, Trusted},
    serve::{Handshake, Listener, Socket},
};

/// How often files are looked at, unless said otherwise.
pub const RELOAD: Duration = Duration::from_secs(10);

/// A port. The defaults are for a Unix socket or loopback: no TLS, everybody who reaches it may do everything.
#[derive(Clone, Debug)]
pub struct PortOptions {
    /// Where to listen.
    pub listen: Listen,
    /// Keeps the authority that vouches for nodes: see [`Directory`] for one in a directory.
    pub authority: Option<Arc<dyn KeepAuthority>>,
    /// DNS names and addresses of the server, for a certificate of that authority. `localhost` and loopback are added.
    pub names: Vec<String>,
    /// The server's certificate and key, PEM, in place of one of that authority.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Authorities, PEM, whose certificates are readers'.
    pub reader_authorities: Option<PathBuf>,
    /// Who reads: see [`ReaderFile`].
    pub readers: Option<Arc<dyn ReaderVerifier>>,
    /// Who enrols: see [`TokenFile`].
    pub tokens: Option<Arc<dyn TokenVerifier>>,
    /// How certificates of nodes are issued.
    pub enrollment: EnrollmentOptions,
    /// What one connection and one address get.
    pub limits: Limits,
    /// Serve without TLS where others reach it.
    pub insecure: bool,
    /// How often files are looked at.
    pub reload: Duration,
}

/// A port that is open.
#[derive(Debug)]
pub struct Port {
    /// For [`serve`](crate::serve::serve).
    pub listener: Listener,
    /// For [`Collector::new`](crate::serve::Collector::new); `None` without authority.
    pub enrol: Option<Arc<Enrollment>>,
    /// Where it listens; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    /// What became of connections; `None` for a Unix socket.
    pub door: Option<Arc<Door>>,
}

// === impl PortOptions ===

impl PortOptions {
    /// A port without TLS for everybody who reaches it.
    #[must_use]
    pub fn new(listen: Listen) -> Self {
        PortOptions {
            listen,
            authority: None,
            names: Vec::new(),
            certificate: None,
            reader_authorities: None,
            readers: None,
            tokens: None,
            enrollment: EnrollmentOptions::default(),
            limits: Limits::default(),
            insecure: false,
            reload: RELOAD,
        }
    }

    /// Keeps the authority in a directory.
    pub fn authority_in(&mut self, directory: PathBuf) {
        self.authority = Some(Arc::new(Directory(directory)));
    }

    /// Takes readers from a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is not one.
    pub async fn readers_in(&mut self, path: PathBuf) -> Result<(), AccessError> {
        self.readers = Some(Arc::new(ReaderFile::open(path, self.reload).await?));
        Ok(())
    }

    /// Takes bootstrap tokens from a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is not one.
    pub async fn tokens_in(&mut self, path: PathBuf) -> Result<(), AccessError> {
        self.tokens = Some(Arc::new(TokenFile::open(path, self.reload).await?));
        Ok(())
    }

    /// Opens the port: reads and checks everything, then listens.
    ///
    /// # Errors
    /// A file is not good, others would reach it without TLS, or the address cannot be bound.
    pub async fn open(&self) -> Result<Port, AccessError> {
        let Listen::Tcp(address) = &self.listen else {
            let listener = Listener {
                socket: self.listen.bind().await?,
                handshake: None,
                authenticate: Arc::new(Trusted),
            };
            return Ok(Port {
                listener,
                enrol: None,
                address: None,
                door: None,
            });
        };
        let tls = self.tls().await?;
        if tls.is_none() {
            check_plain(*address, self.insecure)?;
        }
        let authenticate: Arc<dyn Authenticate> = match (&tls, &self.readers) {
            (Some(_), readers) => {
                if readers.is_none() {
                    tracing::warn!(%address, "no readers are configured: nobody can read events through this port");
                }
                Arc::new(Credentials::new(readers.clone()))
            }
            (None, Some(readers)) => Arc::new(Credentials::plain(readers.clone())),
            (None, None) => Arc::new(Trusted),
        };
        let enrol = tls.clone().filter(|_| self.authority.is_some()).map(|tls| {
            Arc::new(Enrollment::new(
                tls,
                self.tokens.clone(),
                self.enrollment.clone(),
            ))
        });
        let door = Arc::new(Door::new(tls, self.limits.clone()));
        let socket = self.listen.bind().await?;
        let address = match &socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(_) => None,
        };
        let handshake: Arc<dyn Handshake> = door.clone();
        let listener = Listener {
            socket,
            handshake: Some(handshake),
            authenticate,
        };
        Ok(Port {
            listener,
            enrol,
            address,
            door: Some(door),
        })
    }

    async fn tls(&self) -> Result<Option<Arc<Reload<TlsFiles>>>, AccessError> {
        let certificate = match &self.certificate {
            Some((certificate, key)) => ServerCertificate::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            None if self.authority.is_none() => return Ok(None),
            None => {
                let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
                ServerCertificate::Own(self.names.iter().cloned().chain(local).collect())
            }
        };
        let files = TlsFiles {
            authority: self.authority.clone(),
            certificate,
            readers: self.reader_authorities.clone(),
        };
        Reload::start(files, self.reload).await.map(Some)
    }
}
